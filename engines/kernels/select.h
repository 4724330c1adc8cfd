// Which kernels this build has, which of them this CPU can run, and the one that is used.
#pragma once

#include <string>

#include "binary_conv.h"

namespace bidiff {

struct KernelStatus {
  const char* name;
  const Kernel* kernel;  // null if this build has no such kernel
  bool supported;        // compiled, and the CPU and the operating system can run it
  const char* reason;    // why not supported, else ""
};

// Every kernel the project has, best first.
const KernelStatus* kernel_statuses(int* count);

// The named kernel, or null and a sentence in `error`. A null or empty name asks for the best one.
const Kernel* find_kernel(const char* name, std::string* error);

// The kernel that BIDIFF_KERNEL names, or the best one; read once in a process.
const Kernel* selected_kernel(std::string* error);

}  // namespace bidiff
