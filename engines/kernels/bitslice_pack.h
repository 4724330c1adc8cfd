// How an image is cut into units, and its activations packed into the planes of a unit.
#pragma once

#include "bitslice.h"

namespace bidiff {
namespace {

constexpr int64_t kTasksPerProcessor = 2;
// Output channels of a task: the counters of at most 512 stay in the L2 cache; 64 is the fewest,
// where an image has too few units for the threads.
constexpr int64_t kMaxTaskChannels = 512, kMinTaskChannels = 64;

struct Cut {
  int slots;      // slots in a row of a unit
  int rows;       // rows in a unit
  int64_t tiles;  // units across
  int64_t units;  // units down
  int64_t units_per_task, bands;
  int64_t channels_per_task, blocks;
};

template <class Vec>
BIDIFF_INLINE Cut cut_image(const Shape& shape) {
  Cut cut;
  const int64_t slots = (shape.width + Vec::kLanes - 1) / Vec::kLanes;
  cut.slots = slots < kSlots ? static_cast<int>(slots) : kSlots;
  cut.tiles = (slots + kSlots - 1) / kSlots;
  cut.rows = kSlots / cut.slots;
  cut.units = (shape.height + cut.rows - 1) / cut.rows;
  // Adjacent tasks of an image both pack the rows at their common edge, so there are no more tasks
  // than needed. If there are too few units, output channels are divided too, which repeats tables.
  const int64_t wanted = kTasksPerProcessor * processors();
  const int64_t columns = shape.batch * cut.tiles;
  const int64_t bands = (wanted + columns - 1) / columns;
  cut.units_per_task = (cut.units + bands - 1) / bands;
  cut.bands = (cut.units + cut.units_per_task - 1) / cut.units_per_task;
  cut.blocks = (shape.out_channels + kMaxTaskChannels - 1) / kMaxTaskChannels;
  const int64_t more = (processors() + columns * cut.bands - 1) / (columns * cut.bands);
  const int64_t max_blocks = (shape.out_channels + kMinTaskChannels - 1) / kMinTaskChannels;
  if (more > cut.blocks) cut.blocks = more < max_blocks ? more : max_blocks;
  // A multiple of the channels that PixelShuffle joins.
  cut.channels_per_task = ((shape.out_channels + cut.blocks - 1) / cut.blocks + 3) / 4 * 4;
  cut.blocks = (shape.out_channels + cut.channels_per_task - 1) / cut.channels_per_task;
  return cut;
}

template <class Vec>
struct BitsliceRun {
  const Problem* problem;
  const int32_t* offsets;
  const uint8_t* lookups;
  Sizes sizes;
  Cut cut;
  int64_t unit_pixels;
  bool streams;  // y is written past the caches
  TaskFailure failure;
};

template <class Vec>
struct Work {
  using Bits = typename Vec::Bits;
  const BitsliceRun<Vec>* run;
  int64_t image, tile, first_channel, last_channel;
  // Scratch of one task. mid: planes of three units, [unit % 3][Cin]; edges: of the same, the bits
  // left (1) and right (2) of a tile that ends inside a row; counters: of two units,
  // [unit % 2][channel][planes]; h: what is packed where it is not the input itself, of three
  // units, [unit % 3][Cin][pixels]; lines: outputs of two channels on their way to where Store puts
  // them.
  Bits *mid, *table, *counters, *counts;
  uint8_t* edges;
  float *h, *lines;
  Bits row_starts, row_ends;
  typename Vec::Shift row, other_rows;  // slots of one row, and of all others of a unit
};

// Bit t of a lane; read from memory, which is cheaper than moving 1 << t into a vector.
const uint32_t kSlotBits[kSlots] = {
    1u << 0,  1u << 1,  1u << 2,  1u << 3,  1u << 4,  1u << 5,  1u << 6,  1u << 7,
    1u << 8,  1u << 9,  1u << 10, 1u << 11, 1u << 12, 1u << 13, 1u << 14, 1u << 15,
    1u << 16, 1u << 17, 1u << 18, 1u << 19, 1u << 20, 1u << 21, 1u << 22, 1u << 23,
    1u << 24, 1u << 25, 1u << 26, 1u << 27, 1u << 28, 1u << 29, 1u << 30, 1u << 31};

BIDIFF_INLINE const float* input_plane(const Problem& problem, int64_t plane) {
  const Shape& shape = problem.shape;
  return problem.planes ? problem.planes[plane] : problem.x + plane * shape.height * shape.width;
}

template <class Vec>
BIDIFF_INLINE float* h_of(const Work<Vec>& work, int64_t unit, int64_t channel) {
  const BitsliceRun<Vec>& run = *work.run;
  return work.h + ((unit + 3) % 3 * run.problem->shape.in_channels + channel) * run.unit_pixels;
}

// Whether the sign of one input pixel is +1.
BIDIFF_INLINE bool is_positive(const Problem& problem, const float* x, const float* pair,
                               float threshold) {
  float h = *x;
  if (pair) problem.affine_swish(x, pair[0], pair[1], 1, &h);
  return h + threshold >= 0.0f;
}

// Packs rows [first, last) of a unit for every channel; rows outside the image stay 0.
template <class Vec>
BIDIFF_INLINE void pack_unit(const Work<Vec>& work, int64_t unit, int first, int last) {
  const BitsliceRun<Vec>& run = *work.run;
  const Problem& problem = *run.problem;
  const Shape& shape = problem.shape;
  const int slots = run.cut.slots;
  const int64_t top = unit * run.cut.rows, left = work.tile * kSlots * Vec::kLanes;
  const int64_t channels = shape.in_channels, width = shape.width, rest = width - left;
  const bool tiled = run.cut.tiles > 1;
  const float* const thresholds = problem.threshold;
  typename Vec::Bits* mid = work.mid + (unit + 3) % 3 * channels;
  uint8_t* edges = work.edges + (unit + 3) % 3 * channels;
  if (top + first < 0) first = static_cast<int>(-top);
  if (top + last > shape.height) last = static_cast<int>(shape.height - top);
  if (first >= last) {
    memset(mid, 0, static_cast<size_t>(channels) * sizeof(*mid));
    memset(edges, 0, static_cast<size_t>(channels));
    return;
  }
  // Full vectors of a row, and the pixels after them. Rows without such pixels are contiguous in
  // memory, as slots are in the unit, so they are treated as one long row.
  int full = rest / Vec::kLanes < kSlots ? static_cast<int>(rest / Vec::kLanes) : kSlots;
  const int part = full < slots ? static_cast<int>(rest % Vec::kLanes) : 0;
  int rows = last - first;
  const uint32_t* const bits_from = kSlotBits + first * slots;
  if (!part && !tiled) {
    full *= rows;
    rows = 1;
  }
  // Units of one row, if it is wide, and of whole rows are contiguous in memory.
  const int64_t pixels =
      tiled ? (rest < run.unit_pixels ? rest : run.unit_pixels) : (last - first) * width;
  for (int64_t channel = 0; channel < channels; ++channel) {
    const int64_t plane = work.image * channels + channel;
    const float* const x = input_plane(problem, plane) + (top + first) * width + left;
    const float threshold = thresholds ? thresholds[channel] : 0.0f;
    const typename Vec::Floats added = Vec::broadcast_float(threshold);
    typename Vec::Bits bits = Vec::zero();
    const float* from = x;
    const float* const pair = problem.affine ? problem.affine + 2 * plane : nullptr;
    if (pair) {
      float* const h = h_of(work, unit, channel) + first * width;
      problem.affine_swish(x, pair[0], pair[1], static_cast<size_t>(pixels), h);
      from = h;
    }
    const uint32_t* bit = bits_from;
    for (int row = 0; row < rows; ++row, from += width, bit += slots) {
#pragma GCC unroll 4
      for (int slot = 0; slot < full; ++slot) {
        bits = Vec::pack_slot(bits, from + slot * Vec::kLanes, added, bit[slot]);
      }
      if (part) bits = Vec::pack_part(bits, from + full * Vec::kLanes, part, added, bit[full]);
    }
    Vec::store(mid + channel, bits);
    edges[channel] = 0;
    if (tiled) {
      const float* const right = x + run.unit_pixels;
      if (left > 0 && is_positive(problem, x - 1, pair, threshold)) edges[channel] |= 1;
      if (run.unit_pixels < rest && is_positive(problem, right, pair, threshold)) {
        edges[channel] |= 2;
      }
    }
  }
}

// The planes of the pixels left of, at and right of each pixel of `at`.
template <class Vec>
BIDIFF_INLINE void neighbours(const Work<Vec>& work, typename Vec::Bits at, uint8_t edges,
                              typename Vec::Bits* planes) {
  planes[0] = Vec::from_left(at, work.row_starts);
  planes[1] = at;
  planes[2] = Vec::from_right(at, work.row_ends);
  if (work.run->cut.tiles > 1) {
    if (edges & 1) planes[0] = Vec::either(planes[0], Vec::lane_bit(0, 0));
    if (edges & 2) planes[2] = Vec::either(planes[2], Vec::lane_bit(Vec::kLanes - 1, kSlots - 1));
  }
}

// The nine planes of a nonet: for k = 3 the taps of a channel, for k = 1 nine channels.
template <class Vec>
BIDIFF_INLINE void gather_nonet(const Work<Vec>& work, int64_t unit, int64_t nonet,
                                typename Vec::Bits* planes) {
  using Bits = typename Vec::Bits;
  const BitsliceRun<Vec>& run = *work.run;
  const Shape& shape = run.problem->shape;
  const int64_t channels = shape.in_channels;
  const Bits* at = work.mid + unit % 3 * channels;
  if (shape.kernel == 1) {
    for (int i = 0; i < 9; ++i) {
      const int64_t channel = nonet * 9 + i;
      planes[i] = channel < channels ? Vec::load(at + channel) : Vec::zero();
    }
    return;
  }
  if (nonet >= channels) {
    for (int i = 0; i < 9; ++i) planes[i] = Vec::zero();
    return;
  }
  const int64_t above = (unit + 2) % 3 * channels + nonet,
                below = (unit + 1) % 3 * channels + nonet;
  const Bits middle = Vec::load(at + nonet);
  const Bits upper = Vec::either(Vec::shift_left_by(middle, work.row),
                                 Vec::shift_right_by(Vec::load(work.mid + above), work.other_rows));
  const Bits lower = Vec::either(Vec::shift_right_by(middle, work.row),
                                 Vec::shift_left_by(Vec::load(work.mid + below), work.other_rows));
  neighbours(work, upper, work.edges[above], planes);
  neighbours(work, middle, work.edges[unit % 3 * channels + nonet], planes + 3);
  neighbours(work, lower, work.edges[below], planes + 6);
}

// Prefetches the lines of a unit of an (N, channels, H, W) tensor, or of such planes anywhere, from
// a channel on, while something else is computed: a unit's rows are a few KB per channel, and the
// hardware prefetcher starts over with every channel.
struct Fetch {
  const char* row;
  const float* const* planes;  // the next ones, or null
  int64_t plane_bytes, offset, lines, channels, line, per_step;
};

template <class Vec>
BIDIFF_INLINE Fetch fetch_unit(const Work<Vec>& work, const void* tensor,
                               const float* const* planes, int64_t all_channels,
                               int64_t first_channel, int64_t last_channel, int64_t unit,
                               int64_t steps) {
  const Cut& cut = work.run->cut;
  const Shape& shape = work.run->problem->shape;
  const int64_t top = unit * cut.rows, rest = shape.height - top;
  Fetch fetch{};
  if (rest <= 0 || (!tensor && !planes)) return fetch;
  const int64_t tile = work.run->unit_pixels;
  const int64_t across = cut.tiles > 1 && tile < shape.width ? tile : shape.width;
  const int64_t elements = ((cut.rows < rest ? cut.rows : rest) - 1) * shape.width + across;
  const int64_t plane = work.image * all_channels + first_channel;
  fetch.offset = (top * shape.width + (cut.tiles > 1 ? work.tile * tile : 0)) * 4;
  fetch.plane_bytes = shape.height * shape.width * 4;
  if (planes) {
    fetch.planes = planes + plane;
    fetch.row = reinterpret_cast<const char*>(*fetch.planes) + fetch.offset;
  } else {
    fetch.row = static_cast<const char*>(tensor) + plane * fetch.plane_bytes + fetch.offset;
  }
  fetch.lines = (elements * 4 + 63) / 64;
  fetch.channels = last_channel - first_channel;
  fetch.per_step = (fetch.lines * fetch.channels + steps - 1) / steps;
  return fetch;
}

BIDIFF_INLINE void fetch_steps(Fetch* fetch, int64_t steps) {
  int64_t left = fetch->per_step * steps;
  while (left > 0 && fetch->channels > 0) {
    const char* from = fetch->row + fetch->line * 64;
    const int64_t row = fetch->lines - fetch->line, count = left < row ? left : row;
    for (int64_t i = 0; i < count; ++i) __builtin_prefetch(from + i * 64, 0, 2);
    left -= count;
    fetch->line += count;
    if (fetch->line < fetch->lines) continue;
    fetch->line = 0;
    fetch->row += fetch->plane_bytes;
    if (--fetch->channels > 0 && fetch->planes) {
      fetch->row = reinterpret_cast<const char*>(*++fetch->planes) + fetch->offset;
    }
  }
}

}  // namespace
}  // namespace bidiff
