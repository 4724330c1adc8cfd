// Compiled kernels kept between processes: $XDG_CACHE_HOME/bidiff_deploy/cuda, or ~/.cache.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace bidiff::cuda {

// FNV-1a; of several texts by handing on what it gave.
uint64_t hash(std::string_view text, uint64_t before = 0xcbf29ce484222325u);

// File of an image made of what `key` is the hash of; empty if there is no home for a cache.
std::string cache_file(uint64_t key, const std::string& suffix);

// What was stored there under that key; empty if absent, damaged, too large or another user's.
std::string read_cache(const std::string& file, uint64_t key);
// Written to a temporary name and renamed. A cache that can not be written is no error.
void write_cache(const std::string& file, uint64_t key, const std::string& image);

}  // namespace bidiff::cuda
