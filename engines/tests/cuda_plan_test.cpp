// Plans of the CUDA kernels, without running them: launch geometry, workspaces, kernels' names, and
// every refusal as a sentence. Prints what it did; exit code 0 passed, 1 failed.
#include <cstdio>
#include <set>
#include <string>

#include "../cuda/driver.h"
#include "../cuda/plan.h"
#include "../cuda/plan_shapes.h"
#include "emulated_cuda/kernel_table.h"
#include "test_inputs.h"

namespace {

using namespace bidiff::cuda;

constexpr int kArchitectures[] = {75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121};
constexpr Op kOps[] = {Op::kBinaryConv, Op::kNormBinaryConv, Op::kBinaryFusion,
                       Op::kBinaryDown, Op::kBinaryUp,       Op::kGroupNormSwish};

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
}

Problem problem_of(Op op, int64_t batch, int64_t channels, int64_t height, int64_t width,
                   int64_t k = 3) {
  Problem problem{};
  problem.op = op;
  problem.element = Element::kFloat16;
  problem.batch = batch;
  problem.channels = problem.out_channels = channels;
  problem.height = height;
  problem.width = width;
  problem.k = k;
  problem.groups = 1;
  return problem;
}

// Every kernel that a plan may name is in the architecture's module, and no path is missing.
void test_names() {
  for (const int architecture : kArchitectures) {
    std::set<std::string> listed;
    for (const char* name : kernel_names(architecture)) {
      listed.insert(name);
      expect(emulated::find_kernel(architecture, name),
             std::string(name) + " is missing on sm_" + std::to_string(architecture));
    }
    const std::vector<Path> all = paths(architecture);
    expect(all.back() == Path::kPopc, "popc is the fallback");
    for (const Path path : all) {
      for (const Op op : kOps) {
        for (const Element element : {Element::kFloat32, Element::kFloat16}) {
          Problem problem = problem_of(op, 1, 64, 8, 8);
          problem.element = element;
          for (const Launch& launch : plan(problem, architecture, path, 0).launches) {
            expect(listed.count(launch.kernel), std::string(launch.kernel) + " is not listed");
            const emulated::Kernel* kernel = emulated::find_kernel(architecture, launch.kernel);
            expect(kernel && kernel->argument_bytes == launch.arguments.size() &&
                       kernel->threads == launch.block[0],
                   std::string(launch.kernel) + " takes other arguments or threads");
          }
        }
      }
    }
  }
}

// Blocks cover every output once, planes have room for every read of a tile, shared memory fits.
void test_geometry() {
  Inputs random(2);
  for (int i = 0; i < 3000; ++i) {
    const Op op = kOps[random.one_of(5)];
    Problem problem = problem_of(op, 1 + random.one_of(3), 2 * (1 + random.one_of(600)),
                                 2 * (1 + random.one_of(70)), 2 * (1 + random.one_of(70)),
                                 random.one_of(2) ? 3 : 1);
    const Geometry map = geometry(problem);
    expect(map.tile_width * map.tile_height == kBlockPixels, "a tile has 128 pixels");
    expect(map.tiles_x * map.tile_width >= map.width && map.tiles_y * map.tile_height >= map.height,
           "tiles cover the map");
    expect((map.tiles_x - 1) * map.tile_width < map.width &&
               (map.tiles_y - 1) * map.tile_height < map.height,
           "no tile is empty");
    expect(static_cast<int64_t>(map.height) * map.width == problem.height * problem.width,
           "the map has its pixels");
    const int halo = halo_width(map) * halo_height(map);
    expect(halo <= halo_stride(map.halo) && halo_width(map) / 2 * halo_height(map) <= kConvThreads,
           "the halo fits its plane, and a thread copies one pair");
    expect(map.pitch % 2 == 0 && map.tile_width % 2 == 0 && plane_words(map) % 2 == 0,
           "pairs of words are aligned");
    expect((map.tiles_x - 1) * map.tile_width + halo_width(map) <= map.pitch &&
               (map.tiles_y - 1) * map.tile_height + halo_height(map) <= map.rows,
           "a tile's halo is inside its plane");
    for (const int architecture : {75, 90}) {
      for (const Path path : paths(architecture)) {
        const Plan made = plan(problem, architecture, path, 0);
        expect(made.launches.size() == (op == Op::kNormBinaryConv ? 3u : 2u), "few launches");
        expect(made.workspace_bytes == workspace_bytes(problem), "one size of the workspace");
        const Launch& conv = made.launches.back();
        const int64_t blocks = (branch_weights(problem).out_channels + 31) / 32;
        expect(conv.grid[0] == problem.batch * map.tiles_x * map.tiles_y &&
                   conv.grid[1] == blocks * (op == Op::kBinaryUp ? 2 : 1),
               "a block for every 32 channels of a tile");
        expect(conv.shared <= 49152, "shared memory");
      }
    }
  }
}

void test_norm_parts() {
  Inputs random(3);
  for (int i = 0; i < 2000; ++i) {
    Problem problem = problem_of(Op::kNormBinaryConv, 1, 16 * (1 + random.one_of(32)),
                                 1 + random.one_of(300), 1 + random.one_of(300));
    problem.groups = 16;
    const NormArguments norm = norm_parts(problem);
    expect(norm.parts <= kMaxParts && norm.part_size % kNormStep == 0 &&
               norm.parts * norm.part_size >= norm.group_size &&
               (norm.parts - 1) * norm.part_size < norm.group_size,
           "parts cover a group, and none is empty");
  }
}

template <class Call>
void refused(const Call& call, const char* part) {
  try {
    call();
    expect(false, std::string("not refused: ") + part);
  } catch (const Error& error) {
    const std::string sentence = error.what();
    expect(sentence.find(part) != std::string::npos && sentence.find('\n') == std::string::npos,
           "'" + sentence + "' should say: " + part);
  }
}

void test_refusals() {
  const auto refuse = [](const Problem& problem, const char* part) {
    refused([&] { plan(problem, 80, Path::kAuto, 0); }, part);
    refused([&] { workspace_bytes(problem); }, part);
  };
  refuse(problem_of(Op::kBinaryConv, 0, 64, 8, 8), "at least 1");
  refuse(problem_of(Op::kBinaryConv, 1, 64, 8, 8, 5), "k 1 or 3, not 5");
  refuse(problem_of(Op::kBinaryConv, 1, 64, 1 << 20, 1 << 20), "2^30");
  refuse(problem_of(Op::kBinaryConv, 1 << 20, 1 << 20, 8, 8), "batch times channels");
  refuse(problem_of(Op::kBinaryConv, 1, int64_t{1} << 22, 8, 8), "must be from 1 to 2097120");
  refuse(problem_of(Op::kBinaryUp, 1, 65536, 2, 2), "at most 65535");
  refuse(problem_of(Op::kBinaryConv, 1 << 21, 1, 1024, 1024), "too many pixels");
  refuse(problem_of(Op::kBinaryConv, 1, 1, 1, 1 << 30), "zeros around its rows");
  refuse(problem_of(Op::kBinaryFusion, 1, 33, 8, 8), "channels must be even");
  refuse(problem_of(Op::kBinaryUp, 1, 33, 8, 8), "channels must be even");
  refuse(problem_of(Op::kBinaryDown, 1, 64, 7, 8), "height and width must be even");
  Problem norm = problem_of(Op::kNormBinaryConv, 1, 64, 8, 8);
  norm.groups = 48;
  refuse(norm, "groups (48) must divide");
  norm.groups = 0;
  refuse(norm, "groups (0) must divide");
  Problem element = problem_of(Op::kBinaryConv, 1, 64, 8, 8);
  element.element = static_cast<Element>(16);
  refuse(element, "float32 or float16");
  const Problem fine = problem_of(Op::kBinaryConv, 1, 64, 8, 8);
  refused([&] { plan(fine, 70, Path::kAuto, 0); }, "7.5 (Turing) or newer, this GPU has 7.0");
  refused([&] { plan(fine, 90, Path::kXor, 0); }, "choose one of and, int8, popc");
  refused([&] { plan_prepare({0, 64, 3}, 0, 0); }, "from 1 to");
  refused([&] { prepared_bytes({64, 64, 2}); }, "k 1 or 3");
  // At the limits.
  plan(problem_of(Op::kBinaryConv, 1, 32, 1, 1 << 30, 1), 90, Path::kAuto, 0);
  plan(problem_of(Op::kGroupNormSwish, 1, 64, 1 << 15, 1 << 15), 75, Path::kAuto, 0);
  plan(problem_of(Op::kBinaryUp, 1, 65534, 1, 1), 120, Path::kAuto, 0);
}

}  // namespace

int main() {
  test_names();
  test_geometry();
  test_norm_parts();
  test_refusals();
  std::printf("plans: %d failed\n", failures);
  return failures ? 1 : 0;
}
