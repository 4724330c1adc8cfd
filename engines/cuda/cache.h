// Compiled kernels kept between processes: $XDG_CACHE_HOME/bidiff_deploy/cuda, or ~/.cache.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace bidiff::cuda {

// FNV-1a. For several texts, `before` is the hash of those before.
uint64_t hash(std::string_view text, uint64_t before = 0xcbf29ce484222325u);

// Path of the image whose sources have the hash `key`; empty if there is no folder for a cache.
std::string cache_file(uint64_t key, const std::string& suffix);

// The image stored under that key; empty if absent, damaged, too large or owned by another user.
std::string read_cache(const std::string& file, uint64_t key);
// Writes to a temporary name and renames it, and removes the temporary files of processes that have
// ended. A cache that cannot be written is not an error.
void write_cache(const std::string& file, uint64_t key, const std::string& image);

}  // namespace bidiff::cuda
