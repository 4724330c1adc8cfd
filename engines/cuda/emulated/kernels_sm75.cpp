// Every kernel as its module for sm_75 has it.
#define BIDIFF_EMULATED 75

#include "../device/conv_and.cu"
#include "../device/conv_int8.cu"
#include "../device/conv_popc.cu"
#include "../device/conv_xor.cu"
#include "../device/maps.cu"
