// Functions of the library besides ONNX Runtime's entry point, for Python's ctypes and for tests.
//
// Every function that can fail returns 0 on success; otherwise it writes one sentence, cut to
// `error_size` bytes with its terminating zero, and returns 1.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define BIDIFF_PUBLIC extern "C" __attribute__((visibility("default")))

// Incremented whenever a signature below or the packing of words changes.
BIDIFF_PUBLIC int bidiff_abi_version();

// Kernels are numbered from 0, best first.
BIDIFF_PUBLIC int bidiff_kernel_count();
BIDIFF_PUBLIC const char* bidiff_kernel_name(int index);
BIDIFF_PUBLIC int bidiff_kernel_compiled(int index);
BIDIFF_PUBLIC int bidiff_kernel_supported(int index);
BIDIFF_PUBLIC const char* bidiff_kernel_reason(int index);  // "" if supported

// The kernel that the op uses in this process, or null with the reason in `error`.
BIDIFF_PUBLIC const char* bidiff_selected_kernel(char* error, size_t error_size);

// The float kernels that go with that kernel, and whether they round factors of products where a
// graph allows bfloat16.
BIDIFF_PUBLIC const char* bidiff_float_kernels();
BIDIFF_PUBLIC int bidiff_has_bfloat16();

// Raw int32 sums (N, Cout, H, W) by the named kernel (null: the selected one), in this thread.
// `threshold` (Cin) may be null. Words are (Cout, k, k, ceil(Cin/32)).
BIDIFF_PUBLIC int bidiff_binary_conv_sums(const char* kernel, const float* x, const int32_t* words,
                                          const float* threshold, int64_t batch,
                                          int64_t in_channels, int64_t out_channels, int64_t k,
                                          int64_t height, int64_t width, int32_t* sums, char* error,
                                          size_t error_size);

// The whole op. With `residual_is_scalar` or `time_is_scalar` the pointer is to one element.
BIDIFF_PUBLIC int bidiff_binary_conv(const char* kernel, const float* x, const int32_t* words,
                                     const float* alpha, const float* threshold,
                                     const float* rprelu, const float* residual,
                                     int residual_is_scalar, const float* time, int time_is_scalar,
                                     int64_t batch, int64_t in_channels, int64_t out_channels,
                                     int64_t k, int64_t height, int64_t width, float* y,
                                     char* error, size_t error_size);
