#include "module.h"

#include "cache.h"
#include "nvrtc.h"
#include "run.h"

namespace bidiff::cuda {

namespace {

// Hash of everything that the machine code depends on.
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

// Codes of an image that is sound but not for this GPU or driver.
bool does_not_fit(int code) {
  return code == kInvalidImage || code == kNoBinaryForGpu || code == kInvalidPtx ||
         code == kUnsupportedPtxVersion;
}

void unload(std::vector<Module>* modules) {
  for (const Module module : *modules) driver().module_unload(module);
  modules->clear();
}

// True if the embedded machine code is loaded; else why not.
bool load_embedded(std::vector<Module>* modules, std::string* why) {
  if (!kFatbinCount) {
    *why = "this library was built without nvcc";
    return false;
  }
  for (size_t i = 0; i < kFatbinCount; ++i) {
    Module module = nullptr;
    const int code = driver().module_load(&module, kFatbins[i].begin);
    if (code == kSuccess) {
      modules->push_back(module);
      continue;
    }
    unload(modules);
    if (!does_not_fit(code)) check(code, "loading the embedded kernels");
    *why = "the kernels in this library (of CUDA " + version_text(kFatbinToolkit) + ", for sm_" +
           kFatbinArchitectures + ") do not fit: " + describe(code);
    return false;
  }
  return true;
}

Module load_compiled(const Nvrtc& nvrtc, const char* unit, bool* cached) {
  const uint64_t key = cache_key(nvrtc, unit);
  const Target target = nvrtc.target();
  const std::string file =
      cache_file(key, (target.is_ptx ? "compute_" : "sm_") + std::to_string(target.architecture) +
                          (target.is_ptx ? ".ptx" : ".cubin"));
  Module module = nullptr;
  std::string image = read_cache(file, key);
  *cached = !image.empty() && driver().module_load(&module, image.data()) == kSuccess;
  if (*cached) return module;
  image = nvrtc.compile(unit).image;
  check(driver().module_load(&module, image.data()), "loading the kernels that NVRTC compiled");
  write_cache(file, key, image);
  return module;
}

}  // namespace

std::vector<std::string> source_units() {
  std::vector<std::string> units;
  for (size_t i = 0; i < kSourceFileCount; ++i) {
    const std::string name = kSourceFiles[i].name;
    if (name.size() > 3 && name.substr(name.size() - 3) == ".cu") units.push_back(name);
  }
  return units;
}

std::vector<Module> load_modules(const DeviceInfo& device, std::string* origin) {
  std::vector<Module> modules;
  std::string why;
  if (load_embedded(&modules, &why)) {
    *origin = "compiled with the library by nvcc " + version_text(kFatbinToolkit);
    return modules;
  }
  const std::string gpu = "GPU " + std::to_string(device.ordinal) + " (" + device.name + ", sm_" +
                          std::to_string(device.architecture) + ")";
  try {
    const Nvrtc nvrtc = Nvrtc::open(device.architecture, device.driver_version);
    bool all_cached = true;
    for (const std::string& unit : source_units()) {
      bool cached = false;
      modules.push_back(load_compiled(nvrtc, unit.c_str(), &cached));
      all_cached = all_cached && cached;
    }
    const Target target = nvrtc.target();
    *origin = std::string(all_cached ? "cached from" : "compiled by") + " NVRTC " +
              version_text(nvrtc.version()) + (target.is_ptx ? " as PTX for compute_" : " for sm_") +
              std::to_string(target.architecture);
  } catch (const Error& error) {
    unload(&modules);
    throw Error("no kernels for " + gpu + ": " + why + ", and " + error.what());
  }
  return modules;
}

}  // namespace bidiff::cuda
