// One node of the graph: everything of a plugin that does not depend on a version of TensorRT.
//
// The adaptors (plugin_v2.cpp, plugin_v3.cpp) translate TensorRT's calls to these. TensorRT clones
// a plugin for each execution context; objects own no GPU memory and nothing that enqueue writes,
// so copies are cheap and one object serves any number of threads.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "../cuda/run.h"
#include "node_problem.h"
#include "operators.h"

namespace bidiff::tensorrt {

class PluginCore {
 public:
  // Throws cuda::Error for attributes that no graph may have.
  PluginCore(const Operator& of, const Attributes& attributes);

  // The state of a node in an engine. Throws cuda::Error if it is damaged, or of another operator
  // or version of this library.
  static constexpr int kStateWords = 10;
  static PluginCore deserialise(const Operator& of, const void* data, size_t bytes);
  std::vector<int32_t> serialise() const;

  const Operator& type() const { return *of_; }
  // Nodes of equal text are computed alike, given equal shapes and types.
  std::string timing_id() const;

  // Whether tensor `position`, inputs before outputs, may have its type and format; those before it
  // are already agreed on. Throws cuda::Error for a wrong number of inputs or outputs.
  bool supports(int position, const Tensor* tensors, int inputs, int outputs) const;
  Extent output_extent(int inputs, int axis) const;

  // Fixes which inputs are present, and the type of the maps. Throws cuda::Error.
  void configure(const Tensor* inputs, int count);
  // Number of inputs it was configured for. Throws cuda::Error if it was not.
  int input_count() const;

  // Enough for these inputs, and for any with a smaller batch, height or width. Throws cuda::Error.
  size_t workspace_bytes(const Tensor* inputs, int count) const;

  // Loads the kernels in the current context, which may compile them; does nothing if they are
  // loaded, or if the node is not configured. Not legal under stream capture. Throws cuda::Error.
  void load() const;

  // Enqueues the launches: no synchronisation and no allocation on the GPU, and legal under stream
  // capture once load() has run in this context. For input_count() inputs. Throws cuda::Error,
  // before anything is launched, for shapes that contradict the contract.
  void enqueue(const Tensor* inputs, const void* const* pointers, void* y, void* workspace,
               cuda::Stream stream) const;

 private:
  const Operator* of_;
  Attributes attributes_;
  bool configured_ = false;  // then attributes_.inputs is a mask
  cuda::Element element_ = cuda::Element::kFloat32;
};

}  // namespace bidiff::tensorrt
