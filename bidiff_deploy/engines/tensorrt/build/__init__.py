"""A lowered graph -> a TensorRT plan.

    builder       ``build_plan``: lowers the graph, builds in a thread, writes plan and sidecar
    network       the graph as TensorRT's network, and the builder's configuration
    progress      the progress of a build, from the phases that TensorRT reports
    timing_cache  TensorRT's timing cache on disk.
"""
