// Cubins, fatbins and PTX as far as a driver looks at them: whether they fit a GPU, and which
// kernels they hold.
#pragma once

#include <set>
#include <string>

namespace bidiff::cuda::emulated {

struct Image {
  int status = 0;              // CUDA's error if it can not be loaded
  bool lists_kernels = false;  // not for compressed fatbins
  std::set<std::string> kernels;
};

// `image` has no given size, as with cuModuleLoadData: its own headers tell.
Image read_image(const void* image, int architecture, int driver_version);

// A cubin without code: header and architecture as NVRTC 12 writes them, and the text.
std::string make_cubin(int architecture, const std::string& text);

}  // namespace bidiff::cuda::emulated
