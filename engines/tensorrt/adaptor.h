// What both plugin interfaces need of TensorRT's headers: tensors, attributes, errors, creators.
#pragma once

#include <NvInferRuntime.h>

#include <exception>
#include <string>
#include <vector>

#include "built_for.h"
#include "plugin_core.h"

namespace bidiff::tensorrt {

#if NV_TENSORRT_MAJOR >= 10
using Creator = nvinfer1::IPluginCreatorInterface;
#else
using Creator = nvinfer1::IPluginCreator;
#endif

// One for each operator, of the interface that this library was built for; never destroyed.
const std::vector<Creator*>& creators();

// Logs to TensorRT's logger, or to stderr if it has none yet.
void log(nvinfer1::ILogger::Severity severity, const std::string& sentence) noexcept;
// The logger to use instead, in a library that TensorRT has loaded itself.
void set_logger(nvinfer1::ILogger* logger) noexcept;

// The result of `body`, or `failure` after an error was logged: no exception may cross into
// TensorRT.
template <class Result, class Body>
Result guarded(Result failure, Body body) noexcept {
  try {
    return body();
  } catch (const std::exception& error) {
    log(nvinfer1::ILogger::Severity::kERROR, error.what());
  } catch (...) {
    log(nvinfer1::ILogger::Severity::kERROR, "bidiff: an unknown error");
  }
  return failure;
}

// Larger than any GPU's memory, so that a node whose workspace cannot be computed is not run.
constexpr size_t kImpossibleWorkspace = size_t{1} << 60;

template <class TensorRtDims>
Tensor tensor(const nvinfer1::PluginTensorDesc& from, const TensorRtDims& dims) {
  Tensor made{{}, Type::kOther, from.format == nvinfer1::TensorFormat::kLINEAR};
  made.dims.assign(dims.d, dims.d + (dims.nbDims > 0 ? dims.nbDims : 0));
  switch (from.type) {
    case nvinfer1::DataType::kFLOAT: made.type = Type::kFloat32; break;
    case nvinfer1::DataType::kHALF: made.type = Type::kFloat16; break;
    case nvinfer1::DataType::kINT32: made.type = Type::kInt32; break;
    default: break;
  }
  return made;
}
inline std::vector<Tensor> tensors(const nvinfer1::PluginTensorDesc* from, int count) {
  std::vector<Tensor> made;
  for (int i = 0; i < count; ++i) made.push_back(tensor(from[i], from[i].dims));
  return made;
}
// The largest shapes, where they may vary.
inline std::vector<Tensor> largest(const nvinfer1::DynamicPluginTensorDesc* from, int count) {
  std::vector<Tensor> made;
  for (int i = 0; i < count; ++i) made.push_back(tensor(from[i].desc, from[i].max));
  return made;
}

// Dimensions of the output as TensorRT computes them. Throws cuda::Error.
nvinfer1::DimsExprs output_dimensions(const PluginCore& core, const nvinfer1::DimsExprs* inputs,
                                      int count, nvinfer1::IExprBuilder& builder);

// Attributes that a node of this operator may have, for its creator.
std::vector<nvinfer1::PluginField> attribute_fields(const Operator& of);
// Throws cuda::Error for a value that is not an integer.
Attributes read_attributes(const Operator& of, const nvinfer1::PluginFieldCollection* fields);

// What the creators of both interfaces have in common.
template <class Interface>
class OperatorCreator : public Interface {
 public:
  explicit OperatorCreator(const Operator& of)
      : of_(of),
        attributes_(attribute_fields(of)),
        fields_{static_cast<int32_t>(attributes_.size()), attributes_.data()} {}

  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &fields_; }
  const char* getPluginName() const noexcept override { return of_.name; }
  const char* getPluginVersion() const noexcept override { return kVersion; }

 protected:
  const Operator& of_;

 private:
  std::vector<nvinfer1::PluginField> attributes_;
  nvinfer1::PluginFieldCollection fields_;
};

template <class Made>
const std::vector<Creator*>& creators_of_all_operators() {
  static const auto* all = [] {
    auto* made = new std::vector<Creator*>;
    for (const Operator& of : operators()) made->push_back(new Made(of));
    return made;
  }();
  return *all;
}

}  // namespace bidiff::tensorrt
