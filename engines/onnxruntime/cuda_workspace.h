// GPU memory through which the launches of an operator pass data to each other, one block per
// stream.
//
// ONNX Runtime's own scratch memory is not used: its C API does not tie what it allocates to the
// stream, and who frees it differs between versions. The block is small (maps as bits), and all
// operators of a stream share it, since they run one after the other.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "../cuda/run.h"

namespace bidiff::ort {

// Lives as long as any node that has run on its stream, so it outlives CUDA graphs captured from
// the nodes of a session.
class Workspace {
 public:
  // The workspace of this stream, created if no node has one.
  static std::shared_ptr<Workspace> of(cuda::Device& device, cuda::Stream stream);

  explicit Workspace(cuda::Device& device) : device_(device) {}
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // At least `bytes` bytes, aligned to 256. Earlier pointers stay valid: kernels on the stream or
  // in captured graphs may still use them. Grows only for a new shape, which throws under stream
  // capture; ONNX Runtime runs every shape once before it captures.
  cuda::Pointer at_least(size_t bytes);

  std::mutex mutex;  // held while the launches of one operator are enqueued

 private:
  cuda::Device& device_;
  std::vector<cuda::Pointer> blocks_;  // the last is the largest
  size_t size_ = 0;
};

}  // namespace bidiff::ort
