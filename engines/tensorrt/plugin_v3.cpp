// The plugin by the interface of TensorRT 10 and 11, IPluginV3.
#include "adaptor.h"

namespace bidiff::tensorrt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

constexpr const char* kState = "state";  // the field in an engine
constexpr int32_t kFailed = -1;

class PluginV3 : public nvinfer1::IPluginV3,
                 public nvinfer1::IPluginV3OneCore,
                 public nvinfer1::IPluginV3OneBuild,
                 public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit PluginV3(const PluginCore& core) : core_(core) {}

  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kCORE:
        return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case nvinfer1::PluginCapabilityType::kBUILD:
        return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME:
        return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  nvinfer1::IPluginV3* clone() noexcept override {
    return guarded<nvinfer1::IPluginV3*>(nullptr, [&] { return new PluginV3(core_); });
  }

  const char* getPluginName() const noexcept override { return core_.type().name; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  int32_t getNbOutputs() const noexcept override { return 1; }
  int32_t getOutputDataTypes(nvinfer1::DataType* types, int32_t outputs,
                             const nvinfer1::DataType* inputs,
                             int32_t count) const noexcept override {
    if (outputs != 1 || count < 1) return kFailed;
    types[0] = inputs[0];
    return 0;
  }
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t count,
                          const nvinfer1::DimsExprs*, int32_t, nvinfer1::DimsExprs* outputs,
                          int32_t output_count, nvinfer1::IExprBuilder& builder) noexcept override {
    if (output_count != 1) return kFailed;
    return guarded(kFailed, [&] {
      outputs[0] = output_dimensions(core_, inputs, count, builder);
      return 0;
    });
  }
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* all,
                                 int32_t inputs, int32_t outputs) noexcept override {
    return guarded(false, [&] {
      return core_.supports(position, largest(all, position + 1).data(), inputs, outputs);
    });
  }
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t count,
                          const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept override {
    return guarded(kFailed, [&] {
      core_.configure(largest(inputs, count).data(), count);
      return 0;
    });
  }
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t count,
                          const nvinfer1::DynamicPluginTensorDesc*,
                          int32_t) const noexcept override {
    return guarded(kImpossibleWorkspace,
                   [&] { return core_.workspace_bytes(largest(inputs, count).data(), count); });
  }
  const char* getTimingCacheID() noexcept override {
    return guarded<const char*>(nullptr, [&] {
      timing_id_ = core_.timing_id();
      return timing_id_.c_str();
    });
  }

  // Called before the first run, and before a run with other shapes.
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t count,
                        const nvinfer1::PluginTensorDesc*, int32_t) noexcept override {
    return guarded(kFailed, [&] {
      core_.configure(tensors(inputs, count).data(), count);
      core_.load();
      return 0;
    });
  }
  int32_t enqueue(const nvinfer1::PluginTensorDesc* descriptions, const nvinfer1::PluginTensorDesc*,
                  const void* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override {
    return guarded(kFailed, [&] {
      core_.enqueue(tensors(descriptions, core_.input_count()).data(), inputs, outputs[0],
                    workspace, reinterpret_cast<cuda::Stream>(stream));
      return 0;
    });
  }
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override {
    return clone();
  }
  const PluginFieldCollection* getFieldsToSerialize() noexcept override {
    return guarded<const PluginFieldCollection*>(nullptr, [&] {
      state_ = core_.serialise();
      field_ = {kState, state_.data(), PluginFieldType::kINT32,
                static_cast<int32_t>(state_.size())};
      fields_ = {1, &field_};
      return &fields_;
    });
  }

 private:
  PluginCore core_;
  // The last returned values, which TensorRT reads before it calls again.
  std::string timing_id_;
  std::vector<int32_t> state_;
  PluginField field_;
  PluginFieldCollection fields_{};
};

class CreatorV3 : public OperatorCreator<nvinfer1::IPluginCreatorV3One> {
 public:
  using OperatorCreator::OperatorCreator;

  nvinfer1::IPluginV3* createPlugin(const char*, const PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override {
    return guarded<nvinfer1::IPluginV3*>(nullptr, [&] {
      return new PluginV3(phase == nvinfer1::TensorRTPhase::kRUNTIME
                              ? from_engine(fields)
                              : PluginCore(of_, read_attributes(of_, fields)));
    });
  }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  PluginCore from_engine(const PluginFieldCollection* fields) const {
    for (int i = 0; fields && i < fields->nbFields; ++i) {
      const PluginField& field = fields->fields[i];
      if (field.name && std::string(field.name) == kState &&
          field.type == PluginFieldType::kINT32 && field.length > 0) {
        return PluginCore::deserialise(of_, field.data,
                                       static_cast<size_t>(field.length) * sizeof(int32_t));
      }
    }
    return PluginCore::deserialise(of_, nullptr, 0);
  }
};

}  // namespace

const char* interface_name() { return "IPluginV3"; }

const std::vector<Creator*>& creators() { return creators_of_all_operators<CreatorV3>(); }

}  // namespace bidiff::tensorrt
