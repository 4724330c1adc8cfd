// Convolutions with `and` on tensor cores. sm_75 does not have it; sm_100 and later replace it with
// eight int8 products.
#include "conv.h"

#if BIDIFF_ARCHITECTURE >= 80 && BIDIFF_ARCHITECTURE < 100
#define BIDIFF_CONV(Element, kind) conv<Element, AndPath, kind>
BIDIFF_CONV_KERNELS(and, BIDIFF_CONV)
#undef BIDIFF_CONV
#endif
