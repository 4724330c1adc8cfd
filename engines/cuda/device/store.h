// Stores the outputs of the operators.
#pragma once

#include "epilogue.h"

namespace bidiff::cuda {
namespace {

// y (N, channels, H, W).
template <class Element>
BIDIFF_DEVICE void store_plain(const ConvArguments& arguments, const PixelRun& run, int channel,
                               const float (&values)[kRun]) {
  Element* to =
      at<Element>(arguments.y) +
      (static_cast<long long>(run.image) * arguments.channels + channel) * arguments.plane +
      (run.y * arguments.map.width + run.x);
  if (run.aligned) {
    store_run(to, values);
  } else {
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (i < run.count) to[i] = narrowed<Element>(values[i]);
    }
  }
}

// PixelUnshuffle(2), y (N, 4 channels, H/2, W/2): even and odd columns of a run go to two planes,
// each to four neighbouring pixels.
template <class Element>
BIDIFF_DEVICE void store_unshuffled(const ConvArguments& arguments, const PixelRun& run,
                                    int channel, const float (&values)[kRun]) {
  const int width = arguments.map.width / 2, plane = arguments.plane / 4;
  const long long first =
      (static_cast<long long>(run.image) * arguments.channels + channel) * 4 + run.y % 2 * 2;
#pragma unroll
  for (int odd = 0; odd < 2; ++odd) {
    Element* to =
        at<Element>(arguments.y) + (first + odd) * plane + (run.y / 2 * width + run.x / 2);
    if (run.aligned) {
      store_four(to, values[odd], values[2 + odd], values[4 + odd], values[6 + odd]);
    } else {
#pragma unroll
      for (int i = 0; i < kRun / 2; ++i) {
        if (2 * i + odd < run.count) to[i] = narrowed<Element>(values[2 * i + odd]);
      }
    }
  }
}

// PixelShuffle(2) of both branches' outputs, y (N, channels / 2, 2H, 2W). Channels 2i and 2i + 1
// are neighbouring columns of one row, and are in lanes that differ in bit 2: each takes half of
// the other's run, so that both write 8 neighbouring pixels. Called by whole warps.
template <class Element>
BIDIFF_DEVICE void store_shuffled(const ConvArguments& arguments, const Place& place,
                                  const PixelRun& run, int channel, bool valid,
                                  const float (&values)[kRun]) {
  const int odd = place.lane_row % 2;
  float columns[kRun];
#pragma unroll
  for (int i = 0; i < kRun / 2; ++i) {
    const float theirs = shuffle_xor(odd ? values[i] : values[4 + i], 4);
    const float own = odd ? values[4 + i] : values[i];
    columns[2 * i] = odd ? theirs : own;
    columns[2 * i + 1] = odd ? own : theirs;
  }
  if (!valid) return;
  const int both = place.branch * arguments.channels + channel;  // of both branches' channels
  const int width = 2 * arguments.map.width;
  Element* to = at<Element>(arguments.y) +
                (static_cast<long long>(run.image) * (arguments.channels / 2) + both / 4) * 4 *
                    arguments.plane +
                (2ll * run.y + both % 4 / 2) * width + 2 * run.x;
  if (run.aligned) {
    store_run(to + odd * kRun, columns);
  } else {
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (i < run.count) to[2 * i + odd] = narrowed<Element>(values[i]);
    }
  }
}

}  // namespace
}  // namespace bidiff::cuda
