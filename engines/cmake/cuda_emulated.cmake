# The stand-in for libcuda.so.1 and libnvrtc, for tests: the device source compiled for this CPU. It
# is never installed; build it with --target bidiff_emulated_cuda, and set BIDIFF_LIBCUDA and
# BIDIFF_NVRTC to it.
file(GLOB bidiff_emulated_sources CONFIGURE_DEPENDS
  ${CMAKE_CURRENT_SOURCE_DIR}/tests/emulated_cuda/*.cpp)
set(bidiff_emulated_options -O2 -ffp-contract=off -Wall -Wextra
  -Wno-unknown-pragmas)  # #pragma unroll

# The kernels and the language they are written in, without a driver.
add_library(bidiff_emulated_kernels OBJECT EXCLUDE_FROM_ALL
  tests/emulated_cuda/block.cpp tests/emulated_cuda/fiber.cpp tests/emulated_cuda/kernel_table.cpp
  tests/emulated_cuda/kernels_sm75.cpp tests/emulated_cuda/kernels_sm80.cpp)
set_target_properties(bidiff_emulated_kernels PROPERTIES POSITION_INDEPENDENT_CODE ON
  CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
target_compile_options(bidiff_emulated_kernels PRIVATE ${bidiff_emulated_options} ${sanitize})
list(FILTER bidiff_emulated_sources EXCLUDE REGEX
  "/(block|fiber|kernel_table|kernels_sm[0-9]+)\\.cpp$")

add_library(bidiff_emulated_cuda MODULE EXCLUDE_FROM_ALL
  ${bidiff_emulated_sources} $<TARGET_OBJECTS:bidiff_emulated_kernels>)
target_include_directories(bidiff_emulated_cuda PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_options(bidiff_emulated_cuda PRIVATE
  ${bidiff_emulated_options} -fvisibility=hidden -fvisibility-inlines-hidden)
# So that in a process that has loaded it, bindings which ask for libcuda.so.1 get this one.
target_link_options(bidiff_emulated_cuda PRIVATE -Wl,-soname,libcuda.so.1)

# Native tests of kernels and plans; see tests/engines/cuda/test_cuda_kernels.py.
foreach(test cuda_emulation_test cuda_kernels_test cuda_plan_test)
  add_executable(${test} EXCLUDE_FROM_ALL tests/${test}.cpp cuda/plan.cpp cuda/plan_names.cpp
    cuda/plan_shapes.cpp $<TARGET_OBJECTS:bidiff_emulated_kernels>)
  target_compile_options(${test} PRIVATE ${bidiff_emulated_options} ${sanitize})
  target_link_options(${test} PRIVATE ${sanitize})
endforeach()
