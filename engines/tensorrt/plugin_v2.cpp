// The plugin by the interface of TensorRT 8.5 to 9, IPluginV2DynamicExt, which 10 and 11 still
// have.
#include <cstring>

#include "adaptor.h"

namespace bidiff::tensorrt {
namespace {

constexpr int32_t kFailed = -1;

class PluginV2 : public nvinfer1::IPluginV2DynamicExt {
 public:
  PluginV2(const PluginCore& core, const std::string& space) : core_(core), namespace_(space) {}

  nvinfer1::IPluginV2DynamicExt* clone() const noexcept override {
    return guarded<nvinfer1::IPluginV2DynamicExt*>(nullptr, [&] { return new PluginV2(*this); });
  }
  void destroy() noexcept override { delete this; }

  const char* getPluginType() const noexcept override { return core_.type().name; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  void setPluginNamespace(const char* space) noexcept override {
    guarded(false, [&] {
      namespace_ = space ? space : "";
      return true;
    });
  }
  const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }

  int32_t getNbOutputs() const noexcept override { return 1; }
  nvinfer1::DataType getOutputDataType(int32_t, const nvinfer1::DataType* inputs,
                                       int32_t) const noexcept override {
    return inputs[0];
  }
  nvinfer1::DimsExprs getOutputDimensions(int32_t, const nvinfer1::DimsExprs* inputs, int32_t count,
                                          nvinfer1::IExprBuilder& builder) noexcept override {
    nvinfer1::DimsExprs none{};
    none.nbDims = -1;
    return guarded(none, [&] { return output_dimensions(core_, inputs, count, builder); });
  }
  bool supportsFormatCombination(int32_t position, const nvinfer1::PluginTensorDesc* all,
                                 int32_t inputs, int32_t outputs) noexcept override {
    return guarded(false, [&] {
      return core_.supports(position, tensors(all, position + 1).data(), inputs, outputs);
    });
  }
  // Also called before a run with other shapes. What fails here fails again in enqueue.
  void configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t count,
                       const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept override {
    guarded(false, [&] {
      core_.configure(largest(inputs, count).data(), count);
      if (initialised_) core_.load();
      return true;
    });
  }
  size_t getWorkspaceSize(const nvinfer1::PluginTensorDesc* inputs, int32_t count,
                          const nvinfer1::PluginTensorDesc*, int32_t) const noexcept override {
    return guarded(kImpossibleWorkspace,
                   [&] { return core_.workspace_bytes(tensors(inputs, count).data(), count); });
  }

  int32_t initialize() noexcept override {
    return guarded(kFailed, [&] {
      core_.load();
      initialised_ = true;
      return 0;
    });
  }
  void terminate() noexcept override { initialised_ = false; }
  int32_t enqueue(const nvinfer1::PluginTensorDesc* descriptions, const nvinfer1::PluginTensorDesc*,
                  const void* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override {
    return guarded(kFailed, [&] {
      core_.enqueue(tensors(descriptions, core_.input_count()).data(), inputs, outputs[0],
                    workspace, reinterpret_cast<cuda::Stream>(stream));
      return 0;
    });
  }

  size_t getSerializationSize() const noexcept override {
    return PluginCore::kStateWords * sizeof(int32_t);
  }
  void serialize(void* buffer) const noexcept override {
    guarded(false, [&] {
      const std::vector<int32_t> state = core_.serialise();
      std::memcpy(buffer, state.data(), state.size() * sizeof(int32_t));
      return true;
    });
  }

 private:
  PluginCore core_;
  std::string namespace_;
  bool initialised_ = false;  // TensorRT may configure before there is a context to load into
};

class CreatorV2 : public OperatorCreator<nvinfer1::IPluginCreator> {
 public:
  using OperatorCreator::OperatorCreator;

  nvinfer1::IPluginV2* createPlugin(
      const char*, const nvinfer1::PluginFieldCollection* fields) noexcept override {
    return guarded<nvinfer1::IPluginV2*>(nullptr, [&] {
      return new PluginV2(PluginCore(of_, read_attributes(of_, fields)), namespace_);
    });
  }
  nvinfer1::IPluginV2* deserializePlugin(const char*, const void* data,
                                         size_t bytes) noexcept override {
    return guarded<nvinfer1::IPluginV2*>(nullptr, [&] {
      return new PluginV2(PluginCore::deserialise(of_, data, bytes), namespace_);
    });
  }
  // The registry sets the namespace that it registers a creator in.
  void setPluginNamespace(const char* space) noexcept override {
    guarded(false, [&] {
      namespace_ = space ? space : "";
      return true;
    });
  }
  const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }

 private:
  std::string namespace_ = kNamespace;
};

}  // namespace

const char* interface_name() { return "IPluginV2DynamicExt"; }

const std::vector<Creator*>& creators() { return creators_of_all_operators<CreatorV2>(); }

}  // namespace bidiff::tensorrt
