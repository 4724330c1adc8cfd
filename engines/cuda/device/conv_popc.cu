// Convolutions without tensor cores. Every GPU.
#include "conv.h"

#define BIDIFF_CONV(Element, kind) popc_conv<Element, kind>
BIDIFF_CONV_KERNELS(popc, BIDIFF_CONV)
#undef BIDIFF_CONV
