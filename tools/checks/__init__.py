"""What the tools that prove and measure the GPU backends share: gpu_check, tensorrt_check."""
