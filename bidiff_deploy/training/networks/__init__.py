"""The networks in torch: trained here, and the reference that ``proof`` compares engines with.

    fused          the binary convolution with its gradients, as one autograd function
    binarize       signs with gradients, and the binary layer of BI-DiffSR
    binary_layers  the binary layers of other methods
    plain_layers   those of the oldest of them
    bit_planes     DoReFa-Net's layer of several bits
    sign_functions their signs with gradients
    bi_diffsr      BI-DiffSR, a noise predictor
    bbcu           BBCU-M, a network without a loop
    hi_mamba       Hi-Mamba, a network without a loop
    scan           its selective scan
    latent         what latent networks share: the VQ autoencoder, window attention
    dit_sr         DiT-SR, a latent network
    resshift_unet  ResShift's UNet, full precision and binary: latent networks
    quantised      quantised convolutions, with bounds that are trained and in int8
    rounding       bounds of float32's rounding, computed along with a network's values
    rounding_norms, rounding_scan  those of norms and of the selective scan
    arithmetic     how engines compute

A module has ``config`` and the parameters that its network's record in ``bidiff_deploy.networks``
lists, with the same names. A noise predictor is called with (noisy, condition, timestep), a network
without a loop with the image; a latent network like a noise predictor, and it has ``encode``,
``quantise`` and ``decode``, and ``signs`` and ``flips`` if it has binary layers. ``proof.check``
reads ``binary_nodes()`` of a noise predictor, ``operator_ends()`` of it and of those without a loop
that have it, and ``threshold``, ``constants(group)`` and ``residual(x)`` of the binary layers of a
network without a loop. A layer that a bundle in int8 quantises is a ``Conv2d``; one that computes
more than the convolution has ``around(convolution)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from ...networks.base import Config
from .bbcu import Bbcu
from .bi_diffsr import BiDiffSR
from .dit_sr import DitSr
from .hi_mamba import HiMamba
from .resshift_unet import BiMaCoSr, ResShiftUnet

__all__ = ["MODULES", "channels_last", "make_module"]

M = TypeVar("M", bound=nn.Module)

MODULES: dict[str, Callable[[Any], nn.Module]] = {"bi-diffsr": BiDiffSR, "bbcu": Bbcu,
                                                  "hi-mamba": HiMamba, "dit-sr": DitSr,
                                                  "resshift-unet": ResShiftUnet,
                                                  "bimacosr": BiMaCoSr}


def make_module(config: Config) -> nn.Module:
    """The network of ``config`` with fresh weights."""
    return MODULES[config.network](config)


def channels_last(module: M) -> M:
    """``module`` with its weights in channels_last, for faster convolutions on CPUs and GPUs."""
    # torch declares no ``to`` with a memory format alone.
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
