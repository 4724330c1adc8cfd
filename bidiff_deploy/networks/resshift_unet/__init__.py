"""ResShift's UNet of residual blocks and Swin stages, which SinSR runs once, and its 1-bit form,
BiMaCoSR.

    config        options of both forms
    architecture  blocks, layers and parameters of both forms
    recognition   options from the keys and shapes of a checkpoint
    layers        the weighted layers as nodes, full precision and binary
    graph         one step as an ONNX graph
    time_path     the time embedding at a fixed step, folded into norms
    costs         counts of layers
    network       the records.
"""
