// A BinaryConv node of a graph for TensorRT in the plain loops of cuda_reference.h.
#pragma once

#include "tensorrt_case.h"

namespace bidiff::tensorrt {

// Whether a node's result is exact in plain loops.
inline bool of_plain_loops(const NodeCase& node) { return node.of->op == cuda::Op::kBinaryConv; }

// y of such a node.
inline Bytes plain_loops(const NodeCase& node) {
  using cuda::Element;
  const cuda::Problem& problem = node.problem;
  reference::Convolution conv{problem.out_channels, problem.k, {}, {}, {}, {}};
  reference::Map x, residual;
  std::vector<float> time;
  const auto floats = [&](const Bytes& bytes, Element element) {
    std::vector<float> values(bytes.size() / static_cast<size_t>(element_bytes(element)));
    for (size_t i = 0; i < values.size(); ++i) {
      if (element == Element::kFloat16) {
        uint16_t half;
        std::memcpy(&half, bytes.data() + 2 * i, 2);
        values[i] = cuda::emulated::half_to_float(half);
      } else {
        std::memcpy(&values[i], bytes.data() + 4 * i, 4);
      }
    }
    return values;
  };
  for (size_t i = 0; i < node.present.size(); ++i) {
    const Bytes& content = node.contents[i];
    switch (node.present[i].role) {
      case Role::kX: x = floats(content, problem.element); break;
      case Role::kResidual: residual = floats(content, problem.element); break;
      case Role::kAlpha: conv.alpha = floats(content, Element::kFloat32); break;
      case Role::kThreshold: conv.threshold = floats(content, Element::kFloat32); break;
      case Role::kRprelu: conv.rprelu = floats(content, Element::kFloat32); break;
      case Role::kTime: time = floats(content, Element::kFloat32); break;
      default: break;
    }
  }
  conv.words.resize(node.contract_words[0].size() / sizeof(int32_t));
  std::memcpy(conv.words.data(), node.contract_words[0].data(), node.contract_words[0].size());
  const reference::Size size{problem.batch, problem.channels, problem.height, problem.width};
  reference::Size out = size;
  out.channels = problem.out_channels;
  reference::Map y = reference::convolve(x, size, conv);
  if (residual.size() == y.size()) {
    reference::add_map(&y, residual);
  } else if (!residual.empty()) {
    reference::add_vector(&y, out, residual);
  }
  if (!time.empty()) reference::add_vector(&y, out, time);
  return map_bytes(y, problem.element);
}

}  // namespace bidiff::tensorrt
