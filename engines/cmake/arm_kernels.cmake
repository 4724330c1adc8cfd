# Kernel files for AArch64. Every such CPU runs neon.cpp, so it needs no instruction-set flags; the
# others get those of their own instruction set and no other's.
target_compile_definitions(bidiff_ops PRIVATE BIDIFF_ARM_KERNELS)
# GCC's first scheduler moves loads and counts so far ahead that a tile's counters are spilled.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(BIDIFF_NEON_FLAGS -fno-schedule-insns)
endif()
set_source_files_properties(kernels/neon.cpp PROPERTIES COMPILE_OPTIONS "${BIDIFF_NEON_FLAGS}")
target_sources(bidiff_ops PRIVATE kernels/neon.cpp)
target_compile_options(bidiff_float_portable PRIVATE ${BIDIFF_NEON_FLAGS})

# cpu_features.cpp asks Linux which of the following ones the CPU has.
if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  return()
endif()
include(CheckCXXSourceCompiles)
# GCC knows the instruction since version 8.
set(CMAKE_REQUIRED_FLAGS -march=armv8.2-a+dotprod)
check_cxx_source_compiles("int main() { asm(\"udot v0.4s, v1.16b, v2.16b\"); }"
  BIDIFF_KNOWS_NEONDOTPROD)
if(NOT BIDIFF_KNOWS_NEONDOTPROD)
  return()
endif()
set_source_files_properties(kernels/neondotprod.cpp PROPERTIES
  COMPILE_OPTIONS "${BIDIFF_NEON_FLAGS};${CMAKE_REQUIRED_FLAGS}")
target_sources(bidiff_ops PRIVATE kernels/neondotprod.cpp)
target_compile_definitions(bidiff_ops PRIVATE BIDIFF_NEONDOTPROD_KERNELS)

# GCC since version 10; without it those CPUs compute in float32.
set(CMAKE_REQUIRED_FLAGS -march=armv8.2-a+bf16)
check_cxx_source_compiles("#include <arm_neon.h>
  float32x4_t dot(float32x4_t sum, float32x4_t a) {
    const bfloat16x8_t b = vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(a), a);
    return vbfmmlaq_f32(sum, b, vreinterpretq_bf16_u16(vreinterpretq_u16_bf16(b)));
  }
  int main() {}" BIDIFF_KNOWS_NEONBF16)
if(BIDIFF_KNOWS_NEONBF16)
  bidiff_float_kernels(neonbf16 4 ${BIDIFF_NEON_FLAGS} ${CMAKE_REQUIRED_FLAGS} -DBIDIFF_BFLOAT16)
  target_compile_definitions(bidiff_ops PRIVATE BIDIFF_NEONBF16_KERNELS)
endif()
