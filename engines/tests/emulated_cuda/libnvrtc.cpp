// A compiler that makes cubins without code, for tests of everything around NVRTC.
//
// BIDIFF_EMULATED_NVRTC is its version, default 12090; BIDIFF_EMULATED_NVRTC_GPUS what it compiles
// for, default "75,80,86,87,89,90,100,120". BIDIFF_EMULATED_FAIL works here too.
#include <cstdlib>
#include <cstring>

#include "images.h"
#include "state.h"

using namespace bidiff::cuda::emulated;

#define EMULATED extern "C" __attribute__((visibility("default"))) int

namespace {

struct Program {
  std::string source, image, log;
  bool is_ptx = false;
};

std::vector<int> supported() {
  const char* listed = std::getenv("BIDIFF_EMULATED_NVRTC_GPUS");
  if (!listed) return {75, 80, 86, 87, 89, 90, 100, 120};
  std::vector<int> found;
  for (const char* at = listed; *at;) {
    char* end = nullptr;
    found.push_back(static_cast<int>(std::strtol(at, &end, 10)));
    at = *end ? end + 1 : end;
  }
  return found;
}

int copy(const std::string& text, char* to) {
  std::memcpy(to, text.data(), text.size());
  return 0;
}

}  // namespace

EMULATED nvrtcVersion(int* major, int* minor) {
  const char* given = std::getenv("BIDIFF_EMULATED_NVRTC");
  const int version = given ? std::atoi(given) : 12090;
  *major = version / 1000;
  *minor = version % 1000 / 10;
  return 0;
}

EMULATED nvrtcGetNumSupportedArchs(int* count) {
  *count = static_cast<int>(supported().size());
  return 0;
}

EMULATED nvrtcGetSupportedArchs(int* architectures) {
  for (const int known : supported()) *architectures++ = known;
  return 0;
}

EMULATED nvrtcCreateProgram(Program** program, const char* source, const char*, int headers,
                            const char* const* texts, const char* const*) {
  *program = new Program;
  (*program)->source = source;
  for (int i = 0; i < headers; ++i) (*program)->source += texts[i];
  return enter("nvrtcCreateProgram");
}

EMULATED nvrtcCompileProgram(Program* program, int count, const char* const* options) {
  if (const int failure = enter("nvrtcCompileProgram")) {
    program->log = "kernels.cu(7): error: emulated\nand more\n";
    return failure;
  }
  for (int i = 0; i < count; ++i) {
    const char* architecture = std::strstr(options[i], "--gpu-architecture=");
    if (!architecture) continue;
    program->is_ptx = std::strstr(architecture, "compute_");
    const int number = std::atoi(std::strchr(architecture, '_') + 1);
    program->image = program->is_ptx ? ".version 8.7\n.target sm_" + std::to_string(number) + "\n"
                                     : make_cubin(number, program->source);
    return 0;
  }
  return 5;  // NVRTC_ERROR_INVALID_OPTION
}

EMULATED nvrtcDestroyProgram(Program** program) {
  delete *program;
  *program = nullptr;
  return 0;
}

EMULATED nvrtcGetProgramLogSize(Program* program, size_t* size) {
  *size = program->log.size() + 1;
  return 0;
}
EMULATED nvrtcGetProgramLog(Program* program, char* log) { return copy(program->log + '\0', log); }
EMULATED nvrtcGetCUBINSize(Program* program, size_t* size) {
  *size = program->is_ptx ? 0 : program->image.size();
  return 0;
}
EMULATED nvrtcGetCUBIN(Program* program, char* cubin) { return copy(program->image, cubin); }
EMULATED nvrtcGetPTXSize(Program* program, size_t* size) {
  *size = program->is_ptx ? program->image.size() + 1 : 0;
  return 0;
}
EMULATED nvrtcGetPTX(Program* program, char* ptx) { return copy(program->image + '\0', ptx); }
