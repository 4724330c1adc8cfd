# The stand-in for libcuda.so.1 and libnvrtc, for tests: the device source compiled for this CPU. It
# is never installed; build it with --target bidiff_emulated_cuda and name it by BIDIFF_LIBCUDA and
# BIDIFF_NVRTC.
file(GLOB bidiff_emulated_sources CONFIGURE_DEPENDS
  ${CMAKE_CURRENT_SOURCE_DIR}/cuda/emulated/*.cpp)
add_library(bidiff_emulated_cuda MODULE EXCLUDE_FROM_ALL ${bidiff_emulated_sources})
target_include_directories(bidiff_emulated_cuda PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_options(bidiff_emulated_cuda PRIVATE
  -O2 -ffp-contract=off -fvisibility=hidden -fvisibility-inlines-hidden -Wall -Wextra
  -Wno-unknown-pragmas)  # #pragma unroll
