"""Engines that run a bundle's graphs by ONNX Runtime.

    session          the import of onnxruntime, session options, and CPU sessions of a bundle
    noise_predictor  diffusion models on CPUs: backends ``onnxruntime`` and ``onnxruntime-stock``
    one_run          networks without a loop on CPUs
    latent           latent networks on CPUs
    cuda             diffusion models on NVIDIA GPUs: backend ``onnxruntime-cuda``
    cuda_session     the kernels and the session of that backend
    cuda_provider    ONNX Runtime's CUDA provider: whether it can start, and its settings
    cuda_step        the buffers of one step on a device.
"""
