// The part of ONNX Runtime's C ABI that a custom-op library needs, declared without its headers,
// which no Python package ships.
//
// OrtApi is a table of function pointers that only ever grows at its end, so a function's slot
// number never changes. Version 18 is the lowest that has every slot used here; asking for the
// lowest keeps the library loadable by every newer ONNX Runtime.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bidiff::ort {

constexpr uint32_t kApiVersion = 18;

struct Status;
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct ShapeInferContext;
struct TypeInfo;
struct TensorInfo;  // OrtTensorTypeAndShapeInfo
struct Value;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum ElementType : int { kFloat = 1, kInt32 = 6, kFloat16 = 10 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };
enum MemoryType : int { kHostInput = -2, kDeviceMemory = 0 };  // where an input must be

struct Api {
  void* slots[1];

  template <class Function>
  Function at(size_t slot) const {
    return reinterpret_cast<Function>(slots[slot]);
  }

#define BIDIFF_ORT(slot, name, result, parameters, arguments) \
  result name parameters const { return at<result(*) parameters>(slot) arguments; }

  // clang-format off: it takes pointer parameters in macro arguments for products.
  BIDIFF_ORT(0, create_status, Status*, (ErrorCode code, const char* text), (code, text))
  BIDIFF_ORT(26, create_domain, Status*, (const char* name, CustomOpDomain** out), (name, out))
  BIDIFF_ORT(27, add_op, Status*, (CustomOpDomain* domain, const struct CustomOp* op),
             (domain, op))
  BIDIFF_ORT(28, add_domain, Status*, (SessionOptions* options, CustomOpDomain* domain),
             (options, domain))
  BIDIFF_ORT(51, tensor_data, Status*, (Value* value, void** out), (value, out))
  BIDIFF_ORT(55, as_tensor_info, Status*, (const TypeInfo* type, const TensorInfo** out),
             (type, out))
  BIDIFF_ORT(57, create_tensor_info, Status*, (TensorInfo** out), (out))
  BIDIFF_ORT(58, set_element_type, Status*, (TensorInfo* info, ElementType type), (info, type))
  BIDIFF_ORT(59, set_dimensions, Status*, (TensorInfo* info, const int64_t* dims, size_t count),
             (info, dims, count))
  BIDIFF_ORT(60, element_type, Status*, (const TensorInfo* info, ElementType* out), (info, out))
  BIDIFF_ORT(61, dimension_count, Status*, (const TensorInfo* info, size_t* out), (info, out))
  BIDIFF_ORT(62, dimensions, Status*, (const TensorInfo* info, int64_t* out, size_t count),
             (info, out, count))
  BIDIFF_ORT(63, symbolic_dimensions, Status*,
             (const TensorInfo* info, const char** out, size_t count), (info, out, count))
  BIDIFF_ORT(65, tensor_info, Status*, (const Value* value, TensorInfo** out), (value, out))
  BIDIFF_ORT(85, attribute_float, Status*, (const KernelInfo* info, const char* name, float* out),
             (info, name, out))
  BIDIFF_ORT(86, attribute_int64, Status*,
             (const KernelInfo* info, const char* name, int64_t* out), (info, name, out))
  BIDIFF_ORT(87, attribute_string, Status*,
             (const KernelInfo* info, const char* name, char* out, size_t* size),
             (info, name, out, size))
  BIDIFF_ORT(88, input_count, Status*, (const KernelContext* context, size_t* out),
             (context, out))
  BIDIFF_ORT(90, input, Status*, (const KernelContext* context, size_t index, const Value** out),
             (context, index, out))
  BIDIFF_ORT(91, output, Status*,
             (KernelContext* context, size_t index, const int64_t* dims, size_t count, Value** out),
             (context, index, dims, count, out))
  BIDIFF_ORT(93, release_status, void, (Status* status), (status))
  BIDIFF_ORT(98, release_type_info, void, (TypeInfo* type), (type))
  BIDIFF_ORT(99, release_tensor_info, void, (TensorInfo* info), (info))
  BIDIFF_ORT(193, gpu_stream, Status*, (const KernelContext* context, void** out), (context, out))
  BIDIFF_ORT(234, kernel_input_type, Status*,
             (const KernelInfo* info, size_t index, TypeInfo** out), (info, index, out))
  BIDIFF_ORT(249, constant_input, Status*,
             (const KernelInfo* info, size_t index, int* is_constant, const Value** out),
             (info, index, is_constant, out))
  BIDIFF_ORT(267, shape_input_count, Status*, (const ShapeInferContext* context, size_t* out),
             (context, out))
  BIDIFF_ORT(268, shape_input, Status*,
             (const ShapeInferContext* context, size_t index, TensorInfo** out),
             (context, index, out))
  BIDIFF_ORT(270, set_shape_output, Status*,
             (const ShapeInferContext* context, size_t index, const TensorInfo* info),
             (context, index, info))
  BIDIFF_ORT(271, set_symbolic_dimensions, Status*,
             (TensorInfo* info, const char** names, size_t count), (info, names, count))
  BIDIFF_ORT(274, parallel_for, Status*,
             (const KernelContext* context, void (*task)(void*, size_t), size_t count,
              size_t batches, void* user),
             (context, task, count, batches, user))
  // clang-format on
#undef BIDIFF_ORT
};

struct ApiBase {
  const Api* (*get_api)(uint32_t version);
  const char* (*version)();
};

// OrtCustomOp as of API 18. Fields that stay null are features this library does not use.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*execution_provider)(const CustomOp*);
  ElementType (*input_type)(const CustomOp*, size_t index);
  size_t (*input_count)(const CustomOp*);
  ElementType (*output_type)(const CustomOp*, size_t index);
  size_t (*output_count)(const CustomOp*);
  void (*compute)(void* kernel, KernelContext*);
  void (*destroy)(void* kernel);
  Characteristic (*input_characteristic)(const CustomOp*, size_t index);
  Characteristic (*output_characteristic)(const CustomOp*, size_t index);
  int (*input_memory_type)(const CustomOp*, size_t index);
  int (*variadic_input_min)(const CustomOp*);
  int (*variadic_input_homogeneity)(const CustomOp*);
  int (*variadic_output_min)(const CustomOp*);
  int (*variadic_output_homogeneity)(const CustomOp*);
  Status* (*create_kernel_v2)(const CustomOp*, const Api*, const KernelInfo*, void** kernel);
  Status* (*compute_v2)(void* kernel, KernelContext*);
  Status* (*infer_shape)(const CustomOp*, ShapeInferContext*);
  int (*start_version)(const CustomOp*);
  int (*end_version)(const CustomOp*);
  size_t (*may_inplace)(int** inputs, int** outputs);
  void (*release_may_inplace)(int* inputs, int* outputs);
  size_t (*alias_map)(int** inputs, int** outputs);
  void (*release_alias_map)(int* inputs, int* outputs);
};
static_assert(sizeof(void*) != 8 || sizeof(CustomOp) == 208, "layout of OrtCustomOp, API 18");
static_assert(sizeof(void*) != 8 || offsetof(CustomOp, create_kernel_v2) == 136, "layout");
static_assert(sizeof(void*) != 8 || offsetof(CustomOp, may_inplace) == 176, "layout");

}  // namespace bidiff::ort
