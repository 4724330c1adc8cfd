#include "prepared_words.h"

#include <algorithm>
#include <vector>

#include "../cuda/device/layout.h"

namespace bidiff::tensorrt {
namespace {

// Reads contract words without their padding bits.
class Words {
 public:
  Words(const cuda::Weights& weights, const int32_t* words)
      : in_channels_(static_cast<int>(weights.in_channels)),
        taps_(static_cast<int>(weights.k * weights.k)),
        count_(cuda::ceil_div(in_channels_, cuda::kWordBits)),
        words_(words) {}

  int count() const { return count_; }
  uint32_t operator()(int channel, int tap, int word) const {
    const auto bits = static_cast<uint32_t>(
        words_[(static_cast<int64_t>(channel) * taps_ + tap) * count_ + word]);
    const int valid = in_channels_ - word * cuda::kWordBits;
    return valid >= cuda::kWordBits ? bits : bits & ((1u << valid) - 1);
  }

 private:
  int in_channels_, taps_, count_;
  const int32_t* words_;
};

cuda::PreparedLayout layout_of(const cuda::Weights& weights) {
  cuda::prepared_bytes(weights);  // checks them
  return cuda::prepared_layout(static_cast<int>(weights.out_channels),
                               static_cast<int>(weights.in_channels),
                               static_cast<int>(weights.k));
}

// One chunk of one block of output channels; see device/prepare.h.
void fill_chunk(const cuda::Weights& weights, const Words& words, int block, int chunk,
                int32_t* to) {
  const int k = static_cast<int>(weights.k), most = cuda::slab_words(k);
  const int full = cuda::slab_chunks(k, most), slab = chunk / full, first = slab * most;
  const int width = std::min(words.count() - first, most);
  for (int tile = 0; tile < 2; ++tile) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int reg = 0; reg < 4; ++reg) {
        const int channel = block * cuda::kBlockChannels + 16 * tile + lane / 4 + 8 * (reg & 1);
        const int place =
            (chunk - slab * full) * cuda::kChunkWords + lane % 4 + 4 * (reg >> 1);
        const int tap = place / width;
        const bool is_weight = channel < weights.out_channels && tap < k * k;
        *to++ = static_cast<int32_t>(is_weight ? words(channel, tap, first + place % width) : 0);
      }
    }
  }
}

bool is_outside(int tap, int border) {
  return (tap / 3 == 0 && border & 1) || (tap / 3 == 2 && border & 2) ||
         (tap % 3 == 0 && border & 4) || (tap % 3 == 2 && border & 8);
}

}  // namespace

int64_t prepared_count(const cuda::Weights& weights) { return layout_of(weights).words; }

void prepare_words(const cuda::Weights& weights, const int32_t* from, int32_t* prepared) {
  const cuda::PreparedLayout layout = layout_of(weights);
  const Words words(weights, from);
  const int taps = static_cast<int>(weights.k * weights.k);
  int32_t* fragments = prepared;
  for (int block = 0; block < layout.padded_channels / cuda::kBlockChannels; ++block) {
    for (int chunk = 0; chunk < layout.chunks; ++chunk) {
      fill_chunk(weights, words, block, chunk, fragments);
      fragments += cuda::kFragmentWords;
    }
  }
  for (int channel = 0; channel < layout.padded_channels; ++channel) {
    int32_t ones[9] = {}, all = 0;
    for (int tap = 0; tap < taps && channel < weights.out_channels; ++tap) {
      for (int word = 0; word < words.count(); ++word) {
        ones[tap] += __builtin_popcount(words(channel, tap, word));
      }
      all += ones[tap];
    }
    prepared[layout.ones + channel] = all;
    for (int border = 0; border < layout.classes; ++border) {
      int32_t offset = 0;
      for (int tap = 0; tap < taps; ++tap) {
        offset += is_outside(tap, border) ? 2 * ones[tap]
                                          : static_cast<int32_t>(weights.in_channels);
      }
      prepared[layout.offsets + static_cast<int64_t>(border) * layout.padded_channels + channel] =
          offset;
    }
  }
}

int32_t prepared_layout_number() {
  static const int32_t number = [] {
    // FNV-1a over two small examples, with tails in both channels and several slabs.
    uint32_t hash = 2166136261u, random = 1;
    for (const cuda::Weights& weights : {cuda::Weights{37, 300, 3}, cuda::Weights{5, 1100, 1}}) {
      const int64_t per_channel = weights.k * weights.k *
                                  cuda::ceil_div(static_cast<int>(weights.in_channels), 32);
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
