"""Evidence about a bundle: whether it equals its checkpoint, how fast it is, what it contains.

    inputs         the images that checks run on
    reference      a checkpoint's network in torch, for CPU checks
    torch_engines  a checkpoint's network in torch as an engine, on a CPU or a GPU
    sessions       ONNX Runtime sessions with the engines' settings
    check          compares a bundle with its checkpoint
    bench          measures speed and memory against float32 baselines
    inspect        lists layers, costs and bytes of a bundle

Each of the last three is one command.
"""
