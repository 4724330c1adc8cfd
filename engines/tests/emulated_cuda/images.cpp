#include "images.h"

#include <elf.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "../../cuda/driver.h"

namespace bidiff::cuda::emulated {

namespace {

constexpr uint32_t kFatbinMagic = 0xba55ed50;
constexpr int kCudaMachine = 190, kOldCubin = 7, kNewCubin = 8;  // ABI of CUDA 12 and of 13
constexpr char kSectionPrefix[] = ".text.", kEntry[] = ".entry ";

template <class T>
T read(const void* from, size_t offset) {
  T value;
  std::memcpy(&value, static_cast<const char*>(from) + offset, sizeof(value));
  return value;
}

// A cubin runs on its own and on later GPUs of one major version.
bool runs(int cubin, int architecture) {
  return cubin / 10 == architecture / 10 && cubin <= architecture;
}

bool driver_knows(int abi, int driver_version) {
  return abi < kNewCubin || driver_version >= 13000;
}

int cubin_architecture(const Elf64_Ehdr& header) {
  return header.e_ident[EI_ABIVERSION] >= kNewCubin ? (header.e_flags >> 8) & 0xff
                                                    : header.e_flags & 0xff;
}

Image read_cubin(const void* image, int architecture, int driver_version) {
  Image found;
  const auto header = read<Elf64_Ehdr>(image, 0);
  if (header.e_machine != kCudaMachine ||
      !driver_knows(header.e_ident[EI_ABIVERSION], driver_version)) {
    found.status = kInvalidImage;
    return found;
  }
  if (!runs(cubin_architecture(header), architecture)) {
    found.status = kNoBinaryForGpu;
    return found;
  }
  if (!header.e_shnum) return found;  // one of make_cubin, for any kernel
  const auto section = [&](size_t index) {
    return read<Elf64_Shdr>(image, header.e_shoff + index * sizeof(Elf64_Shdr));
  };
  const char* names = static_cast<const char*>(image) + section(header.e_shstrndx).sh_offset;
  const size_t prefix = sizeof(kSectionPrefix) - 1;
  for (size_t index = 0; index < header.e_shnum; ++index) {
    const char* name = names + section(index).sh_name;
    if (!std::strncmp(name, kSectionPrefix, prefix)) found.kernels.insert(name + prefix);
  }
  found.lists_kernels = true;
  return found;
}

Image read_fatbin(const void* image, int architecture, int driver_version) {
  constexpr uint16_t kPtxEntry = 1, kCubinEntry = 2;
  Image found;
  const char* allowed = std::getenv("BIDIFF_EMULATED_FATBINS");
  if (allowed && !std::strcmp(allowed, "0")) {
    found.status = kNoBinaryForGpu;
    return found;
  }
  const size_t begin = read<uint16_t>(image, 6), size = read<uint64_t>(image, 8);
  for (size_t at = begin; at + 32 <= begin + size;) {
    const int kind = read<uint16_t>(image, at), abi = read<uint16_t>(image, at + 24);
    const int made_for = static_cast<int>(read<uint32_t>(image, at + 28));
    const bool fits = kind == kCubinEntry ? runs(made_for, architecture)
                                          : kind == kPtxEntry && made_for <= architecture;
    if (fits && driver_knows(abi, driver_version)) return found;
    at += read<uint32_t>(image, at + 4) + read<uint64_t>(image, at + 8);
  }
  found.status = kNoBinaryForGpu;
  return found;
}

Image read_ptx(const char* text, int architecture, int driver_version) {
  Image found;
  const char* target = std::strstr(text, ".target sm_");
  const double version = std::strtod(text + std::strcspn(text, "0123456789"), nullptr);
  if (!target || version == 0) {
    found.status = kInvalidPtx;
    return found;
  }
  // PTX ISA 8.0 came with CUDA 12.0, 9.0 with 13.0.
  if (version >= (driver_version >= 13000 ? 10.0 : driver_version >= 12000 ? 9.0 : 8.0)) {
    found.status = kUnsupportedPtxVersion;
    return found;
  }
  if (std::atoi(target + std::strlen(".target sm_")) > architecture) found.status = kNoBinaryForGpu;
  for (const char* at = text; (at = std::strstr(at, kEntry));) {
    at += std::strlen(kEntry);
    found.kernels.emplace(at, std::strcspn(at, "( \n"));
  }
  found.lists_kernels = !found.kernels.empty();
  return found;
}

}  // namespace

Image read_image(const void* image, int architecture, int driver_version) {
  const auto* text = static_cast<const char*>(image);
  if (!std::memcmp(text, ELFMAG, SELFMAG)) return read_cubin(image, architecture, driver_version);
  if (read<uint32_t>(image, 0) == kFatbinMagic) {
    return read_fatbin(image, architecture, driver_version);
  }
  if (std::strstr(text, ".version")) return read_ptx(text, architecture, driver_version);
  Image unknown;
  unknown.status = kInvalidImage;
  return unknown;
}

std::string make_cubin(int architecture, const std::string& text) {
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_ABIVERSION] = kOldCubin;
  header.e_machine = kCudaMachine;
  header.e_flags = static_cast<Elf64_Word>(architecture);
  return std::string(reinterpret_cast<const char*>(&header), sizeof(header)) + text;
}

}  // namespace bidiff::cuda::emulated
