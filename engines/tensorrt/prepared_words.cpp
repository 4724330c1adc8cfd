#include "prepared_words.h"

#include <algorithm>
#include <vector>

#include "../cuda/device/arguments.h"

// The device source itself, run for the thread in `place`, so that the form is described once.
namespace bidiff::cuda {
namespace {

struct Place {
  int block, thread;
};
thread_local Place place;

inline int block_index() { return place.block; }
inline int thread_index() { return place.thread; }
inline int popcount(unsigned word) { return __builtin_popcount(word); }
inline unsigned load(const unsigned* from) { return *from; }
template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace
}  // namespace bidiff::cuda

#define BIDIFF_DEVICE [[maybe_unused]] static inline
#define BIDIFF_PREPARE_ON_HOST
#include "../cuda/device/prepare.h"

namespace bidiff::tensorrt {
namespace {

cuda::Address address(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

// Runs `body` as `count` threads of a launch.
template <class Body>
void for_threads(int64_t count, const cuda::PrepareArguments& arguments, Body body) {
  for (int64_t i = 0; i < count; ++i) {
    cuda::place = {static_cast<int>(i / cuda::kPrepareThreads),
                   static_cast<int>(i % cuda::kPrepareThreads)};
    body(arguments);
  }
}

}  // namespace

int64_t prepared_count(const cuda::Weights& weights) {
  return static_cast<int64_t>(cuda::prepared_bytes(weights) / sizeof(int32_t));
}

void prepare_words(const cuda::Weights& weights, const int32_t* words, int32_t* prepared) {
  const int64_t count = prepared_count(weights);
  const cuda::PrepareArguments arguments{
      address(words), address(prepared), static_cast<int>(weights.out_channels),
      static_cast<int>(weights.in_channels), static_cast<int>(weights.k)};
  const cuda::PreparedLayout layout =
      cuda::prepared_layout(arguments.out_channels, arguments.in_channels, arguments.k);
  std::fill(prepared, prepared + count, 0);
  // Threads without work return by themselves.
  for_threads(count, arguments, cuda::prepare_fragment);
  for_threads(layout.padded_channels, arguments, cuda::prepare_ones);
}

int32_t prepared_layout_number() {
  static const int32_t number = [] {
    // FNV-1a over two small examples, with tails in both channels and several slabs.
    uint32_t hash = 2166136261u, random = 1;
    for (const cuda::Weights& weights : {cuda::Weights{37, 300, 3}, cuda::Weights{5, 1100, 1}}) {
      const int64_t per_channel =
          weights.k * weights.k * cuda::ceil_div(static_cast<int>(weights.in_channels), 32);
      std::vector<int32_t> words(static_cast<size_t>(weights.out_channels * per_channel));
      for (int32_t& word : words) {
        random = random * 1664525u + 1013904223u;
        word = static_cast<int32_t>(random);
      }
      std::vector<int32_t> prepared(static_cast<size_t>(prepared_count(weights)));
      prepare_words(weights, words.data(), prepared.data());
      for (const int32_t word : prepared) hash = (hash ^ static_cast<uint32_t>(word)) * 16777619u;
    }
    return std::max<int32_t>(1, static_cast<int32_t>(hash & 0x7fffffffu));
  }();
  return number;
}

}  // namespace bidiff::tensorrt
