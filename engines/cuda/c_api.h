// The CUDA part of the library for Python's ctypes: for tests, doctor and tools/gpu_check.
//
// As in ../c_api.h, what can fail returns 0 on success, else 1 and one sentence in `error`. A
// `device` is a GPU's number; its context is the calling thread's current one if that belongs to
// the same GPU, else the primary one. Pointers to the GPU's memory are uint64_t.
#pragma once

#include "../c_api.h"

struct BidiffCudaDevice {
  int32_t ordinal, architecture, multiprocessors, driver_version;
  uint64_t memory, shared_per_block;
  double memory_bandwidth;  // bytes per second, 0 if unknown
  char name[256];
};

// problem.h's Problem.
struct BidiffCudaProblem {
  int32_t op, element;
  int64_t batch, channels, height, width, out_channels, k, groups;
  uint64_t branch[2][4];  // prepared, alpha, threshold, rprelu
  uint64_t x, second, residual, skip, time, scale, bias, y;
  int32_t residual_is_scalar, time_is_scalar, skip_is_scalar;
};

BIDIFF_PUBLIC int bidiff_cuda_device_count(int* count, char* error, size_t error_size);
BIDIFF_PUBLIC int bidiff_cuda_device_info(int device, BidiffCudaDevice* info, char* error,
                                          size_t error_size);

// Architectures whose machine code is embedded, "75 80" or "", its bytes, and the version of nvcc.
BIDIFF_PUBLIC const char* bidiff_cuda_embedded(int* toolkit, uint64_t* bytes);
// NVRTC libraries to try before those that the loader finds, one per line. For the whole process.
BIDIFF_PUBLIC int bidiff_cuda_set_nvrtc(const char* files, char* error, size_t error_size);
// Compiles a unit for an architecture, with the NVRTC chosen for a driver of this version, to
// FOLDER/NAME.cubin or NAME.ptx. Needs no GPU. `option`: an extra compiler option, or null.
// `report` receives "NVRTC 12.9 (FILE): sm_75"
BIDIFF_PUBLIC int bidiff_cuda_compile(const char* unit, int architecture, int driver_version,
                                      const char* option, const char* folder, char* report,
                                      size_t report_size, char* error, size_t error_size);
// Names of the units, such as "maps.cu", one per line.
BIDIFF_PUBLIC int bidiff_cuda_units(char* names, size_t names_size, char* error, size_t error_size);

// Loads the kernels of a path; `origin` receives where they come from.
BIDIFF_PUBLIC int bidiff_cuda_load(int device, const char* path, char* origin, size_t origin_size,
                                   char* error, size_t error_size);
// Registers and local bytes of a thread, static shared bytes of a block.
BIDIFF_PUBLIC int bidiff_cuda_kernel_use(int device, const char* kernel, int* registers,
                                         int* local_bytes, int* shared_bytes, char* error,
                                         size_t error_size);

BIDIFF_PUBLIC int bidiff_cuda_memory(int device, uint64_t* free, uint64_t* total, char* error,
                                     size_t error_size);
// `purpose`, `units` and `unit` ("images"; 0: none) appear in the error if memory is short.
BIDIFF_PUBLIC int bidiff_cuda_allocate(int device, uint64_t bytes, const char* purpose,
                                       int64_t units, const char* unit, uint64_t* pointer,
                                       char* error, size_t error_size);
BIDIFF_PUBLIC int bidiff_cuda_release(int device, uint64_t pointer, char* error, size_t error_size);
BIDIFF_PUBLIC int bidiff_cuda_upload(int device, uint64_t to, const void* from, uint64_t bytes,
                                     char* error, size_t error_size);
BIDIFF_PUBLIC int bidiff_cuda_download(int device, void* to, uint64_t from, uint64_t bytes,
                                       char* error, size_t error_size);

// Paths compiled for an architecture, fastest first, as text "xor and int8 popc"; and the one that
// BIDIFF_CUDA_PATH forces on a GPU, else "auto".
BIDIFF_PUBLIC int bidiff_cuda_paths(int architecture, char* names, size_t names_size, char* error,
                                    size_t error_size);
BIDIFF_PUBLIC int bidiff_cuda_forced_path(int device, char* name, size_t name_size, char* error,
                                          size_t error_size);
// Names of the kernels of an architecture, one per line.
BIDIFF_PUBLIC int bidiff_cuda_kernel_names(int architecture, char* names, size_t names_size,
                                           char* error, size_t error_size);

BIDIFF_PUBLIC int bidiff_cuda_prepared_bytes(int64_t out_channels, int64_t in_channels, int64_t k,
                                             uint64_t* bytes, char* error, size_t error_size);
BIDIFF_PUBLIC int bidiff_cuda_workspace_bytes(const BidiffCudaProblem* problem, uint64_t* bytes,
                                              char* error, size_t error_size);
// The launches of a problem, one per line: kernel, grid x y z, block x y z, shared bytes, argument
// bytes. `path` as "auto", "xor", ... Needs no GPU.
BIDIFF_PUBLIC int bidiff_cuda_launches(const BidiffCudaProblem* problem, int architecture,
                                       const char* path, char* launches, size_t launches_size,
                                       char* error, size_t error_size);

// Words (Cout, k, k, ceil(Cin/32)) on the GPU -> their device form. Returns when done.
BIDIFF_PUBLIC int bidiff_cuda_prepare(int device, int64_t out_channels, int64_t in_channels,
                                      int64_t k, uint64_t words, uint64_t prepared, char* error,
                                      size_t error_size);
// Runs a problem and waits until it is done.
BIDIFF_PUBLIC int bidiff_cuda_run(int device, const BidiffCudaProblem* problem, const char* path,
                                  uint64_t workspace, char* error, size_t error_size);
// Milliseconds per problem, see timing.h.
BIDIFF_PUBLIC int bidiff_cuda_time(int device, const BidiffCudaProblem* problems, int count,
                                   const char* path, uint64_t workspace, int rounds, int as_graph,
                                   double* milliseconds, char* error, size_t error_size);
