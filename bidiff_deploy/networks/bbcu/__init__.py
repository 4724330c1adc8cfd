"""BBCU-M: a feed-forward network, binary except for its first and last convolution.

One run of one graph upscales a low-resolution image. It is the fastest use of the packed kernels,
and the baseline that a diffusion model has to beat.

    architecture   its options, its layers in order of execution, its parameters by name
    recognition    options from the keys and shapes of a checkpoint
    graph          the network as an ONNX graph
    costs, memory  multiply-accumulates and parameters; estimated peak memory
    network        the record

Its torch module is ``training.networks.bbcu``.
"""
