// NVIDIA's run-time compiler, opened if one is found. It needs no GPU.
#pragma once

#include <string>
#include <vector>

namespace bidiff::cuda {

// Machine code (a cubin), or PTX for the driver to compile if NVRTC does not know the GPU.
struct Compiled {
  std::string image;  // PTX has its terminating zero
  bool is_ptx;
  int architecture;
};

// What this version of NVRTC compiles for a GPU: a cubin for its architecture, or for an earlier
// one of the same major version, which it can run; else PTX of the newest earlier one; 0 if
// neither.
struct Target {
  int architecture;
  bool is_ptx;
};
Target choose_target(const std::vector<int>& supported, int architecture);

class Nvrtc {
 public:
  // Tries BIDIFF_NVRTC alone if it is set, else the files of set_nvrtc_files and then the loader's
  // libnvrtc.so.*. Opens the first whose output a driver of `driver_version` (12040) loads and that
  // compiles cubins for `architecture`, else one that compiles PTX for it. Throws Error with the
  // remedy if none is found or none fits.
  static Nvrtc open(int architecture, int driver_version);

  int version() const { return version_; }  // 12090
  const std::string& file() const { return file_; }
  const Target& target() const { return target_; }

  // Compiles the embedded file `unit` (*.cu) for target(), with an extra option unless it is null.
  // Throws Error with the compiler's first error.
  Compiled compile(const char* unit, const char* option = nullptr) const;

 private:
  struct Functions;
  static Nvrtc open_file(const std::string& file);

  const Functions* functions_ = nullptr;
  std::string file_;
  int version_ = 0;
  std::vector<int> supported_;
  Target target_{};
};

// Files to try before the loader's, as the Python package finds them in NVIDIA's wheels.
void set_nvrtc_files(std::vector<std::string> files);

}  // namespace bidiff::cuda
