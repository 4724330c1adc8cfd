// What follows the integer sum, on vectors of neighbouring pixels of one output channel.
//
// Order and rounding are the contract's: every step is a separate operation, so that all kernels
// agree to the bit. `Vec` is the instruction set's policy; unnamed namespace as in bitslice.h.
#pragma once

#include "binary_conv.h"
#include "inline.h"

namespace bidiff {
namespace {

// Where some outputs of a channel are, or null for what a problem does not have.
struct Places {
  const float *residual, *skip;
  float* y;
  int32_t* sums;
  bool streams;  // y is written past the caches; vectors of it are aligned
};

template <class Vec>
struct ChannelEpilogue {
  typename Vec::Floats alpha, shift_in, slope, shift_out, residual, time;
  const float *residuals, *skips;
  bool has_rprelu, has_residual, has_time;

  ChannelEpilogue(const Problem& problem, int64_t channel, const Places& places) {
    const int64_t channels = problem.shape.out_channels;
    has_rprelu = problem.rprelu != nullptr;
    residuals = places.residual;
    skips = places.skip;
    has_residual = residuals || problem.residual;
    has_time = problem.time != nullptr;
    alpha = Vec::broadcast_float(problem.alpha ? problem.alpha[channel] : 0.0f);
    shift_in = Vec::broadcast_float(has_rprelu ? problem.rprelu[channel] : 0.0f);
    slope = Vec::broadcast_float(has_rprelu ? problem.rprelu[channels + channel] : 0.0f);
    shift_out = Vec::broadcast_float(has_rprelu ? problem.rprelu[2 * channels + channel] : 0.0f);
    residual = Vec::broadcast_float(has_residual && !residuals ? problem.residual[0] : 0.0f);
    time =
        Vec::broadcast_float(has_time ? problem.time[problem.time_is_scalar ? 0 : channel] : 0.0f);
  }

  // Outputs [at, at + count) from their sums.
  BIDIFF_INLINE_MEMBER typename Vec::Floats apply(typename Vec::Bits sum, int64_t at,
                                                  int count) const {
    typename Vec::Floats y = Vec::multiply(alpha, Vec::to_float(sum));
    if (has_rprelu) {
      y = Vec::add_float(y, shift_in);
      y = Vec::scale_negative(y, slope);
      y = Vec::add_float(y, shift_out);
    }
    if (has_residual) {
      y = Vec::add_float(y, residuals ? Vec::load_floats(residuals + at, count) : residual);
    }
    if (has_time) y = Vec::add_float(y, time);
    if (skips) y = Vec::add_float(y, Vec::load_floats(skips + at, count));
    return y;
  }
};

// Stores sums of one channel: as they are, or after the float epilogue.
template <class Vec>
struct FloatSink {
  ChannelEpilogue<Vec> epilogue;
  float* y;
  bool streams;

  FloatSink(const Problem& problem, int64_t channel, const Places& places)
      : epilogue(problem, channel, places), y(places.y), streams(places.streams) {}
  BIDIFF_INLINE_MEMBER void full(typename Vec::Bits sum, int64_t at) const {
    const typename Vec::Floats value = epilogue.apply(sum, at, Vec::kLanes);
    if (streams) {
      Vec::stream(y + at, value);
    } else {
      Vec::store_floats(y + at, value, Vec::kLanes);
    }
  }
  BIDIFF_INLINE_MEMBER void part(typename Vec::Bits sum, int64_t at, int count) const {
    Vec::store_floats(y + at, epilogue.apply(sum, at, count), count);
  }
};

template <class Vec>
struct IntegerSink {
  int32_t* sums;

  IntegerSink(const Problem&, int64_t, const Places& places) : sums(places.sums) {}
  BIDIFF_INLINE_MEMBER void full(typename Vec::Bits sum, int64_t at) const {
    Vec::store_integers(sums + at, sum, Vec::kLanes);
  }
  BIDIFF_INLINE_MEMBER void part(typename Vec::Bits sum, int64_t at, int count) const {
    Vec::store_integers(sums + at, sum, count);
  }
};

}  // namespace
}  // namespace bidiff
