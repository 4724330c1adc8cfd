// The device source compiled for the CPU: every kernel by name, and its launch.
//
// Used by the emulated driver and the native tests. A block's threads run as fibers of the calling
// thread, one block after the other; any number of threads may launch at once.
#pragma once

#include <cstddef>

namespace bidiff::cuda::emulated {

struct Kernel {
  const char* name;
  size_t argument_bytes;                // of the one by-value struct
  unsigned threads;                     // __launch_bounds__: the most threads of a block
  void (*body)(const void* arguments);  // one thread of one block
};

// Enters a kernel into the table; BIDIFF_KERNEL defines one of these (language.h). `architecture`
// is what the source was compiled for: 75 or 80.
struct Registration {
  Registration(int architecture, const Kernel& kernel);
};

// The kernel of that name in the module for `architecture` (75, 80, ...), or null.
const Kernel* find_kernel(int architecture, const char* name);

// Runs grid x block threads to their end. Returns "" or one sentence: a launch that a GPU would
// refuse (sizes, shared memory), or misbehaviour that it would not notice, such as a barrier that
// some threads of a block never reach. `arguments` is read before it returns.
//
// BIDIFF_EMULATED_ORDER: forward (the default), reverse, or a number that seeds a shuffle: in what
// order the threads of a block run between barriers. BIDIFF_EMULATED_COPIES: late (the default)
// or early: asynchronous copies happen when they are waited for, or at once. No result may depend
// on either.
const char* launch(const Kernel& kernel, const unsigned grid[3], const unsigned block[3],
                   unsigned shared_bytes, const void* arguments);

}  // namespace bidiff::cuda::emulated
