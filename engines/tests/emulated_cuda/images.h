// Cubins, fatbins and PTX as far as a driver reads them: whether they fit a GPU, and which kernels
// they contain.
#pragma once

#include <set>
#include <string>

namespace bidiff::cuda::emulated {

struct Image {
  int status = 0;              // CUDA's error if it cannot be loaded
  bool lists_kernels = false;  // not for compressed fatbins
  std::set<std::string> kernels;
};

// The size of `image` is in its own headers, as with cuModuleLoadData.
Image read_image(const void* image, int architecture, int driver_version);

// A cubin without code: header and architecture as NVRTC 12 writes them, and the text.
std::string make_cubin(int architecture, const std::string& text);

}  // namespace bidiff::cuda::emulated
