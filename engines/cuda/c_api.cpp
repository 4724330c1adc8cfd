#include "c_api.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <vector>

#include "module.h"
#include "nvrtc.h"
#include "plan.h"
#include "run.h"
#include "timing.h"

namespace {

using namespace bidiff::cuda;

void copy_text(const std::string& text, char* to, size_t size) {
  if (!to || !size) return;
  const size_t length = std::min(text.size(), size - 1);
  std::memcpy(to, text.data(), length);
  to[length] = 0;
}

// Texts that a caller reads as a whole must not be cut.
void copy_whole_text(const std::string& text, char* to, size_t size) {
  if (text.size() >= size) {
    throw Error("the buffer has " + std::to_string(size) + " bytes for a text of " +
                std::to_string(text.size()));
  }
  copy_text(text, to, size);
}

template <class Body>
int guarded(char* error, size_t error_size, Body body) {
  try {
    body();
    return 0;
  } catch (const std::exception& failure) {
    copy_text(failure.what(), error, error_size);
    return 1;
  }
}

Problem problem_of(const BidiffCudaProblem& given) {
  Problem problem{};
  problem.op = static_cast<Op>(given.op);
  problem.element = static_cast<Element>(given.element);
  problem.batch = given.batch;
  problem.channels = given.channels;
  problem.height = given.height;
  problem.width = given.width;
  problem.out_channels = given.out_channels;
  problem.k = given.k;
  problem.groups = given.groups;
  for (int i = 0; i < 2; ++i) {
    const uint64_t* branch = given.branch[i];
    problem.branch[i] = {branch[0], branch[1], branch[2], branch[3]};
  }
  problem.x = given.x;
  problem.second = given.second;
  problem.residual = given.residual;
  problem.skip = given.skip;
  problem.time = given.time;
  problem.scale = given.scale;
  problem.bias = given.bias;
  problem.y = given.y;
  problem.residual_is_scalar = given.residual_is_scalar != 0;
  problem.time_is_scalar = given.time_is_scalar != 0;
  problem.skip_is_scalar = given.skip_is_scalar != 0;
  return problem;
}

Path path_of(const char* name) {
  std::string known;
  for (const Path path : {Path::kAuto, Path::kXor, Path::kAnd, Path::kInt8, Path::kPopc}) {
    if (!std::strcmp(name, path_name(path))) return path;
    known += (known.empty() ? "" : ", ") + std::string(path_name(path));
  }
  throw Error("unknown path " + std::string(name) + "; known paths are " + known);
}

void write_file(const std::string& path, const std::string& content) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  const bool whole = file && std::fwrite(content.data(), 1, content.size(), file) == content.size();
  if ((file && std::fclose(file)) || !whole) throw Error("cannot write " + path);
}

}  // namespace

int bidiff_cuda_device_count(int* count, char* error, size_t error_size) {
  return guarded(error, error_size, [&] { *count = device_count(); });
}

int bidiff_cuda_device_info(int device, BidiffCudaDevice* info, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    const DeviceInfo found = device_info(device);
    *info = {found.ordinal, found.architecture,     found.multiprocessors,  found.driver_version,
             found.memory,  found.shared_per_block, found.memory_bandwidth, {}};
    copy_text(found.name, info->name, sizeof(info->name));
  });
}

const char* bidiff_cuda_embedded(int* toolkit, uint64_t* bytes) {
  *toolkit = kFatbinToolkit;
  *bytes = 0;
  for (size_t i = 0; i < kFatbinCount; ++i) {
    *bytes += static_cast<uint64_t>(kFatbins[i].end - kFatbins[i].begin);
  }
  return kFatbinArchitectures;
}

int bidiff_cuda_set_nvrtc(const char* files, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    std::vector<std::string> listed;
    std::istringstream lines(files);
    for (std::string line; std::getline(lines, line);) {
      if (!line.empty()) listed.push_back(line);
    }
    set_nvrtc_files(std::move(listed));
  });
}

int bidiff_cuda_units(char* names, size_t names_size, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    std::string all;
    for (const SourceFile& unit : source_units()) all += std::string(unit.name) + "\n";
    copy_whole_text(all, names, names_size);
  });
}

int bidiff_cuda_compile(const char* unit, int architecture, int driver_version, const char* option,
                        const char* folder, char* report, size_t report_size, char* error,
                        size_t error_size) {
  return guarded(error, error_size, [&] {
    const Nvrtc nvrtc = Nvrtc::open(architecture, driver_version);
    const Compiled made = nvrtc.compile(unit, option);
    const std::string name = unit;
    write_file(std::string(folder) + "/" + name.substr(0, name.rfind('.')) +
                   (made.is_ptx ? ".ptx" : ".cubin"),
               made.image);
    copy_text("NVRTC " + version_text(nvrtc.version()) + " (" + nvrtc.file() +
                  "): " + (made.is_ptx ? "compute_" : "sm_") + std::to_string(made.architecture),
              report, report_size);
  });
}

int bidiff_cuda_load(int device, const char* path, char* origin, size_t origin_size, char* error,
                     size_t error_size) {
  return guarded(error, error_size, [&] {
    Device& opened = Device::open(device);
    opened.load(path_of(path));
    copy_text(opened.origin(), origin, origin_size);
  });
}

int bidiff_cuda_kernel_use(int device, const char* kernel, int* registers, int* local_bytes,
                           int* shared_bytes, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    const KernelUse use = Device::open(device).use(kernel);
    *registers = use.registers;
    *local_bytes = use.local_bytes;
    *shared_bytes = use.shared_bytes;
  });
}

int bidiff_cuda_memory(int device, uint64_t* free, uint64_t* total, char* error,
                       size_t error_size) {
  return guarded(error, error_size, [&] {
    size_t now_free = 0, all = 0;
    Device::open(device).memory(&now_free, &all);
    *free = now_free;
    *total = all;
  });
}

int bidiff_cuda_allocate(int device, uint64_t bytes, const char* purpose, int64_t units,
                         const char* unit, uint64_t* pointer, char* error, size_t error_size) {
  return guarded(error, error_size,
                 [&] { *pointer = Device::open(device).allocate(bytes, purpose, {units, unit}); });
}

int bidiff_cuda_release(int device, uint64_t pointer, char* error, size_t error_size) {
  return guarded(error, error_size, [&] { Device::open(device).release(pointer); });
}

int bidiff_cuda_upload(int device, uint64_t to, const void* from, uint64_t bytes, char* error,
                       size_t error_size) {
  return guarded(error, error_size, [&] { Device::open(device).upload(to, from, bytes); });
}

int bidiff_cuda_download(int device, void* to, uint64_t from, uint64_t bytes, char* error,
                         size_t error_size) {
  return guarded(error, error_size, [&] { Device::open(device).download(to, from, bytes); });
}

int bidiff_cuda_paths(int architecture, char* names, size_t names_size, char* error,
                      size_t error_size) {
  return guarded(error, error_size, [&] {
    std::string all;
    for (const Path path : paths(architecture)) {
      all += (all.empty() ? "" : " ") + std::string(path_name(path));
    }
    copy_whole_text(all, names, names_size);
  });
}

int bidiff_cuda_forced_path(int device, char* name, size_t name_size, char* error,
                            size_t error_size) {
  return guarded(error, error_size,
                 [&] { copy_whole_text(path_name(Device::open(device).path()), name, name_size); });
}

int bidiff_cuda_kernel_names(int architecture, char* names, size_t names_size, char* error,
                             size_t error_size) {
  return guarded(error, error_size, [&] {
    std::string all;
    for (const char* name : kernel_names(architecture)) all += std::string(name) + "\n";
    copy_whole_text(all, names, names_size);
  });
}

int bidiff_cuda_prepared_bytes(int64_t out_channels, int64_t in_channels, int64_t k,
                               uint64_t* bytes, char* error, size_t error_size) {
  return guarded(error, error_size,
                 [&] { *bytes = prepared_bytes({out_channels, in_channels, k}); });
}

int bidiff_cuda_workspace_bytes(const BidiffCudaProblem* problem, uint64_t* bytes, char* error,
                                size_t error_size) {
  return guarded(error, error_size, [&] { *bytes = workspace_bytes(problem_of(*problem)); });
}

int bidiff_cuda_launches(const BidiffCudaProblem* problem, int architecture, const char* path,
                         char* launches, size_t launches_size, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    std::ostringstream lines;
    const Plan made = plan(problem_of(*problem), architecture, path_of(path), 0);
    for (const Launch& launch : made.launches) {
      lines << launch.kernel;
      for (const unsigned size : launch.grid) lines << ' ' << size;
      for (const unsigned size : launch.block) lines << ' ' << size;
      lines << ' ' << launch.shared << ' ' << launch.arguments.size() << '\n';
    }
    copy_whole_text(lines.str(), launches, launches_size);
  });
}

int bidiff_cuda_prepare(int device, int64_t out_channels, int64_t in_channels, int64_t k,
                        uint64_t words, uint64_t prepared, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    Device& opened = Device::open(device);
    run(opened, plan_prepare({out_channels, in_channels, k}, words, prepared), nullptr);
    opened.synchronize(nullptr);
  });
}

int bidiff_cuda_run(int device, const BidiffCudaProblem* problem, const char* path,
                    uint64_t workspace, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    Device& opened = Device::open(device);
    run(opened, plan(problem_of(*problem), opened.architecture(), path_of(path), workspace),
        nullptr);
    opened.synchronize(nullptr);
  });
}

int bidiff_cuda_time(int device, const BidiffCudaProblem* problems, int count, const char* path,
                     uint64_t workspace, int rounds, int as_graph, double* milliseconds,
                     char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    if (count < 1 || rounds < 1) throw Error("timing needs at least one problem and one round");
    Device& opened = Device::open(device);
    std::vector<Plan> plans;
    for (int i = 0; i < count; ++i) {
      plans.push_back(
          plan(problem_of(problems[i]), opened.architecture(), path_of(path), workspace));
    }
    *milliseconds = time_plans(opened, plans, rounds, as_graph != 0);
  });
}
