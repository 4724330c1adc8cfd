#include "norm.h"

#include "vec.h"

namespace bidiff {
namespace {

constexpr int64_t kBlock = 4096;  // floats whose sums are float32: few terms, and in the L1 cache
constexpr int64_t kChunk =
    16 * kBlock;  // floats of a task; fixed, so that the number of threads changes no bit
constexpr int64_t kWorkPerElement = 32;  // of Swish, in the units of kSerialWork

// Count, mean and sum of squared deviations of some numbers. Two are merged as Chan, Golub and
// LeVeque do it: no difference of large sums is taken.
struct Moments {
  double count, mean, squares;
};

void merge(Moments* into, const Moments& other) {
  const double count = into->count + other.count, gap = other.mean - into->mean;
  into->mean += gap * (other.count / count);
  into->squares += other.squares + gap * gap * (into->count * other.count / count);
  into->count = count;
}

// Sums of x - shift and of its square, in one pass.
struct Sums {
  double gaps, squares;
};

BIDIFF_INLINE double total(Floats value) {
  double sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += static_cast<double>(value[lane]);
  return sum;
}

BIDIFF_INLINE Sums sums_of(const float* x, int64_t count, float shift) {
  constexpr int kSums = 8;  // of each kind; hides the latency of an addition
  const Floats shifts = splat(shift);
  Floats gaps[kSums] = {}, squares[kSums] = {};
  int64_t at = 0;
  for (; at + kSums * kLanes <= count; at += kSums * kLanes) {
    for (int i = 0; i < kSums; ++i) {
      const Floats gap = load(x + at + i * kLanes) - shifts;
      gaps[i] += gap;
      squares[i] += gap * gap;
    }
  }
  for (int step = kSums / 2; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) {
      gaps[i] += gaps[i + step];
      squares[i] += squares[i + step];
    }
  }
  Sums all = {total(gaps[0]), total(squares[0])};
  for (; at < count; ++at) {
    const double gap = static_cast<double>(x[at] - shift);
    all.gaps += gap;
    all.squares += gap * gap;
  }
  return all;
}

Moments moments_of(const float* x, int64_t count) {
  Moments all = {0, 0, 0};
  // A shift near the mean; the block before usually has one. If it is so far off that the
  // difference of the sums would lose digits, they are taken again.
  float shift = x[0];
  for (int64_t at = 0; at < count; at += kBlock) {
    const int64_t size = count - at < kBlock ? count - at : kBlock;
    const double n = static_cast<double>(size);
    Sums sums = sums_of(x + at, size, shift);
    double gap = sums.gaps / n;
    for (int again = 0; again < 2 && n * gap * gap > 0.5 * sums.squares; ++again) {
      shift = static_cast<float>(static_cast<double>(shift) + gap);
      sums = sums_of(x + at, size, shift);
      gap = sums.gaps / n;
    }
    const double squares = sums.squares - n * gap * gap;
    const double mean = static_cast<double>(shift) + gap;
    merge(&all, {n, mean, squares > 0 ? squares : 0});
    shift = static_cast<float>(mean);
  }
  return all;
}

struct Statistics {
  const float* x;
  int64_t group_size, chunks;  // floats of a group, tasks of a group
  Moments* parts;
};

void statistics_task(void* user, size_t index) {
  const Statistics& run = *static_cast<const Statistics*>(user);
  const int64_t group = static_cast<int64_t>(index) / run.chunks;
  const int64_t start = static_cast<int64_t>(index) % run.chunks * kChunk;
  const int64_t rest = run.group_size - start;
  run.parts[index] =
      moments_of(run.x + group * run.group_size + start, rest < kChunk ? rest : kChunk);
}

bool affine(const float* x, const MapShape& shape, const Norm& norm, float* out,
            const Parallel& parallel) {
  const int64_t channels = shape.channels / norm.groups;
  Statistics run;
  run.x = x;
  run.group_size = channels * shape.height * shape.width;
  run.chunks = (run.group_size + kChunk - 1) / kChunk;
  const size_t count = static_cast<size_t>(shape.batch * norm.groups * run.chunks);
  run.parts = static_cast<Moments*>(run_scratch(count * sizeof(Moments)));
  if (!run.parts) return false;
  run_tasks(parallel, shape.batch * norm.groups * run.group_size * 4, count, statistics_task, &run);
  for (int64_t group = 0; group < shape.batch * norm.groups; ++group) {
    Moments all = run.parts[group * run.chunks];
    for (int64_t chunk = 1; chunk < run.chunks; ++chunk) {
      merge(&all, run.parts[group * run.chunks + chunk]);
    }
    const double epsilon = static_cast<double>(norm.epsilon);
    const double inverse = 1.0 / __builtin_sqrt(all.squares / all.count + epsilon);
    for (int64_t i = 0; i < channels; ++i) {
      const int64_t channel = group % norm.groups * channels + i;
      const double a = static_cast<double>(norm.scale[channel]) * inverse;
      float* pair = out + 2 * (group * channels + i);
      pair[0] = static_cast<float>(a);
      pair[1] = static_cast<float>(static_cast<double>(norm.bias[channel]) - all.mean * a);
    }
  }
  free_run_scratch(run.parts);
  return true;
}

// h = n / (1 + exp(-n)) with n = a * x + b for kCount vectors at a time.
template <int kCount>
BIDIFF_INLINE void swish(const Floats* x, Floats a, Floats b, Floats* h) {
  Floats n[kCount], t[kCount], p[kCount];
  BIDIFF_EACH n[i] = a * x[i] + b;
  BIDIFF_EACH t[i] = n[i] * splat(-kLog2E);
  exp2_each<kCount>(t, p);
  BIDIFF_EACH p[i] += splat(1.0f);
  BIDIFF_EACH h[i] = quotient(n[i], p[i]);
}

void affine_swish(const float* x, float a, float b, size_t count, float* h) {
  constexpr int kTogether = kLanes == 16 ? 8 : 4;  // in 32 or 16 registers
  const Floats as = splat(a), bs = splat(b);
  const int64_t n = static_cast<int64_t>(count);
  int64_t at = 0;
  for (; at + kTogether * kLanes <= n; at += kTogether * kLanes) {
    Floats value[kTogether];
    for (int i = 0; i < kTogether; ++i) value[i] = load(x + at + i * kLanes);
    swish<kTogether>(value, as, bs, value);
    for (int i = 0; i < kTogether; ++i) store(h + at + i * kLanes, value[i]);
  }
  for (; at < n; at += kLanes) {
    const int64_t left = n - at < kLanes ? n - at : kLanes;
    Floats value = load_part(x + at, left);
    swish<1>(&value, as, bs, &value);
    store_part(h + at, value, left);
  }
}

void affine_map(const float* x, float a, float b, size_t count, float* h) {
  for (size_t i = 0; i < count; ++i) h[i] = a * x[i] + b;
}

struct Apply {
  const float* x;
  const float* affine;
  float* y;
  int64_t plane, chunks;
};

void apply_task(void* user, size_t index) {
  const Apply& run = *static_cast<const Apply*>(user);
  const int64_t channel = static_cast<int64_t>(index) / run.chunks;
  const int64_t start = static_cast<int64_t>(index) % run.chunks * kChunk;
  const int64_t rest = run.plane - start;
  const float* pair = run.affine + 2 * channel;
  affine_swish(run.x + channel * run.plane + start, pair[0], pair[1],
               static_cast<size_t>(rest < kChunk ? rest : kChunk),
               run.y + channel * run.plane + start);
}

bool norm_swish(const float* x, const MapShape& shape, const Norm& norm, float* y,
                const Parallel& parallel) {
  const int64_t planes = shape.batch * shape.channels, plane = shape.height * shape.width;
  float* pairs = static_cast<float*>(run_scratch(static_cast<size_t>(planes) * 2 * sizeof(float)));
  if (!pairs) return false;
  const bool done = affine(x, shape, norm, pairs, parallel);
  if (done) {
    Apply run{x, pairs, y, plane, (plane + kChunk - 1) / kChunk};
    run_tasks(parallel, planes * plane * kWorkPerElement, static_cast<size_t>(planes * run.chunks),
              apply_task, &run);
  }
  free_run_scratch(pairs);
  return done;
}

}  // namespace

namespace BIDIFF_ISA {
extern const NormKernel kNorm = {affine, affine_swish, affine_map, norm_swish};
}

}  // namespace bidiff
