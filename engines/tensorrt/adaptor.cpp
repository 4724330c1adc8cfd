#include "adaptor.h"

#include <cstdio>
#include <cstring>

#define TEXT_OF(value) #value
#define TEXT(value) TEXT_OF(value)

namespace bidiff::tensorrt {

const char* headers_version() {
  return TEXT(NV_TENSORRT_MAJOR) "." TEXT(NV_TENSORRT_MINOR) "." TEXT(NV_TENSORRT_PATCH);
}
namespace {

constexpr const char *kGroups = "groups", *kInputs = "inputs", *kKernel = "kernel",
                     *kLayout = "layout";

// Parsers before TensorRT 10 have no 64-bit fields, hence no name for their type.
constexpr int kInt64Field = 10;

int64_t integer(const Operator& of, const nvinfer1::PluginField& field) {
  if (field.data && field.length == 1) {
    if (field.type == nvinfer1::PluginFieldType::kINT32) {
      int32_t value;
      std::memcpy(&value, field.data, sizeof(value));
      return value;
    }
    if (static_cast<int>(field.type) == kInt64Field) {
      int64_t value;
      std::memcpy(&value, field.data, sizeof(value));
      return value;
    }
  }
  throw cuda::Error(std::string("bidiff::") + of.name + ": attribute " + field.name +
                    " must be one integer");
}

}  // namespace

nvinfer1::DimsExprs output_dimensions(const PluginCore& core, const nvinfer1::DimsExprs* inputs,
                                      int count, nvinfer1::IExprBuilder& builder) {
  using nvinfer1::DimensionOperation;
  nvinfer1::DimsExprs made{};
  made.nbDims = kOutputRank;
  for (int axis = 0; axis < kOutputRank; ++axis) {
    const Extent extent = core.output_extent(count, axis);
    const nvinfer1::DimsExprs& from = inputs[extent.input];
    if (inputs[0].nbDims != kOutputRank || extent.axis >= from.nbDims) {
      throw cuda::Error(std::string("bidiff::") + core.type().name +
                        ": x must have shape (N, C, H, W), and alpha (Cout)");
    }
    const nvinfer1::IDimensionExpr* size = from.d[extent.axis];
    if (extent.multiply > 1) {
      size =
          builder.operation(DimensionOperation::kPROD, *size, *builder.constant(extent.multiply));
    }
    if (extent.divide > 1) {
      size = builder.operation(DimensionOperation::kFLOOR_DIV, *size,
                               *builder.constant(extent.divide));
    }
    made.d[axis] = size;
  }
  return made;
}

std::vector<nvinfer1::PluginField> attribute_fields(const Operator& of) {
  std::vector<const char*> names = {kInputs};
  if (has_norm(of)) names.push_back(kGroups);
  if (has_words(of)) names.insert(names.end(), {kKernel, kLayout});
  std::vector<nvinfer1::PluginField> fields;
  for (const char* name : names) {
    fields.emplace_back(name, nullptr, nvinfer1::PluginFieldType::kINT32, 1);
  }
  return fields;
}

Attributes read_attributes(const Operator& of, const nvinfer1::PluginFieldCollection* fields) {
  Attributes attributes;
  for (int i = 0; fields && i < fields->nbFields; ++i) {
    const nvinfer1::PluginField& field = fields->fields[i];
    const std::string name = field.name ? field.name : "";
    if (name == kGroups) attributes.groups = integer(of, field);
    if (name == kInputs) attributes.inputs = integer(of, field);
    if (name == kKernel) attributes.kernel = integer(of, field);
    if (name == kLayout) attributes.layout = integer(of, field);
  }
  return attributes;
}

}  // namespace bidiff::tensorrt
