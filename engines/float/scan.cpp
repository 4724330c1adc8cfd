// The selective scan: one task for each image and vector of channels. It is sequential over pixels,
// hence channels are the lanes, and pixels are turned into that layout a strip at a time.
#include "scan.h"

#include "vec.h"

namespace bidiff {
namespace {

constexpr int64_t kStrip = 64;         // pixels
constexpr int64_t kWorkPerState = 64;  // of a pixel's state, in units of run_tasks

// log(1 + exp(x)), relative error below 1e-6: max(x, 0) + log(1 + e) with e = exp(-|x|), where
// log(1 + e) = 2 artanh(t), t = e / (2 + e) <= 1/3, by its series.
BIDIFF_INLINE Floats softplus(Floats x) {
  const Floats e = exp(-magnitude(x));
  const Floats t = quotient(e, e + splat(2.0f)), square = t * t;
  Floats sum = splat(1.0f / 15);
  for (int odd = 13; odd >= 1; odd -= 2) sum = sum * square + splat(1.0f / odd);
  return maximum(x, Floats{}) + splat(2.0f) * t * sum;
}

struct Scan {
  const ScanProblem* problem;
  int64_t blocks;  // vectors of channels of an image
  TaskFailure failure;
};

// One strip's values with channels (x, delta, y) or states (b, c) next to each other.
struct Strip {
  int64_t pixels[kStrip];
  float x[kStrip * kLanes], delta[kStrip * kLanes], y[kStrip * kLanes];
  float b[kStrip * kMaxStates], c[kStrip * kMaxStates];
};

// The pixel that is visited at `step`.
int64_t pixel_at(const ScanProblem& problem, int64_t step) {
  const MapShape& map = problem.shape;
  if (problem.reverse) step = map.height * map.width - 1 - step;
  return problem.columns ? step % map.height * map.width + step / map.height : step;
}

// to[i][row] of from[row][pixels[i]], for rows of a map of `plane` pixels.
void gather(const float* from, int64_t rows, int64_t plane, const int64_t* pixels, int64_t count,
            int64_t stride, float* to) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < count; ++i) to[i * stride + row] = from[row * plane + pixels[i]];
  }
}

void scan_strip(const ScanProblem& problem, int64_t count, const Floats* a, Floats skip,
                Floats* state, Strip* strip) {
  for (int64_t i = 0; i < count; ++i) {
    const Floats x = load(strip->x + i * kLanes), step = softplus(load(strip->delta + i * kLanes));
    const float *b = strip->b + i * problem.states, *c = strip->c + i * problem.states;
    const Floats input = step * x;
    Floats y = skip * x;
    for (int64_t s = 0; s < problem.states; ++s) {
      state[s] = exp(step * a[s]) * state[s] + input * splat(b[s]);
      y += splat(c[s]) * state[s];
    }
    store(strip->y + i * kLanes, y);
  }
}

void scan_task(void* user, size_t index) {
  Scan& scan = *static_cast<Scan*>(user);
  const ScanProblem& problem = *scan.problem;
  const MapShape& map = problem.shape;
  const int64_t image = static_cast<int64_t>(index) / scan.blocks;
  const int64_t first = static_cast<int64_t>(index) % scan.blocks * kLanes;
  const int64_t channels = map.channels - first < kLanes ? map.channels - first : kLanes;
  const int64_t plane = map.height * map.width, states = problem.states;
  Strip* strip = static_cast<Strip*>(thread_scratch(0, sizeof(Strip)));
  if (!strip) return mark_failed(&scan.failure);
  memset(strip->x, 0, sizeof(strip->x));  // lanes without a channel
  memset(strip->delta, 0, sizeof(strip->delta));

  Floats a[kMaxStates], state[kMaxStates];
  for (int64_t s = 0; s < states; ++s) {
    float lanes[kLanes] = {};
    for (int64_t lane = 0; lane < channels; ++lane) {
      lanes[lane] = problem.a[(first + lane) * states + s];
    }
    a[s] = load(lanes);
    state[s] = Floats{};
  }
  const Floats skip = load_part(problem.skip + first, channels);
  const int64_t maps = (image * map.channels + first) * plane, shared = image * states * plane;
  for (int64_t start = 0; start < plane; start += kStrip) {
    const int64_t count = plane - start < kStrip ? plane - start : kStrip;
    for (int64_t i = 0; i < count; ++i) strip->pixels[i] = pixel_at(problem, start + i);
    gather(problem.x + maps, channels, plane, strip->pixels, count, kLanes, strip->x);
    gather(problem.delta + maps, channels, plane, strip->pixels, count, kLanes, strip->delta);
    gather(problem.b + shared, states, plane, strip->pixels, count, states, strip->b);
    gather(problem.c + shared, states, plane, strip->pixels, count, states, strip->c);
    scan_strip(problem, count, a, skip, state, strip);
    for (int64_t lane = 0; lane < channels; ++lane) {
      float* y = problem.y + maps + lane * plane;
      for (int64_t i = 0; i < count; ++i) y[strip->pixels[i]] = strip->y[i * kLanes + lane];
    }
  }
}

bool run(const ScanProblem& problem, const Parallel& parallel) {
  const MapShape& map = problem.shape;
  Scan scan{&problem, (map.channels + kLanes - 1) / kLanes, {}};
  const int64_t pixels = map.batch * map.channels * map.height * map.width;
  run_tasks(parallel, pixels * problem.states * kWorkPerState,
            static_cast<size_t>(map.batch * scan.blocks), scan_task, &scan);
  return !scan.failure.failed;
}

}  // namespace

namespace BIDIFF_ISA {
extern const ScanKernel kScan = {run};
}

}  // namespace bidiff
