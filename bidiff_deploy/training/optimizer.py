"""How weights are updated: the learning rate, Adam, and low precision with its loss scale.

In ``bfloat16`` and ``float16`` torch's autocast computes convolutions, matrix products and their
gradients in that type, from float32 weights. What decides signs and sizes stays in float32: the
comparison with thresholds, the scales alpha, RPReLU and the shortcut of every BIConv
(``fused.binary_conv2d``), normalisation, the loss, the optimizer and the averaged weights. A
product of +1 and -1 is exact in either type, and so is a sum of up to 256 (bfloat16) or 2048
(float16) of them. Validation is in float32. A CPU without instructions for bfloat16 emulates it,
nine times slower than float32, which is used there instead.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from .. import machine
from ..errors import UsageError
from .recipe_parts import Optimizer

__all__ = ["Precision", "learning_rate", "make_optimizer"]

_MIN_SCALE = 2.0**-8  # below it the gradient overflows at any scale


def learning_rate(options: Optimizer, iteration: int, progress: float) -> float:
    """The learning rate of an iteration, counted from 0, at ``progress`` (0 to 1) of the run."""
    warm = min(1.0, (iteration + 1) / (options.warmup + 1))
    if options.schedule == "cosine":
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        share = options.final_share + (1 - options.final_share) * cosine
    elif options.schedule == "multistep":
        share = options.gamma ** sum(iteration >= milestone for milestone in options.milestones)
    else:
        share = 1.0
    return options.learning_rate * warm * share


def make_optimizer(options: Optimizer, objective: nn.Module) -> torch.optim.Adam:
    """Adam over the parameters that require gradients, in one pass over each.

    A submodule of ``objective`` with ``rate_share`` gets a group of its own, whose entry ``share``
    is that: its learning rate relative to the others', and gradients are clipped by group.
    """
    groups: dict[float | None, list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            part = getattr(objective, name.partition(".")[0])
            groups.setdefault(getattr(part, "rate_share", None), []).append(parameter)
    first, second = options.betas
    return torch.optim.Adam([{"params": parameters, **({} if share is None else {"share": share})}
                             for share, parameters in groups.items()],
                            lr=options.learning_rate, betas=(first, second), fused=True)


class Precision:
    """``run.precision`` on a device.

    The exponents of float16 are too few for gradients, so the loss is scaled by an adaptive factor
    (torch's GradScaler), and an iteration whose gradient overflows is skipped.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "float16" and device.type != "cuda":
            raise UsageError("run.precision=float16 needs a GPU; on a CPU use bfloat16 or float32")
        if (name == "bfloat16" and device.type == "cuda"
                and not torch.cuda.is_bf16_supported(including_emulation=False)):
            raise UsageError("run.precision=bfloat16 is not supported by this GPU; use float16")
        if name == "bfloat16" and device.type == "cpu" and not machine.multiplies_bfloat16():
            name = "float32"
        self.device, self.name = device, name
        self.dtype: torch.dtype = getattr(torch, name)
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "float16")

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self.device.type, self.dtype,
                              enabled=self.dtype is not torch.float32)

    @property
    def diverged(self) -> bool:
        """Whether the gradient is not finite at any scale of the loss."""
        return self.scaler.is_enabled() and self.scaler.get_scale() < _MIN_SCALE
