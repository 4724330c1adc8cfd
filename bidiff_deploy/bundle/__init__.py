"""The bundle format, in both directions.

    record        ``Bundle``, ``NoisePredictorBundle``, ``LatentBundle``: a verified bundle
    manifest      ``open_bundle``: reads and verifies a bundle's manifest and files
    weights_file  writes the file of tensor bytes that all graphs share
    step_graphs   reads the graphs and their tensors
    graph_reader  the layers that a graph computes: types, sizes, multiply-accumulates
    tensors       byte ranges of the weights file by tensor, layer and part

``export/bundle_format.md`` describes the format.
"""
