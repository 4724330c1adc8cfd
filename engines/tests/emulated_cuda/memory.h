// Device memory of the emulated driver: host memory between pages that may not be touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace bidiff::cuda::emulated {

// Every block ends, apart from its alignment to 256 bytes, where a forbidden page begins, and
// contains NaNs until it is written; damaged_block() checks the rest of its pages. 0 if the host
// has no memory.
uint64_t allocate(size_t bytes);
bool release(uint64_t pointer);  // false: no block begins there
// Whether [pointer, pointer + bytes) is inside one block.
bool is_allocated(uint64_t pointer, size_t bytes);
size_t allocated_bytes();
size_t block_count();

// A sentence about a block with bytes written outside it; empty if there is none.
std::string damaged_block();
// Block that contains or is near the address, for the report of a fault.
std::string describe_address(uint64_t address);

}  // namespace bidiff::cuda::emulated
