"""BI-DiffSR: the noise predictor of a diffusion model, most of its convolutions binary.

    config          its options
    binarizers      the ways in which its binary layers may binarise
    architecture    its blocks in order of execution, its parameters by name
    recognition     options from the keys and shapes of a checkpoint
    step_constants  everything that depends on the time step only, computed at export
    graph           one step as an ONNX graph; ``graph_builder`` and the three ``*_blocks`` write it
    costs, memory   multiply-accumulates and parameters; estimated peak memory
    network         the record

Its torch module is ``training.networks.bi_diffsr`` (its blocks: ``bi_diffsr_blocks``).
"""
