// A plugin as TensorRT 10 and 11 use it, as far as IPluginV3 specifies it.
#pragma once

#include <memory>

#include "tensorrt_stand_in.h"

namespace host {

using Creator = nvinfer1::IPluginCreatorV3One;
using TensorRtCreator = nvinfer1::IPluginCreatorInterface;  // as getCreators returns it

class Plugin {
 public:
  explicit Plugin(nvinfer1::IPluginV3* made) : plugin_(made) {}

  static Plugin create(Creator& creator, const nvinfer1::PluginFieldCollection& fields) {
    return Plugin(creator.createPlugin("node", &fields, nvinfer1::TensorRTPhase::kBUILD));
  }
  // A state is the type, length and bytes of one field, which is called "state".
  static Plugin from_engine(Creator& creator, const std::string& state) {
    const nvinfer1::PluginField field("state", state.data(), nvinfer1::PluginFieldType::kINT32,
                                      static_cast<int32_t>(state.size() / 4));
    const nvinfer1::PluginFieldCollection fields{1, &field};
    return Plugin(creator.createPlugin("node", &fields, nvinfer1::TensorRTPhase::kRUNTIME));
  }
  bool exists() const { return plugin_ != nullptr; }
  std::string name() const {
    auto* core = part<nvinfer1::IPluginV3OneCore>(nvinfer1::PluginCapabilityType::kCORE);
    return std::string(core->getPluginNamespace()) + "::" + core->getPluginName() + " " +
           core->getPluginVersion();
  }
  nvinfer1::DataType output_type(const nvinfer1::DataType* inputs, int count) const {
    nvinfer1::DataType type{};
    if (build()->getOutputDataTypes(&type, 1, inputs, count)) return nvinfer1::DataType::kBOOL;
    return type;
  }
  nvinfer1::DimsExprs output_shape(const nvinfer1::DimsExprs* inputs, int count,
                                   nvinfer1::IExprBuilder& builder) {
    nvinfer1::DimsExprs shape{};
    if (build()->getOutputShapes(inputs, count, nullptr, 0, &shape, 1, builder)) {
      shape.nbDims = -1;
    }
    return shape;
  }
  bool supports(int position, const nvinfer1::DynamicPluginTensorDesc* all, int inputs) {
    return build()->supportsFormatCombination(position, all, inputs, 1);
  }
  void configure(const nvinfer1::DynamicPluginTensorDesc* all, int inputs) {
    if (build()->configurePlugin(all, inputs, all + inputs, 1)) plugin_.reset();
  }
  std::string state() {
    const nvinfer1::PluginFieldCollection* fields = runtime()->getFieldsToSerialize();
    if (fields->nbFields != 1 || std::string(fields->fields[0].name) != "state") return "";
    return {static_cast<const char*>(fields->fields[0].data),
            static_cast<size_t>(fields->fields[0].length) * 4};
  }
  // Of an execution context, for tensors of these shapes.
  Plugin in_context(const nvinfer1::DynamicPluginTensorDesc* all, int inputs) {
    Plugin made(runtime()->attachToContext(nullptr));
    std::vector<nvinfer1::PluginTensorDesc> plain;
    for (int i = 0; i <= inputs; ++i) plain.push_back(all[i].desc);
    if (made.runtime()->onShapeChange(plain.data(), inputs, plain.data() + inputs, 1)) {
      made.plugin_.reset();
    }
    return made;
  }
  size_t workspace(const nvinfer1::DynamicPluginTensorDesc* all, int inputs) const {
    return build()->getWorkspaceSize(all, inputs, all + inputs, 1);
  }
  int enqueue(const nvinfer1::PluginTensorDesc* all, int inputs, const void* const* pointers,
              void* const* outputs, void* workspace, cudaStream_t stream) {
    return runtime()->enqueue(all, all + inputs, pointers, outputs, workspace, stream);
  }

 private:
  template <class Part>
  Part* part(nvinfer1::PluginCapabilityType type) const {
    return static_cast<Part*>(plugin_->getCapabilityInterface(type));
  }
  nvinfer1::IPluginV3OneBuild* build() const {
    return part<nvinfer1::IPluginV3OneBuild>(nvinfer1::PluginCapabilityType::kBUILD);
  }
  nvinfer1::IPluginV3OneRuntime* runtime() const {
    return part<nvinfer1::IPluginV3OneRuntime>(nvinfer1::PluginCapabilityType::kRUNTIME);
  }

  std::unique_ptr<nvinfer1::IPluginV3> plugin_;
};

}  // namespace host
