#include "fused.h"

#include <string.h>

#include "support.h"

namespace bidiff {
namespace {

constexpr int64_t kWorkPerElement = 16;  // of a pass over memory, in the units of kSerialWork

struct Scratch {
  float* memory = nullptr;
  explicit Scratch(int64_t floats)
      : memory(static_cast<float*>(run_scratch(static_cast<size_t>(floats) * sizeof(float)))) {}
  ~Scratch() { free_run_scratch(memory); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

struct Gather {
  const Problem* problem;
  float* to;  // (N, Cin, H, W)
  int64_t plane;
};

// Computes one plane of the input as the convolution sees it.
void gather_plane(void* user, size_t index) {
  const Gather& run = *static_cast<const Gather*>(user);
  const Problem& problem = *run.problem;
  const size_t count = static_cast<size_t>(run.plane);
  const float* from = problem.planes ? problem.planes[index] : problem.x + index * count;
  float* to = run.to + index * count;
  if (problem.affine) {
    const float* pair = problem.affine + 2 * index;
    problem.affine_swish(from, pair[0], pair[1], count, to);
  } else {
    memcpy(to, from, count * sizeof(float));
  }
}

// Adding -0.0 changes no float, not even its sign.
constexpr float kNothing = -0.0f;

struct Scatter {
  const Problem* problem;
  const float* from;  // (N, Cout, H, W), without skip where add_skip is set
  bool add_skip;
};

// Copies one plane of the output to where Problem::store puts it.
void scatter_plane(void* user, size_t index) {
  const Scatter& run = *static_cast<const Scatter*>(user);
  const Problem& problem = *run.problem;
  const int64_t height = problem.shape.height, width = problem.shape.width, plane = height * width;
  const int64_t channel = static_cast<int64_t>(index);  // counted over all images
  const float* from = run.from + channel * plane;
  const float* skip = run.add_skip ? problem.skip + channel * plane : nullptr;
  for (int64_t y = 0; y < height; ++y) {
    const float* row = from + y * width;
    const float* skip_row = skip ? skip + y * width : nullptr;
    float* to;
    if (problem.store == Store::kShuffle) {
      // Cout is a multiple of 4, so planes 4c.. of all images go to planes c of all images.
      to = problem.y + ((channel / 4 * 2 * height) + 2 * y + channel % 4 / 2) * 2 * width +
           channel % 2;
      for (int64_t x = 0; x < width; ++x) to[2 * x] = row[x] + (skip_row ? skip_row[x] : kNothing);
    } else if (problem.store == Store::kUnshuffle) {
      const int64_t half = width / 2;
      for (int64_t j = 0; j < 2; ++j) {
        to = problem.y + ((channel * 4 + y % 2 * 2 + j) * (height / 2) + y / 2) * half;
        for (int64_t x = 0; x < half; ++x) {
          to[x] = row[2 * x + j] + (skip_row ? skip_row[2 * x + j] : kNothing);
        }
      }
    } else {
      to = problem.y + channel * plane + y * width;
      for (int64_t x = 0; x < width; ++x) to[x] = row[x] + (skip_row ? skip_row[x] : kNothing);
    }
  }
}

bool run_output(const Kernel& kernel, Problem problem, const void* packed,
                const Parallel& parallel) {
  const bool own_store = problem.store == Store::kPlain || (kernel.fused & kFusedStore);
  const bool own_skip = !problem.skip || (kernel.fused & kFusedSkip);
  if (own_store && own_skip) return kernel.run(problem, packed, parallel);
  const Shape& shape = problem.shape;
  const int64_t planes = shape.batch * shape.out_channels;
  const int64_t count = planes * shape.height * shape.width;
  const Scratch scratch(count);
  if (!scratch.memory) return false;
  Problem plain = problem;
  plain.y = scratch.memory;
  plain.store = Store::kPlain;
  if (!own_skip) plain.skip = nullptr;
  if (!kernel.run(plain, packed, parallel)) return false;
  Scatter run{&problem, scratch.memory, !own_skip};
  run_tasks(parallel, count * kWorkPerElement, static_cast<size_t>(planes), scatter_plane, &run);
  return true;
}

}  // namespace

bool run_fused(const Kernel& kernel, const Problem& problem, const void* packed,
               const Parallel& parallel) {
  const bool own_planes =
      (!problem.planes && !problem.residual_is_input) || (kernel.fused & kFusedPlanes);
  const bool own_norm = !problem.affine || (kernel.fused & kFusedNorm);
  if (own_planes && own_norm) return run_output(kernel, problem, packed, parallel);
  const Shape& shape = problem.shape;
  Problem inner = problem;
  if (!problem.planes && !problem.affine) {
    inner.residual = problem.x;
    inner.residual_is_input = inner.residual_is_scalar = false;
    return run_output(kernel, inner, packed, parallel);
  }
  const int64_t planes = shape.batch * shape.in_channels, plane = shape.height * shape.width;
  const Scratch scratch(planes * plane);
  if (!scratch.memory) return false;
  Gather run{&problem, scratch.memory, plane};
  run_tasks(parallel, planes * plane * kWorkPerElement, static_cast<size_t>(planes), gather_plane,
            &run);
  inner.x = scratch.memory;
  inner.planes = nullptr;
  inner.affine = nullptr;
  if (problem.residual_is_input) {
    inner.residual = scratch.memory;
    inner.residual_is_input = inner.residual_is_scalar = false;
  }
  return run_output(kernel, inner, packed, parallel);
}

}  // namespace bidiff
