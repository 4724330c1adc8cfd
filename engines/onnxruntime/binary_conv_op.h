// bidiff::BinaryConv, version 1, as an ONNX Runtime custom op for the CPU provider.
#pragma once

#include "abi.h"

namespace bidiff::ort {

// Valid as long as the library is loaded; one process has one runtime, hence one op.
const CustomOp* binary_conv_op(const Api& api, bool infers_shapes);

}  // namespace bidiff::ort
