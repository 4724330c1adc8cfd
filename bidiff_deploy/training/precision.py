"""Low precision for the bulk of the arithmetic.

In ``bfloat16`` and ``float16`` torch's autocast computes convolutions, matrix products and their
gradients in that type, from float32 weights. What decides signs and sizes stays in float32: the
comparison with thresholds, the scales alpha, RPReLU and the shortcut of every BIConv
(``fused.binary_conv2d``), normalisation, the loss, the optimizer and the averaged weights. A
product of +1 and -1 is exact in either type, and so is a sum of up to 256 (bfloat16) or 2048
(float16) of them. Validation is in float32.
"""

from __future__ import annotations

import torch

from ..errors import UsageError

__all__ = ["Precision"]

_LOWEST_SCALE = 2.0**-8  # below it the gradient overflows whatever it is multiplied by


class Precision:
    """``run.precision`` on a device.

    float16 has too few exponents for gradients, so the loss is scaled by a factor that follows
    them (torch's GradScaler), and an iteration whose gradient overflows is left out.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "float16" and device.type != "cuda":
            raise UsageError("run.precision=float16 needs a GPU; on a CPU use bfloat16 or float32")
        if (name == "bfloat16" and device.type == "cuda"
                and not torch.cuda.is_bf16_supported(including_emulation=False)):
            raise UsageError("run.precision=bfloat16: this GPU has no such type; use float16")
        self.device = device
        self.dtype = getattr(torch, name)
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "float16")

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self.device.type, self.dtype,
                              enabled=self.dtype is not torch.float32)

    @property
    def diverged(self) -> bool:
        """Whether no scale of the loss gives a finite gradient."""
        return self.scaler.is_enabled() and self.scaler.get_scale() < _LOWEST_SCALE
