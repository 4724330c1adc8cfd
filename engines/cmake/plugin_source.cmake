# The package includes what bidiff-deploy build-plugin compiles: the TensorRT plugin is built on the
# machine that has TensorRT.
set(destination bidiff_deploy/engines/plugin_source)
install(DIRECTORY tensorrt DESTINATION ${destination})
install(DIRECTORY cuda DESTINATION ${destination}
  PATTERN c_api.* EXCLUDE PATTERN timing.* EXCLUDE)
install(FILES kernels/binary_conv.h kernels/check.cpp kernels/check.h
  DESTINATION ${destination}/kernels)
install(FILES cmake/cuda_kernels.cmake cmake/embed_cuda_sources.cmake
  DESTINATION ${destination}/cmake)
