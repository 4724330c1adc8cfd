// A random problem for the CUDA kernels: its inputs, its memory, its run on emulated kernels.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "../cuda/plan.h"
#include "cuda_reference.h"
#include "emulated_cuda/half.h"
#include "emulated_cuda/kernel_table.h"
#include "test_inputs.h"

namespace bidiff::cuda {

// Memory of exactly that many bytes, all garbage; `offset` bytes from an aligned address.
class Memory {
 public:
  explicit Memory(size_t bytes, size_t offset = 0)
      : storage_(new unsigned char[kPreparedAlignment + offset + bytes + kCanary]) {
    const size_t at = reinterpret_cast<uintptr_t>(storage_.get()) % kPreparedAlignment;
    data_ = storage_.get() + (kPreparedAlignment - at) % kPreparedAlignment + offset;
    bytes_ = bytes;
    std::memset(data_, 0xff, bytes_ + kCanary);
  }
  Pointer pointer() const { return reinterpret_cast<Pointer>(data_); }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  // Whether nothing was written after it.
  bool intact() const {
    for (size_t i = 0; i < kCanary; ++i) {
      if (data_[bytes_ + i] != 0xff) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kCanary = 64;
  std::unique_ptr<unsigned char[]> storage_;
  unsigned char* data_;
  size_t bytes_;
};

inline void run(const Plan& plan, int architecture) {
  for (const Launch& launch : plan.launches) {
    const emulated::Kernel* kernel = emulated::find_kernel(architecture, launch.kernel);
    if (!kernel) throw std::runtime_error(std::string("no kernel ") + launch.kernel);
    if (kernel->argument_bytes != launch.arguments.size()) {
      throw std::runtime_error(std::string("arguments of another size: ") + launch.kernel);
    }
    const char* failure = emulated::launch(*kernel, launch.grid, launch.block, launch.shared,
                                           launch.arguments.data());
    if (*failure) throw std::runtime_error(failure);
  }
}

// Maps as the elements of a problem.
inline float rounded(float value, Element element) {
  return element == Element::kFloat16 ? emulated::half_to_float(emulated::float_to_half(value))
                                      : value;
}
inline Memory to_memory(const std::vector<float>& map, Element element, size_t offset) {
  Memory memory(map.size() * static_cast<size_t>(element_bytes(element)), offset);
  for (size_t i = 0; i < map.size(); ++i) {
    if (element == Element::kFloat16) {
      memory.as<uint16_t>()[i] = emulated::float_to_half(map[i]);
    } else {
      memory.as<float>()[i] = map[i];
    }
  }
  return memory;
}
template <class T>
Memory to_memory(const std::vector<T>& values) {
  Memory memory(values.size() * sizeof(T));
  std::memcpy(memory.as<T>(), values.data(), values.size() * sizeof(T));
  return memory;
}

// The same bits, or both NaN; never the garbage of memory that was not written.
inline bool same(const Memory& memory, const std::vector<float>& wanted, Element element,
                 size_t* where) {
  for (size_t i = 0; i < wanted.size(); ++i) {
    *where = i;
    if (element == Element::kFloat16) {
      const uint16_t found = memory.as<uint16_t>()[i];
      if (found == 0xffff) return false;
      const uint16_t expected = emulated::float_to_half(wanted[i]);
      const bool both_nan = (found & 0x7fff) > 0x7c00 && (expected & 0x7fff) > 0x7c00;
      if (found != expected && !both_nan) return false;
    } else {
      uint32_t found, expected;
      std::memcpy(&found, memory.as<float>() + i, 4);
      std::memcpy(&expected, &wanted[i], 4);
      if (found == 0xffffffffu) return false;
      if (found != expected && !(std::isnan(memory.as<float>()[i]) && std::isnan(wanted[i]))) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace bidiff::cuda
