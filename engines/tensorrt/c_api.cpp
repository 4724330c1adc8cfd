#include "c_api.h"

#include <cstdio>
#include <sstream>

#include "../cuda/module.h"
#include "../cuda/nvrtc.h"
#include "built_for.h"
#include "prepared_words.h"

namespace {

template <class Body>
int guarded(char* error, size_t error_size, Body body) noexcept {
  try {
    body();
    return 0;
  } catch (const std::exception& failure) {
    std::snprintf(error, error_size, "%s", failure.what());
  } catch (...) {
    std::snprintf(error, error_size, "an unknown error");
  }
  return 1;
}

}  // namespace

int bidiff_tensorrt_abi_version() { return kPluginAbiVersion; }

const char* bidiff_tensorrt_version() { return bidiff::tensorrt::headers_version(); }

const char* bidiff_tensorrt_interface() { return bidiff::tensorrt::interface_name(); }

const char* bidiff_tensorrt_embedded() {
  return bidiff::cuda::kFatbinCount ? bidiff::cuda::kFatbinArchitectures : "";
}

int32_t bidiff_tensorrt_layout() { return bidiff::tensorrt::prepared_layout_number(); }

int bidiff_tensorrt_prepared_count(int64_t out_channels, int64_t in_channels, int64_t k,
                                   int64_t* count, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    *count = bidiff::tensorrt::prepared_count({out_channels, in_channels, k});
  });
}

int bidiff_tensorrt_prepare(int64_t out_channels, int64_t in_channels, int64_t k,
                            const int32_t* words, int32_t* prepared, char* error,
                            size_t error_size) {
  return guarded(error, error_size, [&] {
    bidiff::tensorrt::prepare_words({out_channels, in_channels, k}, words, prepared);
  });
}

int bidiff_tensorrt_set_nvrtc(const char* files, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    std::vector<std::string> lines;
    std::istringstream text(files);
    for (std::string line; std::getline(text, line);) lines.push_back(line);
    bidiff::cuda::set_nvrtc_files(lines);
  });
}
