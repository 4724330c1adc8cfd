// The selective scan of a state-space model: the contract of scan.cpp.
#pragma once

#include "maps.h"

namespace bidiff {

constexpr int64_t kMaxStates = 64;

// Over the pixels of a map in one order, for every channel d with states h_s, from zero:
//
//   step = log(1 + exp(delta)),  h_s = exp(step a_s) h_s + step x b_s,  y = sum_s c_s h_s + skip x
struct ScanProblem {
  MapShape shape;      // of x, delta and y
  int64_t states;      // S, from 1 to kMaxStates
  bool columns;        // down each column, from left to right; else along rows, from top to bottom
  bool reverse;        // in the opposite order
  const float* x;      // (N, C, H, W)
  const float* delta;  // (N, C, H, W)
  const float* b;      // (N, S, H, W)
  const float* c;      // (N, S, H, W)
  const float* a;      // (C, S), not above 0
  const float* skip;   // (C)
  float* y;            // (N, C, H, W)
};

struct ScanKernel {
  // The same bits for any number of threads. False if memory is short.
  bool (*run)(const ScanProblem& problem, const Parallel& parallel);
};

}  // namespace bidiff
