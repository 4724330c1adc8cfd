// Transforms between maps in memory and a row of tiles, one channel at a time: B^T d B into the
// values, A^T m A out of the sums.
#pragma once

#include "conv3x3.h"
#include "conv3x3_gemm.h"

namespace bidiff {
namespace {

// A column of blocks of tiles, worked through from top to bottom by one thread.
struct Strip {
  const ConvProblem* problem;
  const NormKernel* norm;
  int64_t image;
  int64_t column;        // of the output, where the strip begins
  int64_t vectors;       // of tiles across the strip
  bool streams;          // y is written past the caches; its rows are aligned for that
  int64_t value_stride;  // floats from one frequency to the next
  int64_t sum_stride;
  float* stage;   // [kPatch] rows of h with zeros left and right of the map
  float* rows;    // per channel of a unit: [kTile][kPatch][tiles], transformed along the row
  float* carry;   // per input channel: [kPatch - kTile] more such rows, shared by two rows of tiles
  float* values;  // of a block: [kFrequencies][depth][tile rows of the block][tiles]
  float* sums;    // [kFrequencies][Cout][tile rows of the block][tiles]
  // Where values are integers: one row of tiles before that, [kFrequencies][even Cin][tiles], which
  // shares its memory with the sums, the largest magnitudes of it, and the scales of the block.
  float *raw, *largest, *scales;
  int64_t raw_stride, scale_stride;
};

BIDIFF_INLINE int64_t stage_pitch(int64_t tiles) { return kTile * tiles + 2 * kLanes; }

BIDIFF_INLINE void prefetch(const float* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(from + i);
}

// Start of row `row` of the patches in the stage. The strip's first output column is one float
// further, on a vector boundary.
BIDIFF_INLINE float* stage_row(const Strip& strip, int row) {
  return strip.stage + row * stage_pitch(strip.vectors * kLanes) + kLanes - 1;
}

// Writes h of rows [first_row, kPatch) of the patches; rows outside the map are not touched.
inline void stage_channel(const Strip& strip, int64_t channel, int64_t top, int first_row) {
  const ConvProblem& problem = *strip.problem;
  const MapShape& shape = problem.shape;
  const int64_t plane = strip.image * shape.channels + channel;
  const int64_t left = strip.column > 0 ? strip.column - 1 : 0;
  const int64_t right = smaller(shape.width, strip.column + kTile * strip.vectors * kLanes + 1);
  const int64_t size = shape.height * shape.width;
  for (int row = first_row; row < kPatch; ++row) {
    const int64_t y = top + row;
    if (y < 0 || y >= shape.height) continue;
    const float* x = problem.x + plane * size + y * shape.width + left;
    float* h = stage_row(strip, row) + (left + 1 - strip.column);
    const size_t count = static_cast<size_t>(right - left);
    if (problem.affine) {
      const float* pair = problem.affine + 2 * plane;
      strip.norm->affine_swish(x, pair[0], pair[1], count, h);
    } else if (problem.input_slope != 1.0f) {
      leaky_row(x, problem.input_slope, right - left, h);
    } else {
      memcpy(h, x, count * sizeof(float));
    }
    // The next channel's rows are a whole map away, out of the hardware prefetcher's reach.
    if (channel + 1 < shape.channels) prefetch(x + size, right - left);
  }
}

BIDIFF_INLINE void transform_row(const float* row, int64_t tiles, float* out) {
  for (int64_t tile = 0; tile < tiles; tile += kLanes) {
    Floats d[kPatch], t[kPatch];
    gather_patches(row + kTile * tile, d);
    transform_input(d, t);
    for (int i = 0; i < kPatch; ++i) store(out + i * tiles + tile, t[i]);
  }
}

// d B for the row of tiles whose patches begin at map row `top`.
inline void transform_rows(const Strip& strip, int64_t channel, int64_t top, bool first,
                           float* rows, float* carry) {
  const int64_t tiles = strip.vectors * kLanes, height = strip.problem->shape.height;
  const int first_row = first ? 0 : kPatch - kTile;
  stage_channel(strip, channel, top, first_row);
  for (int row = first_row; row < kPatch; ++row) {
    float* out = row < kPatch - kTile ? carry + row * kPatch * tiles
                                      : rows + (row - (kPatch - kTile)) * kPatch * tiles;
    if (top + row < 0 || top + row >= height) {
      memset(out, 0, static_cast<size_t>(kPatch * tiles) * sizeof(float));
    } else {
      transform_row(stage_row(strip, row), tiles, out);
    }
  }
}

// Also replaces the carried rows by those of the next row of tiles.
BIDIFF_INLINE void transform_column(const float* rows, float* carry, int64_t tiles,
                                    Floats t[kPatch]) {
  constexpr int kShared = kPatch - kTile;
  Floats d[kPatch];
  for (int i = 0; i < kPatch; ++i) {
    d[i] = load(i < kShared ? carry + i * kPatch * tiles : rows + (i - kShared) * kPatch * tiles);
  }
  for (int i = 0; i < kShared; ++i) store(carry + i * kPatch * tiles, d[kTile + i]);
  transform_input(d, t);
}

// Values of two channels, or of one and zeros, before they become integers: kept as floats.
BIDIFF_INLINE void keep_raw(const Strip& strip, int64_t frequency, int64_t channel, int64_t tile,
                            Floats value, Floats upper) {
  const int64_t tiles = strip.vectors * kLanes;
  float* largest = strip.largest + frequency * tiles + tile;
  float* raw = strip.raw + frequency * strip.raw_stride + channel * tiles + tile;
  store(largest, maximum(load(largest), maximum(magnitude(value), magnitude(upper))));
  store(raw, value);
  store(raw + tiles, upper);
}

// The values of all input channels for one row of tiles, `pitch` floats from cell to cell; or their
// raw values, if they are to be integers.
template <class Math>
void transform_channels(const Strip& strip, int64_t top, bool first, float* values, int64_t pitch) {
  const int64_t tiles = strip.vectors * kLanes, channels = strip.problem->shape.channels;
  const int64_t row_floats = kPatch * tiles, shared = (kPatch - kTile) * row_floats;
  constexpr int kTogether = kUnit<Math>;
  for (int64_t channel = 0; channel < channels; channel += kTogether) {
    const int64_t present = smaller(kTogether, channels - channel);
    float* carry = strip.carry + channel * shared;
    for (int64_t i = 0; i < present; ++i) {
      transform_rows(strip, channel + i, top, first, strip.rows + i * kTile * row_floats,
                     carry + i * shared);
    }
    for (int j = 0; j < kPatch; ++j) {
      for (int64_t tile = 0; tile < tiles; tile += kLanes) {
        const int64_t at = j * tiles + tile;
        Floats t[kTogether][kPatch] = {};
#pragma GCC unroll 4
        for (int i = 0; i < kTogether; ++i) {
          if (i > 0 && i >= present) break;
          transform_column(strip.rows + i * kTile * row_floats + at, carry + i * shared + at, tiles,
                           t[i]);
        }
#pragma GCC unroll 6
        for (int i = 0; i < kPatch; ++i) {
          const int64_t frequency = i * kPatch + j;
          if constexpr (Math::kScaled) {
            keep_raw(strip, frequency, channel, tile, t[0][i], t[1][i]);
          } else {
            Floats depths[kTogether];
#pragma GCC unroll 4
            for (int k = 0; k < kTogether; ++k) depths[k] = t[k][i];
            store_cells<Math>(depths, values + frequency * strip.value_stride + tile, pitch);
          }
        }
      }
    }
    values += Math::kCellRows * pitch;
  }
}

// The values of one row of tiles as integers, and the scale of every tile and frequency.
template <class Math>
void transform_scaled(const Strip& strip, int64_t top, bool first, float* values, int64_t pitch,
                      float* scales) {
  const int64_t tiles = strip.vectors * kLanes, channels = strip.problem->shape.channels;
  memset(strip.largest, 0, static_cast<size_t>(kFrequencies * tiles) * sizeof(float));
  transform_channels<Math>(strip, top, first, values, pitch);
  for (int frequency = 0; frequency < kFrequencies; ++frequency) {
    for (int64_t tile = 0; tile < tiles; tile += kLanes) {
      const Floats factor = to_integers<Math>(load(strip.largest + frequency * tiles + tile));
      store(scales + frequency * strip.scale_stride + tile, splat(1.0f) / factor);
      const float* from = strip.raw + frequency * strip.raw_stride + tile;
      float* to = values + frequency * strip.value_stride + tile;
      for (int64_t channel = 0; channel < channels; channel += 2, from += 2 * tiles, to += pitch) {
        store(to, Math::cells(load(from) * factor, load(from + tiles) * factor));
      }
    }
  }
}

BIDIFF_INLINE void write_columns(float* y, const float* skip, Floats value, int64_t count,
                                 bool streams) {
  if (count >= kLanes) {
    if (skip) value += load(skip);
    if (streams) {
      stream(y, value);
    } else {
      store(y, value);
    }
  } else if (count > 0) {
    if (skip) value += load_part(skip, count);
    store_part(y, value, count);
  }
}

// Writes rows [y0, y0 + kTile) of one output channel that are inside the map.
inline void finish_channel(const Strip& strip, int64_t channel, int64_t y0, const float* sums) {
  const ConvProblem& problem = *strip.problem;
  const MapShape& shape = problem.shape;
  const int64_t tiles = strip.vectors * kLanes, size = shape.height * shape.width;
  const int64_t offset =
      (strip.image * problem.out_channels + channel) * size + y0 * shape.width + strip.column;
  const int64_t rows = smaller(kTile, shape.height - y0);
  const int64_t columns = smaller(kTile * tiles, shape.width - strip.column);
  float* y = problem.y + offset;
  const float* skip = problem.skip && !problem.skip_is_scalar ? problem.skip + offset : nullptr;
  if (skip && channel + 1 < problem.out_channels) {
    for (int64_t row = 0; row < rows; ++row) prefetch(skip + size + row * shape.width, columns);
  }
  float constant = problem.bias ? problem.bias[channel] : 0.0f;
  if (problem.time) constant += problem.time[problem.time_is_scalar ? 0 : channel];
  if (problem.skip && problem.skip_is_scalar) constant += problem.skip[0];
  for (int64_t tile = 0; tile < tiles; tile += kLanes) {
    Floats half[kTile][kPatch];
    for (int j = 0; j < kPatch; ++j) {
      Floats m[kPatch], out[kTile];
      for (int i = 0; i < kPatch; ++i) {
        m[i] = load(sums + (i * kPatch + j) * strip.sum_stride + tile);
      }
      transform_output(m, out);
      for (int i = 0; i < kTile; ++i) half[i][j] = out[i];
    }
    const int64_t column = kTile * tile;
    for (int row = 0; row < kTile; ++row) {
      if (row >= rows) break;
      Floats out[kTile], part[kTile];
      transform_output(half[row], out);
      spread_tiles(out, part);
      const int64_t at = row * shape.width + column;
      for (int i = 0; i < kTile; ++i) {
        const int64_t left = columns - column - i * kLanes;
        if (left <= 0) break;
        write_columns(y + at + i * kLanes, skip ? skip + at + i * kLanes : nullptr,
                      leaky(part[i] + splat(constant), problem.slope), left, strip.streams);
      }
    }
  }
}

}  // namespace
}  // namespace bidiff
