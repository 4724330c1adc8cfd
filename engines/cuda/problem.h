// What a GPU has to compute: one operator of export/op_contract.md on raw device pointers.
//
// Plain host data: nothing here knows the driver, a framework or a kernel.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bidiff::cuda {

using Pointer = uint64_t;  // an address on the GPU, the driver's CUdeviceptr; 0 if omitted

// Elements of the maps x, second, residual, skip and y, with ONNX's numbers. Sums, epilogues and
// statistics are float32 whatever the maps are; alpha, threshold, rprelu, time, scale and bias are
// always float32.
enum class Element : int { kFloat32 = 1, kFloat16 = 10 };

inline int64_t element_bytes(Element element) { return element == Element::kFloat16 ? 2 : 4; }

enum class Op : int {
  kBinaryConv,
  kNormBinaryConv,
  kBinaryFusion,
  kBinaryDown,
  kBinaryUp,
  kGroupNormSwish,
};

// How the sums are computed. Every path computes the same integers, hence the same outputs.
enum class Path : int {
  kAuto,  // paths(architecture).front()
  kXor,   // 1-bit tensor cores, xor and popcount
  kAnd,   // 1-bit tensor cores, and and popcount, with the popcount identity
  kInt8,  // int8 tensor cores on bits expanded in registers
  kPopc,  // no tensor cores: the oracle, and the fallback
};

// Weights of one branch: words (Cout, k, k, ceil(Cin/32)).
struct Weights {
  int64_t out_channels, in_channels, k;
};

// One convolution of an operator.
struct Branch {
  Pointer prepared;   // words prepared by plan_prepare, the same for every path and architecture
  Pointer alpha;      // (Cout)
  Pointer threshold;  // (Cin), or 0 for zeros
  Pointer rprelu;     // (3, Cout), or 0
};

// One call. Maps are contiguous NCHW; a pointer needs the alignment of its element, and 16 bytes
// for full speed. y may not overlap an input.
//
// op                k       branches  x                 y
// kBinaryConv       1 or 3  1         (N, C, H, W)      (N, out_channels, H, W)
// kNormBinaryConv   1 or 3  1         (N, C, H, W)      (N, C, H, W)
// kBinaryFusion     1 or 3  2         (N, C, H, W)      (N, C, H, W); C even
// kBinaryDown       1 or 3  2         (N, C, H, W)      (N, 2C, H/2, W/2); C, H and W even
// kBinaryUp         1 or 3  2         (N, C, H, W)      (N, C/2, 2H, 2W); C even
// kGroupNormSwish   -       0         (N, C, H, W)      (N, C, H, W)
struct Problem {
  Op op;
  Element element;
  int64_t batch, channels, height, width;  // of x
  int64_t out_channels;                    // of kBinaryConv; ignored by the others
  int64_t k;
  int64_t groups;  // of the norm
  Branch branch[2];
  Pointer x;
  Pointer second;       // kBinaryFusion: the skip map, of x's shape
  Pointer residual;     // kBinaryConv: a map of y's shape, one element, or 0
  Pointer skip;         // kNormBinaryConv: a map of y's shape, or 0
  Pointer time;         // kBinaryConv, kNormBinaryConv: (Cout), one float, or 0
  Pointer scale, bias;  // (C), of the norm
  Pointer y;
  bool residual_is_scalar, time_is_scalar;
  bool skip_is_scalar;  // it is 0 by contract then, so it is never read
};

// Channels of a branch's input and output, which are not those of x if the operator splits x.
Weights branch_weights(const Problem& problem);

// Bytes of the device form of one branch's words. The caller aligns it to 256.
size_t prepared_bytes(const Weights& weights);

constexpr size_t kPreparedAlignment = 256;  // cuMemAlloc's; also of a workspace

}  // namespace bidiff::cuda
