#include "node_problem.h"

#include <string>

#include "../cuda/driver.h"
#include "prepared_words.h"

namespace bidiff::tensorrt {
namespace {

// Bytes of prepared words that kernels read at once. TensorRT aligns its own memory to 256 bytes,
// and requires that of addresses that it receives.
constexpr cuda::Pointer kWordsAlignment = 16;

class Reader {
 public:
  Reader(const Operator& of, const Attributes& attributes, const std::vector<Input>& present,
         const Tensor* inputs, const void* const* pointers)
      : of_(of), attributes_(attributes), present_(present), inputs_(inputs), pointers_(pointers) {}

  NodeProblem read(void* y) {
    NodeProblem node{};
    cuda::Problem& problem = node.problem;
    problem.op = of_.op;
    problem.y = pointers_ ? address(y) : 1;
    read_x(&problem);
    for (const Input& input : present_) {
      if (input.role == Role::kAlpha) read_branch(input.branch, &node);
    }
    if (has_norm(of_)) read_norm(&problem);
    const Shape y_shape{problem.batch, 0, problem.out_channels, problem.k, problem.height,
                        problem.width};
    for (size_t i = 0; pointers_ && i < present_.size(); ++i) read_rest(i, y_shape, &problem);
    return node;
  }

 private:
  [[noreturn]] void refuse(const std::string& sentence) const {
    throw cuda::Error(std::string("bidiff::") + of_.name + ": " + sentence);
  }
  void require(bool holds, const std::string& sentence) const {
    if (!holds) refuse(sentence);
  }
  // A sentence of kernels/check.h already names the operator.
  void require(const std::string& sentence) const {
    if (!sentence.empty()) throw cuda::Error(sentence);
  }

  static cuda::Pointer address(const void* pointer) {
    return static_cast<cuda::Pointer>(reinterpret_cast<uintptr_t>(pointer));
  }
  cuda::Pointer pointer(size_t index) const { return pointers_ ? address(pointers_[index]) : 1; }
  const Dims& dims(size_t index) const { return inputs_[index].dims; }

  // Index of an input, or -1.
  int find(Role role, int branch = 0) const {
    for (size_t i = 0; i < present_.size(); ++i) {
      if (present_[i].role == role && present_[i].branch == branch) return static_cast<int>(i);
    }
    return -1;
  }

  void read_x(cuda::Problem* problem) {
    const Tensor& x = inputs_[0];
    require(x.type == Type::kFloat32 || x.type == Type::kFloat16, "x must be float32 or float16");
    problem->element = x.type == Type::kFloat16 ? cuda::Element::kFloat16 : cuda::Element::kFloat32;
    require(x.dims.size() == 4, "x must have shape (N, C, H, W), not " + text(x.dims));
    for (const int64_t size : x.dims) {
      require(size >= 1, "every dimension of x must be at least 1, not " + text(x.dims));
    }
    problem->batch = x.dims[0];
    problem->channels = x.dims[1];
    problem->height = x.dims[2];
    problem->width = x.dims[3];
    problem->out_channels = x.dims[1];
    problem->x = pointer(0);
    if (of_.op == cuda::Op::kBinaryDown) {
      if (!pointers_) {
        problem->height += problem->height % 2;
        problem->width += problem->width % 2;
      }
      require(problem->height % 2 == 0 && problem->width % 2 == 0 && problem->channels % 2 == 0,
              "channels, height and width of x must be even");
    } else if (of_.op == cuda::Op::kBinaryFusion || of_.op == cuda::Op::kBinaryUp) {
      require(x.dims[1] % 2 == 0, "the channels of x must be even");
    }
  }

  void read_norm(cuda::Problem* problem) {
    const int64_t channels = problem->channels;
    problem->groups = attributes_.groups;
    require(attributes_.groups >= 1 && channels % attributes_.groups == 0,
            "groups " + std::to_string(attributes_.groups) + " must divide the " +
                std::to_string(channels) + " channels of x");
    const auto vector = [&](Role role, const char* name) {
      const auto at = static_cast<size_t>(find(role));
      require(check_vector(name, dims(at), channels, false));
      return pointer(at);
    };
    problem->scale = vector(Role::kScale, "scale");
    problem->bias = vector(Role::kBias, "bias");
  }

  // The four inputs of a branch.
  void read_branch(int branch, NodeProblem* node) {
    cuda::Problem& problem = node->problem;
    const int64_t in_channels =
        of_.op == cuda::Op::kBinaryDown ? problem.channels / 2 : problem.channels;
    const auto at = static_cast<size_t>(find(Role::kWords, branch));
    const auto alpha = static_cast<size_t>(find(Role::kAlpha, branch));
    require(dims(alpha).size() == 1 && dims(alpha)[0] >= 1,
            "alpha must have shape (Cout), not " + text(dims(alpha)));
    Shape shape{problem.batch, in_channels, dims(alpha)[0], 0, problem.height, problem.width};
    if (attributes_.kernel) {
      shape.kernel = attributes_.kernel;
      const Dims wanted = {prepared_count({shape.out_channels, in_channels, shape.kernel})};
      require(dims(at) == wanted, "prepared words must have shape " + text(wanted) + ", not " +
                                      text(dims(at)) + "; derive the graph again");
      require(!pointers_ || pointer(at) % kWordsAlignment == 0,
              "prepared words must be aligned to " + std::to_string(kWordsAlignment) + " bytes");
    } else {
      require(read_shape({problem.batch, in_channels, problem.height, problem.width}, dims(at),
                         &shape));
      require(check_vector("alpha", dims(alpha), shape.out_channels, false));
    }
    if (of_.op == cuda::Op::kBinaryConv) {
      problem.out_channels = shape.out_channels;
    } else {
      require(shape.out_channels == in_channels,
              "words must have as many output channels as input channels");
    }
    require(branch == 0 || shape.kernel == problem.k,
            "the words of both branches must have the same kernel size");
    problem.k = shape.kernel;

    cuda::Branch& to = problem.branch[branch];
    (attributes_.kernel ? to.prepared : node->words[branch]) = pointer(at);
    to.alpha = pointer(alpha);
    const int threshold = find(Role::kThreshold, branch), rprelu = find(Role::kRprelu, branch);
    if (threshold >= 0) {
      const auto index = static_cast<size_t>(threshold);
      require(check_vector("threshold", dims(index), in_channels, false));
      to.threshold = pointer(index);
    }
    if (rprelu >= 0) {
      const auto index = static_cast<size_t>(rprelu);
      require(check_rprelu(dims(index), shape));
      to.rprelu = pointer(index);
    }
    node->branches = branch + 1;
  }

  // Inputs other than x, the norm's and the branches'.
  void read_rest(size_t at, const Shape& y, cuda::Problem* problem) {
    const bool is_one = element_count(dims(at)) == 1;
    switch (present_[at].role) {
      case Role::kSecond:
        require(dims(at) == dims(0), "skip must have the shape of x");
        problem->second = pointer(at);
        break;
      case Role::kResidual:
        require(check_residual(dims(at), y));
        problem->residual = pointer(at);
        problem->residual_is_scalar = is_one;
        break;
      case Role::kTime:
        require(check_vector("time", dims(at), y.out_channels, true));
        problem->time = pointer(at);
        problem->time_is_scalar = is_one;
        break;
      case Role::kSkip:
        // One element is 0 by contract; it is on the GPU and is not read.
        require(is_one || dims(at) == dims(0), "skip must have the shape of x or one element");
        if (dims(at) == dims(0)) problem->skip = pointer(at);
        break;
      default: break;
    }
  }

  const Operator& of_;
  const Attributes& attributes_;
  const std::vector<Input>& present_;
  const Tensor* inputs_;
  const void* const* pointers_;
};

}  // namespace

void check_attributes(const Operator& of, const Attributes& attributes) {
  const std::string name = std::string("bidiff::") + of.name + ": ";
  if (has_norm(of) && (attributes.groups < 1 || attributes.groups > INT32_MAX)) {
    throw cuda::Error(name + "attribute groups must be at least 1, not " +
                      std::to_string(attributes.groups));
  }
  if (attributes.kernel != 0 && attributes.kernel != 1 && attributes.kernel != 3) {
    throw cuda::Error(name + "attribute kernel must be 0, 1 or 3, not " +
                      std::to_string(attributes.kernel));
  }
  if (has_words(of) && attributes.kernel && attributes.layout != prepared_layout_number()) {
    throw cuda::Error(
        name + "its words were prepared for another version of this library (layout " +
        std::to_string(attributes.layout) + ", not " + std::to_string(prepared_layout_number()) +
        "); derive the graph and build the engine again with this library");
  }
  if (attributes.inputs != kLeadingInputs) {
    int count = 0;
    for (int64_t rest = attributes.inputs; rest > 0; rest >>= 1) count += rest & 1;
    present_inputs(of, attributes.inputs, count);
  }
}

NodeProblem read_problem(const Operator& of, const Attributes& attributes,
                         const std::vector<Input>& present, const Tensor* inputs,
                         const void* const* pointers, void* y) {
  return Reader(of, attributes, present, inputs, pointers).read(y);
}

}  // namespace bidiff::tensorrt
