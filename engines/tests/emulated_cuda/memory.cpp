#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>

namespace bidiff::cuda::emulated {

namespace {

constexpr size_t kAlignment = 256;                           // as with a real driver
constexpr unsigned char kOutside = 0xa5, kUnwritten = 0xff;  // a NaN in float16 and float32

struct Block {
  unsigned char* mapped;  // begins and ends with a forbidden page
  size_t mapped_bytes, bytes;
};

std::map<uint64_t, Block>& blocks() {
  static auto* all = new std::map<uint64_t, Block>;
  return *all;
}

size_t page() {
  static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

size_t up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

bool all_are(const unsigned char* begin, const unsigned char* end) {
  return std::all_of(begin, end, [](unsigned char byte) { return byte == kOutside; });
}

std::string hexadecimal(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

}  // namespace

uint64_t allocate(size_t bytes) {
  const size_t aligned = up(bytes, kAlignment), usable = up(aligned, page());
  const size_t mapped_bytes = usable + 2 * page();
  void* mapped = mmap(nullptr, mapped_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return 0;
  auto* first = static_cast<unsigned char*>(mapped);
  if (mprotect(first + page(), usable, PROT_READ | PROT_WRITE)) {
    munmap(mapped, mapped_bytes);
    return 0;
  }
  unsigned char* begin = first + page() + usable - aligned;
  std::memset(first + page(), kOutside, usable);
  std::memset(begin, kUnwritten, bytes);
  const auto pointer = reinterpret_cast<uint64_t>(begin);
  blocks()[pointer] = {first, mapped_bytes, bytes};
  return pointer;
}

bool release(uint64_t pointer) {
  const auto found = blocks().find(pointer);
  if (found == blocks().end()) return false;
  munmap(found->second.mapped, found->second.mapped_bytes);
  blocks().erase(found);
  return true;
}

bool is_allocated(uint64_t pointer, size_t bytes) {
  auto after = blocks().upper_bound(pointer);
  if (after == blocks().begin()) return false;
  const auto& [begin, block] = *--after;
  const uint64_t offset = pointer - begin;
  return offset <= block.bytes && bytes <= block.bytes - offset;
}

size_t allocated_bytes() {
  size_t sum = 0;
  for (const auto& [pointer, block] : blocks()) sum += block.bytes;
  return sum;
}

size_t block_count() { return blocks().size(); }

std::string damaged_block() {
  for (const auto& [pointer, block] : blocks()) {
    const auto* begin = reinterpret_cast<const unsigned char*>(pointer);
    const unsigned char* end = block.mapped + block.mapped_bytes - page();
    const bool before = !all_are(block.mapped + page(), begin);
    if (before || !all_are(begin + block.bytes, end)) {
      return std::string("bytes were written ") + (before ? "before" : "after") + " a block of " +
             std::to_string(block.bytes) + " bytes";
    }
  }
  return "";
}

std::string describe_address(uint64_t address) {
  for (const auto& [pointer, block] : blocks()) {
    const auto first = reinterpret_cast<uint64_t>(block.mapped);
    if (address < first || address >= first + block.mapped_bytes) continue;
    return "byte " + std::to_string(static_cast<int64_t>(address - pointer)) + " of a block of " +
           std::to_string(block.bytes) + " bytes";
  }
  return "address " + hexadecimal(address) + ", which is in no block";
}

}  // namespace bidiff::cuda::emulated
