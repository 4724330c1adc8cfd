#include "module.h"

#include <cstring>

#include "cache.h"
#include "nvrtc.h"
#include "run.h"

namespace bidiff::cuda {

namespace {

// Hash of everything that the machine code of a unit depends on.
uint64_t cache_key(const Nvrtc& nvrtc, const char* unit) {
  uint64_t key = hash(std::to_string(nvrtc.version()) + unit);
  for (size_t i = 0; i < kCompileOptionCount; ++i) {
    key = hash(kCompileOptions[i], hash("\n", key));
  }
  for (size_t i = 0; i < kSourceFileCount; ++i) {
    key = hash(kSourceFiles[i].text, hash(kSourceFiles[i].name, hash("\n", key)));
  }
  return key;
}

// Error codes for a valid image that this GPU or driver cannot run.
bool does_not_fit(int code) {
  return code == kInvalidImage || code == kNoBinaryForGpu || code == kInvalidPtx ||
         code == kUnsupportedPtxVersion;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && !text.compare(text.size() - end.size(), end.size(), end);
}

}  // namespace

const std::vector<SourceFile>& source_units() {
  static const auto* units = [] {
    auto* found = new std::vector<SourceFile>;
    for (size_t i = 0; i < kSourceFileCount; ++i) {
      if (ends_with(kSourceFiles[i].name, ".cu")) found->push_back(kSourceFiles[i]);
    }
    return found;
  }();
  return *units;
}

size_t unit_of(const std::string& kernel) {
  const std::vector<SourceFile>& units = source_units();
  for (size_t i = 0; i < units.size(); ++i) {
    if (std::strstr(units[i].text, kernel.c_str())) return i;
  }
  for (size_t i = 0; i < units.size(); ++i) {
    const std::string name = units[i].name;
    const size_t begin = std::strlen("conv"), end = name.size() - std::strlen(".cu");
    if (name.compare(0, begin, "conv") || end <= begin) continue;
    if (kernel.find(name.substr(begin, end - begin) + "_") != std::string::npos) return i;
  }
  throw Error("the op library has no kernel " + kernel + "; rebuild it");
}

Modules::Modules(const DeviceInfo& device) : device_(device), loaded_(source_units().size()) {
  if (!kFatbinCount) misfit_ = "this library was built without nvcc";
}

Modules::~Modules() {
  for (const Module module : loaded_) {
    if (module) driver().module_unload(module);
  }
}

Function Modules::find(const char* kernel) {
  const size_t unit = unit_of(kernel);
  Function found = nullptr;
  check(driver().module_function(&found, load(unit), kernel), kernel);
  return found;
}

std::string Modules::origin() const {
  if (misfit_.empty()) return "compiled with the library by nvcc " + version_text(kFatbinToolkit);
  if (!nvrtc_) return "";
  return std::string(compiled_ ? "compiled by" : "cached from") + " NVRTC " +
         version_text(nvrtc_->version()) +
         (nvrtc_->target().is_ptx ? " as PTX for compute_" : " for sm_") +
         std::to_string(nvrtc_->target().architecture);
}

Module Modules::load(size_t unit) {
  Module& module = loaded_[unit];
  if (module) return module;
  if (misfit_.empty()) {
    const int code = driver().module_load(&module, kFatbins[unit].begin);
    if (code == kSuccess) return module;
    module = nullptr;
    if (!does_not_fit(code)) check(code, "loading the embedded kernels");
    misfit_ = "the kernels in this library (CUDA " + version_text(kFatbinToolkit) + ", for sm_" +
              kFatbinArchitectures + ") cannot be loaded, " + describe(code);
  }
  try {
    return module = load_compiled(unit);
  } catch (const Error& error) {
    throw Error("no kernels for GPU " + std::to_string(device_.ordinal) + " (" + device_.name +
                ", sm_" + std::to_string(device_.architecture) + "): " + misfit_ + ", and " +
                error.what());
  }
}

Module Modules::load_compiled(size_t unit) {
  if (!nvrtc_) {
    nvrtc_ = std::make_unique<Nvrtc>(Nvrtc::open(device_.architecture, device_.driver_version));
  }
  const char* name = source_units()[unit].name;
  const uint64_t key = cache_key(*nvrtc_, name);
  const Target target = nvrtc_->target();
  const std::string file =
      cache_file(key, (target.is_ptx ? "compute_" : "sm_") + std::to_string(target.architecture) +
                          (target.is_ptx ? ".ptx" : ".cubin"));
  Module module = nullptr;
  std::string image = read_cache(file, key);
  if (!image.empty() && driver().module_load(&module, image.data()) == kSuccess) return module;
  image = nvrtc_->compile(name).image;
  check(driver().module_load(&module, image.data()), "loading the kernels that NVRTC compiled");
  write_cache(file, key, image);
  compiled_ = true;
  return module;
}

}  // namespace bidiff::cuda
