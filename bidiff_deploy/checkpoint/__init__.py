"""A checkpoint file, published, packed or of a training run here, as one record.

    record          ``Checkpoint``, whatever file it was read from
    read            ``read_checkpoint``: finds the format and reads it
    tensor_files    raw tensors from ``.pth``, ``.pt`` and ``.safetensors`` files
    published_keys  published keys <-> this project's parameter names
    options         published option files (YAML)
    packed          packed checkpoints: sign bits, scales and the rest

Only ``.pth`` and ``.pt`` files need torch.
"""
