// Convolutions with int8 tensor cores. Every GPU from sm_75 on.
#include "conv.h"

#define BIDIFF_CONV(Element, kind) conv<Element, Int8Path, kind>
BIDIFF_CONV_KERNELS(int8, BIDIFF_CONV)
#undef BIDIFF_CONV
