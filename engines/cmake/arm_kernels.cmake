# The kernel file for AArch64. Every such CPU runs it, so it needs no instruction-set flags.
target_compile_definitions(bidiff_ops PRIVATE BIDIFF_ARM_KERNELS)
target_sources(bidiff_ops PRIVATE kernels/neon.cpp)
# GCC's first scheduler moves loads and counts so far ahead that a tile's counters are spilled.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set_source_files_properties(kernels/neon.cpp PROPERTIES COMPILE_OPTIONS -fno-schedule-insns)
endif()
