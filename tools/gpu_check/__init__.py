"""What a machine with an NVIDIA GPU can prove and measure: ``python tools/gpu_check``."""
