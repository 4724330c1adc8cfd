// bidiff::ScaledBinaryConv.
#include <mutex>
#include <vector>

#include "binary_branch.h"
#include "op.h"

namespace bidiff::ort {
namespace {

// A sparse matrix row by row.
struct SparseRows {
  std::vector<int64_t> starts, columns;
  std::vector<float> values;
};

// Inputs x, words, alpha, rprelu, down, up, values, indices.
class ScaledBinaryConv {
 public:
  static constexpr const char* kName = "ScaledBinaryConv";
  static constexpr size_t kInputs = 8, kRequired = 8;
  static constexpr unsigned kIntegers = 1 << 1 | 1 << 7;
  static constexpr int kChannels = 1;
  static constexpr Size kSize = Size::kSame;

  ScaledBinaryConv(const Api& api, const KernelInfo* info)
      : api(api), kernel_(*kernel_or_refuse(api).scaled) {
    constant_ = constant_input(api, info, 1).data != nullptr;
    constant_rows_ = constant_input(api, info, 6).data && constant_input(api, info, 7).data;
  }

  void compute(Call& call) {
    const Tensor x = call.input(0), words = call.input(1), rprelu = call.input(3);
    Problem problem{};
    call.require(read_shape(x.dims, words.dims, &problem.shape));
    const Shape& shape = problem.shape;
    problem.x = x.floats();
    problem.alpha = call.vector(call.input(2), "alpha", shape.out_channels, false);
    call.require(check_rprelu(rprelu.dims, shape));
    problem.rprelu = rprelu.floats();

    const Tensor down = call.input(4), up = call.input(5);
    Branches branches{};
    branches.rank = down.dims.size() == 2 ? down.dims[0] : 0;
    call.require(branches.rank >= 1 && down.dims[1] == shape.in_channels,
                 "down must have shape (rank, Cin), not " + text(down.dims));
    call.require(up.dims == Dims{shape.out_channels, branches.rank},
                 "up must have shape (Cout, rank), not " + text(up.dims));
    branches.down = down.floats();
    branches.up = up.floats();
    SparseRows own;
    const SparseRows& rows = sparse_rows(call, shape, &own);
    branches.starts = rows.starts.data();
    branches.columns = rows.columns.data();
    branches.values = rows.values.data();
    problem.branches = &branches;

    problem.y = call.output({shape.batch, shape.out_channels, shape.height, shape.width});
    const auto packed = constant_ ? packed_.get(kernel_, shape, words.integers())
                                  : pack_weights(kernel_, shape, words.integers());
    call.finish(packed && kernel_.run(problem, packed.get(), call.parallel()));
  }

  const Api& api;

 private:
  const SparseRows& sparse_rows(const Call& call, const Shape& shape, SparseRows* own) {
    if (!constant_rows_) {
      *own = read_rows(call, shape);
      return *own;
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    if (rows_.starts.empty() || of_channels_ != shape.in_channels) {
      rows_ = read_rows(call, shape);
      of_channels_ = shape.in_channels;
    }
    return rows_;
  }

  static SparseRows read_rows(const Call& call, const Shape& shape) {
    const Tensor values = call.input(6), indices = call.input(7);
    const int64_t count = values.dims.size() == 1 ? values.dims[0] : 0;
    call.require(count >= 1 && indices.dims == Dims{2, count},
                 "values must have shape (count) and indices (2, count), not " + text(values.dims) +
                     " and " + text(indices.dims));
    const int32_t* row = indices.integers();
    const int32_t* column = row + count;
    SparseRows rows;
    rows.starts.assign(static_cast<size_t>(shape.out_channels) + 1, 0);
    for (int64_t i = 0; i < count; ++i) {
      call.require(row[i] >= 0 && row[i] < shape.out_channels && column[i] >= 0 &&
                       column[i] < shape.in_channels,
                   "indices must be below Cout and Cin");
      ++rows.starts[static_cast<size_t>(row[i]) + 1];
    }
    for (size_t i = 1; i < rows.starts.size(); ++i) rows.starts[i] += rows.starts[i - 1];
    std::vector<int64_t> next(rows.starts.begin(), rows.starts.end() - 1);
    rows.columns.resize(static_cast<size_t>(count));
    rows.values.resize(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      const size_t at = static_cast<size_t>(next[static_cast<size_t>(row[i])]++);
      rows.columns[at] = column[i];
      rows.values[at] = values.floats()[i];
    }
    return rows;
  }

  const Kernel& kernel_;
  bool constant_ = false, constant_rows_ = false;
  PackedWeights packed_;
  std::mutex mutex_;
  SparseRows rows_;
  int64_t of_channels_ = 0;
};

}  // namespace

CustomOps scaled_conv_ops(const Api& api, bool infers_shapes) {
  return {registered<ScaledBinaryConv>(api, infers_shapes)};
}

}  // namespace bidiff::ort
