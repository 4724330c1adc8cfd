"""TensorRT plans -> an engine.

    engine              the base class of engines: it chooses plans and cuts images into tiles
    noise_predictor     the engine of diffusion models
    one_run             the engine of networks that run once
    context             an open plan, memory for activations, and the rows of constants
    buffers             the buffers of one shape, and its run captured as a CUDA graph
    step                the steps of one shape, and whole loops
    device              memory, copies, one stream and captured graphs of one GPU
    pycuda_driver       the CUDA driver by pycuda
    cuda_python_driver  the CUDA driver by cuda-python, which also captures graphs.
"""
