#include "nvrtc.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>

#include "module.h"

namespace bidiff::cuda {

namespace {

using Program = struct NvrtcProgram_st*;

constexpr const char* kLoaderNames[] = {"libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so"};
constexpr const char* kInstall =
    "pip install 'nvidia-cuda-nvrtc-cu12>=12.8,<13', or name a libnvrtc.so by BIDIFF_NVRTC";

std::mutex files_mutex;
std::vector<std::string>& files() {
  static std::vector<std::string> listed;
  return listed;
}

std::vector<std::string> candidates() {
  const char* named = std::getenv("BIDIFF_NVRTC");
  if (named && *named) return {named};
  const std::lock_guard<std::mutex> lock(files_mutex);
  std::vector<std::string> all = files();
  all.insert(all.end(), std::begin(kLoaderNames), std::end(kLoaderNames));
  return all;
}

// A compiler's log may have thousands of lines; the first error says what is wrong.
std::string first_error(const std::string& log) {
  size_t at = log.find("error");
  if (at == std::string::npos) at = 0;
  const size_t begin = log.rfind('\n', at) == std::string::npos ? 0 : log.rfind('\n', at) + 1;
  return log.substr(begin, std::min(log.find('\n', at), begin + 300) - begin);
}

}  // namespace

struct Nvrtc::Functions {
  int (*version)(int* major, int* minor);
  int (*count)(int* count);
  int (*architectures)(int* architectures);
  int (*create)(Program* program, const char* source, const char* name, int headers,
                const char* const* texts, const char* const* names);
  int (*compile)(Program program, int count, const char* const* options);
  int (*destroy)(Program* program);
  int (*log_size)(Program program, size_t* size);
  int (*log)(Program program, char* log);
  int (*cubin_size)(Program program, size_t* size);
  int (*cubin)(Program program, char* cubin);
  int (*ptx_size)(Program program, size_t* size);
  int (*ptx)(Program program, char* ptx);
};

void set_nvrtc_files(std::vector<std::string> given) {
  const std::lock_guard<std::mutex> lock(files_mutex);
  files() = std::move(given);
}

Target choose_target(const std::vector<int>& supported, int architecture) {
  int exact = 0, before = 0;
  for (const int known : supported) {
    if (known > architecture) continue;
    before = std::max(before, known);
    if (known / 10 == architecture / 10) exact = std::max(exact, known);
  }
  return exact ? Target{exact, false} : Target{before, before != 0};
}

Nvrtc Nvrtc::open_file(const std::string& file) {
  // Never closed: it is needed again for the next device, and has threads of its own.
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* reason = dlerror();
    throw Error(reason ? reason : file);
  }
  auto functions = std::make_unique<Functions>();
  const auto find = [&](auto* member, const char* symbol) {
    void* address = dlsym(library, symbol);
    if (!address) throw Error(file + " has no " + symbol + ", which NVRTC has since CUDA 11.2");
    std::memcpy(member, &address, sizeof(address));
  };
  find(&functions->version, "nvrtcVersion");
  find(&functions->count, "nvrtcGetNumSupportedArchs");
  find(&functions->architectures, "nvrtcGetSupportedArchs");
  find(&functions->create, "nvrtcCreateProgram");
  find(&functions->compile, "nvrtcCompileProgram");
  find(&functions->destroy, "nvrtcDestroyProgram");
  find(&functions->log_size, "nvrtcGetProgramLogSize");
  find(&functions->log, "nvrtcGetProgramLog");
  find(&functions->cubin_size, "nvrtcGetCUBINSize");
  find(&functions->cubin, "nvrtcGetCUBIN");
  find(&functions->ptx_size, "nvrtcGetPTXSize");
  find(&functions->ptx, "nvrtcGetPTX");

  Nvrtc found;
  int major = 0, minor = 0, count = 0;
  if (functions->version(&major, &minor) || functions->count(&count) || count <= 0 ||
      count > 1000) {
    throw Error(file + " does not report the GPUs it supports");
  }
  found.supported_.resize(static_cast<size_t>(count));
  if (functions->architectures(found.supported_.data())) {
    throw Error(file + " does not report the GPUs it supports");
  }
  found.file_ = file;
  found.version_ = 1000 * major + 10 * minor;
  found.functions_ = functions.release();
  return found;
}

Nvrtc Nvrtc::open(int architecture, int driver_version) {
  std::string first_failure, newest_misfit;
  Nvrtc with_ptx;
  for (const std::string& file : candidates()) {
    Nvrtc found;
    try {
      found = open_file(file);
    } catch (const Error& error) {
      if (first_failure.empty()) first_failure = error.what();
      continue;
    }
    found.target_ = choose_target(found.supported_, architecture);
    const std::string version = version_text(found.version_);
    // A driver loads cubins of its own and of earlier major versions; PTX must not be of a newer
    // minor version either.
    if (!found.target_.architecture) {
      newest_misfit = "NVRTC " + version + " does not compile for sm_" +
                      std::to_string(architecture) + " any more";
    } else if (found.version_ / 1000 > driver_version / 1000) {
      newest_misfit = "the NVIDIA driver supports CUDA " + version_text(driver_version) +
                      " and cannot load what NVRTC " + version + " compiles; update the driver" +
                      (driver_version < 12000 ? " to 525 or newer" : "");
    } else if (!found.target_.is_ptx) {
      return found;
    } else if (found.version_ > driver_version) {
      newest_misfit = "NVRTC " + version + " does not know sm_" + std::to_string(architecture) +
                      ", and the driver (CUDA " + version_text(driver_version) +
                      ") cannot compile its PTX";
    } else if (!with_ptx.functions_) {
      with_ptx = found;
    }
  }
  if (with_ptx.functions_) return with_ptx;
  if (!newest_misfit.empty()) {
    throw Error(newest_misfit + (driver_version < 12000 ? "" : std::string("; or ") + kInstall));
  }
  throw Error("NVRTC, which compiles them, was not found (" + first_failure + "); " + kInstall);
}

Compiled Nvrtc::compile(const char* unit, const char* option) const {
  const char* source = nullptr;
  std::vector<const char*> names, texts;
  for (size_t i = 0; i < kSourceFileCount; ++i) {
    if (!std::strcmp(kSourceFiles[i].name, unit)) {
      source = kSourceFiles[i].text;
    } else {
      names.push_back(kSourceFiles[i].name);
      texts.push_back(kSourceFiles[i].text);
    }
  }
  if (!source) throw Error(std::string(unit) + " is not among the embedded device sources");
  Program program = nullptr;
  if (const int code = functions_->create(&program, source, unit, static_cast<int>(names.size()),
                                          texts.data(), names.data())) {
    throw Error(file_ + " rejected the device source with code " + std::to_string(code));
  }
  const auto destroy = [this](Program made) { functions_->destroy(&made); };
  const std::unique_ptr<NvrtcProgram_st, decltype(destroy)> owned(program, destroy);

  const std::string architecture = std::string("--gpu-architecture=") +
                                   (target_.is_ptx ? "compute_" : "sm_") +
                                   std::to_string(target_.architecture);
  std::vector<const char*> options{architecture.c_str()};
  options.insert(options.end(), kCompileOptions, kCompileOptions + kCompileOptionCount);
  if (option) options.push_back(option);
  if (const int code =
          functions_->compile(program, static_cast<int>(options.size()), options.data())) {
    size_t size = 0;
    std::string log;
    if (!functions_->log_size(program, &size) && size) {
      log.resize(size);
      if (functions_->log(program, &log[0])) log.clear();
    }
    throw Error("NVRTC " + version_text(version_) + " (" + file_ + ") did not compile " + unit +
                " for sm_" + std::to_string(target_.architecture) + " (code " +
                std::to_string(code) + "): " + first_error(log.c_str()) + "; " + kInstall);
  }
  size_t size = 0;
  std::string image;
  const auto get_size = target_.is_ptx ? functions_->ptx_size : functions_->cubin_size;
  const auto get = target_.is_ptx ? functions_->ptx : functions_->cubin;
  if (!get_size(program, &size) && size) {
    image.resize(size);
    if (get(program, &image[0])) image.clear();
  }
  if (image.empty())
    throw Error("NVRTC (" + file_ + ") compiled " + unit + " but returned no code");
  return {std::move(image), target_.is_ptx, target_.architecture};
}

}  // namespace bidiff::cuda
