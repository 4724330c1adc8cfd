// Everything but the convolutions: weights, statistics, GroupNormSwish, packing.
#include "pack.h"
#include "prepare.h"

#define BIDIFF_MAP_KERNEL(name, Arguments, threads, call)                  \
  BIDIFF_KERNEL(name, bidiff::cuda::Arguments, bidiff::cuda::threads, 1) { \
    using namespace bidiff::cuda;                                          \
    call(arguments);                                                       \
  }

BIDIFF_MAP_KERNEL(bidiff_prepare_fragments, PrepareArguments, kPrepareThreads, prepare_fragment)
BIDIFF_MAP_KERNEL(bidiff_prepare_ones, PrepareArguments, kPrepareThreads, prepare_ones)
BIDIFF_MAP_KERNEL(bidiff_statistics_f32, StatisticsArguments, kNormThreads, statistics<float>)
BIDIFF_MAP_KERNEL(bidiff_statistics_f16, StatisticsArguments, kNormThreads, statistics<Half>)
BIDIFF_MAP_KERNEL(bidiff_norm_swish_f32, ApplyArguments, kApplyThreads, apply<float>)
BIDIFF_MAP_KERNEL(bidiff_norm_swish_f16, ApplyArguments, kApplyThreads, apply<Half>)

#define BIDIFF_PACK_KERNEL(name, Element, norm)                                     \
  BIDIFF_KERNEL(name, bidiff::cuda::PackArguments, bidiff::cuda::kPackThreads, 1) { \
    using namespace bidiff::cuda;                                                   \
    pack<Element, norm>(arguments);                                                 \
  }

BIDIFF_PACK_KERNEL(bidiff_pack_f32, float, false)
BIDIFF_PACK_KERNEL(bidiff_pack_f16, Half, false)
BIDIFF_PACK_KERNEL(bidiff_pack_norm_f32, float, true)
BIDIFF_PACK_KERNEL(bidiff_pack_norm_f16, Half, true)
