// Weights in a kernel's own form, made once and shared by concurrent runs.
#pragma once

#include <memory>
#include <mutex>

#include "binary_conv.h"

namespace bidiff {

// Null when memory is short.
std::shared_ptr<const void> pack_weights(const Kernel& kernel, const Shape& shape,
                                         const int32_t* words);

// The packed form of one constant tensor of words, made on first use. The words determine only
// ceil(Cin/32), not Cin, so a form belongs to a channel count as well.
class PackedWeights {
 public:
  std::shared_ptr<const void> get(const Kernel& kernel, const Shape& shape, const int32_t* words);

 private:
  std::mutex mutex_;
  int64_t in_channels_ = 0;
  std::shared_ptr<const void> packed_;
};

}  // namespace bidiff
