// 3x3 convolution term by term, for layers of few input channels.
//
// It does nine multiplications where Winograd's algorithm does 2.25 or 4, and its rounding error is
// a tenth of theirs. The network's first layer needs that: every later sign is that of a sum that
// begins here.
//
// Lanes are neighbouring pixels of a row. Three rows of every channel are staged with a zero at
// each end, so that no tap is a special case; the next row replaces the topmost one.
#include <string.h>

#include "conv3x3.h"
#include "vec.h"

namespace bidiff {
namespace {

constexpr int kOut = 4, kVectors = 4;  // output channels and vectors of a tile
constexpr int kSlot = 2;               // of thread_scratch

int64_t out_groups(int64_t out_channels) { return (out_channels + kOut - 1) / kOut; }

size_t packed_bytes(int64_t out_channels, int64_t in_channels, Precision) {
  return static_cast<size_t>(out_groups(out_channels) * kOut * in_channels * 9) * sizeof(float);
}

// (Cout, Cin, 3, 3) to [Cout / 4][dy][Cin][dx][4].
void pack(const float* weight, int64_t out_channels, int64_t in_channels, Precision, void* packed) {
  float* to = static_cast<float*>(packed);
  for (int64_t group = 0; group < out_groups(out_channels); ++group) {
    for (int64_t dy = 0; dy < 3; ++dy) {
      for (int64_t c = 0; c < in_channels; ++c) {
        for (int64_t dx = 0; dx < 3; ++dx) {
          for (int64_t i = 0; i < kOut; ++i) {
            const int64_t o = group * kOut + i;
            *to++ = o < out_channels ? weight[((o * in_channels + c) * 3 + dy) * 3 + dx] : 0.0f;
          }
        }
      }
    }
  }
}

struct DirectRun {
  const ConvProblem* problem;
  const float* weights;
  const NormKernel* norm;
  int64_t rows, bands;  // output rows of a task, tasks of an image
  int64_t stride;       // floats of a staged row: whole vectors, and one to spare
  TaskFailure failure;
};

// Stages row y of every channel, or zeros outside the image.
void stage_row(const DirectRun& run, int64_t image, int64_t y, float* to) {
  const ConvProblem& problem = *run.problem;
  const MapShape& shape = problem.shape;
  for (int64_t c = 0; c < shape.channels; ++c, to += run.stride) {
    memset(to, 0, static_cast<size_t>(run.stride) * sizeof(float));
    if (y < 0 || y >= shape.height) continue;
    const int64_t plane = image * shape.channels + c;
    const float* from = problem.x + (plane * shape.height + y) * shape.width;
    const size_t width = static_cast<size_t>(shape.width);
    if (problem.affine) {
      const float* pair = problem.affine + 2 * plane;
      run.norm->affine_swish(from, pair[0], pair[1], width, to + 1);
    } else if (problem.input_slope != 1.0f) {
      leaky_row(from, problem.input_slope, shape.width, to + 1);
    } else {
      memcpy(to + 1, from, width * sizeof(float));
    }
  }
}

// Computes kVectors vectors of kOut output channels from column x on.
BIDIFF_INLINE void convolve_tile(const DirectRun& run, const float* const rows[3],
                                 const float* weights, int64_t x, Floats sums[kOut][kVectors]) {
  for (int i = 0; i < kOut; ++i) {
    for (int v = 0; v < kVectors; ++v) sums[i][v] = Floats{};
  }
  for (int dy = 0; dy < 3; ++dy) {
    const float* row = rows[dy] + x;
    for (int64_t c = 0; c < run.problem->shape.channels; ++c, row += run.stride) {
      for (int dx = 0; dx < 3; ++dx, weights += kOut) {
        for (int v = 0; v < kVectors; ++v) {
          const Floats input = load(row + dx + v * kLanes);
          for (int i = 0; i < kOut; ++i) {
            sums[i][v] = sums[i][v] + input * splat(weights[i]);
          }
        }
      }
    }
  }
}

void finish_row(const DirectRun& run, int64_t image, int64_t y, const float* const rows[3]) {
  const ConvProblem& problem = *run.problem;
  const MapShape& shape = problem.shape;
  const float scalar_skip = problem.skip && problem.skip_is_scalar ? problem.skip[0] : 0.0f;
  for (int64_t group = 0; group < out_groups(problem.out_channels); ++group) {
    const float* weights = run.weights + group * kOut * shape.channels * 9;
    for (int64_t x = 0; x < shape.width; x += kVectors * kLanes) {
      Floats sums[kOut][kVectors];
      convolve_tile(run, rows, weights, x, sums);
      for (int64_t i = 0; i < kOut && group * kOut + i < problem.out_channels; ++i) {
        const int64_t o = group * kOut + i;
        float shift = scalar_skip + (problem.bias ? problem.bias[o] : 0.0f);
        if (problem.time) shift += problem.time[problem.time_is_scalar ? 0 : o];
        const int64_t at = ((image * problem.out_channels + o) * shape.height + y) * shape.width;
        for (int64_t v = 0; v < kVectors && x + v * kLanes < shape.width; ++v) {
          const int64_t column = x + v * kLanes, left = shape.width - column;
          const int64_t count = left < kLanes ? left : kLanes;
          Floats value = leaky(sums[i][v] + splat(shift), problem.slope);
          if (problem.skip && !problem.skip_is_scalar) {
            value = value + load_part(problem.skip + at + column, count);
          }
          if (count == kLanes) {
            store(problem.y + at + column, value);
          } else {
            store_part(problem.y + at + column, value, count);
          }
        }
      }
    }
  }
}

void task(void* user, size_t index) {
  DirectRun& run = *static_cast<DirectRun*>(user);
  const MapShape& shape = run.problem->shape;
  const int64_t image = static_cast<int64_t>(index) / run.bands;
  const int64_t top = static_cast<int64_t>(index) % run.bands * run.rows;
  const int64_t end = top + run.rows < shape.height ? top + run.rows : shape.height;
  const int64_t row_floats = shape.channels * run.stride;
  float* staged = static_cast<float*>(
      thread_scratch(kSlot, static_cast<size_t>(3 * row_floats) * sizeof(float)));
  if (!staged) return mark_failed(&run.failure);
  // Row y is stored at place y mod 3, counted from the row above the first.
  const auto place = [&](int64_t y) { return staged + (y + 3) % 3 * row_floats; };
  stage_row(run, image, top - 1, place(top - 1));
  stage_row(run, image, top, place(top));
  for (int64_t y = top; y < end; ++y) {
    stage_row(run, image, y + 1, place(y + 1));
    const float* const rows[3] = {place(y - 1), place(y), place(y + 1)};
    finish_row(run, image, y, rows);
  }
}

bool run(const ConvProblem& problem, const void* packed, Precision, const NormKernel& norm,
         const Parallel& parallel) {
  const MapShape& shape = problem.shape;
  const int64_t block = kVectors * kLanes;
  DirectRun state;
  state.problem = &problem;
  state.weights = static_cast<const float*>(packed);
  state.norm = &norm;
  // 2 for the zeros at the ends; an odd number of vectors avoids strides of multiples of 4 KB.
  state.stride = (shape.width + block - 1) / block * block + kLanes;
  const int64_t wanted = 4 * processors();
  state.rows = (shape.height * shape.batch + wanted - 1) / wanted;
  if (state.rows < 4) state.rows = 4;
  state.bands = (shape.height + state.rows - 1) / state.rows;
  const int64_t work = shape.batch * shape.height * shape.width * shape.channels *
                       problem.out_channels * 9 *
                       16;  // a float product costs 16 times a binary one
  run_tasks(parallel, work, static_cast<size_t>(shape.batch * state.bands), task, &state);
  return !state.failure.failed;
}

}  // namespace

namespace BIDIFF_ISA {
extern const ConvKernel kDirect3x3 = {packed_bytes, pack, run};
}

}  // namespace bidiff
