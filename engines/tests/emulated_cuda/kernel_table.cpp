#include "kernel_table.h"

#include <cstring>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "block.h"

namespace bidiff::cuda::emulated {
namespace {

constexpr unsigned kMaxGridX = 2147483647, kMaxGrid = 65535, kMaxShared = 49152;

using Table = std::vector<std::pair<int, Kernel>>;

Table& table() {
  static Table* all = new Table;  // filled by static initialisers, in any order
  return *all;
}

}  // namespace

Registration::Registration(int architecture, const Kernel& kernel) {
  table().emplace_back(architecture, kernel);
}

const Kernel* find_kernel(int architecture, const char* name) {
  // The source is compiled for sm_75 and for later GPUs; a module of a later architecture contains
  // only its own paths.
  const int compiled = architecture < 80 ? 75 : 80;
  const auto has = [&](const char* path) { return std::strstr(name, path) != nullptr; };
  if (has("_xor_") && architecture >= 90) return nullptr;
  if (has("_and_") && (architecture < 80 || architecture >= 100)) return nullptr;
  for (const auto& [of, kernel] : table()) {
    if (of == compiled && !std::strcmp(kernel.name, name)) return &kernel;
  }
  return nullptr;
}

const char* launch(const Kernel& kernel, const unsigned grid[3], const unsigned block[3],
                   unsigned shared_bytes, const void* arguments) {
  thread_local std::string failure;
  failure.clear();
  const unsigned threads = block[0] * block[1] * block[2];
  if (!grid[0] || !grid[1] || !grid[2] || grid[0] > kMaxGridX || grid[1] > kMaxGrid ||
      grid[2] > kMaxGrid) {
    failure = "the grid is empty or larger than a GPU allows";
  } else if (!threads || threads > kernel.threads) {
    failure = "the block has more threads than the kernel's launch bounds, or none";
  } else if (block[1] != 1 || block[2] != 1 || threads % kWarp) {
    failure = "the block is not a row of whole warps, as every kernel here expects";
  } else if (shared_bytes > kMaxShared) {
    failure = "the block asks for more than 48 KiB of shared memory";
  } else {
    try {
      thread_local Block machine;
      const std::vector<unsigned char> copy(
          static_cast<const unsigned char*>(arguments),
          static_cast<const unsigned char*>(arguments) + kernel.argument_bytes);
      failure = machine.launch(kernel.body, copy.data(), grid, threads, shared_bytes);
    } catch (const std::exception& error) {
      failure = error.what();
    }
  }
  if (!failure.empty()) failure = std::string(kernel.name) + ": " + failure;
  return failure.c_str();
}

}  // namespace bidiff::cuda::emulated
