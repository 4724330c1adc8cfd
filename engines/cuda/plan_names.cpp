#include "plan_names.h"

#include <string>

#include "driver.h"
#include "plan.h"

namespace bidiff::cuda {
namespace {

constexpr Op kConvolutions[] = {Op::kBinaryConv, Op::kNormBinaryConv, Op::kBinaryFusion,
                                Op::kBinaryDown, Op::kBinaryUp};
constexpr Element kElements[] = {Element::kFloat32, Element::kFloat16};

// By path and operator; the second of a pair is for float16.
#define BIDIFF_NAMES(path)                                                              \
  {                                                                                     \
      {"bidiff_binary_conv_" path "_f32", "bidiff_binary_conv_" path "_f16"},           \
      {"bidiff_norm_binary_conv_" path "_f32", "bidiff_norm_binary_conv_" path "_f16"}, \
      {"bidiff_binary_fusion_" path "_f32", "bidiff_binary_fusion_" path "_f16"},       \
      {"bidiff_binary_down_" path "_f32", "bidiff_binary_down_" path "_f16"},           \
      {"bidiff_binary_up_" path "_f32", "bidiff_binary_up_" path "_f16"},               \
  }
constexpr const char* kConvNames[4][5][2] = {BIDIFF_NAMES("xor"), BIDIFF_NAMES("and"),
                                             BIDIFF_NAMES("int8"), BIDIFF_NAMES("popc")};
#undef BIDIFF_NAMES

int half(Element element) { return element == Element::kFloat16; }

}  // namespace

const char* conv_kernel(Op op, Path path, Element element) {
  return kConvNames[static_cast<int>(path) - static_cast<int>(Path::kXor)][static_cast<int>(op)]
                   [half(element)];
}

const char* pack_kernel(Element element, bool norm) {
  static constexpr const char* kNames[2][2] = {{"bidiff_pack_f32", "bidiff_pack_f16"},
                                               {"bidiff_pack_norm_f32", "bidiff_pack_norm_f16"}};
  return kNames[norm][half(element)];
}

const char* statistics_kernel(Element element) {
  return half(element) ? "bidiff_statistics_f16" : "bidiff_statistics_f32";
}

const char* norm_swish_kernel(Element element) {
  return half(element) ? "bidiff_norm_swish_f16" : "bidiff_norm_swish_f32";
}

// 1-bit products: `xor` is native from sm_75 to sm_89, `and` from sm_80 to sm_90; sm_90 replaces an
// `xor` with two `and`, and from sm_100 on both become eight int8 products (disassembled, nvcc
// 13.0).
std::vector<Path> paths(int architecture) {
  if (architecture < kMinArchitecture) {
    throw Error("the CUDA kernels need compute capability 7.5 (Turing) or newer, this GPU has " +
                std::to_string(architecture / 10) + "." + std::to_string(architecture % 10));
  }
  if (architecture < 80) return {Path::kXor, Path::kInt8, Path::kPopc};
  if (architecture < 90) return {Path::kXor, Path::kAnd, Path::kInt8, Path::kPopc};
  if (architecture < 100) return {Path::kAnd, Path::kInt8, Path::kPopc};
  return {Path::kInt8, Path::kPopc};
}

const char* path_name(Path path) {
  static constexpr const char* kNames[] = {"auto", "xor", "and", "int8", "popc"};
  return kNames[static_cast<int>(path)];
}

std::vector<const char*> kernel_names(int architecture) {
  std::vector<const char*> names = {kPrepareFragments, kPrepareOnes};
  for (const Element element : kElements) {
    names.insert(names.end(), {pack_kernel(element, false), pack_kernel(element, true),
                               statistics_kernel(element), norm_swish_kernel(element)});
    for (const Path path : paths(architecture)) {
      for (const Op op : kConvolutions) names.push_back(conv_kernel(op, path, element));
    }
  }
  return names;
}

}  // namespace bidiff::cuda
