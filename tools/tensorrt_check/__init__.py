"""Verifies and measures the TensorRT backend on a GPU: ``python tools/tensorrt_check``."""
