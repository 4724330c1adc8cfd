// GroupNorm as one pair (a, b) per channel, and Swish: h = n * sigmoid(n) with n = a * x + b.
//
// A group's mean and sum of squared deviations come in at most kMaxParts parts, each by one block;
// the consumer merges them with one warp, one part per lane. Moments are merged as Chan, Golub and
// LeVeque do it: no difference of large sums is taken, so float32 suffices.
#pragma once

#include "memory.h"

namespace bidiff::cuda {
namespace {

constexpr float kEpsilon = 1e-5f;

struct Moments {
  float count, mean, squares;
};

BIDIFF_DEVICE void merge(Moments* into, const Moments& other) {
  if (other.count == 0) return;
  if (into->count == 0) {
    *into = other;
    return;
  }
  const float count = into->count + other.count;
  const float gap = other.mean - into->mean, share = divide(other.count, count);
  into->mean = fused(gap, share, into->mean);
  into->squares =
      fused(multiply(gap, gap), multiply(into->count, share), into->squares + other.squares);
  into->count = count;
}

// Moments of the block's threads, returned in its thread 0. `scratch` has 3 floats for each warp.
BIDIFF_DEVICE Moments merge_block(Moments own, float* scratch) {
  const int lane = thread_index() % 32, warp = thread_index() / 32;
#pragma unroll
  for (int step = 16; step >= 1; step /= 2) {
    Moments other;
    other.count = shuffle_xor(own.count, step);
    other.mean = shuffle_xor(own.mean, step);
    other.squares = shuffle_xor(own.squares, step);
    merge(&own, other);
  }
  if (lane == 0) {
    scratch[3 * warp] = own.count;
    scratch[3 * warp + 1] = own.mean;
    scratch[3 * warp + 2] = own.squares;
  }
  synchronize_block();
  if (thread_index() == 0) {
    for (int i = 1; i < kNormThreads / 32; ++i) {
      merge(&own, Moments{scratch[3 * i], scratch[3 * i + 1], scratch[3 * i + 2]});
    }
  }
  return own;
}

// `count` of 8 values: their mean first, so that the deviations are small.
BIDIFF_DEVICE Moments moments_of(const float (&values)[kRun], int count) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kRun; ++i) sum += i < count ? values[i] : 0.0f;
  Moments found{static_cast<float>(count), count == kRun ? sum * 0.125f : divide(sum, count), 0};
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    const float gap = i < count ? values[i] - found.mean : 0.0f;
    found.squares = fused(gap, gap, found.squares);
  }
  return found;
}

// A block's part of a group.
template <class Element>
BIDIFF_DEVICE void statistics(const StatisticsArguments& arguments) {
  const NormArguments& norm = arguments.norm;
  const int part = block_index() % norm.parts, group = block_index() / norm.parts;
  const Element* x = at<const Element>(arguments.x) + group * norm.group_size;
  const long long start = part * norm.part_size;
  const long long end =
      start + norm.part_size < norm.group_size ? start + norm.part_size : norm.group_size;
  Moments own{0, 0, 0};
  for (long long from = start; from < end; from += kNormStep) {
    // A thread gets the same elements with and without vectors, so the bits are the same.
    const long long first = from + kRun * thread_index();
    const int count = end - first < kRun ? static_cast<int>(end - first) : kRun;
    if (count <= 0) break;
    float values[kRun];
    if (arguments.aligned) {
      load_run(x + first, values);
    } else {
#pragma unroll
      for (int i = 0; i < kRun; ++i) values[i] = i < count ? to_float(load(x + first + i)) : 0.0f;
    }
    merge(&own, moments_of(values, count));
  }
  const Moments all = merge_block(own, reinterpret_cast<float*>(shared_memory()));
  if (thread_index() == 0) {
    float* to = at<float>(norm.partials) + 2ll * block_index();
    to[0] = all.mean;
    to[1] = all.squares;
  }
}

BIDIFF_DEVICE float warp_sum(float value) {
#pragma unroll
  for (int step = 16; step >= 1; step /= 2) value = add(value, shuffle_xor(value, step));
  return value;
}

struct GroupMoments {
  float mean, inverse;  // inverse: 1 / sqrt(variance + epsilon)
};

// Of group `group` of image `image`, the same in all lanes; the whole warp calls it.
BIDIFF_DEVICE GroupMoments group_moments(const NormArguments& norm, int image, int group) {
  const int lane = thread_index() % 32;
  const float* partials = at<const float>(norm.partials) +
                          2 * (static_cast<long long>(image) * norm.groups + group) * norm.parts;
  float count = 0, mean = 0, squares = 0;
  if (lane < norm.parts) {
    const long long rest = norm.group_size - lane * norm.part_size;
    count = static_cast<float>(rest < norm.part_size ? rest : norm.part_size);
    mean = load(partials + 2 * lane);
    squares = load(partials + 2 * lane + 1);
  }
  const float all = static_cast<float>(norm.group_size), near = shuffle(mean, 0);
  const float distance = lane < norm.parts ? mean - near : 0.0f;
  const float shift = divide(warp_sum(multiply(count, distance)), all);
  GroupMoments found;
  found.mean = near + shift;
  const float gap = lane < norm.parts ? distance - shift : 0.0f;
  const float variance = divide(warp_sum(fused(multiply(count, gap), gap, squares)), all);
  found.inverse = divide(1.0f, square_root(variance + kEpsilon));
  return found;
}

struct Affine {
  float a, b;
};
BIDIFF_DEVICE Affine channel_affine(const NormArguments& norm, const GroupMoments& moments,
                                    int channel) {
  Affine pair;
  pair.a = multiply(load(at<const float>(norm.scale) + channel), moments.inverse);
  pair.b = fused(-moments.mean, pair.a, load(at<const float>(norm.bias) + channel));
  return pair;
}

// exp(x) for |x| <= 88, to 3 units in the last place: the product with log2(e) is carried out to
// twice the precision, because its rounding error would be multiplied by x.
BIDIFF_DEVICE float exponential(float x) {
  const float log2_e = 1.44269504f, log2_e_rest = 1.92596303e-8f, ln_2 = 0.693147181f;
  const float power = multiply(x, log2_e);
  const float rest = fused(x, log2_e_rest, fused(x, log2_e, -power));
  const float result = exp2_approximate(power);
  return fused(result, multiply(rest, ln_2), result);
}

BIDIFF_DEVICE float swish(float x, Affine pair) {
  const float n = fused(pair.a, x, pair.b);
  const float e = exponential(clamp(-n, -88.0f, 88.0f));
  return multiply(n, reciprocal_approximate(1.0f + e));
}

// One block's part of GroupNormSwish: a segment of a plane.
template <class Element>
BIDIFF_DEVICE void apply(const ApplyArguments& arguments) {
  const NormArguments& norm = arguments.norm;
  const int segment = block_index() % arguments.segments;
  const int index = block_index() / arguments.segments;  // of the plane
  const int channel = index % norm.channels;
  const GroupMoments moments =
      group_moments(norm, index / norm.channels, channel / (norm.channels / norm.groups));
  const Affine pair = channel_affine(norm, moments, channel);
  const long long start = static_cast<long long>(index) * arguments.plane;
  const Element* x = at<const Element>(arguments.x) + start;
  Element* y = at<Element>(arguments.y) + start;
  const int from = segment * kApplyStep;
  if (arguments.aligned) {
    const int first = from + kRun * thread_index();
    if (first >= arguments.plane) return;
    float values[kRun];
    load_run(x + first, values);
#pragma unroll
    for (int i = 0; i < kRun; ++i) values[i] = swish(values[i], pair);
    store_run(y + first, values);
    return;
  }
  for (int i = from + thread_index(); i < from + kApplyStep && i < arguments.plane;
       i += kApplyThreads) {
    y[i] = narrowed<Element>(swish(to_float(load(x + i)), pair));
  }
}

}  // namespace
}  // namespace bidiff::cuda
