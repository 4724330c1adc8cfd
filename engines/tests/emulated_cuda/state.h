// The emulated machine: configured by environment variables, read at every call.
//
//   BIDIFF_EMULATED_GPUS    architectures of the GPUs: "75,90"; default 80, empty for none
//   BIDIFF_EMULATED_MEMORY  bytes of each GPU; default 1 GiB
//   BIDIFF_EMULATED_DRIVER  version of CUDA: 13000; default 12090
//   BIDIFF_EMULATED_FATBINS 0: those in the op library do not fit; default 1
//   BIDIFF_EMULATED_FAIL    "cuInit=803,cuModuleLoadData=200": these functions fail with these
//   codes
#pragma once

#include <cstddef>
#include <mutex>
#include <string>
#include <vector>

namespace bidiff::cuda::emulated {

std::vector<int> gpus();
size_t memory_bytes();
int driver_version();

// One lock for the whole machine; kernels run under it, one after the other.
std::recursive_mutex& machine();

// Counts the call; its status: 0, or what BIDIFF_EMULATED_FAIL or an earlier fault says.
int enter(const char* function);
// A kernel misbehaved: every later call fails with `status`, as with a real driver. The sentence
// goes to stderr.
int fault(int status, const std::string& sentence);

// Largest dynamic shared memory of a block with opt-in, in bytes.
int shared_bytes(int architecture);

}  // namespace bidiff::cuda::emulated
