#include "packed_weights.h"

#include "support.h"

namespace bidiff {

std::shared_ptr<const void> pack_weights(const Kernel& kernel, const Shape& shape,
                                         const int32_t* words) {
  static_assert(kPackedAlignment <= 64, "run_scratch aligns to 64 bytes");
  std::shared_ptr<void> packed(run_scratch(kernel.packed_bytes(shape)), free_run_scratch);
  if (packed) kernel.pack(shape, words, packed.get());
  return packed;
}

std::shared_ptr<const void> PackedWeights::get(const Kernel& kernel, const Shape& shape,
                                               const int32_t* words) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!packed_ || in_channels_ != shape.in_channels) {
    packed_ = pack_weights(kernel, shape, words);
    in_channels_ = shape.in_channels;
  }
  return packed_;
}

}  // namespace bidiff
