// A plugin library driven by a stand-in for TensorRT: loaded, found in the registry, negotiated
// with, written to an engine and read back, cloned and enqueued on the emulated GPU, by the
// interface that TensorRT calls. Exit code 0 passed, 1 failed. Arguments: the two libraries (the
// second "" before TensorRT 8.6), cases (2), seed (1).
#include <dlfcn.h>

#include <cstdio>

#include "tensorrt_case.h"
#if BIDIFF_TENSORRT_INTERFACE == 3
#include "tensorrt_host_v3.h"
#else
#include "tensorrt_host_v2.h"
#endif

namespace {

using namespace bidiff::tensorrt;
using bidiff::cuda::Device;
using bidiff::cuda::Element;

void expect(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what + "; logged: " + stand_in_messages());
}

class Constant : public nvinfer1::IDimensionExpr, public nvinfer1::apiv::VDimensionExpr {
 public:
  explicit Constant(int64_t value) : value(value) { mImpl = this; }
  // Not `override`: versions differ in their functions and return types.
  bool isConstant() const { return true; }
#if NV_TENSORRT_MAJOR >= 10
  int64_t getConstantValue() const { return value; }
#else
  int32_t getConstantValue() const { return static_cast<int32_t>(value); }
#endif
  bool isSizeTensor() const { return false; }
  const int64_t value;
};

class Builder : public nvinfer1::IExprBuilder, public nvinfer1::apiv::VExprBuilder {
 public:
  Builder() { nvinfer1::IExprBuilder::mImpl = this; }
#if NV_TENSORRT_MAJOR >= 10
  const nvinfer1::IDimensionExpr* constant(int64_t value) { return make(value); }
  const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t, const nvinfer1::IDimensionExpr&,
                                                    const nvinfer1::IDimensionExpr&) {
    return nullptr;
  }
#else
  const nvinfer1::IDimensionExpr* constant(int32_t value) { return make(value); }
#endif
  const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation op,
                                            const nvinfer1::IDimensionExpr& a,
                                            const nvinfer1::IDimensionExpr& b) {
    const int64_t first = static_cast<const Constant&>(a).value;
    const int64_t second = static_cast<const Constant&>(b).value;
    if (op == nvinfer1::DimensionOperation::kPROD) return make(first * second);
    if (op == nvinfer1::DimensionOperation::kFLOOR_DIV) return make(first / second);
    throw std::runtime_error("another operation on dimensions");
  }
  Constant* make(int64_t value) {
    made_.push_back(std::make_unique<Constant>(value));
    return made_.back().get();
  }

 private:
  std::vector<std::unique_ptr<Constant>> made_;
};

nvinfer1::DataType data_type(Type type) {
  if (type == Type::kInt32) return nvinfer1::DataType::kINT32;
  return type == Type::kFloat16 ? nvinfer1::DataType::kHALF : nvinfer1::DataType::kFLOAT;
}

// Inputs, then y.
std::vector<nvinfer1::DynamicPluginTensorDesc> describe(const NodeCase& node) {
  std::vector<nvinfer1::DynamicPluginTensorDesc> all;
  std::vector<Tensor> tensors = node.tensors;
  tensors.push_back(node.y);
  for (const Tensor& tensor : tensors) {
    nvinfer1::DynamicPluginTensorDesc made{};
    made.desc.dims.nbDims = static_cast<int32_t>(tensor.dims.size());
    for (size_t i = 0; i < tensor.dims.size(); ++i) {
      made.desc.dims.d[i] =
          static_cast<std::remove_reference_t<decltype(made.desc.dims.d[0])>>(tensor.dims[i]);
    }
    made.desc.type = data_type(tensor.type);
    made.desc.format = nvinfer1::TensorFormat::kLINEAR;
    made.min = made.max = made.desc.dims;
    all.push_back(made);
  }
  return all;
}

// The fields that the parser makes: all those that the creator names.
class Fields {
 public:
  Fields(host::Creator& creator, const Attributes& attributes, bool wide) {
    const nvinfer1::PluginFieldCollection* names = creator.getFieldNames();
    values_.reserve(static_cast<size_t>(names->nbFields));
    for (int i = 0; i < names->nbFields; ++i) {
      const std::string name = names->fields[i].name;
      const int64_t value = name == "groups"   ? attributes.groups
                            : name == "inputs" ? attributes.inputs
                            : name == "kernel" ? attributes.kernel
                            : name == "layout" ? attributes.layout
                                               : throw std::runtime_error("field " + name);
      values_.push_back(value);
      fields_.emplace_back(
          names->fields[i].name, &values_.back(),
          wide ? static_cast<nvinfer1::PluginFieldType>(10) : nvinfer1::PluginFieldType::kINT32, 1);
    }
    collection = {static_cast<int32_t>(fields_.size()), fields_.data()};
  }
  nvinfer1::PluginFieldCollection collection;

 private:
  std::vector<int64_t> values_;  // little-endian: the low half is the 32-bit value
  std::vector<nvinfer1::PluginField> fields_;
};

// The interface's own creator, which the registry returns by its kind.
host::Creator& creator_of(void* found) {
  expect(found != nullptr, "a creator is not registered");
  return *static_cast<host::Creator*>(static_cast<host::TensorRtCreator*>(found));
}

void negotiate(host::Plugin* plugin, const NodeCase& node) {
  std::vector<nvinfer1::DynamicPluginTensorDesc> all = describe(node);
  const int inputs = static_cast<int>(node.tensors.size());
  for (int position = 0; position <= inputs; ++position) {
    auto& desc = all[static_cast<size_t>(position)].desc;
    const auto type = desc.type;
    expect(plugin->supports(position, all.data(), inputs), "the right formats are refused");
    desc.format = nvinfer1::TensorFormat::kCHW32;
    expect(!plugin->supports(position, all.data(), inputs), "a format that it has not");
    desc.format = nvinfer1::TensorFormat::kLINEAR;
    desc.type = nvinfer1::DataType::kINT8;
    expect(!plugin->supports(position, all.data(), inputs), "a type that it has not");
    desc.type = type;
  }
  Builder builder;
  std::vector<nvinfer1::DimsExprs> shapes(node.tensors.size());
  std::vector<nvinfer1::DataType> types;
  for (size_t i = 0; i < node.tensors.size(); ++i) {
    shapes[i].nbDims = static_cast<int32_t>(node.tensors[i].dims.size());
    for (int axis = 0; axis < shapes[i].nbDims; ++axis) {
      shapes[i].d[axis] = builder.make(node.tensors[i].dims[static_cast<size_t>(axis)]);
    }
    types.push_back(data_type(node.tensors[i].type));
  }
  expect(plugin->output_type(types.data(), inputs) == data_type(node.y.type), "type of the output");
  const nvinfer1::DimsExprs shape = plugin->output_shape(shapes.data(), inputs, builder);
  expect(shape.nbDims == 4, "rank of the output");
  for (size_t axis = 0; axis < 4; ++axis) {
    expect(static_cast<const Constant*>(shape.d[axis])->value == node.y.dims[axis],
           "shape of the output");
  }
  shapes[0].nbDims = 3;
  expect(plugin->output_shape(shapes.data(), inputs, builder).nbDims == -1, "a map of rank 3");
  expect(stand_in_messages().find("(N, C, H, W)") != std::string::npos, "not logged");
}

void check_node(const NodeCase& node, host::Creator& creator, Device& device, bool wide) {
  const Device::Scope scope(device);
  const Fields fields(creator, node.attributes, wide && NV_TENSORRT_MAJOR >= 10);
  host::Plugin built = host::Plugin::create(creator, fields.collection);
  expect(built.exists(), "not created");
  expect(built.name() == std::string("bidiff::") + node.of->name + " 1", "name " + built.name());
  negotiate(&built, node);
  auto all = describe(node);
  const int inputs = static_cast<int>(node.tensors.size());
  built.configure(all.data(), inputs);
  const size_t bytes = built.workspace(all.data(), inputs);
  expect(bytes < size_t{1} << 30, "workspace");
  const std::string state = built.state();
  host::Plugin read = host::Plugin::from_engine(creator, state);
  expect(read.exists() && read.state() == state, "not read back from the engine");
  expect(!host::Plugin::from_engine(creator, state.substr(4)).exists(), "a damaged engine");
  expect(stand_in_messages().find("build the engine again") != std::string::npos, "not logged");

  host::Plugin plugin = read.in_context(all.data(), inputs);
  expect(plugin.exists(), "no plugin for a context");
  NodeOnGpu tensors(device, node);
  const Bytes wanted = tensors.expected();
  const GpuMemory workspace(device, bytes);
  void* const y = NodeOnGpu::to_pointer(tensors.y.pointer);
  std::vector<nvinfer1::PluginTensorDesc> plain;
  for (const auto& desc : all) plain.push_back(desc.desc);
  const auto run = [&] {
    tensors.clear();
    return plugin.enqueue(plain.data(), inputs, tensors.pointers.data(), &y,
                          NodeOnGpu::to_pointer(workspace.pointer), nullptr);
  };
  expect(run() == 0, "enqueue failed");
  expect(tensors.result() == wanted, "differs from the problem written by hand");
  expect(stand_in_messages().empty(), "a run was logged");
  plain[0].dims.nbDims = 3;
  expect(run() != 0, "a map of rank 3 was run");
  expect(stand_in_messages().find("x must have shape") != std::string::npos, "not logged");
}

void check_refusals(host::Creator& norm) {
  const int32_t groups = 0;
  const float wrong = 2;
  for (const auto& field :
       {nvinfer1::PluginField("groups", &groups, nvinfer1::PluginFieldType::kINT32, 1),
        nvinfer1::PluginField("groups", &wrong, nvinfer1::PluginFieldType::kFLOAT32, 1),
        nvinfer1::PluginField("groups", nullptr, nvinfer1::PluginFieldType::kINT32, 1)}) {
    const nvinfer1::PluginFieldCollection fields{1, &field};
    expect(!host::Plugin::create(norm, fields).exists(), "wrong groups");
    expect(stand_in_messages().find("attribute groups") != std::string::npos, "not logged");
  }
}

void* load(const char* file) {
  void* library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  return library;
}

// As IPluginRegistry::loadLibrary does.
void check_dynamic(const char* file) {
  void* library = load(file);
  using GetCreators = host::TensorRtCreator* const* (*)(int32_t&);
  const char* name = NV_TENSORRT_MAJOR >= 10 ? "getCreators" : "getPluginCreators";
  const auto get = reinterpret_cast<GetCreators>(dlsym(library, name));
  expect(get && dlsym(library, "setLoggerFinder"), "no creators to ask for");
  int32_t count = 0;
  host::TensorRtCreator* const* all = get(count);
  expect(count == static_cast<int32_t>(operators().size()), "number of creators");
  for (int i = 0; i < count; ++i) {
    const auto& creator = *static_cast<host::Creator*>(all[i]);
    expect(std::string(creator.getPluginName()) == operators()[static_cast<size_t>(i)].name,
           "name of a creator");
    expect(std::string(creator.getPluginNamespace()) == "bidiff", "namespace of a creator");
  }
}

}  // namespace

int main(int count, char** values) {
  const int cases = count > 3 ? std::atoi(values[3]) : 2;
  Inputs random(static_cast<unsigned>(count > 4 ? std::atoi(values[4]) : 1));
  std::string what = "loading";
  try {
    if (count < 3) throw std::runtime_error("which libraries?");
    if (*values[2]) check_dynamic(values[2]);
    expect(!stand_in_creator("BinaryConv", "bidiff"), "registered without being asked");
    load(values[1]);
    Device& device = Device::open();
    for (const Operator& of : operators()) {
      host::Creator& creator = creator_of(stand_in_creator(of.name, "bidiff"));
      for (int i = 0; i < 2 * cases; ++i) {
        const NodeCase node =
            make_node(&random, of, i / 2 % 2 ? Element::kFloat32 : Element::kFloat16, i % 2);
        what = node.name();
        check_node(node, creator, device, i % 2);
      }
    }
    what = "refusals";
    check_refusals(creator_of(stand_in_creator("NormBinaryConv", "bidiff")));
  } catch (const std::exception& error) {
    std::printf("%s: %s\n", what.c_str(), error.what());
    return 1;
  }
  std::printf("%d nodes of each of 6 operators passed\n", 2 * cases);
  return 0;
}
