"""Speed and memory of a bundle against float32 baselines.

    measure     times all candidates in turns
    candidates  the packed engine and its baselines, behind one call
    folded      the network without packing, as ONNX and in torch
    profile     the packed engine's time by operator
    roofline    lower bounds of that time on this machine

``measure.bench_bundle`` is the entry.
"""
