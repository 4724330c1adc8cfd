# Kernel files for x86-64, each with the flags of its own instruction set and no other's.
target_compile_definitions(bidiff_ops PRIVATE BIDIFF_X86_KERNELS)
# GCC 12's own AVX-512 header trips -Wmaybe-uninitialized and -Wuninitialized; Clang takes -mno-fma to forbid AVX-512.
set(BIDIFF_AVX512_FLAGS
  -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND BIDIFF_AVX512_FLAGS -mno-fma -Wno-maybe-uninitialized -Wno-uninitialized)
endif()
set_source_files_properties(kernels/avx2.cpp PROPERTIES COMPILE_OPTIONS "-mavx2;-mno-fma")
set_source_files_properties(kernels/avx512bw.cpp PROPERTIES COMPILE_OPTIONS "${BIDIFF_AVX512_FLAGS}")
set_source_files_properties(kernels/avx512vpopcntdq.cpp PROPERTIES
  COMPILE_OPTIONS "${BIDIFF_AVX512_FLAGS};-mavx512vpopcntdq")
target_sources(bidiff_ops PRIVATE
  kernels/avx2.cpp kernels/avx512bw.cpp kernels/avx512vpopcntdq.cpp)

set(BIDIFF_AVX512_FLOAT_FLAGS ${BIDIFF_AVX512_FLAGS})
list(REMOVE_ITEM BIDIFF_AVX512_FLOAT_FLAGS -mno-fma)
list(APPEND BIDIFF_AVX512_FLOAT_FLAGS -mfma)
bidiff_float_kernels(avx2 8 -mavx2 -mfma)
bidiff_float_kernels(avx512 16 ${BIDIFF_AVX512_FLOAT_FLAGS})
# Compilers know it since GCC 10 and Clang 9; without it those CPUs compute in float32.
include(CheckCXXCompilerFlag)
check_cxx_compiler_flag(-mavx512bf16 BIDIFF_KNOWS_AVX512BF16)
if(BIDIFF_KNOWS_AVX512BF16)
  bidiff_float_kernels(avx512bf16 16 ${BIDIFF_AVX512_FLOAT_FLAGS} -mavx512bf16
    -DBIDIFF_BFLOAT16)
  target_compile_definitions(bidiff_ops PRIVATE BIDIFF_AVX512BF16_KERNELS)
endif()

# The VPOPCNTDQ kernel's machine code under emulation, built with the library's own flags.
function(bidiff_x86_tests)
  set_source_files_properties(tests/shuffle_count.cpp PROPERTIES
    COMPILE_OPTIONS "${BIDIFF_AVX512_FLAGS}")
  add_executable(popcount_kernel_test
    tests/emulated_vpopcnt.cpp tests/popcount_kernel_test.cpp tests/shuffle_count.cpp
    kernels/avx512vpopcntdq.cpp kernels/cpu_features.cpp kernels/packed_weights.cpp
    kernels/portable.cpp kernels/portable_scaled.cpp kernels/support.cpp)
  target_compile_options(popcount_kernel_test PRIVATE
    -O3 -ffp-contract=off -fvisibility=hidden -fvisibility-inlines-hidden -Wall -Wextra)
endfunction()
