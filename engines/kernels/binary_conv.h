// The contract between the kernels of bidiff::BinaryConv and their callers.
//
// Raw pointers only: nothing here knows ONNX Runtime, TensorRT or Python. The op itself (bit order,
// padding bits, border rule, order of the epilogue) is defined in export/op_contract.md.
//
// This header is included by files compiled for different instruction sets. It may therefore
// contain no inline function with external linkage: the linker keeps one copy of such a function,
// and that copy could use instructions that the running CPU lacks.
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

// Where an output (N, Cout, H, W) is stored.
enum class Store : int {
  kPlain,    // as it is
  kShuffle,  // PixelShuffle(2): (N, Cout / 4, 2H, 2W); channel 4c + 2i + j goes to (2y + i, 2x + j)
  kUnshuffle,  // PixelUnshuffle(2): (N, 4 Cout, H / 2, W / 2), the inverse
};

// What a scaled convolution adds to its binary part: (S + up . down) x, where S is sparse.
struct Branches {
  int64_t rank;
  const float* down;       // (rank, Cin)
  const float* up;         // (Cout, rank)
  const int64_t* starts;   // (Cout + 1): entries [starts[o], starts[o + 1]) are those of row o of S
  const int64_t* columns;  // their input channels
  const float* values;
};

// One call. A bit 1 is +1 and 0 is -1, so the product of an activation a and a weight w is +1 where
// their bits agree and -1 where they differ. Over the K products of the taps inside the image,
//
//   sum = agreements - mismatches = K - 2 * mismatches,  mismatches = popcount(a ^ w)
//   y = alpha * sum
//   y = y + shift_in;  y = y < 0 ? slope * y : y;  y = y + shift_out    (with rprelu)
//   y = y + residual;  y = y + time;  y = y + skip                      (those that are not null)
//
// in float32, in this order, each operation rounded on its own.
//
// With `branches`, for Kernel::scaled alone, the convolution is scaled: m(p) = mean |x| over the
// channels of pixel p, the activation of x = 0 is 0, taps are p, and
//
//   y = alpha * sum over p of m(p) * (sum of the tap's products);  rprelu as above
//   y = y + (up . (down . x));  y = y + S x
//
// with x, alpha, rprelu and y, and nothing else, not null. Sums over channels are those of 32 at a
// time, taps go from the upper left to the lower right, and half the integers are multiplied, and
// the total doubled, which rounds to the same.
//
// Exactly one of `y` and `sums` is not null; `sums` receives the raw sums, and alpha and
// the rest of the epilogue are then ignored.
//
// Fields after `time_is_scalar` are what the fused operators need beyond BinaryConv; if all are
// zero, a Problem is a plain BinaryConv. Kernel::fused says which of them a kernel handles itself;
// run_fused (fused.h) does the others through scratch memory.
struct Problem {
  Shape shape;
  const float* x;          // (N, Cin, H, W); null where `planes` is given
  const float* threshold;  // (Cin), or null for zeros
  const float* alpha;      // (Cout)
  const float* rprelu;     // (3, Cout): shift_in, slope, shift_out; or null
  const float* residual;   // (N, Cout, H, W), or one element if residual_is_scalar; or null
  const float* time;       // (Cout), or one element if time_is_scalar; or null
  bool residual_is_scalar;
  bool time_is_scalar;
  // N * Cin pointers to planes of (H, W), image by image: the input's channels, wherever they are.
  const float* const* planes;
  // (N, Cin, 2) pairs (a, b): the input is h = swish(a * x + b) instead of x; or null.
  const float* affine;
  void (*affine_swish)(const float* x, float a, float b, size_t count, float* h);  // with `affine`
  bool residual_is_input;    // the residual is the input (h where `affine` is given); Cin = Cout
  const float* skip;         // (N, Cout, H, W), added last; may be y itself; or null
  Store store;               // of y; not with skip = y unless kPlain
  const Branches* branches;  // or null
  float* y;                  // (N, Cout, H, W)
  int32_t* sums;             // (N, Cout, H, W)
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
  // Converts contract words (Cout, k, k, ceil(Cin/32)) to that form; padding bits are ignored.
  void (*pack)(const Shape& shape, const int32_t* words, void* packed);
  // False if memory is short; the output is then undefined.
  bool (*run)(const Problem& problem, const void* packed, const Parallel& parallel);
  // Fields of Problem that `run` handles beyond BinaryConv's own, a sum of Fused.
  unsigned fused;
  // The kernel of scaled convolutions, with a packed form of its own, whose `scaled` is null.
  const Kernel* scaled;
};

enum Fused : unsigned {
  kFusedPlanes = 1,  // planes, and residual_is_input
  kFusedNorm = 2,    // affine
  kFusedSkip = 4,
  kFusedStore = 8,  // every Store
};

constexpr size_t kPackedAlignment = 64;

// One per file of the same name; only those for the build's architecture exist.
extern const Kernel kPortable;
extern const Kernel kAvx2;
extern const Kernel kAvx512bw;
extern const Kernel kAvx512vpopcntdq;
extern const Kernel kNeon;
extern const Kernel kNeondotprod;

}  // namespace bidiff
