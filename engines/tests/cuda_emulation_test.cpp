// The stand-in for the CUDA language: matrix products against plain loops, with fragments filled as
// the PTX ISA's formulas say; float16; asynchronous copies; and what it must notice. Prints what it
// did; exit code 0 passed, 1 failed.
#define BIDIFF_EMULATED 80

#include <cstdio>
#include <cstdlib>
#include <functional>

#include "../cuda/device/mma.h"
#include "test_inputs.h"

namespace {

using namespace bidiff::cuda;

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
}

struct MmaArguments {
  unsigned (*a)[4];
  unsigned (*b)[2];
  int (*d)[4];
};

struct CopyArguments {
  const unsigned* from;
  unsigned* to;
  bool waits;
};

struct NoArguments {
  char none;
};

struct PointerArguments {
  const unsigned* from;
};

}  // namespace

#define MMA_KERNEL_16(name)                                                                 \
  BIDIFF_KERNEL(test_##name, MmaArguments, 32, 1) {                                         \
    const int lane = thread_index();                                                        \
    name(arguments.d[lane], arguments.a[lane], arguments.b[lane][0], arguments.b[lane][1]); \
  }
#define MMA_KERNEL_8(name)                                                                        \
  BIDIFF_KERNEL(test_##name, MmaArguments, 32, 1) {                                               \
    const int lane = thread_index();                                                              \
    name(arguments.d[lane][0], arguments.d[lane][1], arguments.a[lane][0], arguments.b[lane][0]); \
  }
MMA_KERNEL_16(mma_xor_16)
MMA_KERNEL_16(mma_and_16)
MMA_KERNEL_16(mma_int8_16)
MMA_KERNEL_8(mma_xor_8)
MMA_KERNEL_8(mma_int8_8)

BIDIFF_KERNEL(test_copy, CopyArguments, 32, 1) {
  unsigned* shared = shared_memory();
  copy16(shared + 4 * thread_index(), arguments.from + 4 * thread_index());
  commit_copies();
  if (arguments.waits) wait_copies<0>();
  synchronize_block();
  for (int i = 0; i < 4; ++i) {
    const int index = 4 * ((thread_index() + 1) % 32) + i;
    arguments.to[index] = shared[index];
  }
}

BIDIFF_KERNEL(test_half_a_barrier, NoArguments, 64, 1) {
  (void)arguments;
  if (thread_index() < 40) synchronize_block();
}

BIDIFF_KERNEL(test_two_operations, NoArguments, 32, 1) {
  (void)arguments;
  int d0 = 0, d1 = 0;
  if (thread_index() < 8) {
    mma_xor_8(d0, d1, 0, 0);
  } else {
    shuffle(0.0f, 0);
  }
}

BIDIFF_KERNEL(test_misaligned, PointerArguments, 32, 1) {
  load(reinterpret_cast<const Words4*>(arguments.from + 1));
}

namespace {

std::string run(const char* name, unsigned threads, unsigned shared, const void* arguments) {
  const emulated::Kernel* kernel = emulated::find_kernel(80, name);
  if (!kernel) return std::string("no kernel ") + name;
  const unsigned grid[3] = {1, 1, 1}, block[3] = {threads, 1, 1};
  return emulated::launch(*kernel, grid, block, shared, arguments);
}

// Formulas of the PTX ISA for element i of a lane's fragment of A, B and D: (row, column).
struct At {
  int row, column;
};
struct Fragments {
  int rows, k, bits;  // bits of an element
  At a(int group, int thread, int i) const {
    const int own = 32 / bits;  // elements of a register
    const bool lower = i / own % 2 == 1, second = i >= 2 * own;
    return {lower ? group + 8 : group, thread * own + i % own + (second ? 4 * own : 0)};
  }
  At b(int group, int thread, int i) const {
    const int own = 32 / bits;
    return {thread * own + i % own + (i >= own ? 4 * own : 0), group};
  }
  At d(int group, int thread, int i) const {
    return {i < 2 ? group : group + 8, thread * 2 + (i & 1)};
  }
};

void test_mma(const char* name, const Fragments& form,
              const std::function<int(int, int)>& product) {
  Inputs random(5);
  const int mask = form.bits == 8 ? 255 : 1, own = 32 / form.bits, registers = form.rows / 8;
  std::vector<int> a(static_cast<size_t>(form.rows * form.k)), b(static_cast<size_t>(form.k * 8));
  for (int& value : a) value = static_cast<int>(random.bits()) & mask;
  for (int& value : b) value = static_cast<int>(random.bits()) & mask;
  unsigned fragment_a[32][4] = {}, fragment_b[32][2] = {};
  int d[32][4], before[32][4];
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, thread = lane % 4;
    for (int i = 0; i < form.rows * form.k / 32; ++i) {
      const At at = form.a(group, thread, i);
      fragment_a[lane][i / own] |=
          static_cast<unsigned>(a[static_cast<size_t>(at.row * form.k + at.column)])
          << i % own * form.bits;
    }
    for (int i = 0; i < form.k * 8 / 32; ++i) {
      const At at = form.b(group, thread, i);
      fragment_b[lane][i / own] |=
          static_cast<unsigned>(b[static_cast<size_t>(at.row * 8 + at.column)])
          << i % own * form.bits;
    }
    for (int i = 0; i < 4; ++i) before[lane][i] = d[lane][i] = random.one_of(1000) - 500;
  }
  const MmaArguments arguments{fragment_a, fragment_b, d};
  const std::string failure = run(name, 32, 0, &arguments);
  expect(failure.empty(), failure);
  bool equal = true;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 2 * registers; ++i) {
      const At at = form.d(lane / 4, lane % 4, i);
      int sum = before[lane][i];
      for (int k = 0; k < form.k; ++k) {
        sum += product(a[static_cast<size_t>(at.row * form.k + k)],
                       b[static_cast<size_t>(k * 8 + at.column)]);
      }
      equal = equal && sum == d[lane][i];
    }
  }
  expect(equal, std::string(name) + " is not the product");
}

void test_halves() {
  bool round = true;
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const float value = emulated::half_to_float(static_cast<uint16_t>(bits));
    const bool nan = (bits & 0x7fff) > 0x7c00;
    round = round && (nan ? std::isnan(value) : emulated::float_to_half(value) == bits);
    // Midway to the next larger float16: a tie goes to the even one, its neighbours do not.
    if (nan || (bits & 0x7fff) >= 0x7bff) continue;
    const float next = emulated::half_to_float(static_cast<uint16_t>(bits + 1));
    const float middle = (value + next) / 2;
    const unsigned even = bits & 1 ? bits + 1 : bits;
    round = round && emulated::float_to_half(middle) == even &&
            emulated::float_to_half(std::nextafter(middle, value)) == bits &&
            emulated::float_to_half(std::nextafter(middle, next)) == bits + 1;
  }
  expect(round, "float16 is not rounded to nearest even");
  expect(emulated::float_to_half(65519.0f) == 0x7bff, "65519 is the largest float16");
  expect(emulated::float_to_half(65520.0f) == 0x7c00, "65520 is infinite");
}

void test_copies() {
  alignas(16) unsigned from[128];
  unsigned to[128];
  for (unsigned i = 0; i < 128; ++i) from[i] = 3 * i;
  CopyArguments arguments{from, to, true};
  expect(run("test_copy", 32, 512, &arguments).empty(), "the copy failed");
  bool equal = true;
  for (unsigned i = 0; i < 128; ++i) equal = equal && to[i] == from[i];
  expect(equal, "a copy that was waited for is not there");
  arguments.waits = false;
  expect(run("test_copy", 32, 512, &arguments).empty(), "the copy failed");
  bool garbage = true;
  for (const unsigned word : to) garbage = garbage && word == 0xffffffffu;
  expect(garbage, "a copy is there although nobody waited for it");
}

void test_misbehaviour() {
  const NoArguments none{};
  alignas(16) const unsigned words[8] = {};
  const PointerArguments pointer{words};
  const auto says = [](const std::string& failure, const char* part) {
    expect(failure.find(part) != std::string::npos, "'" + failure + "' should say: " + part);
  };
  says(run("test_half_a_barrier", 64, 0, &none), "barrier that others never reach");
  says(run("test_two_operations", 32, 0, &none), "different operations");
  says(run("test_misaligned", 32, 0, &pointer), "not aligned");
  says(run("test_copy", 64, 0, &none), "more threads than");
  says(run("test_half_a_barrier", 33, 0, &none), "whole warps");
  says(run("test_half_a_barrier", 32, 50000, &none), "48 KiB");
  expect(!emulated::find_kernel(90, "bidiff_binary_conv_xor_f32"), "sm_90 has no xor");
}

}  // namespace

int main() {
  const auto bit_xor = [](int a, int b) { return a ^ b; };
  const auto bit_and = [](int a, int b) { return a & b; };
  const auto times = [](int a, int b) { return static_cast<int8_t>(a) * static_cast<int8_t>(b); };
  test_mma("test_mma_xor_16", {16, 256, 1}, bit_xor);
  test_mma("test_mma_and_16", {16, 256, 1}, bit_and);
  test_mma("test_mma_int8_16", {16, 32, 8}, times);
  test_mma("test_mma_xor_8", {8, 128, 1}, bit_xor);
  test_mma("test_mma_int8_8", {8, 16, 8}, times);
  test_halves();
  test_copies();
  test_misbehaviour();
  std::printf("the CUDA stand-in: %d failed\n", failures);
  return failures ? 1 : 0;
}
