// Memory of the GPU that the launches of an operator hand to each other, one block a stream.
//
// ONNX Runtime's own scratch memory is not used: its C API does not tie what it gives to the
// stream, and who frees it differs between versions. The block is small (maps as bits), and all
// operators of a stream share it, since they run one after the other.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "../cuda/run.h"

namespace bidiff::ort {

// Lives as long as a node that has run on its stream, hence longer than a CUDA graph captured of
// the nodes of a session.
class Workspace {
 public:
  // The one of this stream, made if no node holds it.
  static std::shared_ptr<Workspace> of(cuda::Device& device, cuda::Stream stream);

  explicit Workspace(cuda::Device& device) : device_(device) {}
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // At least so many bytes, aligned to 256. What was given before stays valid: kernels on the
  // stream or in captured graphs may still use it. Grows only where a shape is new, which under
  // stream capture throws; ONNX Runtime runs every shape once before it captures.
  cuda::Pointer at_least(size_t bytes);

  std::mutex mutex;  // held while the launches of one operator are put on the stream

 private:
  cuda::Device& device_;
  std::vector<cuda::Pointer> blocks_;  // the last is the largest
  size_t size_ = 0;
};

}  // namespace bidiff::ort
