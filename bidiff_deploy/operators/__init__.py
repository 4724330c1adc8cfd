"""The ONNX operators of domain ``bidiff``: one contract for exporter, kernels and every backend.

    names            names and versions
    sign_bits        binary weights as bits in 32-bit words
    value_names      short names of parameters and blocks in graphs
    node_writer      writes nodes of definitions and graphs
    layer_functions  definitions of the operators that are one layer
    scan_function    definition of SelectiveScan
    block_functions  definitions of the operators that fuse several layers
    definitions      all definitions: attached to graphs, recognised, inlined
    shapes           shape inference for graphs with these operators

``export/op_contract.md`` is the contract in prose.
"""
