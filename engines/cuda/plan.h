// A problem as a list of kernel launches. Pure host code: no driver, no GPU, no CUDA headers.
//
// Everything that fails throws Error (driver.h), one sentence: a shape that contradicts the op
// contract or exceeds what a launch can address. A plan depends only on its arguments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "problem.h"

namespace bidiff::cuda {

// One kernel. `kernel` is the name of an extern "C" __global__ function that takes one struct by
// value, `arguments`; it is a string literal. `shared` is dynamic shared memory in bytes, never
// above 48 KiB, so no attribute has to be set.
struct Launch {
  const char* kernel;
  unsigned grid[3], block[3];
  unsigned shared;
  std::vector<uint8_t> arguments;
};

// Launches in order; each reads what earlier ones wrote, so they go to one stream.
struct Plan {
  std::vector<Launch> launches;
  size_t workspace_bytes = 0;  // equals workspace_bytes(problem)
};

// Memory through which the launches of a plan pass data to each other: it needs no initial content
// and can be reused after the last launch. The same for every path and architecture; may be 0.
size_t workspace_bytes(const Problem& problem);

// Paths compiled for an architecture (75, 80, 86, 87, 89, 90, 100, 120 and others from 75 on),
// the one expected to be fastest first; kPopc is always the last.
std::vector<Path> paths(int architecture);
const char* path_name(Path path);  // "auto", "xor", "and", "int8", "popc"

// `workspace` is aligned to kPreparedAlignment; 0 if workspace_bytes is 0 or the plan is only
// inspected.
Plan plan(const Problem& problem, int architecture, Path path, Pointer workspace);

// words (Cout, k, k, ceil(Cin/32)) int32 -> prepared. Padding bits are ignored. Run it once for
// constant words, before every run for others.
Plan plan_prepare(const Weights& weights, Pointer words, Pointer prepared);

// Names of all kernels of an architecture, to load or list them in advance.
std::vector<const char*> kernel_names(int architecture);

}  // namespace bidiff::cuda
