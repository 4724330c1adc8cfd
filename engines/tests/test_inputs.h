// Random numbers and threads for the native tests.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <thread>
#include <vector>

class Inputs {
 public:
  explicit Inputs(unsigned seed) : generator_(seed) {}

  unsigned bits() { return static_cast<unsigned>(generator_()); }
  int one_of(int count) { return static_cast<int>(bits() % static_cast<unsigned>(count)); }
  int64_t pick(std::initializer_list<int64_t> values) {
    return values.begin()[bits() % values.size()];
  }
  std::vector<float> normal(int64_t count, float scale = 1.0f) {
    std::normal_distribution<float> distribution(0.0f, scale);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = distribution(generator_);
    return values;
  }
  // Multiples of 1/8, so that a sum with a threshold is often zero; some are -0.0.
  std::vector<float> ties(int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) {
      const int eighths = one_of(17) - 8;
      value = eighths == 0 && one_of(2) ? -0.0f : static_cast<float>(eighths) / 8;
    }
    return values;
  }

 private:
  std::mt19937 generator_;
};

// Parallel::run on three threads of its own.
inline void run_on_threads(void*, void (*task)(void* user, size_t index), size_t count,
                           void* user) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i; (i = next++) < count;) task(user, i);
  };
  std::thread first(work), second(work);
  work();
  first.join();
  second.join();
}
