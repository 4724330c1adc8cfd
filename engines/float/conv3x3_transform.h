// Winograd's F(4x4, 3x3): 16 outputs of a 3x3 convolution from 36 products instead of 144.
//
//   y = A^T [(G g G^T) * (B^T d B)] A,  d a 6x6 patch of the input, g the 3x3 weights
//
// is polynomial multiplication by evaluation at the points 0, +-2/3, +-3/2 and infinity. Rounding
// errors grow with the spread of the powers of the points; this choice has about half the error of
// the usual 0, +-1, +-2 (relative RMS 0.6e-6 to 0.9e-6 at 64 and 128 channels of white noise after
// Swish, against 1.4e-6 to 2.0e-6), and the product (2/3)^2 (3/2)^2 = 1 saves operations.
#pragma once

#include "vec.h"

namespace bidiff {
namespace {

constexpr int kTile = 4;   // outputs along one axis
constexpr int kPatch = 6;  // inputs, and points, along one axis
constexpr int kFrequencies = kPatch * kPatch;

constexpr double kNear = 2.0 / 3.0, kFar = 1.5;
constexpr double kNear2 = kNear * kNear, kFar2 = kFar * kFar;

// B^T: row i holds the coefficients of the polynomial that vanishes at every point but the i-th.
BIDIFF_INLINE void transform_input(const Floats d[kPatch], Floats t[kPatch]) {
  const Floats near2 = splat(float(kNear2)), far2 = splat(float(kFar2));
  const Floats near = splat(float(kNear)), far = splat(float(kFar));
  const Floats both = splat(float(kNear2 + kFar2));
  const Floats near_even = d[4] - far2 * d[2], near_odd = d[3] - far2 * d[1];
  const Floats far_even = d[4] - near2 * d[2], far_odd = d[3] - near2 * d[1];
  t[0] = (d[0] + d[4]) - both * d[2];
  t[1] = near_even + near * near_odd;
  t[2] = near_even - near * near_odd;
  t[3] = far_even + far * far_odd;
  t[4] = far_even - far * far_odd;
  t[5] = (d[1] + d[5]) - both * d[3];
}

// A^T: column i holds the powers of the i-th point.
BIDIFF_INLINE void transform_output(const Floats m[kPatch], Floats y[kTile]) {
  const Floats near_sum = m[1] + m[2], near_difference = m[1] - m[2];
  const Floats far_sum = m[3] + m[4], far_difference = m[3] - m[4];
  y[0] = m[0] + near_sum + far_sum;
  y[1] = splat(float(kNear)) * near_difference + splat(float(kFar)) * far_difference;
  y[2] = splat(float(kNear2)) * near_sum + splat(float(kFar2)) * far_sum;
  y[3] = splat(float(kNear * kNear2)) * near_difference +
         (splat(float(kFar * kFar2)) * far_difference + m[5]);
}

#if defined(__clang__) || __GNUC__ >= 12
#define BIDIFF_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define BIDIFF_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Ints{__VA_ARGS__})
#endif
#if BIDIFF_LANES == 4
#define BIDIFF_EVENS 0, 2, 4, 6
#define BIDIFF_ODDS 1, 3, 5, 7
#define BIDIFF_LOW 0, 4, 1, 5
#define BIDIFF_HIGH 2, 6, 3, 7
#define BIDIFF_NEXT 1, 2, 3, 4
#elif BIDIFF_LANES == 8
#define BIDIFF_EVENS 0, 2, 4, 6, 8, 10, 12, 14
#define BIDIFF_ODDS 1, 3, 5, 7, 9, 11, 13, 15
#define BIDIFF_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define BIDIFF_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#define BIDIFF_NEXT 1, 2, 3, 4, 5, 6, 7, 8
#else
#define BIDIFF_EVENS 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define BIDIFF_ODDS 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define BIDIFF_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define BIDIFF_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define BIDIFF_NEXT 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16
#endif

// The patches of kLanes neighbouring tiles along one row: d[j][t] = row[4 * t + j].
BIDIFF_INLINE void gather_patches(const float* row, Floats d[kPatch]) {
  const Floats a = load(row), b = load(row + kLanes);
  const Floats c = load(row + 2 * kLanes), e = load(row + 3 * kLanes);
  const Floats even0 = BIDIFF_SHUFFLE(a, b, BIDIFF_EVENS);
  const Floats even1 = BIDIFF_SHUFFLE(c, e, BIDIFF_EVENS);
  const Floats odd0 = BIDIFF_SHUFFLE(a, b, BIDIFF_ODDS);
  const Floats odd1 = BIDIFF_SHUFFLE(c, e, BIDIFF_ODDS);
  d[0] = BIDIFF_SHUFFLE(even0, even1, BIDIFF_EVENS);
  d[1] = BIDIFF_SHUFFLE(odd0, odd1, BIDIFF_EVENS);
  d[2] = BIDIFF_SHUFFLE(even0, even1, BIDIFF_ODDS);
  d[3] = BIDIFF_SHUFFLE(odd0, odd1, BIDIFF_ODDS);
  d[4] = BIDIFF_SHUFFLE(d[0], splat(row[4 * kLanes]), BIDIFF_NEXT);
  d[5] = BIDIFF_SHUFFLE(d[1], splat(row[4 * kLanes + 1]), BIDIFF_NEXT);
}

// The reverse for outputs: 4 * kLanes neighbouring columns from y[j][t] = column 4 * t + j.
BIDIFF_INLINE void spread_tiles(const Floats y[kTile], Floats columns[kTile]) {
  const Floats even0 = BIDIFF_SHUFFLE(y[0], y[2], BIDIFF_LOW);
  const Floats even1 = BIDIFF_SHUFFLE(y[0], y[2], BIDIFF_HIGH);
  const Floats odd0 = BIDIFF_SHUFFLE(y[1], y[3], BIDIFF_LOW);
  const Floats odd1 = BIDIFF_SHUFFLE(y[1], y[3], BIDIFF_HIGH);
  columns[0] = BIDIFF_SHUFFLE(even0, odd0, BIDIFF_LOW);
  columns[1] = BIDIFF_SHUFFLE(even0, odd0, BIDIFF_HIGH);
  columns[2] = BIDIFF_SHUFFLE(even1, odd1, BIDIFF_LOW);
  columns[3] = BIDIFF_SHUFFLE(even1, odd1, BIDIFF_HIGH);
}

}  // namespace
}  // namespace bidiff
