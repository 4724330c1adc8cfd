// The machine code of the AVX-512 VPOPCNTDQ kernel against the portable kernel, also on CPUs that
// lack the instruction: there it is emulated. Prints what it did; exit code 0 passed, 1 failed, 77
// this CPU has no AVX-512 at all.
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "../kernels/binary_conv.h"
#include "../kernels/cpu_features.h"
#include "../kernels/packed_weights.h"
#include "emulated_vpopcnt.h"

namespace bidiff {
extern const Kernel kShuffleCount;  // the same template with another population count
bool emulator_is_right();           // operand forms the kernel's code may not use, below
}  // namespace bidiff

namespace {

using namespace bidiff;

std::mt19937 generator(20240607);

int64_t pick(std::initializer_list<int64_t> values) {
  return values.begin()[generator() % values.size()];
}

std::vector<float> normal(int64_t count) {
  std::normal_distribution<float> distribution;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = distribution(generator);
  return values;
}

struct Case {
  Problem problem{};
  std::vector<int32_t> words;
  std::vector<float> x, threshold, alpha, rprelu, residual, time;
};

void make(Case* made, const Shape& shape) {
  const int64_t outputs = shape.batch * shape.out_channels * shape.height * shape.width;
  made->words.resize(
      static_cast<size_t>(shape.out_channels * shape.kernel * shape.kernel * words_per_tap(shape)));
  for (int32_t& word : made->words) word = static_cast<int32_t>(generator());
  made->x = normal(shape.batch * shape.in_channels * shape.height * shape.width);
  made->threshold = normal(shape.in_channels);
  made->alpha = normal(shape.out_channels);
  made->rprelu = normal(3 * shape.out_channels);
  made->residual = normal(outputs);
  made->time = normal(shape.out_channels);
  Problem& problem = made->problem;
  problem.shape = shape;
  problem.x = made->x.data();
  problem.alpha = made->alpha.data();
  if (generator() % 2) problem.threshold = made->threshold.data();
  if (generator() % 2) problem.rprelu = made->rprelu.data();
  if (generator() % 2) problem.residual = made->residual.data();
  if (generator() % 2) problem.time = made->time.data();
}

// Integers and floats of a kernel, as bytes.
bool results(const Kernel& kernel, const Case& given, std::vector<int32_t>* sums,
             std::vector<float>* y) {
  const Shape& shape = given.problem.shape;
  const auto packed = pack_weights(kernel, shape, given.words.data());
  const size_t outputs =
      static_cast<size_t>(shape.batch * shape.out_channels * shape.height * shape.width);
  sums->assign(outputs, -7);
  y->assign(outputs, -7.0f);
  Problem integers = given.problem, floats = given.problem;
  integers.sums = sums->data();
  floats.y = y->data();
  const Parallel serial{nullptr, nullptr};
  return kernel.run(integers, packed.get(), serial) && kernel.run(floats, packed.get(), serial);
}

bool agrees(const Kernel& kernel, const Case& given) {
  std::vector<int32_t> sums, wanted_sums;
  std::vector<float> y, wanted_y;
  const bool done =
      results(kernel, given, &sums, &y) && results(kPortable, given, &wanted_sums, &wanted_y);
  const bool equal = done && sums == wanted_sums &&
                     std::memcmp(y.data(), wanted_y.data(), y.size() * sizeof(float)) == 0;
  if (!equal) {
    const Shape& s = given.problem.shape;
    std::printf("%s differs at N=%ld Cin=%ld Cout=%ld k=%ld H=%ld W=%ld\n", kernel.name,
                long(s.batch), long(s.in_channels), long(s.out_channels), long(s.kernel),
                long(s.height), long(s.width));
  }
  return equal;
}

}  // namespace

int main() {
  if (!cpu_features().avx512bw) {
    std::puts("skipped: this CPU has no AVX-512");
    return 77;
  }
  const bool native = cpu_features().avx512vpopcntdq;
  if (!native && !install_vpopcnt_emulator()) {
    std::puts("skipped: no AVX-512 state in signal frames");
    return 77;
  }
  if (!emulator_is_right()) {
    std::puts("the emulated instruction differs from counting");
    return 1;
  }
  int cases = 0, failures = 0;
  for (; cases < 150; ++cases) {
    const Shape shape = {pick({1, 1, 2}),
                         pick({1, 7, 31, 32, 33, 40, 64, 65, 96}),
                         pick({1, 2, 3, 4, 5, 8, 11}),
                         pick({1, 3}),
                         pick({1, 2, 3, 4, 5, 8, 9, 13}),
                         pick({1, 2, 7, 15, 16, 17, 31, 32, 33, 40, 70})};
    Case made;
    make(&made, shape);
    failures += !agrees(kAvx512vpopcntdq, made);
    failures += !agrees(kShuffleCount, made);
  }
  std::printf("%d shapes, %d failures, %ld instructions emulated\n", cases, failures,
              emulated_instructions());
  return failures != 0 || (!native && emulated_instructions() == 0);
}
