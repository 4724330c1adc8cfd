// A plugin as TensorRT 8.5 to 9 uses it, as far as IPluginV2DynamicExt specifies it.
#pragma once

#include <memory>

#include "tensorrt_stand_in.h"

namespace host {

using Creator = nvinfer1::IPluginCreator;
using TensorRtCreator = nvinfer1::IPluginCreator;  // as getPluginCreators returns it

class Plugin {
 public:
  explicit Plugin(nvinfer1::IPluginV2* made)
      : plugin_(static_cast<nvinfer1::IPluginV2DynamicExt*>(made)) {}

  static Plugin create(Creator& creator, const nvinfer1::PluginFieldCollection& fields) {
    return Plugin(creator.createPlugin("node", &fields));
  }
  static Plugin from_engine(Creator& creator, const std::string& state) {
    return Plugin(creator.deserializePlugin("node", state.data(), state.size()));
  }
  bool exists() const { return plugin_ != nullptr; }
  std::string name() const {
    return std::string(plugin_->getPluginNamespace()) + "::" + plugin_->getPluginType() + " " +
           plugin_->getPluginVersion();
  }
  nvinfer1::DataType output_type(const nvinfer1::DataType* inputs, int count) const {
    return plugin_->getOutputDataType(0, inputs, count);
  }
  nvinfer1::DimsExprs output_shape(const nvinfer1::DimsExprs* inputs, int count,
                                   nvinfer1::IExprBuilder& builder) {
    return plugin_->getOutputDimensions(0, inputs, count, builder);
  }
  bool supports(int position, const nvinfer1::DynamicPluginTensorDesc* all, int inputs) {
    std::vector<nvinfer1::PluginTensorDesc> plain;
    for (int i = 0; i <= position; ++i) plain.push_back(all[i].desc);
    return plugin_->supportsFormatCombination(position, plain.data(), inputs, 1);
  }
  void configure(const nvinfer1::DynamicPluginTensorDesc* all, int inputs) {
    plugin_->configurePlugin(all, inputs, all + inputs, 1);
  }
  std::string state() {
    std::string bytes(plugin_->getSerializationSize(), '\0');
    plugin_->serialize(&bytes[0]);
    return bytes;
  }
  // Of an execution context, for tensors of these shapes.
  Plugin in_context(const nvinfer1::DynamicPluginTensorDesc* all, int inputs) {
    if (plugin_->initialize()) return Plugin(nullptr);
    Plugin made(plugin_->clone());
    made.configure(all, inputs);
    return made;
  }
  size_t workspace(const nvinfer1::DynamicPluginTensorDesc* all, int inputs) const {
    std::vector<nvinfer1::PluginTensorDesc> plain;
    for (int i = 0; i <= inputs; ++i) {
      plain.push_back(all[i].desc);
      plain.back().dims = all[i].max;
    }
    return plugin_->getWorkspaceSize(plain.data(), inputs, plain.data() + inputs, 1);
  }
  int enqueue(const nvinfer1::PluginTensorDesc* all, int inputs, const void* const* pointers,
              void* const* outputs, void* workspace, cudaStream_t stream) {
    return plugin_->enqueue(all, all + inputs, pointers, outputs, workspace, stream);
  }

 private:
  struct Destroy {
    void operator()(nvinfer1::IPluginV2DynamicExt* plugin) const {
      plugin->terminate();
      plugin->destroy();
    }
  };
  std::unique_ptr<nvinfer1::IPluginV2DynamicExt, Destroy> plugin_;
};

}  // namespace host
