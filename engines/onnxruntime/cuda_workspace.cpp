#include "cuda_workspace.h"

#include <algorithm>
#include <map>
#include <utility>

namespace bidiff::ort {

std::shared_ptr<Workspace> Workspace::of(cuda::Device& device, cuda::Stream stream) {
  static std::mutex mutex;
  static auto* known =
      new std::map<std::pair<cuda::Device*, cuda::Stream>, std::weak_ptr<Workspace>>;
  const std::lock_guard<std::mutex> lock(mutex);
  std::weak_ptr<Workspace>& entry = (*known)[{&device, stream}];
  std::shared_ptr<Workspace> found = entry.lock();
  if (!found) entry = found = std::make_shared<Workspace>(device);
  return found;
}

Workspace::~Workspace() {
  for (const cuda::Pointer block : blocks_) device_.release(block);
}

cuda::Pointer Workspace::at_least(size_t bytes) {
  if (bytes > size_) {
    // Doubled, so that the earlier blocks together take at most as much as the last.
    size_t wanted = std::max(bytes, 2 * size_);
    cuda::Pointer block = 0;
    try {
      block = device_.allocate(wanted, "the workspace of the binary convolutions");
    } catch (const cuda::OutOfMemory&) {
      if (wanted == bytes) throw;
      block = device_.allocate(wanted = bytes, "the workspace of the binary convolutions");
    }
    blocks_.push_back(block);
    size_ = wanted;
  }
  return blocks_.empty() ? 0 : blocks_.back();
}

}  // namespace bidiff::ort
