// Every kernel of bidiff::BinaryConv that this build has and this CPU runs, against the portable
// one: integers exactly, floats to the bit, with everything a Problem may ask for. Prints what it
// did; exit code 0 passed, 1 failed. An argument is the seed.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../float/select.h"
#include "../kernels/fused.h"
#include "kernel_cases.h"

namespace {

using namespace bidiff;

struct Case {
  Problem problem{};
  std::vector<int32_t> words;
  std::vector<float> x, threshold, alpha, rprelu, residual, time, affine, skip;
  std::vector<std::vector<float>> channels;  // of the input, each in its own memory
  std::vector<const float*> planes;
  bool in_place = false;  // y is added to its content

  int64_t outputs() const {
    const Shape& shape = problem.shape;
    return shape.batch * shape.out_channels * shape.height * shape.width;
  }
};

void choose_input(Case* made, Inputs* random) {
  const Shape& shape = made->problem.shape;
  const int64_t pixels = shape.height * shape.width, count = shape.batch * shape.in_channels;
  Problem& problem = made->problem;
  made->x = random->ties(count * pixels);
  if (random->one_of(2)) {
    problem.x = made->x.data();
  } else {
    for (int64_t plane = 0; plane < count; ++plane) {
      const auto first = made->x.begin() + plane * pixels;
      made->channels.emplace_back(first, first + pixels);
    }
    for (const auto& channel : made->channels) made->planes.push_back(channel.data());
    problem.planes = made->planes.data();
  }
  if (random->one_of(3) == 0) {
    made->affine = random->normal(2 * count);
    problem.affine = made->affine.data();
    problem.affine_swish = float_kernels(kPortable).norm->affine_swish;
  }
}

void choose_epilogue(Case* made, Inputs* random) {
  Problem& problem = made->problem;
  const Shape& shape = problem.shape;
  if (random->one_of(2)) problem.threshold = made->threshold.data();
  if (random->one_of(2)) problem.rprelu = made->rprelu.data();
  switch (random->one_of(shape.in_channels == shape.out_channels ? 4 : 3)) {
    case 1: problem.residual = made->residual.data(); break;
    case 2:
      problem.residual = made->residual.data();
      problem.residual_is_scalar = true;
      break;
    case 3: problem.residual_is_input = true; break;
  }
  if (random->one_of(2)) {
    problem.time = made->time.data();
    problem.time_is_scalar = random->one_of(2);
  }
  const bool even = shape.height % 2 == 0 && shape.width % 2 == 0;
  switch (random->one_of(3)) {
    case 1:
      if (shape.out_channels % 4 == 0) problem.store = Store::kShuffle;
      break;
    case 2:
      if (even) problem.store = Store::kUnshuffle;
      break;
  }
  if (random->one_of(2)) {
    problem.skip = made->skip.data();
    made->in_place = problem.store == Store::kPlain && random->one_of(2);
  }
}

void make(Case* made, const Shape& shape, Inputs* random) {
  made->problem.shape = shape;
  made->words = random_words(shape, random);
  made->threshold = random->ties(shape.in_channels);
  made->alpha = random->normal(shape.out_channels);
  made->rprelu = random->normal(3 * shape.out_channels);
  made->residual = random->normal(made->outputs());
  made->time = random->normal(shape.out_channels);
  made->skip = random->normal(made->outputs());
  made->problem.alpha = made->alpha.data();
  choose_input(made, random);
  choose_epilogue(made, random);
}

// Every bit of an input differs from every bit of a weight: the largest counts.
void differ_everywhere(Case* made) {
  for (int32_t& word : made->words) word = -1;
  for (float& x : made->x) x = -1;
  for (auto& channel : made->channels) channel.assign(channel.size(), -1.0f);
  for (float& b : made->affine) b = -20;
  for (float& threshold : made->threshold) threshold = -1;
}

struct Results {
  std::vector<int32_t> sums;
  std::vector<float> y;
};

bool compute(const Kernel& kernel, const Case& given, const Parallel& parallel, Results* out) {
  const auto packed = pack_weights(kernel, given.problem.shape, given.words.data());
  const size_t count = static_cast<size_t>(given.outputs());
  out->sums.assign(count, -7);
  out->y.assign(count, -7.0f);
  Problem integers = given.problem, floats = given.problem;
  integers.sums = out->sums.data();
  integers.skip = nullptr;
  integers.residual_is_input = false;
  integers.store = Store::kPlain;
  if (given.in_place) {
    out->y = given.skip;
    floats.skip = out->y.data();
  }
  floats.y = out->y.data();
  return run_fused(kernel, integers, packed.get(), parallel) &&
         run_fused(kernel, floats, packed.get(), parallel);
}

bool agrees(const Kernel& kernel, const Case& given, const Results& wanted,
            const Parallel& parallel) {
  Results found;
  const bool done = compute(kernel, given, parallel, &found);
  const bool sums = done && found.sums == wanted.sums;
  const bool floats =
      done && std::memcmp(found.y.data(), wanted.y.data(), wanted.y.size() * sizeof(float)) == 0;
  if (sums && floats) return true;
  const Problem& p = given.problem;
  const Shape& s = p.shape;
  std::printf(
      "%s: %s differ at N=%ld Cin=%ld Cout=%ld k=%ld H=%ld W=%ld planes=%d affine=%d "
      "residual=%d%d%d skip=%d%d store=%d\n",
      kernel.name, sums ? "floats" : "integers", long(s.batch), long(s.in_channels),
      long(s.out_channels), long(s.kernel), long(s.height), long(s.width), p.planes != nullptr,
      p.affine != nullptr, p.residual != nullptr, p.residual_is_scalar, p.residual_is_input,
      p.skip != nullptr, given.in_place, int(p.store));
  return false;
}

Shape some_shape(Inputs* random) {
  const int64_t channels = random_channels(random);
  const int64_t out = random->one_of(3) ? random->pick({1, 2, 3, 4, 5, 8, 11}) : channels;
  return random_shape(channels, out > 40 ? 40 : out, random);
}

}  // namespace

int main(int count, char** arguments) {
  Inputs random(count > 1 ? static_cast<unsigned>(std::atoi(arguments[1])) : 20240607);
  int cases = 0, failures = 0;
  const std::vector<const Kernel*> kernels = supported_kernels();
  // More words than byte counters can add, by one and by many; offsets beyond 16 bits; an output
  // past the caches.
  const Shape special[] = {{1, 1024, 2, 1, 2, 9},  {1, 1100, 5, 1, 3, 9}, {1, 200, 3, 3, 3, 6},
                           {1, 700, 4, 3, 3, 6},   {1, 7400, 2, 3, 2, 5}, {1, 64, 64, 3, 8, 16},
                           {2, 5, 8, 3, 6, 258},   {1, 8, 8, 3, 4, 530},  {1, 4, 4, 1, 2, 1030},
                           {1, 1, 68, 1, 250, 256}};
  constexpr int kSpecial = sizeof(special) / sizeof(special[0]), kLarge = kSpecial - 1;
  for (; cases < 145; ++cases) {
    const int chosen = cases % 29;
    if (chosen == kLarge && cases > 29) continue;
    Case made;
    make(&made, chosen < kSpecial ? special[chosen] : some_shape(&random), &random);
    if (cases % 4 == 1) differ_everywhere(&made);
    const Parallel parallel = parallel_of(cases);
    Results wanted;
    if (!compute(kPortable, made, Parallel{nullptr, nullptr}, &wanted)) return 1;
    for (const Kernel* kernel : kernels) failures += !agrees(*kernel, made, wanted, parallel);
  }
  std::printf("%d cases, %d failures\n", cases, failures);
  return failures != 0;
}
