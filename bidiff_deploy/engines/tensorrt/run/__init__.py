"""TensorRT plans -> an engine.

    noise_predictor     the engine: it chooses plans and cuts images into tiles
    context             an open plan, memory for activations, and the rows of constants
    step                the steps of one shape, captured as CUDA graphs
    device              memory, copies, one stream and captured graphs of one GPU
    pycuda_driver       the CUDA driver by pycuda
    cuda_python_driver  the CUDA driver by cuda-python, which also captures graphs.
"""
