# Kernel files for AArch64. Every such CPU runs neon.cpp, so it needs no instruction-set flags; the
# others get those of their own instruction set and no other's.
target_compile_definitions(bidiff_ops PRIVATE BIDIFF_ARM_KERNELS)
# GCC's first scheduler moves loads and counts so far ahead that a tile's counters are spilled.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(BIDIFF_NEON_FLAGS -fno-schedule-insns)
endif()
set_source_files_properties(kernels/neon.cpp PROPERTIES COMPILE_OPTIONS "${BIDIFF_NEON_FLAGS}")
set_source_files_properties(kernels/neondotprod.cpp PROPERTIES
  COMPILE_OPTIONS "${BIDIFF_NEON_FLAGS};-march=armv8.2-a+dotprod")
target_sources(bidiff_ops PRIVATE kernels/neon.cpp kernels/neondotprod.cpp)

target_compile_options(bidiff_float_portable PRIVATE ${BIDIFF_NEON_FLAGS})
# Compilers know it since GCC 10 and Clang 11; without it those CPUs compute in float32.
include(CheckCXXCompilerFlag)
check_cxx_compiler_flag(-march=armv8.2-a+bf16 BIDIFF_KNOWS_NEONBF16)
if(BIDIFF_KNOWS_NEONBF16)
  bidiff_float_kernels(neonbf16 4 ${BIDIFF_NEON_FLAGS} -march=armv8.2-a+bf16)
  target_compile_definitions(bidiff_ops PRIVATE BIDIFF_NEONBF16_KERNELS)
endif()
