"""The TensorRT backends: bundle -> graph -> plan -> engine, and the plugin library.

    versions    names, the oldest supported versions, and version texts as numbers
    installed   the import of TensorRT or TensorRT-RTX
    log         TensorRT's latest messages
    api         the installed TensorRT or TensorRT-RTX: its objects, log and plugin
    profiles    the shapes that a plan runs
    sidecar     the file next to a plan: what the plan was built from and for which machine
    plans       plans in a folder: which one runs a shape, and whether it fits this machine
    plan_pairs  a plan and its sidecar, written as a pair
    build/      a lowered graph -> a plan
    plugin/     the plugin library: built from source, found and loaded
    run/        plans -> an engine.

TensorRT is imported by ``api.open_tensorrt`` only, when a plan is built or run.
"""
