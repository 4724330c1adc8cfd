// What the operators on CUDA have in common: their words on the GPU, their launches on ONNX
// Runtime's stream.
#pragma once

#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "../cuda/problem.h"
#include "../cuda/run.h"
#include "cuda_workspace.h"
#include "op.h"

namespace bidiff::ort {

// "CUDAExecutionProvider"; with BIDIFF_CUDA_ON_CPU=1 "CPUExecutionProvider", so that tests run
// these operators on the emulated driver, whose memory is the CPU's. Throws if the driver is real.
const char* cuda_provider();
bool cuda_is_on_cpu();

inline cuda::Pointer device_pointer(const void* data) {
  return static_cast<cuda::Pointer>(reinterpret_cast<uintptr_t>(data));
}

// Inputs words, alpha, threshold, rprelu at `first` and the three after it. The words are read from
// the host's memory; on the GPU they exist only in the form of its kernels.
class CudaBranch {
 public:
  CudaBranch(const Api& api, const KernelInfo* info, size_t first);
  ~CudaBranch();
  CudaBranch(const CudaBranch&) = delete;
  CudaBranch& operator=(const CudaBranch&) = delete;

  // Checks the four against an input of `x_dims` and fills all of branch `index` but its words.
  Shape read(const Call& call, const Dims& x_dims, int index, cuda::Problem* problem);
  // The words on the GPU, copied by the first call. Not thread-safe.
  cuda::Pointer prepared(const Call& call, const cuda::Weights& weights, cuda::Device& device,
                         cuda::Stream stream);

 private:
  const size_t first_;
  const int32_t* words_ = nullptr;  // of the session, as long as it lives
  Dims dims_;
  cuda::Weights weights_{};  // what was prepared
  cuda::Device* device_ = nullptr;
  cuda::Pointer prepared_ = 0;
};

// A branch and what `read` found of its words in this run.
struct BranchUse {
  CudaBranch* branch;
  cuda::Weights weights;
};

inline cuda::Weights weights_of(const Shape& shape) {
  return {shape.out_channels, shape.in_channels, shape.kernel};
}

// Enqueues problems on the stream of a call. Only a node's first run synchronises: it loads the
// kernels and prepares the words.
class CudaRunner {
 public:
  void run(const Call& call, cuda::Problem problem, std::initializer_list<BranchUse> branches);

 private:
  cuda::Device& open();
  Workspace& workspace(cuda::Stream stream);

  std::mutex mutex_;
  cuda::Device* device_ = nullptr;
  std::map<cuda::Stream, std::shared_ptr<Workspace>> workspaces_;
};

// One of the two kernels of an operator on CUDA, by the element of its maps. `Node` supplies what
// `registered` requires, kMaps (a bit for each input that is a map) and run(Call&, Element).
template <class Node, cuda::Element kElement>
class OnCuda : public Node {
 public:
  using Node::Node;
  void compute(Call& call) { this->run(call, kElement); }
};

template <class Node, cuda::Element kElement>
struct Registration<OnCuda<Node, kElement>> {
  static const char* provider() { return cuda_provider(); }
  static constexpr ElementType kOutput = static_cast<ElementType>(kElement);
  static ElementType input_type(size_t index) {
    if ((Node::kIntegers >> index) & 1) return kInt32;
    return (Node::kMaps >> index) & 1 ? kOutput : kFloat;
  }
  static MemoryType memory_type(size_t index) {
    return (Node::kIntegers >> index) & 1 ? kHostInput : kDeviceMemory;
  }
};

// Both kernels of an operator.
template <class Node>
void add_both(const Api& api, bool infers_shapes, CustomOps* ops) {
  ops->push_back(registered<OnCuda<Node, cuda::Element::kFloat32>>(api, infers_shapes));
  ops->push_back(registered<OnCuda<Node, cuda::Element::kFloat16>>(api, infers_shapes));
}

// The operators on CUDA, one function a file.
void add_cuda_layers(const Api& api, bool infers_shapes, CustomOps* ops);
void add_cuda_blocks(const Api& api, bool infers_shapes, CustomOps* ops);

}  // namespace bidiff::ort
