"""How far a predicted noise is from the noise in the image."""

from __future__ import annotations

from torch import Tensor

__all__ = ["noise_error"]


def noise_error(prediction: Tensor, noise: Tensor, kind: str) -> Tensor:
    """Mean |prediction - noise| for ``l1``, as BI-DiffSR is trained; mean (prediction - noise)^2
    for ``l2``, as DDPM is (Ho et al., NeurIPS 2020, equation 14). Two tensors of one shape -> a
    float32 scalar."""
    difference = prediction.float() - noise
    return difference.abs().mean() if kind == "l1" else difference.square().mean()
