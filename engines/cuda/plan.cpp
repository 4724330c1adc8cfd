#include "plan.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "driver.h"
#include "plan_names.h"
#include "plan_shapes.h"

namespace bidiff::cuda {
namespace {

constexpr unsigned kMaxShared = 49152;  // bytes of a block without opting in

template <class Arguments>
Launch make_launch(const char* kernel, int64_t grid_x, int64_t grid_y, int threads, size_t shared,
                   const Arguments& arguments) {
  Launch launch{kernel,
                {static_cast<unsigned>(grid_x), static_cast<unsigned>(grid_y), 1},
                {static_cast<unsigned>(threads), 1, 1},
                static_cast<unsigned>(shared),
                std::vector<uint8_t>(sizeof(Arguments))};
  if (launch.shared > kMaxShared) throw Error("a block would need too much shared memory");
  std::memcpy(launch.arguments.data(), &arguments, sizeof(Arguments));
  return launch;
}

// Vectors of 8 elements: 16 bytes of float16, twice 16 of float32.
bool aligned(std::initializer_list<Pointer> pointers, int64_t elements) {
  return elements % kRun == 0 && std::all_of(pointers.begin(), pointers.end(),
                                             [](Pointer pointer) { return pointer % 16 == 0; });
}

ChannelMap plain_map(Pointer base, int64_t channels, int64_t start = 0) {
  const int all = static_cast<int>(channels);
  return {{base, 0}, {static_cast<int>(start), 0}, 1, all, all};
}

// Every second channel of two maps, half of the branch's channels from each.
ChannelMap woven_map(Pointer first, int first_start, Pointer second, int second_start,
                     int64_t channels) {
  return {{first, second},
          {first_start, second_start},
          2,
          static_cast<int>(channels / 2),
          static_cast<int>(channels)};
}

ChannelMap input_map(const Problem& problem, int branch) {
  switch (problem.op) {
    case Op::kBinaryFusion:  // odd channels of x, even ones of the skip; then the others
      return branch == 0 ? woven_map(problem.x, 1, problem.second, 0, problem.channels)
                         : woven_map(problem.x, 0, problem.second, 1, problem.channels);
    case Op::kBinaryDown:
      return plain_map(problem.x, problem.channels, branch ? problem.channels / 2 : 0);
    default: return plain_map(problem.x, problem.channels);
  }
}

NormArguments norm_arguments(const Problem& problem, Pointer workspace_at) {
  NormArguments norm = norm_parts(problem);
  norm.partials = workspace_at + workspace(problem).partials;
  norm.scale = problem.scale;
  norm.bias = problem.bias;
  return norm;
}

Launch statistics_launch(const Problem& problem, const NormArguments& norm) {
  StatisticsArguments arguments{};
  arguments.x = problem.x;
  arguments.norm = norm;
  arguments.aligned = aligned({problem.x}, norm.group_size);
  return make_launch(statistics_kernel(problem.element), problem.batch * norm.groups * norm.parts,
                     1, kNormThreads, kStatisticsSharedBytes, arguments);
}

Launch apply_launch(const Problem& problem, const NormArguments& norm) {
  ApplyArguments arguments{};
  arguments.x = problem.x;
  arguments.y = problem.y;
  arguments.norm = norm;
  arguments.plane = static_cast<int>(problem.height * problem.width);
  arguments.segments = ceil_div(arguments.plane, kApplyStep);
  arguments.aligned = aligned({problem.x, problem.y}, arguments.plane);
  return make_launch(norm_swish_kernel(problem.element),
                     problem.batch * problem.channels * arguments.segments, 1, kApplyThreads, 0,
                     arguments);
}

Launch pack_launch(const Problem& problem, const Workspace& space, Pointer workspace_at) {
  const Weights weights = branch_weights(problem);
  PackArguments arguments{};
  arguments.map = geometry(problem);
  arguments.branches = branch_count(problem.op);
  for (int i = 0; i < arguments.branches; ++i) {
    arguments.branch[i] = {input_map(problem, i), problem.branch[i].threshold,
                           workspace_at + space.packed[i]};
  }
  const bool norm = has_norm(problem.op);
  if (norm) {
    arguments.norm = norm_arguments(problem, workspace_at);
    arguments.affine = workspace_at + space.affine;
  }
  arguments.channels = static_cast<int>(weights.in_channels);
  arguments.words = ceil_div(arguments.channels, kWordBits);
  arguments.plane = static_cast<int>(problem.height * problem.width);
  arguments.blocks = ceil_div(plane_words(arguments.map), kPackThreads);
  return make_launch(pack_kernel(problem.element, norm),
                     problem.batch * arguments.branches * arguments.blocks, arguments.words,
                     kPackThreads, kPackSharedBytes, arguments);
}

ConvBranch conv_branch(const Problem& problem, int index, const PreparedLayout& layout,
                       Pointer packed) {
  const Branch& branch = problem.branch[index];
  ConvBranch made{};
  made.packed = packed;
  made.fragments = branch.prepared;
  made.ones = branch.prepared + static_cast<Pointer>(layout.ones) * sizeof(int);
  made.totals = branch.prepared + static_cast<Pointer>(layout.totals) * sizeof(int);
  made.alpha = branch.alpha;
  made.rprelu = branch.rprelu;
  made.residual = problem.op == Op::kBinaryConv ? plain_map(problem.residual, problem.out_channels)
                                                : input_map(problem, index);
  return made;
}

Launch conv_launch(const Problem& problem, const Workspace& space, Pointer workspace_at, Path path,
                   int architecture) {
  const Weights weights = branch_weights(problem);
  const int k = static_cast<int>(weights.k);
  const PreparedLayout layout = prepared_layout(static_cast<int>(weights.out_channels),
                                                static_cast<int>(weights.in_channels), k);
  ConvArguments arguments{};
  arguments.map = geometry(problem);
  for (int i = 0; i < branch_count(problem.op); ++i) {
    arguments.branch[i] = conv_branch(problem, i, layout, workspace_at + space.packed[i]);
  }
  const Pointer residual = problem.op == Op::kBinaryConv ? problem.residual : 0;
  arguments.has_residual = residual && !problem.residual_is_scalar;
  arguments.scalar = problem.residual_is_scalar ? residual : 0;
  const bool has_time = problem.op == Op::kBinaryConv || problem.op == Op::kNormBinaryConv;
  arguments.time = has_time ? problem.time : 0;
  arguments.time_stride = !problem.time_is_scalar;
  const bool has_skip = problem.op == Op::kNormBinaryConv && !problem.skip_is_scalar;
  arguments.skip = has_skip ? problem.skip : 0;
  arguments.affine = workspace_at + space.affine;
  arguments.y = problem.y;
  arguments.taps = k * k;
  arguments.in_channels = static_cast<int>(weights.in_channels);
  arguments.words = ceil_div(static_cast<int>(weights.in_channels), kWordBits);
  arguments.chunks = layout.chunks;
  arguments.channels = static_cast<int>(weights.out_channels);
  arguments.padded_channels = layout.padded_channels;
  arguments.output_blocks = layout.padded_channels / kBlockChannels;
  arguments.plane = static_cast<int>(problem.height * problem.width);
  const bool sums = problem.op == Op::kBinaryFusion || problem.op == Op::kBinaryDown;
  const int stages = slab_count(k, arguments.words) * (sums ? 2 : 1);
  arguments.buffers = architecture >= 80 && stages > 1 ? 2 : 1;
  const bool own_residual = problem.op != Op::kBinaryConv;
  arguments.aligned =
      aligned({own_residual ? problem.x : residual, problem.second, arguments.skip, problem.y},
              arguments.map.width);
  const size_t shared =
      path == Path::kPopc
          ? 0
          : sizeof(unsigned) *
                static_cast<size_t>(
                    stage_layout(k, arguments.words, arguments.buffers, path == Path::kAnd).words);
  const int64_t tiles = static_cast<int64_t>(arguments.map.tiles_x) * arguments.map.tiles_y;
  return make_launch(conv_kernel(problem.op, path, problem.element), problem.batch * tiles,
                     arguments.output_blocks * (problem.op == Op::kBinaryUp ? 2 : 1), kConvThreads,
                     shared, arguments);
}

Path chosen(Path wish, int architecture) {
  const std::vector<Path> all = paths(architecture);
  if (wish == Path::kAuto) return all.front();
  if (std::find(all.begin(), all.end(), wish) != all.end()) return wish;
  std::string names;
  for (const Path path : all) names += (names.empty() ? "" : ", ") + std::string(path_name(path));
  throw Error(std::string("path ") + path_name(wish) + " is not compiled for sm_" +
              std::to_string(architecture) + "; choose one of " + names);
}

}  // namespace

Weights branch_weights(const Problem& problem) {
  switch (problem.op) {
    case Op::kBinaryConv: return {problem.out_channels, problem.channels, problem.k};
    case Op::kBinaryDown: return {problem.channels / 2, problem.channels / 2, problem.k};
    case Op::kGroupNormSwish: return {0, 0, 0};
    default: return {problem.channels, problem.channels, problem.k};
  }
}

size_t prepared_bytes(const Weights& weights) {
  check_weights(weights);
  const PreparedLayout layout =
      prepared_layout(static_cast<int>(weights.out_channels), static_cast<int>(weights.in_channels),
                      static_cast<int>(weights.k));
  return static_cast<size_t>(layout.words) * sizeof(unsigned);
}

size_t workspace_bytes(const Problem& problem) {
  check_shapes(problem);
  return workspace(problem).bytes;
}

Plan plan(const Problem& problem, int architecture, Path path, Pointer workspace_at) {
  check_shapes(problem);
  const Path used = chosen(path, architecture);
  const Workspace space = workspace(problem);
  Plan made;
  made.workspace_bytes = space.bytes;
  if (has_norm(problem.op)) {
    const NormArguments norm = norm_arguments(problem, workspace_at);
    made.launches.push_back(statistics_launch(problem, norm));
    if (problem.op == Op::kGroupNormSwish) {
      made.launches.push_back(apply_launch(problem, norm));
      return made;
    }
  }
  made.launches.push_back(pack_launch(problem, space, workspace_at));
  made.launches.push_back(conv_launch(problem, space, workspace_at, used, architecture));
  return made;
}

Plan plan_prepare(const Weights& weights, Pointer words, Pointer prepared) {
  check_weights(weights);
  const PrepareArguments arguments{words, prepared, static_cast<int>(weights.out_channels),
                                   static_cast<int>(weights.in_channels),
                                   static_cast<int>(weights.k)};
  const PreparedLayout layout =
      prepared_layout(arguments.out_channels, arguments.in_channels, arguments.k);
  const auto blocks = [](int64_t threads) {
    return (threads + kPrepareThreads - 1) / kPrepareThreads;
  };
  if (blocks(layout.ones) > 2147483647) {
    throw Error("prepared words are too large: " + std::to_string(layout.words) + " 32-bit words");
  }
  Plan made;
  made.launches.push_back(
      make_launch(kPrepareFragments, blocks(layout.ones), 1, kPrepareThreads, 0, arguments));
  made.launches.push_back(
      make_launch(kPrepareOnes, blocks(layout.padded_channels), 1, kPrepareThreads, 0, arguments));
  return made;
}

}  // namespace bidiff::cuda
