"""Verifies and measures the CUDA kernels on an NVIDIA GPU: ``python tools/gpu_check``."""
