#include "c_api.h"

#include <cstring>
#include <memory>
#include <string>

#include "float/select.h"
#include "kernels/check.h"
#include "kernels/packed_weights.h"
#include "kernels/select.h"

namespace {

using namespace bidiff;

int fail(const std::string& sentence, char* error, size_t error_size) {
  if (error && error_size) {
    const size_t length = sentence.size() < error_size - 1 ? sentence.size() : error_size - 1;
    std::memcpy(error, sentence.data(), length);
    error[length] = 0;
  }
  return 1;
}

const KernelStatus* entry(int index) {
  int count = 0;
  const KernelStatus* entries = kernel_statuses(&count);
  return index >= 0 && index < count ? &entries[index] : nullptr;
}

int run(const char* name, const int32_t* words, const Problem& problem, char* error,
        size_t error_size) {
  std::string sentence;
  const Kernel* kernel = name && *name ? find_kernel(name, &sentence) : selected_kernel(&sentence);
  if (!kernel) return fail(sentence, error, error_size);
  const Shape& given = problem.shape;
  Shape shape{};
  sentence =
      read_shape({given.batch, given.in_channels, given.height, given.width},
                 {given.out_channels, given.kernel, given.kernel, words_per_tap(given)}, &shape);
  if (!sentence.empty()) return fail(sentence, error, error_size);
  const std::shared_ptr<const void> packed = pack_weights(*kernel, shape, words);
  if (!packed || !kernel->run(problem, packed.get(), Parallel{nullptr, nullptr})) {
    return fail("not enough memory for the kernel's buffers", error, error_size);
  }
  return 0;
}

}  // namespace

int bidiff_abi_version() { return 2; }

int bidiff_kernel_count() {
  int count = 0;
  kernel_statuses(&count);
  return count;
}

const char* bidiff_kernel_name(int index) { return entry(index) ? entry(index)->name : ""; }
int bidiff_kernel_compiled(int index) { return entry(index) && entry(index)->kernel; }
int bidiff_kernel_supported(int index) { return entry(index) && entry(index)->supported; }
const char* bidiff_kernel_reason(int index) { return entry(index) ? entry(index)->reason : ""; }

const char* bidiff_selected_kernel(char* error, size_t error_size) {
  std::string sentence;
  const Kernel* kernel = selected_kernel(&sentence);
  if (!kernel) fail(sentence, error, error_size);
  return kernel ? kernel->name : nullptr;
}

const char* bidiff_float_kernels() {
  std::string ignored;
  const Kernel* kernel = selected_kernel(&ignored);
  return kernel ? float_kernels(*kernel).name : "";
}

int bidiff_has_bfloat16() {
  std::string ignored;
  const Kernel* kernel = selected_kernel(&ignored);
  return kernel && float_kernels(*kernel).rounds;
}

int bidiff_binary_conv_sums(const char* kernel, const float* x, const int32_t* words,
                            const float* threshold, int64_t batch, int64_t in_channels,
                            int64_t out_channels, int64_t k, int64_t height, int64_t width,
                            int32_t* sums, char* error, size_t error_size) {
  Problem problem{};
  problem.shape = {batch, in_channels, out_channels, k, height, width};
  problem.x = x;
  problem.threshold = threshold;
  problem.sums = sums;
  return run(kernel, words, problem, error, error_size);
}

int bidiff_binary_conv(const char* kernel, const float* x, const int32_t* words, const float* alpha,
                       const float* threshold, const float* rprelu, const float* residual,
                       int residual_is_scalar, const float* time, int time_is_scalar, int64_t batch,
                       int64_t in_channels, int64_t out_channels, int64_t k, int64_t height,
                       int64_t width, float* y, char* error, size_t error_size) {
  Problem problem{};
  problem.shape = {batch, in_channels, out_channels, k, height, width};
  problem.x = x;
  problem.alpha = alpha;
  problem.threshold = threshold;
  problem.rprelu = rprelu;
  problem.residual = residual;
  problem.residual_is_scalar = residual_is_scalar != 0;
  problem.time = time;
  problem.time_is_scalar = time_is_scalar != 0;
  problem.y = y;
  return run(kernel, words, problem, error, error_size);
}
