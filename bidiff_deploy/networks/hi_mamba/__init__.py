"""Hi-Mamba: a feed-forward network of selective scans over pixels and over regions.

    architecture   its options, its parameters by name, and what the paper leaves open
    recognition    options from the keys and shapes of a checkpoint
    graph          the network as an ONNX graph
    costs, memory  multiply-accumulates and parameters; estimated peak memory
    network        the record

Its torch module is ``training.networks.hi_mamba``.
"""
