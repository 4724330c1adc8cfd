// 3x3 convolution of float32 maps by Winograd's F(4x4, 3x3): see conv3x3_transform.h.
//
// A task owns a strip of the output, several vectors of tiles wide, and goes down it block by block
// (one row of tiles, or more where the map is narrow): transform the inputs of all channels,
// multiply frequency by frequency, transform the sums back. The values and sums of a block stay in
// the core's own cache; the sums overwrite values that are no longer needed.
#include "conv3x3.h"

#include "conv3x3_tiles.h"
#include "conv3x3_weights.h"

namespace bidiff {
namespace {

constexpr int64_t kBlockBytes = int64_t{640} << 10;  // of 1 MiB, through which the weights stream
constexpr int64_t kTasksPerProcessor = 4;
// An output of this size has left the inner caches before it is read again; writing it past them
// avoids reading its old lines from memory.
constexpr int64_t kStreamBytes = int64_t{4} << 20;

// How a problem is cut, and the layout of a thread's scratch memory (in floats).
struct Plan {
  int64_t depth;                     // rows of cells along Cin
  int64_t value_stride, sum_stride;  // from one frequency to the next
  int64_t tile_rows, total_vectors;  // of the map
  int64_t strips, vectors;           // strips across the map, of at most `vectors` vectors of tiles
  int64_t block_rows;                // of tiles
  int64_t ranges;                    // tasks down a strip
  int64_t stage, rows, carry, values, total;          // the sums begin at 0
  int64_t raw_stride, largest, scales, scale_stride;  // of integers
};

// A power-of-two distance between the frequencies would put all of them into a few cache sets.
BIDIFF_INLINE int64_t frequency_stride(int64_t floats) { return round_up(floats, 1024) + 5 * 16; }

template <class Math>
Plan make_plan(const ConvProblem& problem) {
  const MapShape& shape = problem.shape;
  Plan plan{};
  const int64_t sum_rows = panels(problem.out_channels) * kPanel;
  plan.depth = cells_of<Math>(shape.channels);
  // Integers have floats before them, which the sums overwrite.
  const int64_t rows =
      Math::kScaled ? plan.depth + larger(shape.channels, sum_rows) : larger(plan.depth, sum_rows);
  const int64_t vector_bytes = kFrequencies * rows * kLanes * int64_t{sizeof(float)};
  const int64_t fitting = kBlockBytes > vector_bytes ? kBlockBytes / vector_bytes : 1;
  plan.total_vectors = quotient_up(shape.width, kTile * kLanes);
  const int64_t strips = quotient_up(plan.total_vectors, fitting);
  plan.vectors = quotient_up(plan.total_vectors, strips);
  plan.strips = quotient_up(plan.total_vectors, plan.vectors);
  plan.tile_rows = quotient_up(shape.height, kTile);
  plan.block_rows = smaller(fitting / plan.vectors, plan.tile_rows);
  const int64_t most_ranges = quotient_up(plan.tile_rows, plan.block_rows);
  const int64_t tasks = kTasksPerProcessor * processors(), columns = shape.batch * plan.strips;
  plan.ranges = smaller(most_ranges, quotient_up(tasks, columns));

  const int64_t tiles = plan.vectors * kLanes, block_tiles = plan.block_rows * tiles;
  plan.value_stride = frequency_stride(plan.depth * block_tiles);
  plan.sum_stride = frequency_stride(sum_rows * block_tiles);
  if (Math::kScaled) {
    plan.raw_stride = frequency_stride(round_up(shape.channels, 2) * tiles);
    plan.scale_stride = block_tiles;
    plan.values = kFrequencies * larger(plan.raw_stride, plan.sum_stride);
  } else {
    // Sums of frequency f end where the values of frequency f + 1 begin, or earlier.
    const int64_t longer = plan.sum_stride - plan.value_stride;
    plan.values = plan.sum_stride + (longer > 0 ? kFrequencies * longer : 0);
  }
  plan.largest = plan.values + kFrequencies * plan.value_stride;
  plan.scales = plan.largest + (Math::kScaled ? kFrequencies * tiles : 0);
  plan.stage = plan.scales + kFrequencies * plan.scale_stride;
  plan.rows = plan.stage + kPatch * stage_pitch(tiles);
  plan.carry = plan.rows + kUnit<Math> * kTile * kPatch * tiles;
  plan.total = plan.carry + shape.channels * (kPatch - kTile) * kPatch * tiles;
  return plan;
}

struct ConvRun {
  const ConvProblem* problem;
  const NormKernel* norm;
  const float* weights;
  Plan plan;
  bool rounded, streams;
  TaskFailure failure;
};

template <class Math>
void run_strip(const ConvRun& run, const Strip& strip, int64_t begin, int64_t end) {
  const int64_t out_channels = run.problem->out_channels, depth = run.plan.depth;
  const int64_t tiles = strip.vectors * kLanes, sum_rows = panels(out_channels) * kPanel;
  const float* const row_scales =
      run.weights + weight_floats<Math>(out_channels, run.problem->shape.channels);
  for (int64_t first = begin; first < end; first += run.plan.block_rows) {
    const int64_t rows = smaller(run.plan.block_rows, end - first), pitch = rows * tiles;
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t top = kTile * (first + row) - 1;
      float* const values = strip.values + row * tiles;
      if constexpr (Math::kScaled) {
        transform_scaled<Math>(strip, top, first + row == begin, values, pitch,
                               strip.scales + row * tiles);
      } else {
        transform_channels<Math>(strip, top, first + row == begin, values, pitch);
      }
    }
    for (int f = 0; f < kFrequencies; ++f) {
      Scales scales{};
      if (Math::kScaled) {
        scales = {row_scales + f * sum_rows, strip.scales + f * strip.scale_stride};
      }
      multiply<Math>(run.weights + f * sum_rows * depth, strip.values + f * strip.value_stride,
                     depth, rows * strip.vectors, out_channels, scales,
                     strip.sums + f * strip.sum_stride);
    }
    for (int64_t channel = 0; channel < out_channels; ++channel) {
      for (int64_t row = 0; row < rows; ++row) {
        finish_channel(strip, channel, kTile * (first + row),
                       strip.sums + channel * pitch + row * tiles);
      }
    }
  }
}

void run_task(void* user, size_t index) {
  ConvRun& run = *static_cast<ConvRun*>(user);
  const Plan& plan = run.plan;
  float* scratch =
      static_cast<float*>(thread_scratch(0, static_cast<size_t>(plan.total) * sizeof(float)));
  if (!scratch) return mark_failed(&run.failure);
  const int64_t range = static_cast<int64_t>(index) % plan.ranges;
  const int64_t column = static_cast<int64_t>(index) / plan.ranges;
  const int64_t strip_index = column % plan.strips;
  Strip strip;
  strip.problem = run.problem;
  strip.norm = run.norm;
  strip.image = column / plan.strips;
  strip.column = strip_index * plan.vectors * kTile * kLanes;
  strip.vectors = smaller(plan.vectors, plan.total_vectors - strip_index * plan.vectors);
  strip.streams = run.streams;
  strip.value_stride = plan.value_stride;
  strip.sum_stride = plan.sum_stride;
  strip.stage = scratch + plan.stage;
  strip.rows = scratch + plan.rows;
  strip.carry = scratch + plan.carry;
  strip.values = scratch + plan.values;
  strip.sums = strip.raw = scratch;
  strip.raw_stride = plan.raw_stride;
  strip.largest = scratch + plan.largest;
  strip.scales = scratch + plan.scales;
  strip.scale_stride = plan.scale_stride;
  memset(strip.stage, 0, static_cast<size_t>(plan.rows - plan.stage) * sizeof(float));
  const int64_t begin = range * plan.tile_rows / plan.ranges;
  const int64_t end = (range + 1) * plan.tile_rows / plan.ranges;
  (run.rounded ? run_strip<Rounded> : run_strip<Float32>)(run, strip, begin, end);
  if (run.streams) stream_fence();
}

bool run(const ConvProblem& problem, const void* packed, Precision precision,
         const NormKernel& norm, const Parallel& parallel) {
  const MapShape& shape = problem.shape;
  if (shape.batch * shape.height * shape.width * problem.out_channels == 0) return true;
  ConvRun run;
  run.problem = &problem;
  run.norm = &norm;
  run.weights = static_cast<const float*>(packed);
  run.rounded = rounds(precision);
  run.plan = (run.rounded ? make_plan<Rounded> : make_plan<Float32>)(problem);
  constexpr int64_t kVectorBytes = kLanes * sizeof(float);
  run.streams = problem.out_channels * shape.height * shape.width * 4 >= kStreamBytes &&
                shape.width % kLanes == 0 &&
                reinterpret_cast<uintptr_t>(problem.y) % kVectorBytes == 0;
  const int64_t work =
      shape.batch * shape.height * shape.width * shape.channels * problem.out_channels * 9;
  const int64_t tasks = shape.batch * run.plan.strips * run.plan.ranges;
  run_tasks(parallel, work, static_cast<size_t>(tasks), run_task, &run);
  return !run.failure.failed;
}

}  // namespace

namespace BIDIFF_ISA {
extern const ConvKernel kConv3x3 = {packed_bytes, pack, run};
}

}  // namespace bidiff
