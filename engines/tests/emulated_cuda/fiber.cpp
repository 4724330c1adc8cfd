#include "fiber.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <atomic>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace bidiff::cuda::emulated {
namespace {

constexpr size_t kStackBytes = size_t{256} << 10;  // touched only as far as it is used
// Stacks begin at different offsets, or all of a block's would compete for the same cache lines.
constexpr size_t kOffset = 17 * 64, kOffsets = 61;

BIDIFF_THREAD_LOCAL Fiber* starting;
BIDIFF_THREAD_LOCAL Fiber* left;  // the fiber that was suspended last

}  // namespace

#if defined(__x86_64__) && !defined(BIDIFF_PORTABLE_FIBERS)

// void bidiff_switch_stack(void** save, void* load): pushes what a function must preserve, saves
// the stack pointer and continues on another stack. swapcontext would do the same with two system
// calls, a hundred times slower.
asm(R"(
.text
.p2align 4
.type bidiff_switch_stack,@function
bidiff_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size bidiff_switch_stack,.-bidiff_switch_stack
)");
extern "C" void bidiff_switch_stack(void** save, void* load);

#define BIDIFF_SWITCH(from, to) bidiff_switch_stack(&(from)->position_, (to)->position_)

#else

#define BIDIFF_SWITCH(from, to)                                      \
  swapcontext(static_cast<ucontext_t*>(context(&(from)->position_)), \
              static_cast<ucontext_t*>((to)->position_))

namespace {
void* context(void** position) {
  if (!*position) *position = new ucontext_t;
  return *position;
}
}  // namespace

#endif

Fiber::~Fiber() {
#if !defined(__x86_64__) || defined(BIDIFF_PORTABLE_FIBERS)
  delete static_cast<ucontext_t*>(position_);
#endif
  if (stack_) munmap(stack_, kStackBytes);
}

void Fiber::first() {
  Fiber* self = starting;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &left->bottom_, &left->size_);
#endif
  self->entry_(self->user_);
}

void Fiber::start(void (*entry)(void* user), void* user) {
  if (!stack_) {
    stack_ = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack_ == MAP_FAILED) {
      stack_ = nullptr;
      throw std::bad_alloc();
    }
    bottom_ = stack_;
    static std::atomic<size_t> made{0};
    size_ = kStackBytes - made++ % kOffsets * kOffset;
  }
  entry_ = entry;
  user_ = user;
  sanitizer_ = nullptr;
#if defined(__x86_64__) && !defined(BIDIFF_PORTABLE_FIBERS)
  // As if first() had been called: six registers and its address. A function starts 8 bytes from
  // an address that is aligned to 16.
  void** top = reinterpret_cast<void**>(static_cast<char*>(stack_) + size_) - 1;
  *--top = reinterpret_cast<void*>(first);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  position_ = top;
#else
  ucontext_t* made = static_cast<ucontext_t*>(context(&position_));
  getcontext(made);
  made->uc_stack.ss_sp = stack_;
  made->uc_stack.ss_size = size_;
  made->uc_link = nullptr;
  makecontext(made, first, 0);
#endif
}

void Fiber::resume(Fiber* from) {
  starting = this;
  left = from;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from->sanitizer_, bottom_, size_);
#endif
  BIDIFF_SWITCH(from, this);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from->sanitizer_, &left->bottom_, &left->size_);
#endif
}

}  // namespace bidiff::cuda::emulated
