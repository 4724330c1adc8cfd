// Inlining that does not depend on the optimiser, for policies and the templates that use them.
#pragma once

#define BIDIFF_INLINE static inline __attribute__((always_inline))
#define BIDIFF_INLINE_MEMBER inline __attribute__((always_inline))
