// Every kernel as its module for sm_80 has it.
#define BIDIFF_EMULATED 80

#include "../../cuda/device/conv_and.cu"
#include "../../cuda/device/conv_int8.cu"
#include "../../cuda/device/conv_popc.cu"
#include "../../cuda/device/conv_xor.cu"
#include "../../cuda/device/maps.cu"
