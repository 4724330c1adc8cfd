#include "plan_shapes.h"

#include <string>

#include "driver.h"
#include "plan.h"

namespace bidiff::cuda {
namespace {

constexpr int64_t kMaxPlane = int64_t{1} << 30;  // H * W; indices inside a plane are 32 bits
constexpr int64_t kMaxGrid = 2147483647, kMaxRows = 65535;

std::string shape(const Problem& problem) {
  return "(" + std::to_string(problem.batch) + ", " + std::to_string(problem.channels) + ", " +
         std::to_string(problem.height) + ", " + std::to_string(problem.width) + ")";
}

[[noreturn]] void refuse(const Problem& problem, const std::string& why) {
  throw Error("a map of shape " + shape(problem) + " cannot be computed on the GPU: " + why);
}

// Refuses a product of positive factors that exceeds `max`.
void check_product(const Problem& problem, std::initializer_list<int64_t> factors, int64_t max,
                   const char* why) {
  int64_t product = 1;
  for (const int64_t factor : factors) {
    if (factor > max / product) refuse(problem, why);
    product *= factor;
  }
}

int64_t ceil_div_64(int64_t a, int64_t b) { return (a + b - 1) / b; }

Geometry geometry_with_tile(const Problem& problem, int tile_width) {
  Geometry map{};
  map.height = static_cast<int>(problem.height);
  map.width = static_cast<int>(problem.width);
  map.halo = static_cast<int>(problem.k / 2);
  map.tile_width = tile_width;
  map.tile_height = kBlockPixels / tile_width;
  map.tiles_x = ceil_div(map.width, map.tile_width);
  map.tiles_y = ceil_div(map.height, map.tile_height);
  map.rows = map.tiles_y * map.tile_height + 2 * map.halo;
  map.pitch = map.tiles_x * map.tile_width + 4 * map.halo;
  return map;
}

size_t aligned_size(int64_t bytes) {
  return (static_cast<size_t>(bytes) + kPreparedAlignment - 1) / kPreparedAlignment *
         kPreparedAlignment;
}

}  // namespace

void check_weights(const Weights& weights) {
  if (weights.k != 1 && weights.k != 3) {
    throw Error("words must have k 1 or 3, not " + std::to_string(weights.k));
  }
  const int64_t max_channels = kMaxRows * kBlockChannels;
  if (weights.in_channels < 1 || weights.out_channels < 1 || weights.in_channels > max_channels ||
      weights.out_channels > max_channels) {
    throw Error("words for " + std::to_string(weights.in_channels) + " input and " +
                std::to_string(weights.out_channels) +
                " output channels cannot be used on the GPU: both must be from 1 to " +
                std::to_string(max_channels));
  }
  // The ones of a tap are stored in 16 bits.
  if (weights.in_channels > 65535) {
    throw Error("words for " + std::to_string(weights.in_channels) +
                " input channels cannot be used on the GPU: at most 65535");
  }
}

void check_shapes(const Problem& problem) {
  if (problem.batch < 1 || problem.channels < 1 || problem.height < 1 || problem.width < 1) {
    refuse(problem, "every dimension must be at least 1");
  }
  if (problem.element != Element::kFloat32 && problem.element != Element::kFloat16) {
    refuse(problem, "its elements must be float32 or float16");
  }
  check_product(problem, {problem.height, problem.width}, kMaxPlane,
                "height times width must be at most 2^30; use tiles");
  check_product(problem, {problem.batch, problem.channels}, kMaxGrid,
                "batch times channels must be below 2^31; use a smaller batch");
  if (has_norm(problem.op)) {
    if (problem.groups < 1 || problem.channels % problem.groups) {
      refuse(problem, "groups (" + std::to_string(problem.groups) + ") must divide its channels");
    }
    check_product(problem, {problem.batch, problem.groups, kMaxParts}, kMaxGrid,
                  "it has too many groups in a batch; use a smaller batch");
  }
  if (problem.op == Op::kGroupNormSwish) {
    check_product(
        problem,
        {problem.batch, problem.channels, ceil_div_64(problem.height * problem.width, kApplyStep)},
        kMaxGrid, "it has too many elements; use a smaller batch");
    return;
  }
  const bool shuffles = problem.op == Op::kBinaryDown || problem.op == Op::kBinaryUp;
  if ((shuffles || problem.op == Op::kBinaryFusion) && problem.channels % 2) {
    refuse(problem, "its number of channels must be even");
  }
  if (problem.op == Op::kBinaryDown && (problem.height % 2 || problem.width % 2)) {
    refuse(problem, "its height and width must be even");
  }
  const Weights weights = branch_weights(problem);
  check_weights(weights);
  const int branches = branch_count(problem.op);
  const Geometry map = geometry(problem);
  check_product(problem, {problem.batch, map.tiles_x, map.tiles_y}, kMaxGrid,
                "it has too many pixels in a batch; use a smaller batch");
  check_product(problem, {map.rows, map.pitch}, kMaxGrid,
                "the zeros around its rows would need too much memory; use tiles");
  check_product(problem, {problem.batch, branches, ceil_div_64(plane_words(map), kPackThreads)},
                kMaxGrid, "it has too many pixels in a batch; use a smaller batch");
}

Geometry geometry(const Problem& problem) {
  const bool keeps_rows =
      problem.k == 3 || problem.op == Op::kBinaryDown || problem.op == Op::kBinaryUp;
  if (!keeps_rows) {
    // A 1x1 convolution reads no neighbouring pixels: the map is one row.
    Problem row = problem;
    row.width = problem.height * problem.width;
    row.height = 1;
    return geometry_with_tile(row, kBlockPixels);
  }
  Geometry best = geometry_with_tile(problem, 32);
  for (const int tile_width : {16, 8}) {
    const Geometry map = geometry_with_tile(problem, tile_width);
    if (static_cast<int64_t>(map.tiles_x) * map.tiles_y <
        static_cast<int64_t>(best.tiles_x) * best.tiles_y) {
      best = map;
    }
  }
  return best;
}

NormArguments norm_parts(const Problem& problem) {
  NormArguments norm{};
  norm.channels = static_cast<int>(problem.channels);
  norm.groups = static_cast<int>(problem.groups);
  norm.group_size = problem.channels / problem.groups * problem.height * problem.width;
  // A part is a whole number of a block's steps, as few as keep the number of parts within
  // kMaxParts.
  const int64_t steps = ceil_div_64(norm.group_size, kNormStep);
  norm.part_size = ceil_div_64(steps, kMaxParts) * kNormStep;
  norm.parts = static_cast<int>(ceil_div_64(norm.group_size, norm.part_size));
  return norm;
}

Workspace workspace(const Problem& problem) {
  Workspace space{};
  size_t end = 0;
  if (has_norm(problem.op)) {
    const NormArguments norm = norm_parts(problem);
    space.partials = end;
    end += aligned_size(problem.batch * norm.groups * norm.parts * 2 * int64_t{sizeof(float)});
    space.affine = end;
    if (problem.op == Op::kNormBinaryConv) {
      end += aligned_size(problem.batch * problem.channels * 2 * int64_t{sizeof(float)});
    }
  }
  const int branches = branch_count(problem.op);
  if (branches) {
    const int64_t words = ceil_div_64(branch_weights(problem).in_channels, kWordBits);
    const int64_t bytes =
        problem.batch * words * plane_words(geometry(problem)) * int64_t{sizeof(unsigned)};
    for (int branch = 0; branch < branches; ++branch) {
      space.packed[branch] = end;
      end += aligned_size(bytes);
    }
  }
  space.bytes = end;
  return space;
}

}  // namespace bidiff::cuda
