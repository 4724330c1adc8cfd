#include "plugin_core.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "../cuda/device/layout.h"
#include "../cuda/plan.h"
#include "prepared_words.h"

namespace bidiff::tensorrt {
namespace {

constexpr int32_t kMagic = 0x54444942;  // "BIDT"
constexpr int32_t kStateVersion = 1;

size_t aligned(size_t bytes) {
  return (bytes + cuda::kPreparedAlignment - 1) / cuda::kPreparedAlignment *
         cuda::kPreparedAlignment;
}

int bit_count(int64_t mask) {
  int count = 0;
  for (; mask > 0; mask >>= 1) count += mask & 1;
  return count;
}

// Enough for every map that is not larger. Tiles are chosen by shape, so a smaller map may need a
// little more: at most one more of the largest tiles.
size_t most_workspace(const cuda::Problem& problem) {
  cuda::Problem grown = problem;
  grown.height += 16;
  grown.width += 32;
  size_t bytes = std::max(cuda::workspace_bytes(problem), cuda::workspace_bytes(grown));
  if (problem.groups) {  // statistics in more parts
    bytes += aligned(static_cast<size_t>(problem.batch * problem.groups * cuda::kMaxParts * 2) *
                     sizeof(float));
  }
  return bytes;
}

// Contract words are prepared after the workspace of the launches.
size_t prepared_area(const NodeProblem& node) {
  size_t bytes = 0;
  for (int branch = 0; branch < node.branches; ++branch) {
    if (node.words[branch]) {
      bytes += aligned(cuda::prepared_bytes(cuda::branch_weights(node.problem)));
    }
  }
  return bytes;
}

void append(const cuda::Plan& from, cuda::Plan* to) {
  std::copy(from.launches.begin(), from.launches.end(), std::back_inserter(to->launches));
}

}  // namespace

PluginCore::PluginCore(const Operator& of, const Attributes& attributes)
    : of_(&of), attributes_(attributes) {
  if (!has_norm(of)) attributes_.groups = 0;
  if (!has_words(of) || !attributes_.kernel) attributes_.kernel = attributes_.layout = 0;
  check_attributes(of, attributes_);
}

std::vector<int32_t> PluginCore::serialise() const {
  return {kMagic,
          kStateVersion,
          kStateWords,
          static_cast<int32_t>(of_->op),
          static_cast<int32_t>(attributes_.groups),
          static_cast<int32_t>(attributes_.inputs),
          static_cast<int32_t>(attributes_.kernel),
          static_cast<int32_t>(attributes_.layout),
          static_cast<int32_t>(configured_),
          static_cast<int32_t>(element_)};
}

PluginCore PluginCore::deserialise(const Operator& of, const void* data, size_t bytes) {
  const std::string name = std::string("bidiff::") + of.name + ": ";
  int32_t state[kStateWords] = {};
  if (data) std::memcpy(state, data, std::min(bytes, sizeof(state)));
  if (!data || bytes < 3 * sizeof(int32_t) || state[0] != kMagic) {
    throw cuda::Error(name + "the engine contains no state of this plugin; build the engine again");
  }
  if (state[1] != kStateVersion) {
    throw cuda::Error(name + "the engine was built with another version of this library (state " +
                      std::to_string(state[1]) + ", not " + std::to_string(kStateVersion) +
                      "); build the engine again, or use the library it was built with");
  }
  const bool whole = bytes == sizeof(state) && state[2] == kStateWords;
  const bool ours = state[3] == static_cast<int32_t>(of.op) &&
                    (state[9] == static_cast<int32_t>(cuda::Element::kFloat32) ||
                     state[9] == static_cast<int32_t>(cuda::Element::kFloat16)) &&
                    !(state[8] && state[5] == kLeadingInputs);
  const std::string damaged = name + "its state in the engine is damaged; build the engine again";
  if (!whole || !ours) throw cuda::Error(damaged);
  PluginCore made(of, {state[4], state[5], state[6], state[7]});
  made.configured_ = state[8];
  made.element_ = static_cast<cuda::Element>(state[9]);
  const std::vector<int32_t> again = made.serialise();
  if (!std::equal(again.begin(), again.end(), state)) throw cuda::Error(damaged);
  return made;
}

std::string PluginCore::timing_id() const {
  return std::string(of_->name) + " " + std::to_string(kStateVersion) + " groups " +
         std::to_string(attributes_.groups) + " inputs " + std::to_string(attributes_.inputs) +
         " kernel " + std::to_string(attributes_.kernel);
}

bool PluginCore::supports(int position, const Tensor* tensors, int inputs, int outputs) const {
  const std::vector<Input> present = present_inputs(*of_, attributes_.inputs, inputs);
  if (outputs != 1 || position < 0 || position > inputs) {
    throw cuda::Error(std::string("bidiff::") + of_->name + ": it has one output");
  }
  const Tensor& tensor = tensors[position];
  if (!tensor.linear) return false;
  if (position == 0) return tensor.type == Type::kFloat32 || tensor.type == Type::kFloat16;
  if (position == inputs) return tensor.type == tensors[0].type;
  const Role role = present[static_cast<size_t>(position)].role;
  if (role == Role::kWords) return tensor.type == Type::kInt32;
  return tensor.type == (is_map(role) ? tensors[0].type : Type::kFloat32);
}

Extent PluginCore::output_extent(int inputs, int axis) const {
  return tensorrt::output_extent(*of_, present_inputs(*of_, attributes_.inputs, inputs), axis);
}

void PluginCore::configure(const Tensor* inputs, int count) {
  const std::vector<Input> present = present_inputs(*of_, attributes_.inputs, count);
  if (attributes_.inputs == kLeadingInputs) attributes_.inputs = (int64_t{1} << count) - 1;
  element_ = inputs[0].type == Type::kFloat16 ? cuda::Element::kFloat16 : cuda::Element::kFloat32;
  configured_ = true;
}

int PluginCore::input_count() const {
  if (!configured_) {
    throw cuda::Error(std::string("bidiff::") + of_->name +
                      ": it was run before its inputs were configured");
  }
  return bit_count(attributes_.inputs);
}

size_t PluginCore::workspace_bytes(const Tensor* inputs, int count) const {
  const std::vector<Input> present = present_inputs(*of_, attributes_.inputs, count);
  const NodeProblem node = read_problem(*of_, attributes_, present, inputs, nullptr, nullptr);
  // TensorRT does not specify a workspace's alignment.
  return cuda::kPreparedAlignment + aligned(most_workspace(node.problem)) + prepared_area(node);
}

void PluginCore::load() const {
  if (!configured_) return;
  // A problem with the same kernels, which depend only on operator and element.
  cuda::Problem problem{};
  problem.op = of_->op;
  problem.element = element_;
  problem.batch = 1;
  problem.height = problem.width = 2;
  problem.groups = attributes_.groups;
  problem.channels = problem.out_channels = 2 * std::max<int64_t>(1, problem.groups);
  problem.k = 3;
  cuda::Device& device = cuda::Device::open();
  device.load(cuda::plan(problem, device.architecture(), device.path(), 0));
  if (has_words(*of_) && !attributes_.kernel) {
    device.load(cuda::plan_prepare(cuda::branch_weights(problem), 0, 0));
  }
}

void PluginCore::enqueue(const Tensor* inputs, const void* const* pointers, void* y,
                         void* workspace, cuda::Stream stream) const {
  const std::vector<Input> present = present_inputs(*of_, attributes_.inputs, input_count());
  NodeProblem node = read_problem(*of_, attributes_, present, inputs, pointers, y);
  cuda::Device& device = cuda::Device::open();
  const auto start = static_cast<cuda::Pointer>(
      aligned(static_cast<size_t>(reinterpret_cast<uintptr_t>(workspace))));
  cuda::Plan all;
  cuda::Pointer prepared = start + aligned(cuda::workspace_bytes(node.problem));
  for (int branch = 0; branch < node.branches; ++branch) {
    if (!node.words[branch]) continue;
    const cuda::Weights weights = cuda::branch_weights(node.problem);
    append(cuda::plan_prepare(weights, node.words[branch], prepared), &all);
    node.problem.branch[branch].prepared = prepared;
    prepared += aligned(cuda::prepared_bytes(weights));
  }
  append(cuda::plan(node.problem, device.architecture(), device.path(), start), &all);
  cuda::run(device, all, stream);
}

}  // namespace bidiff::tensorrt
