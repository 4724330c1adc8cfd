"""What a machine with a GPU and TensorRT can prove and measure: ``python tools/tensorrt_check``."""
