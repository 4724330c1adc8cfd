"""What the backends on NVIDIA GPUs share, whichever runtime executes their graphs.

    engine           the base class of every engine on a GPU: buffers by shape, one thread
    noise_predictor  that of diffusion models
    failures         errors of a GPU or its driver: lack of memory, a lost context
    step_rows        the constants of every step as rows of float32
    thread           the one thread that does an engine's work on the device
    library          the CUDA part of the op library: devices, kernels, launches
    nvrtc_files      NVIDIA's run-time compiler as pip installs it
    primary_context  a GPU made current in a thread, by the driver alone.
"""
