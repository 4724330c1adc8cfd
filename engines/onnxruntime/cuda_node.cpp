#include "cuda_node.h"

#include <cstdlib>
#include <cstring>

#include "../cuda/plan.h"

namespace bidiff::ort {

bool cuda_is_on_cpu() {
  const char* value = std::getenv("BIDIFF_CUDA_ON_CPU");
  return value && *value && std::strcmp(value, "0");
}

const char* cuda_provider() {
  if (!cuda_is_on_cpu()) return "CUDAExecutionProvider";
  static const bool emulated = [] {
    const std::string name = cuda::device_info(0).name;
    if (name.rfind("emulated ", 0)) {
      throw cuda::Error("BIDIFF_CUDA_ON_CPU is set, but " + name +
                        " is a real GPU; unset it, "
                        "or set BIDIFF_LIBCUDA to the emulated driver");
    }
    return true;
  }();
  return emulated ? "CPUExecutionProvider" : nullptr;
}

CudaBranch::CudaBranch(const Api& api, const KernelInfo* info, size_t first) : first_(first) {
  const Tensor words = constant_input(api, info, first);
  words_ = words.integers();
  dims_ = words.dims;
}

CudaBranch::~CudaBranch() {
  if (device_) device_->release(prepared_);
}

Shape CudaBranch::read(const Call& call, const Dims& x_dims, int index, cuda::Problem* problem) {
  call.require(words_ != nullptr, "words must be a constant of the graph on CUDA");
  Shape shape{};
  call.require(read_shape(x_dims, dims_, &shape));
  cuda::Branch& branch = problem->branch[index];
  branch.alpha =
      device_pointer(call.vector(call.input(first_ + 1), "alpha", shape.out_channels, false));
  const Tensor threshold = call.input(first_ + 2), rprelu = call.input(first_ + 3);
  if (threshold.data) {
    branch.threshold =
        device_pointer(call.vector(threshold, "threshold", shape.in_channels, false));
  }
  if (rprelu.data) {
    call.require(check_rprelu(rprelu.dims, shape));
    branch.rprelu = device_pointer(rprelu.data);
  }
  problem->k = shape.kernel;
  return shape;
}

cuda::Pointer CudaBranch::prepared(const Call& call, const cuda::Weights& weights,
                                   cuda::Device& device, cuda::Stream stream) {
  if (prepared_) {
    call.require(weights.in_channels == weights_.in_channels,
                 "x must have " + std::to_string(weights_.in_channels) +
                     " channels for these words in every run");
    return prepared_;
  }
  const size_t bytes = static_cast<size_t>(element_count(dims_)) * sizeof(int32_t);
  struct Guard {
    cuda::Device& device;
    cuda::Pointer pointer;
    ~Guard() { device.release(pointer); }
  } raw{device, device.allocate(bytes, "a copy of the words")},
      made{device, device.allocate(cuda::prepared_bytes(weights), "the binary weights")};
  device.upload(raw.pointer, words_, bytes);
  // A copy from pageable memory may still be in flight, on a stream that others do not wait for.
  device.synchronize(nullptr);
  const cuda::Plan plan = cuda::plan_prepare(weights, raw.pointer, made.pointer);
  device.load(plan);
  cuda::run(device, plan, stream);
  device.synchronize(stream);
  device_ = &device;
  weights_ = weights;
  std::swap(prepared_, made.pointer);
  return prepared_;
}

void CudaRunner::run(const Call& call, cuda::Problem problem,
                     std::initializer_list<BranchUse> branches) {
  const auto stream = static_cast<cuda::Stream>(call.gpu_stream());
  const std::lock_guard<std::mutex> lock(mutex_);
  cuda::Device& device = open();
  int index = 0;
  for (const BranchUse& use : branches) {
    problem.branch[index++].prepared = use.branch->prepared(call, use.weights, device, stream);
  }
  Workspace& scratch = workspace(stream);
  const std::lock_guard<std::mutex> alone(scratch.mutex);
  const cuda::Plan plan = cuda::plan(problem, device.architecture(), device.path(),
                                     scratch.at_least(cuda::workspace_bytes(problem)));
  cuda::run(device, plan, stream);
}

cuda::Device& CudaRunner::open() {
  // ONNX Runtime makes the GPU's context current before it runs a node; a session has one GPU.
  if (!device_) device_ = &cuda::Device::open();
  return *device_;
}

Workspace& CudaRunner::workspace(cuda::Stream stream) {
  std::shared_ptr<Workspace>& found = workspaces_[stream];
  if (!found) found = Workspace::of(*device_, stream);
  return *found;
}

}  // namespace bidiff::ort
