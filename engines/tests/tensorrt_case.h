// A random node of a graph for TensorRT: its tensors on the emulated GPU, and the result it must
// have: that of a problem written out by hand, on the same kernels. Those are tested elsewhere
// (cuda_kernels_test.cpp); BinaryConv is compared with plain loops here too.
#pragma once

#include <cstring>
#include <stdexcept>
#include <string>

#include "../cuda/plan.h"
#include "../cuda/run.h"
#include "../tensorrt/plugin_core.h"
#include "../tensorrt/prepared_words.h"
#include "cuda_case.h"

namespace bidiff::tensorrt {

using Bytes = std::vector<uint8_t>;

template <class T>
Bytes bytes_of(const std::vector<T>& values) {
  Bytes made(values.size() * sizeof(T));
  std::memcpy(made.data(), values.data(), made.size());
  return made;
}
inline Bytes map_bytes(const std::vector<float>& values, cuda::Element element) {
  const cuda::Memory memory = cuda::to_memory(values, element, 0);
  const size_t size = values.size() * static_cast<size_t>(cuda::element_bytes(element));
  return {memory.as<uint8_t>(), memory.as<uint8_t>() + size};
}

// GPU memory while the object lives, aligned to 256 bytes apart from `skip`. Accesses after its end
// are detected.
class GpuMemory {
 public:
  GpuMemory(cuda::Device& device, size_t bytes, size_t skip = 0)
      : device_(device), block_(device.allocate(bytes + skip)) {
    pointer = block_ + skip;
  }
  GpuMemory(cuda::Device& device, const Bytes& bytes) : GpuMemory(device, bytes.size()) {
    device.upload(pointer, bytes.data(), bytes.size());
  }
  ~GpuMemory() { device_.release(block_); }
  GpuMemory(const GpuMemory&) = delete;
  GpuMemory& operator=(const GpuMemory&) = delete;

  cuda::Pointer pointer;

 private:
  cuda::Device& device_;
  const cuda::Pointer block_;
};

struct NodeCase {
  const Operator* of;
  Attributes attributes;
  std::vector<Input> present;
  std::vector<Tensor> tensors;
  std::vector<Bytes> contents;        // of the tensors
  std::vector<Bytes> contract_words;  // of the branches
  Tensor y;
  cuda::Problem problem;  // without pointers

  std::string name() const {
    return std::string(of->name) + (y.type == Type::kFloat16 ? " float16 " : " float32 ") +
           text(tensors[0].dims) + " to " + text(y.dims) + ", kernel " +
           std::to_string(attributes.kernel) + ", inputs " + std::to_string(attributes.inputs);
  }
  size_t y_bytes() const {
    return static_cast<size_t>(element_count(y.dims) * cuda::element_bytes(problem.element));
  }
};

inline NodeCase make_node(Inputs* random, const Operator& of, cuda::Element element,
                          bool prepared) {
  using cuda::Op;
  NodeCase made{&of, {}, {}, {}, {}, {}, {}, {}};
  cuda::Problem& problem = made.problem;
  problem.op = of.op;
  problem.element = element;
  problem.batch = random->pick({1, 2});
  problem.groups = has_norm(of) ? random->pick({1, 2, 4}) : 0;
  problem.channels = random->pick({4, 8, 36, 64});
  problem.height = random->pick({2, 4, 6});
  problem.width = random->pick({2, 6, 18, 34});
  problem.k = random->pick({1, 3});
  problem.out_channels = of.op == Op::kBinaryConv ? random->pick({1, 5, 33}) : problem.channels;
  const Type type = element == cuda::Element::kFloat16 ? Type::kFloat16 : Type::kFloat32;

  const int64_t n = problem.batch, c = problem.channels, h = problem.height, w = problem.width;
  const Dims x = {n, c, h, w};
  Dims y = {n, problem.out_channels, h, w};
  if (of.op == Op::kBinaryDown) y = {n, 2 * c, h / 2, w / 2};
  if (of.op == Op::kBinaryUp) y = {n, c / 2, 2 * h, 2 * w};
  made.y = {y, type, true};
  made.attributes.groups = problem.groups;
  made.attributes.kernel = prepared && has_words(of) ? problem.k : 0;
  made.attributes.layout = made.attributes.kernel ? prepared_layout_number() : 0;
  made.attributes.inputs = 0;

  const cuda::Weights weights = cuda::branch_weights(problem);
  const auto add_map = [&](const Dims& dims) {
    made.tensors.push_back({dims, type, true});
    made.contents.push_back(map_bytes(random->ties(element_count(dims)), element));
  };
  const auto add_vector = [&](const Dims& dims, std::vector<float> values) {
    made.tensors.push_back({dims, Type::kFloat32, true});
    made.contents.push_back(bytes_of(values));
  };
  for (size_t i = 0; i < of.inputs.size(); ++i) {
    const Input& input = of.inputs[i];
    if (!input.required && random->one_of(3) == 0) continue;
    made.attributes.inputs |= int64_t{1} << i;
    made.present.push_back(input);
    const bool one = random->one_of(2);
    switch (input.role) {
      case Role::kX:
      case Role::kSecond: add_map(x); break;
      case Role::kResidual:
        problem.residual_is_scalar = one || element_count(y) == 1;
        add_map(one ? Dims{1} : y);
        break;
      case Role::kSkip:
        problem.skip_is_scalar = one;
        add_map(one ? Dims{1} : x);
        break;
      case Role::kTime:
        problem.time_is_scalar = one || weights.out_channels == 1;
        add_vector({one ? 1 : weights.out_channels},
                   random->normal(one ? 1 : weights.out_channels));
        break;
      case Role::kScale:
      case Role::kBias: add_vector({c}, random->normal(c)); break;
      case Role::kAlpha:
        add_vector({weights.out_channels}, random->normal(weights.out_channels));
        break;
      case Role::kThreshold:
        add_vector({weights.in_channels}, random->ties(weights.in_channels));
        break;
      case Role::kRprelu:
        add_vector({3, weights.out_channels}, random->normal(3 * weights.out_channels));
        break;
      case Role::kWords: {
        Dims dims = {weights.out_channels, weights.k, weights.k, (weights.in_channels + 31) / 32};
        std::vector<int32_t> words(static_cast<size_t>(element_count(dims)));
        for (int32_t& word : words) word = static_cast<int32_t>(random->bits());
        made.contract_words.push_back(bytes_of(words));
        if (prepared) {
          std::vector<int32_t> form(static_cast<size_t>(prepared_count(weights)));
          prepare_words(weights, words.data(), form.data());
          dims = {static_cast<int64_t>(form.size())};
          words = form;
        }
        made.tensors.push_back({dims, Type::kInt32, true});
        made.contents.push_back(bytes_of(words));
        break;
      }
    }
  }
  // The first inputs, all present: a graph may then omit the attribute.
  const int64_t all = (int64_t{1} << made.present.size()) - 1;
  if (made.attributes.inputs == all && random->one_of(2)) made.attributes.inputs = kLeadingInputs;
  return made;
}

// A node's tensors on the GPU.
class NodeOnGpu {
 public:
  NodeOnGpu(cuda::Device& device, const NodeCase& node)
      : y(device, node.y_bytes()), device_(device), node_(node) {
    for (const Bytes& content : node.contents) {
      memories_.push_back(std::make_unique<GpuMemory>(device, content));
      pointers.push_back(to_pointer(memories_.back()->pointer));
    }
  }

  static void* to_pointer(cuda::Pointer pointer) {
    return reinterpret_cast<void*>(static_cast<uintptr_t>(pointer));
  }
  void clear() { device_.fill(y.pointer, 0xff, node_.y_bytes()); }
  Bytes result() const {
    Bytes made(node_.y_bytes());
    device_.download(made.data(), y.pointer, made.size());
    return made;
  }

  // The problem, role by role, with words prepared on the GPU.
  Bytes expected() {
    cuda::Problem problem = node_.problem;
    problem.y = y.pointer;
    std::vector<std::unique_ptr<GpuMemory>> made;
    const auto keep = [&](auto... arguments) {
      made.push_back(std::make_unique<GpuMemory>(device_, arguments...));
      return made.back()->pointer;
    };
    for (size_t i = 0; i < node_.contract_words.size(); ++i) {
      const cuda::Weights weights = cuda::branch_weights(problem);
      const cuda::Pointer words = keep(node_.contract_words[i]);
      problem.branch[i].prepared = keep(cuda::prepared_bytes(weights));
      cuda::run(device_, cuda::plan_prepare(weights, words, problem.branch[i].prepared), nullptr);
    }
    for (size_t i = 0; i < node_.present.size(); ++i) {
      const Input& input = node_.present[i];
      cuda::Branch& branch = problem.branch[input.branch];
      const cuda::Pointer pointer = memories_[i]->pointer;
      switch (input.role) {
        case Role::kX: problem.x = pointer; break;
        case Role::kSecond: problem.second = pointer; break;
        case Role::kScale: problem.scale = pointer; break;
        case Role::kBias: problem.bias = pointer; break;
        case Role::kAlpha: branch.alpha = pointer; break;
        case Role::kThreshold: branch.threshold = pointer; break;
        case Role::kRprelu: branch.rprelu = pointer; break;
        case Role::kResidual: problem.residual = pointer; break;
        case Role::kTime: problem.time = pointer; break;
        case Role::kSkip: problem.skip = problem.skip_is_scalar ? 0 : pointer; break;
        case Role::kWords: break;
      }
    }
    const size_t bytes = cuda::workspace_bytes(problem);
    const cuda::Pointer workspace = keep(bytes);
    clear();
    cuda::run(device_, cuda::plan(problem, device_.architecture(), device_.path(), workspace),
              nullptr);
    return result();
  }

  std::vector<const void*> pointers;
  GpuMemory y;

 private:
  cuda::Device& device_;
  const NodeCase& node_;
  std::vector<std::unique_ptr<GpuMemory>> memories_;
};

}  // namespace bidiff::tensorrt
