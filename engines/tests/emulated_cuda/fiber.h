// Threads of execution that switch to each other explicitly, each on its own stack.
#pragma once

#include <cstddef>

// A thread-local variable that is found without a call, also in a library.
#define BIDIFF_THREAD_LOCAL __thread __attribute__((tls_model("initial-exec")))

namespace bidiff::cuda::emulated {

// A fiber that has never run starts `entry(user)` when it is first switched to; `entry` never
// returns. The fiber of the calling thread needs no start.
class Fiber {
 public:
  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Forgets what it ran before.
  void start(void (*entry)(void* user), void* user);
  // Suspends `from`, which is running, and continues this one.
  void resume(Fiber* from);

 private:
  static void first();

  void* stack_ = nullptr;  // lowest address, or null for a thread's own
  void* position_ = nullptr;
  void (*entry_)(void* user) = nullptr;
  void* user_ = nullptr;
  void* sanitizer_ = nullptr;
  const void* bottom_ = nullptr;  // of the stack, for the sanitizer
  size_t size_ = 0;
};

}  // namespace bidiff::cuda::emulated
