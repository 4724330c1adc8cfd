"""DiT-SR: a U-shaped network of Swin stages, modulated by time in the frequencies of 8x8 cells.

    architecture  options, blocks and parameters
    recognition   options from the keys and shapes of a checkpoint
    modulation    AdaFM at a fixed timestep as one matrix
    graph         one step as an ONNX graph
    costs         counts of layers
    network       the record.
"""
