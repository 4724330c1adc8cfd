// Prints the kernel that this CPU and BIDIFF_KERNEL select, the float kernels that go with it, and
// whether those round factors; or the error, with exit code 1.
#include <cstdio>

#include "../c_api.h"

int main() {
  char error[1024];
  const char* kernel = bidiff_selected_kernel(error, sizeof(error));
  if (!kernel) {
    std::puts(error);
    return 1;
  }
  std::printf("%s %s %d\n", kernel, bidiff_float_kernels(), bidiff_has_bfloat16());
  return 0;
}
