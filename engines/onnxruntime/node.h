// What every operator of the library has in common: reading tensors, refusing, running threads.
#pragma once

#include <cstdint>
#include <exception>
#include <string>

#include "../float/maps.h"
#include "../kernels/check.h"
#include "abi.h"

namespace bidiff::ort {

// Carries a status of ONNX Runtime, or a sentence of ours, to the C boundary.
struct Refusal {
  Status* status;
};

void check(Status* status);
void refuse_unless_empty(const Api& api, const std::string& sentence);

template <class Body>
Status* guarded(const Api& api, const char* name, Body body) {
  try {
    body();
    return nullptr;
  } catch (const Refusal& refusal) {
    return refusal.status;
  } catch (const std::exception& error) {
    return api.create_status(kFail, ("bidiff::" + std::string(name) + ": " + error.what()).c_str());
  }
}

struct Tensor {
  Dims dims;
  const void* data = nullptr;  // null if the optional input was left out

  const float* floats() const { return static_cast<const float*>(data); }
  const int32_t* integers() const { return static_cast<const int32_t*>(data); }
  bool is_scalar() const { return element_count(dims) == 1; }
};

Dims read_dims(const Api& api, const TensorInfo* info);
Tensor read_tensor(const Api& api, const Value* value);

// One run of a node.
class Call {
 public:
  Call(const Api& api, KernelContext* context, const char* op);

  Tensor input(size_t index) const;
  float* output(const Dims& dims) const;               // in the processor's memory
  void* output_data(const Dims& dims) const;           // of any type, in any memory
  void* gpu_stream() const;                            // null on CPUs
  Parallel parallel() { return Parallel{this, run}; }  // ONNX Runtime's own threads
  void finish(bool done) const;  // throws if the threads failed or memory is short

  void require(bool fits, const std::string& sentence) const;
  void require(const std::string& sentence) const { refuse_unless_empty(api_, sentence); }
  MapShape map(const Tensor& tensor, const char* name) const;  // (N, C, H, W), none of them 0
  const float* vector(const Tensor& tensor, const char* name, int64_t length, bool or_one) const;

 private:
  static void run(void* host, void (*task)(void*, size_t), size_t count, void* user);

  const Api& api_;
  KernelContext* context_;
  const char* op_;
  size_t count_ = 0;
  Status* status_ = nullptr;
};

// For a node whose session is being created.
Tensor constant_input(const Api& api, const KernelInfo* info,
                      size_t index);  // no data if it is not constant
Dims input_dims(const Api& api, const KernelInfo* info, size_t index);  // empty if unknown
float float_attribute(const Api& api, const KernelInfo* info, const char* name);
int64_t integer_attribute(const Api& api, const KernelInfo* info, const char* name);
std::string text_attribute(const Api& api, const KernelInfo* info, const char* name);

}  // namespace bidiff::ort
