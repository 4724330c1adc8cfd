// Encoding: Intel SDM volume 2, "EVEX prefix" (62 P0 P1 P2 opcode ModRM), VPOPCNTD/Q: 66.0F38 55.
// State: the XSAVE area of the signal frame, standard format, offsets from CPUID leaf 0xD.
#include "emulated_vpopcnt.h"

#include <cpuid.h>
#include <ucontext.h>

#include <csignal>
#include <cstdint>
#include <cstring>

namespace {

struct Offsets {
  unsigned high_ymm, masks, high_zmm, zmm16;
} offsets;
volatile long count = 0;

unsigned component(int number) {
  unsigned size, offset, c, d;
  __cpuid_count(0xd, number, size, offset, c, d);
  return size ? offset : 0;
}

// Addresses of the four 16-byte quarters of a zmm register.
void quarters(uint8_t* area, int number, uint8_t* out[4]) {
  if (number >= 16) {
    for (int i = 0; i < 4; ++i) out[i] = area + offsets.zmm16 + (number - 16) * 64 + i * 16;
    return;
  }
  out[0] = area + 160 + number * 16;
  out[1] = area + offsets.high_ymm + number * 16;
  out[2] = area + offsets.high_zmm + number * 32;
  out[3] = out[2] + 16;
}

uint64_t general(const greg_t* registers, int number) {
  static const int kPlace[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                 REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                 REG_R12, REG_R13, REG_R14, REG_R15};
  return static_cast<uint64_t>(registers[kPlace[number]]);
}

struct Instruction {
  int length, destination, source, mask;
  bool zeroing, broadcast, wide, memory;
  int bytes;  // of the vector
  const uint8_t* address;
};

bool decode(const uint8_t* code, const greg_t* registers, Instruction* out) {
  const uint8_t p0 = code[1], p1 = code[2], p2 = code[3], modrm = code[5];
  if (code[0] != 0x62 || (p0 & 0x0f) != 0x02 || (p1 & 0x07) != 0x05 || code[4] != 0x55) {
    return false;
  }
  const int size = (p2 >> 5) & 3;
  if (size == 3 || (p1 & 0x78) != 0x78 || !(p2 & 0x08)) return false;
  const int mod = modrm >> 6, rm = modrm & 7;
  out->bytes = 16 << size;
  out->wide = p1 & 0x80;
  out->zeroing = p2 & 0x80;
  out->broadcast = p2 & 0x10;
  out->mask = p2 & 7;
  out->destination = ((modrm >> 3) & 7) | (p0 & 0x80 ? 0 : 8) | (p0 & 0x10 ? 0 : 16);
  out->memory = mod != 3;
  out->length = 6;
  if (!out->memory) {
    out->source = rm | (p0 & 0x20 ? 0 : 8) | (p0 & 0x40 ? 0 : 16);
    return true;
  }
  int base = rm | (p0 & 0x20 ? 0 : 8);
  uint64_t address = 0;
  bool has_base = true;
  if (rm == 4) {
    const uint8_t sib = code[out->length++];
    const int index = ((sib >> 3) & 7) | (p0 & 0x40 ? 0 : 8);
    base = (sib & 7) | (p0 & 0x20 ? 0 : 8);
    if (index != 4) address += general(registers, index) << (sib >> 6);
    has_base = !(mod == 0 && (sib & 7) == 5);
  } else if (mod == 0 && rm == 5) {
    has_base = false;
  }
  const bool relative = mod == 0 && rm == 5;
  if (has_base) address += general(registers, base);
  if (mod == 1) {
    const int scale = out->broadcast ? (out->wide ? 8 : 4) : out->bytes;
    address += static_cast<int64_t>(static_cast<int8_t>(code[out->length++])) * scale;
  } else if (mod == 2 || !has_base) {
    int32_t displacement;
    memcpy(&displacement, code + out->length, 4);
    out->length += 4;
    address += static_cast<int64_t>(displacement);
  }
  if (relative) address += static_cast<uint64_t>(registers[REG_RIP]) + out->length;
  out->address = reinterpret_cast<const uint8_t*>(address);
  return true;
}

void compute(uint8_t* area, const Instruction& op) {
  const int element = op.wide ? 8 : 4, lanes = op.bytes / element;
  uint8_t source[64] = {}, result[64] = {};
  uint8_t* parts[4];
  if (op.memory) {
    for (int lane = 0; lane < lanes; ++lane) {
      memcpy(source + lane * element, op.address + (op.broadcast ? 0 : lane * element), element);
    }
  } else {
    quarters(area, op.source, parts);
    for (int i = 0; i < 4; ++i) memcpy(source + 16 * i, parts[i], 16);
  }
  quarters(area, op.destination, parts);
  for (int i = 0; i < 4; ++i) memcpy(result + 16 * i, parts[i], 16);
  uint64_t mask = ~uint64_t{0};
  if (op.mask) memcpy(&mask, area + offsets.masks + 8 * op.mask, 8);
  for (int lane = 0; lane < lanes; ++lane) {
    uint64_t value = 0;
    memcpy(&value, source + lane * element, element);
    value = static_cast<uint64_t>(__builtin_popcountll(value));
    if (!((mask >> lane) & 1)) {
      if (!op.zeroing) continue;
      value = 0;
    }
    memcpy(result + lane * element, &value, element);
  }
  memset(result + op.bytes, 0, 64 - op.bytes);  // EVEX clears the bits above the vector
  for (int i = 0; i < 4; ++i) memcpy(parts[i], result + 16 * i, 16);
}

void on_illegal(int signal, siginfo_t*, void* raw) {
  ucontext_t* context = static_cast<ucontext_t*>(raw);
  greg_t* registers = context->uc_mcontext.gregs;
  Instruction op{};
  const uint8_t* code = reinterpret_cast<const uint8_t*>(registers[REG_RIP]);
  if (!decode(code, registers, &op)) {
    std::signal(signal, SIG_DFL);  // the instruction runs again and ends the process
    return;
  }
  uint8_t* area = reinterpret_cast<uint8_t*>(context->uc_mcontext.fpregs);
  uint64_t present;  // components that are not in their initial state, as XRSTOR will read them
  memcpy(&present, area + 512, 8);
  // An absent component is garbage in the area: set it to its initial value first.
  const struct {
    int bit;
    unsigned at, size;
  } parts[] = {{1, 160, 256},
               {2, offsets.high_ymm, 256},
               {5, offsets.masks, 64},
               {6, offsets.high_zmm, 512},
               {7, offsets.zmm16, 1024}};
  for (const auto& part : parts) {
    if (!((present >> part.bit) & 1)) memset(area + part.at, 0, part.size);
    present |= uint64_t{1} << part.bit;
  }
  compute(area, op);
  memcpy(area + 512, &present, 8);
  registers[REG_RIP] += op.length;
  count = count + 1;
}

}  // namespace

bool install_vpopcnt_emulator() {
  offsets = {component(2), component(5), component(6), component(7)};
  if (!offsets.high_ymm || !offsets.masks || !offsets.high_zmm || !offsets.zmm16) return false;
  struct sigaction action{};
  action.sa_sigaction = on_illegal;
  action.sa_flags = SA_SIGINFO;
  return sigaction(SIGILL, &action, nullptr) == 0;
}

long emulated_instructions() { return count; }
