// The operators of export/op_contract.md in plain loops on float maps: no bits, no tiles. What the
// CUDA kernels are tested against.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace reference {

using Map = std::vector<float>;  // (N, C, H, W)

struct Size {
  int64_t batch, channels, height, width;
  int64_t plane() const { return height * width; }
  int64_t count() const { return batch * channels * plane(); }
};

struct Convolution {
  int64_t out_channels, k;
  std::vector<int32_t> words;
  std::vector<float> alpha, threshold, rprelu;  // the last two may be empty
};

inline int weight_sign(const Convolution& conv, int64_t in_channels, int64_t o, int64_t tap,
                       int64_t c) {
  const int64_t words = (in_channels + 31) / 32;
  const int32_t word =
      conv.words[static_cast<size_t>((o * conv.k * conv.k + tap) * words + c / 32)];
  return static_cast<uint32_t>(word) >> (c % 32) & 1 ? 1 : -1;
}

// Sums, alpha and RPReLU: everything of a branch before its residual.
inline Map convolve(const Map& x, const Size& size, const Convolution& conv) {
  const int64_t plane = size.plane(), pad = conv.k / 2;
  std::vector<int8_t> signs(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t channel = i / static_cast<size_t>(plane) % static_cast<size_t>(size.channels);
    const float shifted = conv.threshold.empty() ? x[i] : x[i] + conv.threshold[channel];
    signs[i] = shifted >= 0 ? 1 : -1;
  }
  Map y(static_cast<size_t>(size.batch * conv.out_channels * plane));
  for (int64_t n = 0; n < size.batch; ++n) {
    for (int64_t o = 0; o < conv.out_channels; ++o) {
      std::vector<int32_t> sums(static_cast<size_t>(plane));
      for (int64_t tap = 0; tap < conv.k * conv.k; ++tap) {
        const int64_t dy = tap / conv.k - pad, dx = tap % conv.k - pad;
        for (int64_t c = 0; c < size.channels; ++c) {
          const int weight = weight_sign(conv, size.channels, o, tap, c);
          const int8_t* from = signs.data() + (n * size.channels + c) * plane;
          const int64_t left = std::max<int64_t>(0, -dx);
          const int64_t right = std::min(size.width, size.width - dx);
          for (int64_t py = std::max<int64_t>(0, -dy); py < std::min(size.height, size.height - dy);
               ++py) {
            int32_t* to = sums.data() + py * size.width;
            const int8_t* row = from + (py + dy) * size.width + dx;
            for (int64_t px = left; px < right; ++px) to[px] += weight * row[px];
          }
        }
      }
      for (int64_t i = 0; i < plane; ++i) {
        float value =
            conv.alpha[static_cast<size_t>(o)] * static_cast<float>(sums[static_cast<size_t>(i)]);
        if (!conv.rprelu.empty()) {
          const float* rprelu = conv.rprelu.data() + o;
          value = value + rprelu[0];
          if (value < 0) value = rprelu[conv.out_channels] * value;
          value = value + rprelu[2 * conv.out_channels];
        }
        y[static_cast<size_t>((n * conv.out_channels + o) * plane + i)] = value;
      }
    }
  }
  return y;
}

inline void add_map(Map* y, const Map& other) {
  for (size_t i = 0; i < y->size(); ++i) (*y)[i] = (*y)[i] + other[i];
}

// One value to a channel, or one for all.
inline void add_vector(Map* y, const Size& size, const std::vector<float>& vector) {
  for (size_t i = 0; i < y->size(); ++i) {
    const size_t channel =
        i / static_cast<size_t>(size.plane()) % static_cast<size_t>(size.channels);
    (*y)[i] = (*y)[i] + vector[vector.size() == 1 ? 0 : channel];
  }
}

// Channels start, start + step, ... of x, `count` of them, after those in `to`; of one image.
inline void pick(const Map& x, const Size& size, int64_t image, int64_t start, int64_t step,
                 int64_t count, Map* to) {
  for (int64_t i = 0; i < count; ++i) {
    const float* from = x.data() + (image * size.channels + start + i * step) * size.plane();
    to->insert(to->end(), from, from + size.plane());
  }
}

// y (N, 4C, H/2, W/2) of x (N, C, H, W).
inline Map pixel_unshuffle(const Map& x, const Size& size) {
  Map y(x.size());
  for (int64_t i = 0; i < size.count(); ++i) {
    const int64_t px = i % size.width, py = i / size.width % size.height, c = i / size.plane();
    const int64_t channel = 4 * c + py % 2 * 2 + px % 2;
    y[static_cast<size_t>((channel * (size.height / 2) + py / 2) * (size.width / 2) + px / 2)] =
        x[static_cast<size_t>(i)];
  }
  return y;
}

// y (N, C/4, 2H, 2W) of x (N, C, H, W).
inline Map pixel_shuffle(const Map& x, const Size& size) {
  Map y(x.size());
  for (int64_t i = 0; i < size.count(); ++i) {
    const int64_t px = i % size.width, py = i / size.width % size.height, c = i / size.plane();
    const int64_t row = (c / 4 * size.height + py) * 2 + c % 4 / 2;
    y[static_cast<size_t>(row * 2 * size.width + 2 * px + c % 2)] = x[static_cast<size_t>(i)];
  }
  return y;
}

// GroupNorm and Swish in float64, and how much a result may be off: the rounding of a * x + b, and
// of the mean, which is as large as the mean of |x| allows, also where x and the mean are near 0.
struct NormSwish {
  std::vector<double> h, bound;
};
inline NormSwish norm_swish(const Map& x, const Size& size, int64_t groups,
                            const std::vector<float>& scale, const std::vector<float>& bias) {
  const int64_t group_size = size.channels / groups * size.plane();
  NormSwish made;
  for (int64_t group = 0; group < size.batch * groups; ++group) {
    const float* from = x.data() + group * group_size;
    double mean = 0, magnitude = 0, squares = 0;
    for (int64_t i = 0; i < group_size; ++i) {
      mean += static_cast<double>(from[i]);
      magnitude += std::fabs(static_cast<double>(from[i]));
    }
    mean /= static_cast<double>(group_size);
    magnitude /= static_cast<double>(group_size);
    for (int64_t i = 0; i < group_size; ++i) {
      const double gap = static_cast<double>(from[i]) - mean;
      squares += gap * gap;
    }
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(group_size) + 1e-5);
    for (int64_t i = 0; i < group_size; ++i) {
      const size_t channel =
          static_cast<size_t>((group * group_size + i) / size.plane() % size.channels);
      const double a = static_cast<double>(scale[channel]) * inverse;
      const double b = static_cast<double>(bias[channel]) - mean * a;
      const double n = a * static_cast<double>(from[i]) + b;
      made.h.push_back(n / (1 + std::exp(-n)));
      made.bound.push_back(1e-6 * (std::fabs(a * static_cast<double>(from[i])) +
                                   magnitude * std::fabs(a) + std::fabs(n)));
    }
  }
  return made;
}

}  // namespace reference
