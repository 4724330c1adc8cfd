// How long plans take on the GPU, by its own events.
#pragma once

#include <vector>

#include "run.h"

namespace bidiff::cuda {

// Milliseconds per plan, averaged over `rounds` rounds of all plans in turn after a warm-up round.
// Several plans of one problem on different memory keep its maps out of the cache. `as_graph`: a
// round is captured into a CUDA graph that is launched as in a step, so that the time to launch
// kernels one by one does not count. Blocks until all is done. Throws Error.
double time_plans(Device& device, const std::vector<Plan>& plans, int rounds, bool as_graph);

}  // namespace bidiff::cuda
