// The by-value arguments of the kernels. Host and device compile this header to the same bytes.
#pragma once

#include "layout.h"

namespace bidiff::cuda {

// Channels of a convolution's input or residual, wherever they are: channel c is channel start[s] +
// stride * (c - s * split) of the map at base[s] with `channels` channels, where s is 1 from
// channel `split` on.
struct ChannelMap {
  Address base[2];
  int start[2];
  int stride, split, channels;
};

// GroupNorm of a map (N, channels, plane): from partial moments to pairs (a, b).
struct NormArguments {
  Address partials;     // (N, groups, parts) pairs (mean, sum of squared deviations)
  Address scale, bias;  // (channels)
  int channels, groups, parts;
  long long group_size, part_size;  // elements; the last part may have fewer
};

struct PrepareArguments {
  Address words, prepared;
  int out_channels, in_channels, k;
};

struct StatisticsArguments {
  Address x;
  NormArguments norm;  // partials are written
  int aligned;         // every group starts at 16 bytes and has a multiple of 8 elements
};

struct ApplyArguments {
  Address x, y;
  NormArguments norm;
  int plane;     // H * W
  int segments;  // blocks of a plane
  int aligned;
};

struct PackBranch {
  ChannelMap input;
  Address threshold;  // or 0
  Address packed;     // (N, words, rows, pitch)
};

struct PackArguments {
  PackBranch branch[2];
  Geometry map;
  NormArguments norm;  // of NormBinaryConv
  Address affine;      // (N, channels) pairs (a, b), written for the convolution
  int branches, channels, words;
  int plane;   // H * W
  int blocks;  // of a plane of words
};

struct ConvBranch {
  Address packed;
  Address fragments, ones, totals;  // of the prepared form
  Address alpha, rprelu;
  ChannelMap residual;
};

struct ConvArguments {
  ConvBranch branch[2];
  Geometry map;
  Address scalar;  // residual of one element, or 0; residual maps are in the branches
  Address time;    // or 0
  Address affine;  // of NormBinaryConv
  Address skip;    // or 0
  Address y;
  int has_residual;  // a map
  int time_stride;   // 0 for one element
  int taps;          // k * k
  int in_channels;   // of a branch
  int words;         // of a tap
  int chunks;        // of K
  int channels;      // outputs of a branch
  int padded_channels;
  int output_blocks;  // of kBlockChannels, in a branch
  int plane;          // H * W
  int buffers;        // stages in shared memory: 2 if copies are asynchronous and a second exists
  int aligned;        // runs of 8 pixels may be read and written as vectors
};

}  // namespace bidiff::cuda
