// What the tests of binary kernels have in common: shapes, weights and threads of random cases.
#pragma once

#include <cstdio>
#include <vector>

#include "../kernels/binary_conv.h"
#include "../kernels/packed_weights.h"
#include "../kernels/select.h"
#include "test_inputs.h"

namespace bidiff {

// Sizes at and next to those of words and registers, of channels given.
inline Shape random_shape(int64_t in_channels, int64_t out_channels, Inputs* random) {
  return {random->pick({1, 1, 2}),
          in_channels,
          out_channels,
          random->pick({1, 3}),
          random->pick({1, 2, 3, 4, 5, 8, 9, 13}),
          random->pick({1, 2, 3, 4, 6, 7, 8, 15, 16, 17, 32, 33, 40, 70})};
}

inline int64_t random_channels(Inputs* random) {
  return random->pick({1, 7, 31, 32, 33, 64, 65, 96, 130});
}

inline std::vector<int32_t> random_words(const Shape& shape, Inputs* random) {
  std::vector<int32_t> words(
      static_cast<size_t>(shape.out_channels * shape.kernel * shape.kernel * words_per_tap(shape)));
  for (int32_t& word : words) word = static_cast<int32_t>(random->bits());
  return words;
}

// The supported kernels, of all that are named; prints them.
inline std::vector<const Kernel*> supported_kernels() {
  int count = 0;
  const KernelStatus* statuses = kernel_statuses(&count);
  std::vector<const Kernel*> found;
  std::printf("kernels:");
  for (int i = 0; i < count; ++i) {
    if (!statuses[i].supported) continue;
    found.push_back(statuses[i].kernel);
    std::printf(" %s", statuses[i].name);
  }
  std::puts("");
  return found;
}

// No threads in every second case.
inline Parallel parallel_of(int number) { return {nullptr, number % 2 ? run_on_threads : nullptr}; }

}  // namespace bidiff
