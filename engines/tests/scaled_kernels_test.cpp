// Every kernel of bidiff::ScaledBinaryConv that this build has and this CPU runs, against the
// portable one: equal to the bit. Prints what it did; exit code 0 passed, 1 failed. An argument is
// the seed.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernel_cases.h"

namespace {

using namespace bidiff;

struct Case {
  Problem problem{};
  Branches branches{};
  std::vector<int32_t> words;
  std::vector<int64_t> starts, columns;
  std::vector<float> x, alpha, rprelu, down, up, values;
};

void make(Case* made, const Shape& shape, Inputs* random) {
  const int64_t in = shape.in_channels, out = shape.out_channels;
  const int64_t count = shape.batch * in * shape.height * shape.width;
  made->problem.shape = shape;
  made->words = random_words(shape, random);
  made->x = random->one_of(2) ? random->normal(count) : random->ties(count);  // with zeros
  made->alpha = random->normal(out);
  made->rprelu = random->normal(3 * out);
  made->branches.rank = random->pick({1, 3, 4, 8, 9});
  made->down = random->normal(made->branches.rank * in);
  made->up = random->normal(made->branches.rank * out);
  made->starts.push_back(0);
  for (int64_t row = 0; row < out; ++row) {
    for (int i = random->one_of(4); i > 0; --i) {
      made->columns.push_back(random->bits() % static_cast<unsigned>(in));
    }
    made->starts.push_back(static_cast<int64_t>(made->columns.size()));
  }
  made->values = random->normal(static_cast<int64_t>(made->columns.size()) + 1);
  made->problem.x = made->x.data();
  made->problem.alpha = made->alpha.data();
  made->problem.rprelu = made->rprelu.data();
  made->branches.down = made->down.data();
  made->branches.up = made->up.data();
  made->branches.starts = made->starts.data();
  made->branches.columns = made->columns.data();
  made->branches.values = made->values.data();
  made->problem.branches = &made->branches;
}

bool compute(const Kernel& kernel, const Case& given, const Parallel& parallel,
             std::vector<float>* y) {
  const Shape& shape = given.problem.shape;
  const auto packed = pack_weights(kernel, shape, given.words.data());
  y->assign(static_cast<size_t>(shape.batch * shape.out_channels * shape.height * shape.width),
            -7.0f);
  Problem problem = given.problem;
  problem.y = y->data();
  return packed && kernel.run(problem, packed.get(), parallel);
}

Shape some_shape(Inputs* random) {
  const int64_t in = random_channels(random);
  return random_shape(in, random->pick({1, 2, 3, 4, 5, 8, 11, 40}), random);
}

}  // namespace

int main(int count, char** arguments) {
  Inputs random(count > 1 ? static_cast<unsigned>(std::atoi(arguments[1])) : 20240607);
  int cases = 0, failures = 0;
  const std::vector<const Kernel*> kernels = supported_kernels();
  // More words than byte counters can add; lines longer than a band; enough work for threads.
  const Shape special[] = {{1, 1024, 2, 1, 2, 9},   {1, 1100, 5, 3, 3, 9},
                           {1, 1280, 64, 3, 8, 8},  {1, 160, 20, 3, 2, 900},
                           {2, 192, 64, 1, 32, 32}, {1, 64, 64, 3, 33, 40}};
  constexpr int kSpecial = sizeof(special) / sizeof(special[0]);
  for (; cases < 100; ++cases) {
    Case made;
    make(&made, cases < kSpecial ? special[cases] : some_shape(&random), &random);
    const Parallel parallel = parallel_of(cases);
    std::vector<float> wanted, found;
    if (!compute(*kPortable.scaled, made, Parallel{nullptr, nullptr}, &wanted)) return 1;
    for (const Kernel* kernel : kernels) {
      const bool done = kernel->scaled && compute(*kernel->scaled, made, parallel, &found);
      if (done && !std::memcmp(found.data(), wanted.data(), wanted.size() * sizeof(float)))
        continue;
      const Shape& s = made.problem.shape;
      std::printf("%s: differs at N=%ld Cin=%ld Cout=%ld k=%ld H=%ld W=%ld rank=%ld\n",
                  kernel->name, long(s.batch), long(s.in_channels), long(s.out_channels),
                  long(s.kernel), long(s.height), long(s.width), long(made.branches.rank));
      ++failures;
    }
  }
  std::printf("%d cases, %d failures\n", cases, failures);
  return failures != 0;
}
