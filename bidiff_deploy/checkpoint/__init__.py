"""A checkpoint file, published, packed or of a training run here, as one record.

    record          ``Checkpoint``, whatever file it was read from
    read            ``read_checkpoint``: finds the format and reads it
    tensor_files    raw tensors from a file: finds its format, its state dict and its prefixes
    file_kinds      what a file is that is no checkpoint: pointers, web pages, archives
    torch_files     ``.pth`` and ``.pt`` files; their pickles are read by ``pickles``
    safetensors_files  ``.safetensors`` files
    wrappers        which state dict is taken, and the prefixes of its keys
    published_keys  published keys <-> this project's parameter names
    autoencoder     the file of a latent network's autoencoder
    options         published option files
    resshift_options  those of the ResShift family
    packed          packed checkpoints: sign bits, scales and the rest
    yaml_text       the loader of YAML, also for recipes

No format needs torch.
"""
