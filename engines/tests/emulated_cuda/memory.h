// Device memory of the emulated driver: host memory between pages that may not be touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace bidiff::cuda::emulated {

// Every block ends, but for its alignment to 256 bytes, where a forbidden page begins, and holds
// NaNs until it is written; what lies beside it in its pages is checked by damaged_block().
// 0 if the host has no memory.
uint64_t allocate(size_t bytes);
bool release(uint64_t pointer);  // false: no block begins there
// Whether [pointer, pointer + bytes) lies in one block.
bool is_allocated(uint64_t pointer, size_t bytes);
size_t allocated_bytes();
size_t block_count();

// A sentence about a block with bytes written beside it; empty if there is none.
std::string damaged_block();
// Block that the address lies in or near, for the report of a fault.
std::string describe_address(uint64_t address);

}  // namespace bidiff::cuda::emulated
