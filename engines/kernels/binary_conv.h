// The contract between the kernels of bidiff::BinaryConv and whoever calls them.
//
// Raw pointers only: nothing here knows ONNX Runtime, TensorRT or Python. The op itself (bit order,
// padding bits, border rule, order of the epilogue) is defined in export/op_contract.md.
//
// This header is included by files compiled for different instruction sets. It may therefore hold
// no inline function with external linkage: the linker keeps one copy of such a function, and that
// copy could contain instructions which the running CPU lacks.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bidiff {

constexpr int kWordBits = 32;  // channels in one packed word; bit i of word j is channel 32*j + i

struct Shape {
  int64_t batch;
  int64_t in_channels;
  int64_t out_channels;
  int64_t kernel;  // 1 or 3
  int64_t height;
  int64_t width;
};

static inline int64_t words_per_tap(const Shape& shape) {
  return (shape.in_channels + kWordBits - 1) / kWordBits;
}

// One call. Exactly one of `y` and `sums` is not null: `sums` asks for the raw integers
// K_valid - 2 * mismatches and leaves alpha and the rest of the epilogue unread.
struct Problem {
  Shape shape;
  const float* x;          // (N, Cin, H, W)
  const float* threshold;  // (Cin), or null for zeros
  const float* alpha;      // (Cout)
  const float* rprelu;     // (3, Cout): shift_in, slope, shift_out; or null
  const float* residual;   // (N, Cout, H, W), or one element if residual_is_scalar; or null
  const float* time;       // (Cout), or one element if time_is_scalar; or null
  bool residual_is_scalar;
  bool time_is_scalar;
  float* y;       // (N, Cout, H, W)
  int32_t* sums;  // (N, Cout, H, W)
};

// How a kernel asks its host to run task(user, i) for i in [0, count), on the host's own threads.
struct Parallel {
  void* host;
  void (*run)(void* host, void (*task)(void* user, size_t index), size_t count, void* user);
};

struct Kernel {
  const char* name;
  // Bytes of the kernel's own form of the weights; depends on Cin, Cout and k alone. The caller
  // provides memory aligned to kPackedAlignment.
  size_t (*packed_bytes)(const Shape& shape);
  // Brings contract words (Cout, k, k, ceil(Cin/32)) to that form; padding bits are ignored.
  void (*pack)(const Shape& shape, const int32_t* words, void* packed);
  // False if scratch memory could not be had; the output is then undefined.
  bool (*run)(const Problem& problem, const void* packed, const Parallel& parallel);
};

constexpr size_t kPackedAlignment = 64;

// One per file of the same name. Those that the build's architecture has no file for do not exist.
extern const Kernel kPortable;
extern const Kernel kAvx2;
extern const Kernel kAvx512bw;
extern const Kernel kAvx512vpopcntdq;

}  // namespace bidiff
