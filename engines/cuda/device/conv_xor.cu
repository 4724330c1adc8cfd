// Convolutions with xor on tensor cores. sm_90 replaces it with two `and`, later GPUs with eight
// int8 products.
#include "conv.h"

#if BIDIFF_ARCHITECTURE >= 75 && BIDIFF_ARCHITECTURE < 90
#define BIDIFF_CONV(Element, kind) conv<Element, XorPath, kind>
BIDIFF_CONV_KERNELS(xor, BIDIFF_CONV)
#undef BIDIFF_CONV
#endif
