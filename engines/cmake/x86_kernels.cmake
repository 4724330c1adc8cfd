# Kernel files for x86-64, each with the flags of its own instruction set and no other's.
target_compile_definitions(bidiff_ops PRIVATE BIDIFF_X86_KERNELS)
# GCC 12's own AVX-512 header trips -Wmaybe-uninitialized.
set(BIDIFF_AVX512_FLAGS
  -mavx512f -mavx512bw -mavx512dq -mavx512vl -mno-fma -mprefer-vector-width=512)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND BIDIFF_AVX512_FLAGS -Wno-maybe-uninitialized)
endif()
set_source_files_properties(kernels/avx2.cpp PROPERTIES COMPILE_OPTIONS "-mavx2;-mno-fma")
set_source_files_properties(kernels/avx512bw.cpp PROPERTIES COMPILE_OPTIONS "${BIDIFF_AVX512_FLAGS}")
target_sources(bidiff_ops PRIVATE kernels/avx2.cpp kernels/avx512bw.cpp)
