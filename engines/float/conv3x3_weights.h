// The weights in Winograd's domain, G g G^T, in double until they are rounded once, and their
// packed form.
#pragma once

#include "conv3x3_gemm.h"
#include "maps.h"

namespace bidiff {
namespace {

// The matrices of conv3x3_transform.h.
struct Matrices {
  double weight[kPatch][3];      // G
  double input[kPatch][kPatch];  // B^T
  double output[kTile][kPatch];  // A^T
};

inline Matrices matrices() {
  const double near_scale = 1 / (2 * kNear2 * (kNear2 - kFar2));
  const double far_scale = 1 / (2 * kFar2 * (kFar2 - kNear2));
  const double point[kPatch - 1] = {0, kNear, -kNear, kFar, -kFar};
  const double scale[kPatch - 1] = {1, near_scale, near_scale, far_scale, far_scale};
  Matrices all = {};
  for (int i = 0; i < kPatch - 1; ++i) {
    double power = 1;
    for (int k = 0; k < kTile; ++k, power *= point[i]) {
      if (k < 3) all.weight[i][k] = scale[i] * power;
      all.output[k][i] = power;
    }
    if (i == 0) continue;
    // x (x + p) (x^2 - q^2), p this point and q the other pair's.
    const double other = i < 3 ? kFar2 : kNear2;
    all.input[i][1] = -other * point[i];
    all.input[i][2] = -other;
    all.input[i][3] = point[i];
    all.input[i][4] = 1;
  }
  all.weight[kPatch - 1][2] = 1;
  all.output[kTile - 1][kPatch - 1] = 1;
  for (int i = 0; i < 2; ++i) {
    double* row = all.input[i == 0 ? 0 : kPatch - 1] + i;
    row[0] = 1;
    row[2] = -(kNear2 + kFar2);
    row[4] = 1;
  }
  return all;
}

inline void transform_weight(const double transform[kPatch][3], const float g[9],
                             double u[kFrequencies]) {
  for (int i = 0; i < kPatch; ++i) {
    double row[3] = {};
    for (int k = 0; k < 3; ++k) {
      for (int j = 0; j < 3; ++j) row[j] += transform[i][k] * static_cast<double>(g[3 * k + j]);
    }
    for (int j = 0; j < kPatch; ++j) {
      u[kPatch * i + j] =
          row[0] * transform[j][0] + row[1] * transform[j][1] + row[2] * transform[j][2];
    }
  }
}

// An error e of the transformed weights changes the outputs of a tile by A^T (e * (B^T d B)) A. Its
// expected square is e' cost e where neighbouring inputs correlate as below; real maps correlate
// more, and for those this figure hardly matters.
inline void rounding_cost(const Matrices& all, double cost[kFrequencies][kFrequencies]) {
  constexpr double kCorrelation = 0.5;
  double axis[kPatch][kPatch];
  for (int i = 0; i < kPatch; ++i) {
    for (int j = 0; j < kPatch; ++j) {
      double inputs = 0, outputs = 0;
      for (int s = 0; s < kPatch; ++s) {
        for (int t = 0; t < kPatch; ++t) {
          double correlation = 1;
          for (int k = s < t ? t - s : s - t; k > 0; --k) correlation *= kCorrelation;
          inputs += all.input[i][s] * correlation * all.input[j][t];
        }
      }
      for (int k = 0; k < kTile; ++k) outputs += all.output[k][i] * all.output[k][j];
      axis[i][j] = inputs * outputs;
    }
  }
  for (int f = 0; f < kFrequencies; ++f) {
    for (int g = 0; g < kFrequencies; ++g) {
      cost[f][g] = axis[f / kPatch][g / kPatch] * axis[f % kPatch][g % kPatch];
    }
  }
}

// Rounds each value to a bfloat16 above or below it: the nearest first, then the other one wherever
// that lowers the total cost of all 36 errors. Outputs gain about 1 dB over rounding each to
// nearest.
inline void round_to_bfloat16(const double cost[kFrequencies][kFrequencies],
                              double u[kFrequencies]) {
  constexpr uint64_t kUnit = uint64_t{1} << (52 - 7);  // bfloat16 has 7 bits of fraction
  constexpr int kPasses = 4;
  double step[kFrequencies];  // from the chosen value to the other one
  double gradient[kFrequencies] = {};
  for (int f = 0; f < kFrequencies; ++f) {
    uint64_t bits;
    memcpy(&bits, &u[f], sizeof(bits));
    const uint64_t below = bits & ~(kUnit - 1), above = below + kUnit;
    double lower, upper;  // in magnitude
    memcpy(&lower, &below, sizeof(lower));
    memcpy(&upper, &above, sizeof(upper));
    const bool up = bits - below > kUnit / 2;
    const double error = (up ? upper : lower) - u[f];
    step[f] = bits == below ? 0 : (up ? lower - upper : upper - lower);
    u[f] = up ? upper : lower;
    for (int g = 0; g < kFrequencies; ++g) gradient[g] += error * cost[f][g];
  }
  bool better = true;
  for (int pass = 0; pass < kPasses && better; ++pass) {
    better = false;
    for (int f = 0; f < kFrequencies; ++f) {
      if (step[f] * (2 * gradient[f] + step[f] * cost[f][f]) >= 0) continue;
      for (int g = 0; g < kFrequencies; ++g) gradient[g] += step[f] * cost[f][g];
      u[f] += step[f];
      step[f] = -step[f];
      better = true;
    }
  }
}

BIDIFF_INLINE bool rounds(Precision precision) {
  return kRounds && precision == Precision::kBfloat16;
}

// Packed weights: cells [frequency][panel][depth][kPanel] as left_place() has them, then the scales
// of integers [frequency][rows of whole panels].
template <class Math>
BIDIFF_INLINE int64_t weight_floats(int64_t out_channels, int64_t in_channels) {
  return kFrequencies * panels(out_channels) * kPanel * cells_of<Math>(in_channels);
}
template <class Math>
size_t bytes_of(int64_t out_channels, int64_t in_channels) {
  const int64_t scales = Math::kScaled ? kFrequencies * panels(out_channels) * kPanel : 0;
  return static_cast<size_t>(weight_floats<Math>(out_channels, in_channels) + scales) *
         sizeof(float);
}

inline size_t packed_bytes(int64_t out_channels, int64_t in_channels, Precision precision) {
  return (rounds(precision) ? bytes_of<Rounded> : bytes_of<Float32>)(out_channels, in_channels);
}

template <class Math>
void pack_as(const float* weight, int64_t out_channels, int64_t in_channels, float* packed) {
  constexpr bool kBf16 = Math::kDepth == 2 && !Math::kScaled;
  const int64_t cells = cells_of<Math>(in_channels), rows = panels(out_channels) * kPanel;
  float* const scales = packed + weight_floats<Math>(out_channels, in_channels);
  const Matrices all = matrices();
  double cost[kFrequencies][kFrequencies], u[kFrequencies], scale[kFrequencies];
  if (kBf16) rounding_cost(all, cost);
  memset(packed, 0, bytes_of<Math>(out_channels, in_channels));
  for (int64_t o = 0; o < out_channels; ++o, weight += 9 * in_channels) {
    if constexpr (Math::kScaled) {
      RowScale row[kFrequencies];
      for (int64_t c = 0; c < in_channels; ++c) {
        transform_weight(all.weight, weight + 9 * c, u);
        for (int f = 0; f < kFrequencies; ++f) row[f].add(u[f]);
      }
      for (int f = 0; f < kFrequencies; ++f) {
        scale[f] = row[f].template of<Math>(in_channels);
        scales[f * rows + o] = static_cast<float>(scale[f]);
      }
    }
    for (int64_t c = 0; c < in_channels; ++c) {
      transform_weight(all.weight, weight + 9 * c, u);
      if (kBf16) round_to_bfloat16(cost, u);
      for (int f = 0; f < kFrequencies; ++f) {
        if (Math::kScaled && scale[f] > 0) u[f] /= scale[f];
        float* panel = packed + (f * rows + o / kPanel * kPanel) * cells;
        put_factor<Math>(panel + left_place<Math>(c / Math::kDepth, o % kPanel, kPanel),
                         c % Math::kDepth, static_cast<float>(u[f]));
      }
    }
  }
}

inline void pack(const float* weight, int64_t out_channels, int64_t in_channels,
                 Precision precision, void* packed) {
  (rounds(precision) ? pack_as<Rounded> : pack_as<Float32>)(weight, out_channels, in_channels,
                                                            static_cast<float*>(packed));
}

}  // namespace
}  // namespace bidiff
