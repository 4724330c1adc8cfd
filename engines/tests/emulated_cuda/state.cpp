#include "state.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sstream>

namespace bidiff::cuda::emulated {

namespace {

const char* variable(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value ? value : otherwise;
}

std::map<std::string, long>& counts() {
  static auto* all = new std::map<std::string, long>;
  return *all;
}

int faulted = 0;

}  // namespace

std::vector<int> gpus() {
  std::vector<int> found;
  std::istringstream list(variable("BIDIFF_EMULATED_GPUS", "80"));
  for (std::string entry; std::getline(list, entry, ',');) {
    found.push_back(std::atoi(entry.c_str()));
  }
  return found;
}

size_t memory_bytes() {
  return static_cast<size_t>(std::atoll(variable("BIDIFF_EMULATED_MEMORY", "1073741824")));
}

int driver_version() { return std::atoi(variable("BIDIFF_EMULATED_DRIVER", "12090")); }

std::recursive_mutex& machine() {
  static auto* lock = new std::recursive_mutex;
  return *lock;
}

int enter(const char* function) {
  ++counts()[function];
  if (faulted) return faulted;
  std::istringstream list(variable("BIDIFF_EMULATED_FAIL", ""));
  for (std::string entry; std::getline(list, entry, ',');) {
    const size_t equals = entry.find('=');
    if (equals != std::string::npos && entry.substr(0, equals) == function) {
      return std::atoi(entry.c_str() + equals + 1);
    }
  }
  return 0;
}

int fault(int status, const std::string& sentence) {
  std::fprintf(stderr, "emulated GPU: %s\n", sentence.c_str());
  return faulted = status;
}

int shared_bytes(int architecture) {
  // CUDA C++ programming guide, table of technical specifications, less 1 KiB for the system from
  // 8.0 on.
  switch (architecture) {
    case 75: return 64 << 10;
    case 86:
    case 89:
    case 120:
    case 121: return 99 << 10;
    case 80:
    case 87: return 163 << 10;
  }
  return architecture < 75 ? 48 << 10 : 227 << 10;
}

// For tests: how often a function was called.
extern "C" __attribute__((visibility("default"))) long bidiff_emulated_calls(const char* function) {
  const std::lock_guard<std::recursive_mutex> lock(machine());
  return counts()[function];
}

}  // namespace bidiff::cuda::emulated
