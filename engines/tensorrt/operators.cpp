#include "operators.h"

#include "../cuda/driver.h"

namespace bidiff::tensorrt {
namespace {

constexpr Input kInputX = {Role::kX, 0, "x", true};
constexpr Input kInputTime = {Role::kTime, 0, "time", false};

void append_norm(std::vector<Input>* inputs) {
  inputs->push_back({Role::kScale, 0, "scale", true});
  inputs->push_back({Role::kBias, 0, "bias", true});
}

void append_branch(std::vector<Input>* inputs, int branch) {
  inputs->push_back({Role::kWords, branch, "words", true});
  inputs->push_back({Role::kAlpha, branch, "alpha", true});
  inputs->push_back({Role::kThreshold, branch, "threshold", false});
  inputs->push_back({Role::kRprelu, branch, "rprelu", false});
}

Operator describe(const char* name, cuda::Op op) {
  Operator made{name, op, {kInputX}};
  std::vector<Input>& inputs = made.inputs;
  switch (op) {
    case cuda::Op::kBinaryConv:
      append_branch(&inputs, 0);
      inputs.push_back({Role::kResidual, 0, "residual", false});
      inputs.push_back(kInputTime);
      break;
    case cuda::Op::kNormBinaryConv:
      append_norm(&inputs);
      append_branch(&inputs, 0);
      inputs.push_back(kInputTime);
      inputs.push_back({Role::kSkip, 0, "skip", false});
      break;
    case cuda::Op::kBinaryFusion:
      inputs.push_back({Role::kSecond, 0, "skip", true});
      append_branch(&inputs, 0);
      append_branch(&inputs, 1);
      break;
    case cuda::Op::kBinaryDown:
    case cuda::Op::kBinaryUp:
      append_branch(&inputs, 0);
      append_branch(&inputs, 1);
      break;
    case cuda::Op::kGroupNormSwish: append_norm(&inputs); break;
  }
  return made;
}

}  // namespace

const std::vector<Operator>& operators() {
  static const auto* all =
      new std::vector<Operator>{describe("BinaryConv", cuda::Op::kBinaryConv),
                                describe("NormBinaryConv", cuda::Op::kNormBinaryConv),
                                describe("BinaryFusion", cuda::Op::kBinaryFusion),
                                describe("BinaryDown", cuda::Op::kBinaryDown),
                                describe("BinaryUp", cuda::Op::kBinaryUp),
                                describe("GroupNormSwish", cuda::Op::kGroupNormSwish)};
  return *all;
}

const Operator& find_operator(const std::string& name) {
  for (const Operator& known : operators()) {
    if (name == known.name) return known;
  }
  throw cuda::Error("bidiff::" + name + " is not an operator of this plugin library");
}

std::vector<Input> present_inputs(const Operator& of, int64_t mask, int count) {
  const std::string name = std::string("bidiff::") + of.name + ": ";
  const int max_inputs = static_cast<int>(of.inputs.size());
  if (mask == kLeadingInputs) {
    if (count < 1 || count > max_inputs) {
      throw cuda::Error(name + "it takes at most " + std::to_string(max_inputs) + " inputs, not " +
                        std::to_string(count));
    }
    mask = (int64_t{1} << count) - 1;
  }
  if (mask < 0 || mask >> max_inputs) {
    throw cuda::Error(name + "attribute inputs (" + std::to_string(mask) +
                      ") must have no bits beyond its " + std::to_string(max_inputs) + " inputs");
  }
  std::vector<Input> present;
  for (int i = 0; i < max_inputs; ++i) {
    const Input& input = of.inputs[static_cast<size_t>(i)];
    if (mask >> i & 1) {
      present.push_back(input);
    } else if (input.required) {
      throw cuda::Error(name + "input " + input.name + " cannot be omitted");
    }
  }
  if (static_cast<int>(present.size()) != count) {
    throw cuda::Error(name + "attribute inputs says that " + std::to_string(present.size()) +
                      " inputs are present, but the node has " + std::to_string(count));
  }
  return present;
}

Extent output_extent(const Operator& of, const std::vector<Input>& present, int axis) {
  Extent extent{0, axis, 1, 1};
  const bool down = of.op == cuda::Op::kBinaryDown, up = of.op == cuda::Op::kBinaryUp;
  if (axis == 1) {
    if (of.op == cuda::Op::kBinaryConv) {
      for (size_t i = 0; i < present.size(); ++i) {
        if (present[i].role == Role::kAlpha) extent = {static_cast<int>(i), 0, 1, 1};
      }
    }
    if (down) extent.multiply = 2;
    if (up) extent.divide = 2;
  } else if (axis > 1) {
    if (down) extent.divide = 2;
    if (up) extent.multiply = 2;
  }
  return extent;
}

}  // namespace bidiff::tensorrt
