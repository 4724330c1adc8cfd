#include "select.h"

#include <cstdlib>
#include <cstring>

#include "cpu_features.h"

namespace bidiff {
namespace {

#if defined(BIDIFF_X86_KERNELS)
constexpr const Kernel* kX86[] = {&kAvx512vpopcntdq, &kAvx512bw, &kAvx2};
#else
constexpr const Kernel* kX86[] = {nullptr, nullptr, nullptr};
#endif
#if defined(BIDIFF_NEONDOTPROD_KERNELS)
constexpr const Kernel* kArm[] = {&kNeondotprod, &kNeon};
#elif defined(BIDIFF_ARM_KERNELS)
constexpr const Kernel* kArm[] = {nullptr, &kNeon};
#else
constexpr const Kernel* kArm[] = {nullptr, nullptr};
#endif
constexpr int kCount = 6;

struct Table {
  KernelStatus entries[kCount];
};

KernelStatus status(const char* name, const Kernel* kernel, bool cpu, const char* lacking) {
  if (!kernel) return {name, nullptr, false, "it is not part of this build"};
  return {name, kernel, cpu, cpu ? "" : lacking};
}

Table make_table() {
  const CpuFeatures cpu = cpu_features();
  return {{
      status("avx512vpopcntdq", kX86[0], cpu.avx512vpopcntdq,
             "this CPU lacks AVX-512 F, BW, DQ, VL or VPOPCNTDQ"),
      status("avx512bw", kX86[1], cpu.avx512bw, "this CPU lacks AVX-512 F, BW, DQ or VL"),
      status("avx2", kX86[2], cpu.avx2, "this CPU lacks AVX2"),
      status("neondotprod", kArm[0], cpu.neondotprod,
             "this CPU lacks the dot product instructions of ARMv8.2"),
      status("neon", kArm[1], true, ""),
      status("portable", &kPortable, true, ""),
  }};
}

const Table& table() {
  static const Table filled = make_table();
  return filled;
}

std::string supported_names() {
  std::string names;
  for (const KernelStatus& entry : table().entries) {
    if (entry.supported) names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  return names;
}

struct Selection {
  const Kernel* kernel;
  std::string error;
};

Selection select() {
  Selection chosen{nullptr, ""};
  const char* forced = std::getenv("BIDIFF_KERNEL");
  chosen.kernel = find_kernel(forced, &chosen.error);
  if (!chosen.kernel) chosen.error = "BIDIFF_KERNEL: " + chosen.error;
  return chosen;
}

}  // namespace

const KernelStatus* kernel_statuses(int* count) {
  *count = kCount;
  return table().entries;
}

const Kernel* find_kernel(const char* name, std::string* error) {
  for (const KernelStatus& entry : table().entries) {
    if (!name || !*name) {
      if (entry.supported) return entry.kernel;
    } else if (std::strcmp(name, entry.name) == 0) {
      if (entry.supported) return entry.kernel;
      *error = "kernel '" + std::string(name) + "' cannot be used because " + entry.reason +
               "; choose one of " + supported_names();
      return nullptr;
    }
  }
  *error = "there is no kernel '" + std::string(name) + "'; choose one of " + supported_names();
  return nullptr;
}

const Kernel* selected_kernel(std::string* error) {
  static const Selection chosen = select();
  *error = chosen.error;
  return chosen.kernel;
}

}  // namespace bidiff
