"""Shared by the tools that verify and measure the GPU backends: gpu_check and tensorrt_check."""
