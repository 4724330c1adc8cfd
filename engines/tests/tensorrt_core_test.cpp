// The TensorRT plugin without TensorRT: every operator, enqueued on the emulated GPU, against the
// same problem written by hand; captured, from several threads, after a trip through an engine's
// bytes; prepared words; bounds; and everything that is refused. Exit code 0 passed, 1 failed.
// Arguments: the number of nodes of each kind (3), the seed (1).
#include <cstdio>
#include <thread>

#include "tensorrt_case.h"
#include "tensorrt_loops.h"

namespace {

using namespace bidiff::tensorrt;
using bidiff::Dims;
using bidiff::cuda::Device;
using bidiff::cuda::Element;
using bidiff::cuda::Op;
using bidiff::cuda::Problem;
using bidiff::cuda::Weights;

void expect(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

template <class Body>
std::string refusal(Body body) {
  try {
    body();
  } catch (const bidiff::cuda::Error& error) {
    return error.what();
  }
  throw std::runtime_error("not refused");
}
template <class Body>
void expect_refusal(const std::string& part, Body body) {
  const std::string sentence = refusal(body);
  expect(sentence.find(part) != std::string::npos, "refused by another sentence: " + sentence);
}

PluginCore configured(const NodeCase& node) {
  PluginCore core(*node.of, node.attributes);
  core.configure(node.tensors.data(), static_cast<int>(node.tensors.size()));
  return core;
}

PluginCore from_engine(const PluginCore& core) {
  const std::vector<int32_t> state = core.serialise();
  return PluginCore::deserialise(core.type(), state.data(), state.size() * sizeof(int32_t));
}

void check_shape(const PluginCore& core, const NodeCase& node) {
  const int count = static_cast<int>(node.tensors.size());
  for (int axis = 0; axis < kOutputRank; ++axis) {
    const Extent extent = core.output_extent(count, axis);
    const auto& from = node.tensors[static_cast<size_t>(extent.input)].dims;
    expect(from[static_cast<size_t>(extent.axis)] * extent.multiply / extent.divide ==
               node.y.dims[static_cast<size_t>(axis)],
           "output dimension " + std::to_string(axis));
  }
}

void check_formats(const PluginCore& core, const NodeCase& node) {
  std::vector<Tensor> all = node.tensors;
  all.push_back(node.y);
  const int inputs = static_cast<int>(node.tensors.size());
  for (int position = 0; position <= inputs; ++position) {
    Tensor& tensor = all[static_cast<size_t>(position)];
    const Tensor right = tensor;
    int accepted = 0;
    for (const Type type : {Type::kFloat32, Type::kFloat16, Type::kInt32, Type::kOther}) {
      tensor.type = type;
      const bool supports = core.supports(position, all.data(), inputs, 1);
      expect(!supports || type == right.type || position == 0, "a type that it has not");
      accepted += supports;
      tensor.linear = false;
      expect(!core.supports(position, all.data(), inputs, 1), "a format that it has not");
      tensor.linear = true;
    }
    expect(accepted == (position == 0 ? 2 : 1), "types of tensor " + std::to_string(position));
    tensor = right;
  }
  expect_refusal("inputs", [&] { core.supports(0, all.data(), 40, 1); });
}

void enqueue(const PluginCore& core, const NodeCase& node, NodeOnGpu* tensors,
             bidiff::cuda::Stream stream, const GpuMemory& workspace) {
  core.enqueue(node.tensors.data(), tensors->pointers.data(),
               NodeOnGpu::to_pointer(tensors->y.pointer), NodeOnGpu::to_pointer(workspace.pointer),
               stream);
}

// In a graph, launched twice; then by threads that share the plugin.
void check_capture_and_threads(const PluginCore& core, const NodeCase& node, Device& device,
                               const Bytes& wanted) {
  const auto& api = bidiff::cuda::driver();
  const size_t bytes =
      core.workspace_bytes(node.tensors.data(), static_cast<int>(node.tensors.size()));
  const Device::Scope scope(device);
  {
    NodeOnGpu tensors(device, node);
    const GpuMemory workspace(device, bytes);
    bidiff::cuda::Stream stream = nullptr;
    bidiff::cuda::Graph graph = nullptr;
    bidiff::cuda::GraphExec exec = nullptr;
    const auto check = [](int code) { bidiff::cuda::check(code, "capturing"); };
    check(api.stream_create(&stream, 1));
    tensors.clear();
    const Bytes untouched = tensors.result();
    check(api.capture_begin(stream, 0));
    enqueue(core, node, &tensors, stream, workspace);
    check(api.capture_end(stream, &graph));
    expect(tensors.result() == untouched, "ran while it was captured");
    check(api.graph_instantiate(&exec, graph, 0));
    for (int i = 0; i < 2; ++i) {
      tensors.clear();
      check(api.graph_launch(exec, stream));
      expect(tensors.result() == wanted, "differs as a graph");
    }
    check(api.graph_exec_destroy(exec));
    check(api.graph_destroy(graph));
    check(api.stream_destroy(stream));
  }
  std::string failures[3];
  std::vector<std::thread> threads;
  for (std::string& failure : failures) {
    threads.emplace_back([&] {
      try {
        const Device::Scope inner(device);
        NodeOnGpu tensors(device, node);
        const GpuMemory workspace(device, bytes);
        enqueue(core, node, &tensors, nullptr, workspace);
        if (tensors.result() != wanted) failure = "differs in a thread";
      } catch (const std::exception& error) {
        failure = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& failure : failures) expect(failure.empty(), failure);
}

void check_node(const NodeCase& node, Device& device, bool deep) {
  const PluginCore fresh(*node.of, node.attributes);
  check_shape(fresh, node);
  check_formats(fresh, node);
  const PluginCore core = from_engine(configured(node));
  expect(core.serialise() == configured(node).serialise(), "another state after the engine");
  expect(core.timing_id() == configured(node).timing_id(), "another timing id");
  expect(core.input_count() == static_cast<int>(node.tensors.size()), "number of inputs");
  core.load();
  NodeOnGpu tensors(device, node);
  const Bytes wanted = tensors.expected();
  if (of_plain_loops(node)) {
    expect(wanted == plain_loops(node), "the problem written by hand differs from plain loops");
  }
  // A workspace at any address, after which nothing may be written.
  const size_t bytes =
      core.workspace_bytes(node.tensors.data(), static_cast<int>(node.tensors.size()));
  const GpuMemory workspace(device, bytes, 8);
  tensors.clear();
  {
    const Device::Scope scope(device);
    enqueue(core, node, &tensors, nullptr, workspace);
  }
  expect(tensors.result() == wanted, "differs from the problem written by hand");
  if (deep) check_capture_and_threads(core, node, device, wanted);
}

void check_prepared_words(Inputs* random, Device& device) {
  for (int i = 0; i < 12; ++i) {
    const Weights weights{random->pick({1, 31, 32, 33, 70}),
                          random->pick({1, 31, 32, 65, 300, 530}), random->pick({1, 3})};
    std::vector<int32_t> words(static_cast<size_t>(weights.out_channels * weights.k * weights.k *
                                                   ((weights.in_channels + 31) / 32)));
    for (int32_t& word : words) word = static_cast<int32_t>(random->bits());
    std::vector<int32_t> host(static_cast<size_t>(prepared_count(weights)), -1);
    std::vector<int32_t> gpu(host.size());
    prepare_words(weights, words.data(), host.data());
    const GpuMemory from(device, bytes_of(words)), to(device, host.size() * sizeof(int32_t));
    bidiff::cuda::run(device, plan_prepare(weights, from.pointer, to.pointer), nullptr);
    device.download(gpu.data(), to.pointer, gpu.size() * sizeof(int32_t));
    expect(host == gpu, "words prepared on the host and on the GPU differ for " +
                            std::to_string(weights.out_channels) + " by " +
                            std::to_string(weights.in_channels));
  }
  expect_refusal("k 1 or 3", [] { prepared_count({8, 8, 2}); });
  expect_refusal("channels", [] { prepared_count({0, 8, 1}); });
}

// The workspace for the largest shape is enough for smaller ones: random nodes, then all the
// neighbours of many shapes, a few of which need more than the largest.
void check_workspace(Inputs* random) {
  const auto expect_room = [](const NodeCase& node, Problem small) {
    if (node.of->op == Op::kBinaryDown) {
      small.height += small.height % 2;
      small.width += small.width % 2;
    }
    const int count = static_cast<int>(node.tensors.size());
    const size_t max_bytes = configured(node).workspace_bytes(node.tensors.data(), count);
    // It may have to be aligned first.
    expect(bidiff::cuda::workspace_bytes(small) + bidiff::cuda::kPreparedAlignment <= max_bytes,
           "workspace of " + node.name());
  };
  for (int i = 0; i < 1000; ++i) {
    const Operator& of = operators()[static_cast<size_t>(random->one_of(6))];
    NodeCase node = make_node(random, of, Element::kFloat32, true);
    Dims& x = node.tensors[0].dims;
    x = {1 + random->one_of(3), x[1], 1 + random->one_of(300), 1 + random->one_of(300)};
    Problem small = node.problem;
    small.batch = 1 + random->one_of(static_cast<int>(x[0]));
    small.height = 1 + random->one_of(static_cast<int>(x[2]));
    small.width = 1 + random->one_of(static_cast<int>(x[3]));
    expect_room(node, small);
  }
  NodeCase node = make_node(random, find_operator("BinaryConv"), Element::kFloat32, true);
  while (node.problem.k != 3 || node.problem.channels != 64) {
    node = make_node(random, *node.of, Element::kFloat32, true);
  }
  int larger = 0;
  for (int i = 0; i < 40 * 30; ++i) {
    Dims& x = node.tensors[0].dims;
    x = {1, x[1], 1 + 2 * (i / 40), 1 + 2 * (i % 40)};
    Problem largest = node.problem, small = node.problem;
    largest.batch = small.batch = 1;
    largest.height = x[2];
    largest.width = x[3];
    const size_t own = bidiff::cuda::workspace_bytes(largest);
    for (small.height = x[2]; small.height > 0 && small.height > x[2] - 18; --small.height) {
      for (small.width = x[3]; small.width > 0 && small.width > x[3] - 34; --small.width) {
        if (bidiff::cuda::workspace_bytes(small) <= own) continue;
        ++larger;
        expect_room(node, small);
      }
    }
  }
  expect(larger > 0, "no smaller shape needed more: the test tests nothing");
}

void check_state(Inputs* random) {
  for (const Operator& of : operators()) {
    const NodeCase node = make_node(random, of, Element::kFloat16, true);
    const std::vector<int32_t> state = configured(node).serialise();
    const auto read = [&](const std::vector<int32_t>& words, size_t bytes) {
      return PluginCore::deserialise(of, words.data(), bytes);
    };
    expect(state.size() == PluginCore::kStateWords, "size of the state");
    for (size_t bytes = 0; bytes < state.size() * sizeof(int32_t); ++bytes) {
      refusal([&] { read(state, bytes); });
    }
    std::vector<int32_t> longer = state;
    longer.push_back(0);
    expect_refusal("damaged", [&] { read(longer, longer.size() * sizeof(int32_t)); });
    // A changed word is refused, or describes another valid node.
    for (size_t i = 0; i < state.size(); ++i) {
      for (int bit = 0; bit < 32; ++bit) {
        std::vector<int32_t> changed = state;
        changed[i] ^= static_cast<int32_t>(1u << bit);
        try {
          const PluginCore core = read(changed, changed.size() * sizeof(int32_t));
          expect(i >= 4 && core.serialise() == changed, "a damaged state was read");
        } catch (const bidiff::cuda::Error&) {
        }
      }
    }
    std::vector<int32_t> newer = state;
    ++newer[1];
    expect_refusal("another version", [&] { read(newer, newer.size() * sizeof(int32_t)); });
    const Operator& other = operators()[of.op == Op::kBinaryConv ? 1 : 0];
    expect_refusal("damaged", [&] {
      PluginCore::deserialise(other, state.data(), state.size() * sizeof(int32_t));
    });
    expect_refusal("no state", [&] { PluginCore::deserialise(of, nullptr, 0); });
  }
}

void check_refusals(Inputs* random, Device& device) {
  const Operator& conv = find_operator("BinaryConv");
  const Operator& norm = find_operator("NormBinaryConv");
  expect_refusal("not an operator", [] { find_operator("BinaryPool"); });
  expect_refusal("groups", [&] { PluginCore(norm, {0, -1, 0, 0}); });
  expect_refusal("kernel", [&] { PluginCore(conv, {0, -1, 2, 0}); });
  expect_refusal("layout", [&] { PluginCore(conv, {0, -1, 3, prepared_layout_number() ^ 1}); });
  expect_refusal("bits", [&] { PluginCore(conv, {0, 1 << 7, 0, 0}); });
  expect_refusal("alpha cannot be omitted", [&] { PluginCore(conv, {0, 3, 0, 0}); });
  expect_refusal("configured", [&] { PluginCore(conv, {}).input_count(); });

  NodeCase node = make_node(random, norm, Element::kFloat32, false);
  const auto run = [&](const NodeCase& changed) {
    NodeOnGpu tensors(device, node);
    tensors.clear();
    const Bytes before = tensors.result();
    const GpuMemory workspace(device, 1 << 20);
    const Device::Scope scope(device);
    const PluginCore core = configured(changed);
    try {
      enqueue(core, changed, &tensors, nullptr, workspace);
    } catch (...) {
      expect(tensors.result() == before, "something ran before the refusal");
      throw;
    }
  };
  const auto with_dims = [&](Role role, const Dims& dims, int branch = 0) {
    NodeCase changed = node;
    for (size_t i = 0; i < node.present.size(); ++i) {
      if (node.present[i].role == role && node.present[i].branch == branch) {
        changed.tensors[i].dims = dims;
      }
    }
    return changed;
  };
  run(node);
  expect_refusal("(N, C, H, W)", [&] { run(with_dims(Role::kX, {4, 4, 4})); });
  expect_refusal("at least 1", [&] { run(with_dims(Role::kX, {0, 4, 4, 4})); });
  expect_refusal("words", [&] { run(with_dims(Role::kWords, {3, 2, 2, 1})); });
  expect_refusal("alpha", [&] { run(with_dims(Role::kAlpha, {3, 3})); });
  expect_refusal("scale", [&] { run(with_dims(Role::kScale, {3})); });
  node = make_node(random, conv, Element::kFloat32, true);
  while (node.present.size() != conv.inputs.size()) {
    node = make_node(random, conv, Element::kFloat32, true);
  }
  run(node);
  expect_refusal("prepared words", [&] { run(with_dims(Role::kWords, {7})); });
  expect_refusal("threshold", [&] { run(with_dims(Role::kThreshold, {3})); });
  expect_refusal("rprelu", [&] { run(with_dims(Role::kRprelu, {3})); });
  expect_refusal("residual", [&] { run(with_dims(Role::kResidual, {3})); });
  expect_refusal("time", [&] { run(with_dims(Role::kTime, {3})); });
  node = make_node(random, find_operator("BinaryFusion"), Element::kFloat16, false);
  expect_refusal("skip", [&] { run(with_dims(Role::kSecond, {1})); });
  const int64_t channels = node.problem.channels;
  expect_refusal("same kernel size", [&] {
    run(with_dims(Role::kWords,
                  {channels, 4 - node.problem.k, 4 - node.problem.k, (channels + 31) / 32}, 1));
  });
}

}  // namespace

int main(int count, char** values) {
  const int cases = count > 1 ? std::atoi(values[1]) : 3;
  Inputs random(static_cast<unsigned>(count > 2 ? std::atoi(values[2]) : 1));
  std::string what = "set-up";
  try {
    Device& device = Device::open();
    for (const Operator& of : operators()) {
      for (const Element element : {Element::kFloat32, Element::kFloat16}) {
        for (int i = 0; i < 2 * cases; ++i) {
          const NodeCase node = make_node(&random, of, element, i % 2);
          what = node.name();
          check_node(node, device, i < 2);
        }
      }
    }
    what = "prepared words";
    check_prepared_words(&random, device);
    what = "workspace";
    check_workspace(&random);
    what = "state";
    check_state(&random);
    what = "refusals";
    check_refusals(&random, device);
  } catch (const std::exception& error) {
    std::printf("%s: %s\n", what.c_str(), error.what());
    return 1;
  }
  std::printf("%d nodes of each of 6 operators passed\n", 4 * cases);
  return 0;
}
