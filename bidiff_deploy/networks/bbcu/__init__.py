"""BBCU-M: a feed-forward network, all but its first and last convolution binary.

The cheapest use of the packed kernels, and the bar that a diffusion model has to pass: one run of
one graph takes a low-resolution picture to the large one. ``network`` says what it consists of,
``recognise`` reads that from a checkpoint's tensors, ``bundle`` opens what export wrote, ``tiles``
and ``memory`` run pictures of any size. Nothing here needs torch.
"""
