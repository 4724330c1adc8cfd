// The operators that the TensorRT plugin has, and what their inputs are. Nothing here knows
// TensorRT; export/op_contract.md and README.md define them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../cuda/problem.h"

namespace bidiff::tensorrt {

inline constexpr const char* kNamespace = "bidiff";
inline constexpr const char* kVersion = "1";

enum class Role {
  kX,
  kSecond,  // BinaryFusion's skip
  kScale,
  kBias,
  kWords,
  kAlpha,
  kThreshold,
  kRprelu,
  kResidual,
  kTime,
  kSkip,  // NormBinaryConv's
};

inline bool is_map(Role role) {
  return role == Role::kX || role == Role::kSecond || role == Role::kResidual ||
         role == Role::kSkip;
}

struct Input {
  Role role;
  int branch;
  const char* name;
  bool required;
};

struct Operator {
  const char* name;
  cuda::Op op;
  std::vector<Input> inputs;  // in the contract's order
};

const std::vector<Operator>& operators();
// Throws cuda::Error for an unknown name.
const Operator& find_operator(const std::string& name);

inline bool has_norm(const Operator& of) {
  return of.op == cuda::Op::kNormBinaryConv || of.op == cuda::Op::kGroupNormSwish;
}
inline bool has_words(const Operator& of) { return of.op != cuda::Op::kGroupNormSwish; }

// The inputs that a node has, in its order. Bit i of `mask` says whether input i of the contract is
// present; with kLeadingInputs they are the contract's first `count`. Throws cuda::Error if a
// required input is omitted, or `mask` has bits beyond the inputs or does not have `count` bits.
constexpr int64_t kLeadingInputs = -1;
std::vector<Input> present_inputs(const Operator& of, int64_t mask, int count);

// A dimension of the output: that of an input, times `multiply`, divided by `divide`.
struct Extent {
  int input, axis;
  int multiply, divide;
};
constexpr int kOutputRank = 4;
Extent output_extent(const Operator& of, const std::vector<Input>& present, int axis);

}  // namespace bidiff::tensorrt
