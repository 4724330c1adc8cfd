// Every CUDA kernel, emulated, against plain loops: integers and floats to the bit, the norm within
// its rounding, memory written once and nowhere else. Prints what it did; exit code 0 passed, 1
// failed. Arguments: the number of cases of each kind (8), the seed (1).
#include <cstdio>

#include "cuda_case.h"

namespace {

using namespace bidiff::cuda;
using reference::Map;
using reference::Size;

const char* const kOps[] = {"BinaryConv", "NormBinaryConv", "BinaryFusion",
                            "BinaryDown", "BinaryUp",       "GroupNormSwish"};

// Multiples of 1/8 with many ties, zeros of both signs, and a few NaNs.
std::vector<float> map_values(Inputs* random, int64_t count, Element element) {
  std::vector<float> values = random->ties(count);
  for (float& value : values) value = rounded(value, element);
  return values;
}

struct Case {
  Op op;
  Element element;
  Size size;
  int64_t out_channels, k, groups;
  bool misaligned;
  reference::Convolution branch[2];
  Map x, second, residual, skip;
  std::vector<float> time, scale, bias;

  std::string name() const {
    return std::string(kOps[static_cast<int>(op)]) +
           (element == Element::kFloat16 ? " float16 (" : " float32 (") +
           std::to_string(size.batch) + ", " + std::to_string(size.channels) + ", " +
           std::to_string(size.height) + ", " + std::to_string(size.width) + ") to " +
           std::to_string(out_channels) + ", k " + std::to_string(k) +
           (misaligned ? ", misaligned" : "");
  }
};

reference::Convolution make_branch(Inputs* random, const Weights& weights, bool full) {
  reference::Convolution conv{weights.out_channels, weights.k, {}, {}, {}, {}};
  conv.words.resize(static_cast<size_t>(weights.out_channels * weights.k * weights.k *
                                        ((weights.in_channels + 31) / 32)));
  for (int32_t& word : conv.words) word = static_cast<int32_t>(random->bits());
  conv.alpha = random->normal(weights.out_channels);
  if (full || random->one_of(2)) conv.threshold = random->ties(weights.in_channels);
  if (full || random->one_of(2)) conv.rprelu = random->normal(3 * weights.out_channels);
  return conv;
}

Problem shape_problem(const Case& made) {
  Problem problem{};
  problem.op = made.op;
  problem.element = made.element;
  problem.batch = made.size.batch;
  problem.channels = made.size.channels;
  problem.height = made.size.height;
  problem.width = made.size.width;
  problem.out_channels = made.out_channels;
  problem.k = made.k;
  problem.groups = made.groups;
  return problem;
}

// `deep` is one whose sum takes several stages: a buffer is filled again while others are read.
Case make_case(Inputs* random, Op op, Element element, bool deep) {
  Case made{};
  made.op = op;
  made.element = element;
  const bool splits = op == Op::kBinaryFusion || op == Op::kBinaryDown || op == Op::kBinaryUp;
  Size& size = made.size;
  size.batch = 1 + random->one_of(2);
  size.channels = random->one_of(3)
                      ? random->pick({1, 2, 6, 31, 32, 33, 34, 48, 64, 96, 128, 258, 320})
                      : 1 + random->one_of(70);
  size.height = random->pick({1, 2, 3, 4, 5, 8, 9, 17});
  size.width = random->pick({1, 2, 3, 7, 8, 9, 16, 31, 32, 33, 40});
  // Three slabs of one branch, or two of two.
  if (deep) size = {1, op == Op::kBinaryFusion ? 264 : 528, 2, 6};
  if (splits) size.channels += size.channels % 2;
  if (op == Op::kBinaryDown) {
    size.height += size.height % 2;
    size.width += size.width % 2;
  }
  if (size.channels > 100) size.batch = 1;
  made.k = deep || random->one_of(3) ? 3 : 1;
  made.out_channels = op == Op::kBinaryConv
                          ? random->pick({1, 3, 16, 31, 32, 33, 64, 70, deep ? 40 : size.channels})
                          : size.channels;
  made.groups = size.channels % 4 == 0 ? random->pick({1, 2, 4}) : size.channels % 3 ? 1 : 3;
  made.misaligned = random->one_of(4) == 0;
  made.x = map_values(random, size.count(), element);
  if (random->one_of(4) == 0 && op != Op::kNormBinaryConv && op != Op::kGroupNormSwish) {
    for (int i = 0; i < 4; ++i) {
      made.x[random->bits() % made.x.size()] = i % 2 ? NAN : i ? INFINITY : -INFINITY;
    }
  }
  const Problem problem = shape_problem(made);
  const Weights weights = branch_weights(problem);
  if (op != Op::kGroupNormSwish) {
    for (auto& branch : made.branch) branch = make_branch(random, weights, random->one_of(2));
  }
  if (op == Op::kBinaryFusion) made.second = map_values(random, size.count(), element);
  Size out = size;
  out.channels = made.out_channels;
  if (op == Op::kBinaryConv && random->one_of(3)) {
    made.residual = map_values(random, random->one_of(2) ? out.count() : 1, element);
  }
  if (op == Op::kNormBinaryConv && random->one_of(2)) {
    made.skip = map_values(random, size.count(), element);
  }
  if ((op == Op::kBinaryConv || op == Op::kNormBinaryConv) && random->one_of(3)) {
    made.time = random->normal(random->one_of(2) ? made.out_channels : 1);
  }
  if (op == Op::kNormBinaryConv || op == Op::kGroupNormSwish) {
    made.scale = random->normal(size.channels);
    made.bias = random->normal(size.channels);
  }
  return made;
}

// The map in GPU memory; with `h` as float32 whatever the case has.
class OnDevice {
 public:
  OnDevice(const Case& given, int architecture, Path path)
      : problem_(shape_problem(given)),
        architecture_(architecture),
        path_(path),
        offset_(given.misaligned ? static_cast<size_t>(element_bytes(given.element)) : 0) {
    for (int i = 0; i < 2 && given.op != Op::kGroupNormSwish; ++i) {
      const reference::Convolution& conv = given.branch[i];
      Branch& branch = problem_.branch[i];
      branch.alpha = keep(to_memory(conv.alpha));
      if (!conv.threshold.empty()) branch.threshold = keep(to_memory(conv.threshold));
      if (!conv.rprelu.empty()) branch.rprelu = keep(to_memory(conv.rprelu));
      const Weights weights = branch_weights(problem_);
      const Memory words = to_memory(conv.words);
      Memory prepared(prepared_bytes(weights));
      bidiff::cuda::run(plan_prepare(weights, words.pointer(), prepared.pointer()), architecture);
      branch.prepared = keep(std::move(prepared));
    }
    problem_.x = map(given.x);
    problem_.second = map(given.second);
    problem_.residual = map(given.residual);
    problem_.residual_is_scalar = given.residual.size() == 1;
    problem_.skip = map(given.skip);
    if (!given.time.empty()) problem_.time = keep(to_memory(given.time));
    problem_.time_is_scalar = given.time.size() == 1;
    if (!given.scale.empty()) problem_.scale = keep(to_memory(given.scale));
    if (!given.bias.empty()) problem_.bias = keep(to_memory(given.bias));
  }

  // y, of `count` elements.
  Memory run(size_t count) {
    Memory y(count * static_cast<size_t>(element_bytes(problem_.element)), offset_);
    problem_.y = y.pointer();
    const size_t bytes = workspace_bytes(problem_);
    const Memory workspace(bytes);
    const Plan made = plan(problem_, architecture_, path_, workspace.pointer());
    if (made.workspace_bytes != bytes) throw std::runtime_error("two sizes of a workspace");
    bidiff::cuda::run(made, architecture_);
    if (!workspace.intact() || !y.intact()) throw std::runtime_error("written out of bounds");
    for (const Memory& memory : memories_) {
      if (!memory.intact()) throw std::runtime_error("written after an input");
    }
    return y;
  }

 private:
  Pointer keep(Memory memory) {
    memories_.push_back(std::move(memory));
    return memories_.back().pointer();
  }
  Pointer map(const Map& values) {
    return values.empty() ? 0 : keep(to_memory(values, problem_.element, offset_));
  }

  Problem problem_;
  int architecture_;
  Path path_;
  size_t offset_;
  std::vector<Memory> memories_;
};

// h of a norm by the float32 kernel, which is compared with float64 here.
Map norm_h(const Case& given, int architecture) {
  Case norm = given;
  norm.op = Op::kGroupNormSwish;
  norm.element = Element::kFloat32;
  norm.residual = norm.skip = norm.second = {};
  norm.misaligned = false;
  const Memory y = OnDevice(norm, architecture, Path::kAuto).run(given.x.size());
  const auto exact =
      reference::norm_swish(given.x, given.size, given.groups, given.scale, given.bias);
  Map h(y.as<float>(), y.as<float>() + given.x.size());
  for (size_t i = 0; i < h.size(); ++i) {
    if (!(std::fabs(static_cast<double>(h[i]) - exact.h[i]) <= exact.bound[i])) {
      throw std::runtime_error("norm: element " + std::to_string(i) + " is " +
                               std::to_string(h[i]) + ", not " + std::to_string(exact.h[i]));
    }
  }
  return h;
}

Map branch_output(const Map& input, const Size& size, const reference::Convolution& conv) {
  Map y = reference::convolve(input, size, conv);
  reference::add_map(&y, input);
  return y;
}

Map expected(const Case& given, int architecture) {
  const Size& size = given.size;
  Size out = size;
  out.channels = given.out_channels;
  switch (given.op) {
    case Op::kGroupNormSwish: return norm_h(given, architecture);
    case Op::kBinaryConv: {
      Map y = reference::convolve(given.x, size, given.branch[0]);
      if (given.residual.size() > 1 || (given.residual.size() == 1 && y.size() == 1)) {
        reference::add_map(&y, given.residual);
      } else if (!given.residual.empty()) {
        reference::add_vector(&y, out, given.residual);
      }
      if (!given.time.empty()) reference::add_vector(&y, out, given.time);
      return y;
    }
    case Op::kNormBinaryConv: {
      const Map h = norm_h(given, architecture);
      Map y = branch_output(h, size, given.branch[0]);
      if (!given.time.empty()) reference::add_vector(&y, out, given.time);
      if (!given.skip.empty()) reference::add_map(&y, given.skip);
      return y;
    }
    case Op::kBinaryFusion: {
      Map odd, even;
      for (int64_t n = 0; n < size.batch; ++n) {
        reference::pick(given.x, size, n, 1, 2, size.channels / 2, &odd);
        reference::pick(given.second, size, n, 0, 2, size.channels / 2, &odd);
        reference::pick(given.x, size, n, 0, 2, size.channels / 2, &even);
        reference::pick(given.second, size, n, 1, 2, size.channels / 2, &even);
      }
      Map y = branch_output(odd, size, given.branch[0]);
      reference::add_map(&y, branch_output(even, size, given.branch[1]));
      return y;
    }
    case Op::kBinaryDown: {
      Map half[2];
      for (int64_t n = 0; n < size.batch; ++n) {
        for (int i = 0; i < 2; ++i) {
          reference::pick(given.x, size, n, i * size.channels / 2, 1, size.channels / 2, &half[i]);
        }
      }
      Size half_size = size;
      half_size.channels /= 2;
      Map y = branch_output(half[0], half_size, given.branch[0]);
      reference::add_map(&y, branch_output(half[1], half_size, given.branch[1]));
      return reference::pixel_unshuffle(y, half_size);
    }
    case Op::kBinaryUp: {
      const Map one = branch_output(given.x, size, given.branch[0]);
      const Map two = branch_output(given.x, size, given.branch[1]);
      Map both;
      for (int64_t n = 0; n < size.batch; ++n) {
        reference::pick(one, size, n, 0, 1, size.channels, &both);
        reference::pick(two, size, n, 0, 1, size.channels, &both);
      }
      Size both_size = size;
      both_size.channels *= 2;
      return reference::pixel_shuffle(both, both_size);
    }
  }
  return {};
}

struct Target {
  int architecture;
  Path path;
};
// Every path, and the two forms of those that sm_75 has in its own.
constexpr Target kTargets[] = {{75, Path::kXor}, {75, Path::kInt8},  {80, Path::kXor},
                               {90, Path::kAnd}, {120, Path::kInt8}, {87, Path::kPopc}};

bool check(const Case& given) {
  const Map wanted = expected(given, 80);
  const bool norm = given.op == Op::kGroupNormSwish;
  for (const Target& target : kTargets) {
    if (norm && target.path != Path::kInt8) continue;
    const Memory y = OnDevice(given, target.architecture, target.path).run(wanted.size());
    size_t where = 0;
    if (!same(y, wanted, given.element, &where)) {
      std::printf("FAILED: %s, path %s on sm_%d: element %zu should be %g\n", given.name().c_str(),
                  path_name(target.path), target.architecture, where,
                  static_cast<double>(wanted[where]));
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  const int cases = count > 1 ? std::atoi(arguments[1]) : 8;
  Inputs random(count > 2 ? static_cast<unsigned>(std::atoi(arguments[2])) : 1);
  int failures = 0, done = 0;
  for (int i = 0; i < cases; ++i) {
    for (int op = 0; op < 6; ++op) {
      for (const Element element : {Element::kFloat32, Element::kFloat16}) {
        const Op chosen = static_cast<Op>(op);
        const bool deep =
            i == 0 && element == Element::kFloat32 &&
            (chosen == Op::kBinaryConv || chosen == Op::kBinaryFusion || chosen == Op::kBinaryDown);
        const Case made = make_case(&random, chosen, element, deep);
        try {
          failures += !check(made);
        } catch (const std::exception& error) {
          std::printf("FAILED: %s: %s\n", made.name().c_str(), error.what());
          ++failures;
        }
        ++done;
      }
    }
  }
  std::printf("%d problems, %d failed\n", done, failures);
  return failures ? 1 : 0;
}
