"""The networks in torch, by the names of ``bidiff_deploy.networks``: trained here, and the reference
that proofs compare engines with.

A module has the parameters that its network's record lists, by the same names, and its options as
``config``. That of a noise predictor is called with (noisy, condition, timestep), that of a network
without a loop with the image. A binary layer has ``threshold``, ``constants(group)`` and
``residual(x)``, which ``proof.check`` reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ...networks.base import Config
from .bbcu import Bbcu
from .bi_diffsr import BiDiffSR

__all__ = ["MODULES", "make_module"]

MODULES: dict[str, Callable[[Any], nn.Module]] = {"bi-diffsr": BiDiffSR, "bbcu": Bbcu}


def make_module(config: Config) -> nn.Module:
    """The network of ``config`` with fresh weights."""
    return MODULES[config.network](config)
