// The float kernels that go with each binary kernel this CPU runs, against plain loops in double.
// Prints the worst signal to noise of each; exit code 0 passed, 1 failed. An argument is the seed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../float/select.h"
#include "test_inputs.h"

namespace {

using namespace bidiff;

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

// Decibels, as in tests/operators/test_fused_ops.py, which says where they come from.
constexpr double kWinograd = 100, kPointwise = 110, kAttention = 100, kNorm = 115;
constexpr double kDirect = 115;   // 10 less than there: the terms of a single output may cancel
constexpr double kBfloat16 = 33;  // 3 less than there: some sums have a single term
constexpr double kInt16 = 50;     // 14 bits, or fewer in long sums

double snr(const Doubles& wanted, const Floats& found) {
  double signal = 0, noise = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    signal += wanted[i] * wanted[i];
    noise += (wanted[i] - found[i]) * (wanted[i] - found[i]);
  }
  return noise == 0 ? 999 : 10 * std::log10(signal / noise);
}

double swish(double n) { return n / (1 + std::exp(-n)); }

float* data_or_null(Floats& values, bool given) { return given ? values.data() : nullptr; }

struct Aligned {
  std::vector<char> memory;
  void* start;
  explicit Aligned(size_t bytes) : memory(bytes + kPackedAlignment) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(memory.data());
    start =
        reinterpret_cast<void*>((at + kPackedAlignment - 1) / kPackedAlignment * kPackedAlignment);
  }
};

struct Test {
  Inputs random;
  Parallel parallel;
  Precision precision;

  double conv3x3(const ConvKernel& kernel, const NormKernel& norm);
  double pointwise(const PointwiseKernel& kernel);
  double attention(const AttentionKernel& kernel);
  double group_norm(const NormKernel& kernel);
};

double Test::conv3x3(const ConvKernel& kernel, const NormKernel& norm) {
  const int64_t batch = random.pick({1, 2}), in = random.pick({1, 3, 6, 16, 17, 40, 64});
  const int64_t out = random.pick({1, 3, 16, 20, 64});
  const int64_t height = random.pick({1, 2, 3, 8, 13, 17}), width = random.pick({1, 2, 5, 16, 31});
  const int64_t pixels = height * width, outputs = batch * out * pixels;
  Floats x = random.normal(batch * in * pixels), affine = random.normal(2 * batch * in);
  Floats weight = random.normal(out * in * 9, 1 / std::sqrt(9.0f * static_cast<float>(in)));
  Floats bias = random.normal(out), time = random.normal(out), skip = random.normal(outputs);
  Floats y(static_cast<size_t>(outputs), NAN);
  ConvProblem problem{};
  problem.shape = {batch, in, height, width};
  problem.out_channels = out;
  problem.x = x.data();
  problem.affine = data_or_null(affine, random.one_of(2));
  problem.bias = data_or_null(bias, random.one_of(2));
  problem.time = data_or_null(time, random.one_of(2));
  problem.time_is_scalar = random.one_of(2);
  problem.skip = data_or_null(skip, random.one_of(2));
  problem.skip_is_scalar = random.one_of(2);
  if (!problem.skip_is_scalar && out > 3) problem.slope = 0.1f;
  if (width > 5) problem.input_slope = -0.5f;
  problem.y = y.data();
  const Aligned packed(kernel.packed_bytes(out, in, precision));
  kernel.pack(weight.data(), out, in, precision, packed.start);
  if (!kernel.run(problem, packed.start, precision, norm, parallel)) return -1;

  Doubles h(x.begin(), x.end()), wanted(y.size());
  if (!problem.affine) {
    for (double& value : h) value *= value < 0 ? problem.input_slope : 1;
  }
  for (size_t i = 0; problem.affine && i < h.size(); ++i) {
    const size_t plane = i / static_cast<size_t>(pixels);
    h[i] = swish(static_cast<double>(affine[2 * plane]) * x[i] + affine[2 * plane + 1]);
  }
  for (int64_t i = 0; i < outputs; ++i) {
    const int64_t image = i / pixels / out, o = i / pixels % out, row = i % pixels / width;
    double sum = problem.bias ? bias[static_cast<size_t>(o)] : 0.0;
    if (problem.time) sum += problem.time[problem.time_is_scalar ? 0 : o];
    for (int64_t c = 0; c < in; ++c) {
      const double* plane = h.data() + (image * in + c) * pixels;
      for (int64_t tap = 0; tap < 9; ++tap) {
        const int64_t at_y = row + tap / 3 - 1, at_x = i % width + tap % 3 - 1;
        if (at_y < 0 || at_y >= height || at_x < 0 || at_x >= width) continue;
        sum += plane[at_y * width + at_x] * weight[static_cast<size_t>((o * in + c) * 9 + tap)];
      }
    }
    if (sum < 0) sum *= problem.slope;
    if (problem.skip) sum += problem.skip[problem.skip_is_scalar ? 0 : i];
    wanted[static_cast<size_t>(i)] = sum;
  }
  return snr(wanted, y);
}

double Test::pointwise(const PointwiseKernel& kernel) {
  const int64_t batch = random.pick({1, 2}), first = random.pick({1, 5, 6, 16, 64, 100});
  const int64_t second = random.pick({0, 0, 3, 64}), depth = first + second;
  const int64_t out = random.pick({1, 7, 12, 64});
  const int64_t height = random.pick({1, 4, 9}), width = random.pick({1, 7, 16, 33});
  const int64_t pixels = height * width, outputs = batch * out * pixels;
  Floats x = random.normal(batch * first * pixels), other = random.normal(batch * second * pixels);
  Floats weight = random.normal(out * depth, 1 / std::sqrt(static_cast<float>(depth)));
  Floats bias = random.normal(out), skip = random.normal(outputs);
  Floats y(static_cast<size_t>(outputs), NAN);
  PointwiseProblem problem{};
  problem.shape = {batch, first, height, width};
  problem.second_channels = second;
  problem.out_channels = out;
  problem.x = x.data();
  problem.second = data_or_null(other, second > 0);
  problem.bias = data_or_null(bias, random.one_of(2));
  problem.skip = data_or_null(skip, random.one_of(2));
  problem.y = y.data();
  const Aligned packed(kernel.packed_bytes(out, depth, precision));
  kernel.pack(weight.data(), out, depth, precision, packed.start);
  if (!kernel.run(problem, packed.start, precision, parallel)) return -1;

  Doubles wanted(y.size());
  for (int64_t i = 0; i < outputs; ++i) {
    const int64_t image = i / pixels / out, o = i / pixels % out;
    double sum = (problem.bias ? problem.bias[o] : 0.0) + (problem.skip ? problem.skip[i] : 0.0);
    for (int64_t c = 0; c < depth; ++c) {
      const float value = c < first
                              ? x[static_cast<size_t>((image * first + c) * pixels + i % pixels)]
                              : problem.second[(image * second + c - first) * pixels + i % pixels];
      sum += static_cast<double>(value) * weight[static_cast<size_t>(o * depth + c)];
    }
    wanted[static_cast<size_t>(i)] = sum;
  }
  return snr(wanted, y);
}

double Test::attention(const AttentionKernel& kernel) {
  const int64_t batch = random.pick({1, 2}), channels = random.pick({1, 6, 7, 16, 34});
  const int64_t positions = random.pick({1, 3, 16, 77, 150});
  const float sharpness = random.one_of(2) ? 0.5f : 1.0f;
  const int64_t plane = channels * positions;
  const Floats query_value = random.normal(batch * 2 * plane, sharpness);
  const Floats keys = random.normal(batch * plane, sharpness);
  // Small, so that they do not hide the error of the rest.
  const Floats bias = random.normal(channels, 0.01f), skip = random.normal(batch * plane, 0.01f);
  Floats y(skip.size(), NAN);
  const AttentionProblem problem{batch,       channels,    positions,   query_value.data(),
                                 keys.data(), bias.data(), skip.data(), y.data()};
  if (!kernel.run(problem, precision, parallel)) return -1;

  Doubles wanted(y.size()), scores(static_cast<size_t>(positions));
  for (int64_t row = 0; row < batch * positions; ++row) {
    const int64_t image = row / positions, i = row % positions;
    const float* q = query_value.data() + image * 2 * plane;
    const float* k = keys.data() + image * plane;
    double highest = -INFINITY, total = 0;
    for (int64_t j = 0; j < positions; ++j) {
      double score = 0;
      for (int64_t d = 0; d < channels; ++d) {
        score += static_cast<double>(q[d * positions + i]) * k[d * positions + j];
      }
      scores[static_cast<size_t>(j)] = score / std::sqrt(static_cast<double>(channels));
      highest = std::max(highest, scores[static_cast<size_t>(j)]);
    }
    for (double& score : scores) total += score = std::exp(score - highest);
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t j = 0; j < positions; ++j) {
        sum += scores[static_cast<size_t>(j)] * q[plane + c * positions + j];
      }
      const size_t at = static_cast<size_t>((image * channels + c) * positions + i);
      wanted[at] = sum / total + bias[static_cast<size_t>(c)] + skip[at];
    }
  }
  return snr(wanted, y);
}

double Test::group_norm(const NormKernel& kernel) {
  const int64_t batch = random.pick({1, 2}), channels = random.pick({2, 6, 16, 32});
  const int64_t groups = random.pick({1, 2}), height = random.pick({3, 8, 21});
  const int64_t width = random.pick({5, 16, 31}), pixels = height * width;
  const int64_t members = channels / groups;
  const Floats x = random.normal(batch * channels * pixels);
  const Floats scale = random.normal(channels), bias = random.normal(channels);
  Floats y(x.size(), NAN);
  const Norm norm{scale.data(), bias.data(), groups, 1e-5f};
  if (!kernel.norm_swish(x.data(), {batch, channels, height, width}, norm, y.data(), parallel)) {
    return -1;
  }
  Doubles wanted(x.size());
  const size_t size = static_cast<size_t>(members * pixels);
  for (size_t start = 0; start < x.size(); start += size) {
    double mean = 0, variance = 0;
    for (size_t i = start; i < start + size; ++i) mean += x[i] / static_cast<double>(size);
    for (size_t i = start; i < start + size; ++i) {
      variance += (x[i] - mean) * (x[i] - mean) / static_cast<double>(size);
    }
    for (size_t i = start; i < start + size; ++i) {
      const size_t c = i / static_cast<size_t>(pixels) % static_cast<size_t>(channels);
      wanted[i] = swish((x[i] - mean) / std::sqrt(variance + 1e-5) * scale[c] + bias[c]);
    }
  }
  return snr(wanted, y);
}

// Many random cases of one kernel; prints the worst.
template <class Run>
int repeat(const char* isa, const char* what, double bound, int cases, const Run& run) {
  double worst = 999;
  for (int i = 0; i < cases; ++i) worst = std::min(worst, run(i % 2 == 0));
  const bool passed = worst > bound;  // false for NaN too
  std::printf("%-10s %-20s worst %.0f dB, bound %.0f%s\n", isa, what, worst, bound,
              passed ? "" : "  FAILED");
  return !passed;
}

int test_kernels(const FloatKernels& kernels, unsigned seed) {
  int failures = 0;
  for (const Precision precision : {Precision::kFloat32, Precision::kBfloat16}) {
    const bool rounded = precision == Precision::kBfloat16;
    if (rounded && !kernels.rounds) continue;
    const bool int16 = !std::strstr(kernels.name, "bf16");
    Test test{Inputs(seed), {nullptr, nullptr}, precision};
    const auto bound = [&](double float32) {
      return !rounded ? float32 : int16 ? kInt16 : kBfloat16;
    };
    const auto with_threads = [&](bool threads) -> Test& {
      test.parallel.run = threads ? run_on_threads : nullptr;
      return test;
    };
    const std::string suffix = !rounded ? "" : int16 ? " int16" : " bfloat16";
    failures +=
        repeat(kernels.name, ("conv3x3" + suffix).c_str(), bound(kWinograd), 40,
               [&](bool t) { return with_threads(t).conv3x3(*kernels.conv3x3, *kernels.norm); });
    failures += repeat(kernels.name, ("pointwise" + suffix).c_str(), bound(kPointwise), 40,
                       [&](bool t) { return with_threads(t).pointwise(*kernels.pointwise); });
    failures += repeat(kernels.name, ("attention" + suffix).c_str(), bound(kAttention), 20,
                       [&](bool t) { return with_threads(t).attention(*kernels.attention); });
    if (rounded) continue;
    failures += repeat(kernels.name, "direct3x3", kDirect, 40, [&](bool t) {
      return with_threads(t).conv3x3(*kernels.direct3x3, *kernels.norm);
    });
    failures += repeat(kernels.name, "group norm and swish", kNorm, 30,
                       [&](bool t) { return with_threads(t).group_norm(*kernels.norm); });
  }
  return failures;
}

}  // namespace

int main(int count, char** arguments) {
  const unsigned seed = count > 1 ? static_cast<unsigned>(std::atoi(arguments[1])) : 20240607;
  int failures = 0;
  for (const FloatKernels* kernels : supported_float_kernels()) {
    failures += test_kernels(*kernels, seed);
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
