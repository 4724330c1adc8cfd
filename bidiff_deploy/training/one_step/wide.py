"""A teacher several times as wide that shares the student's tensors, trained together with it.

Source: GPD, "Gap Preserving Distillation by Building Bidirectional Mappings with a Dynamic Teacher"
(ICLR 2025, arXiv 2410.04140). The teacher begins as the student's function and is not kept: the
student is a slice of it. What differs here, since the published rules hold for none of BI-DiffSR's
operators: each copy of a channel carries the value itself, not a part of it; channels are cut and
joined in each copy (``BiDiffSR`` with ``copies``), copy after copy; attention divides by ``copies``
as well. The tensors that are trained are ``copies`` times the teacher's weights, so that the
student's are a part of them, to the bit for any number, and Adam's steps are those of a plain run.
Copies stay equal if the teacher alone is trained; the student's gradient, which reaches the first
alone, parts them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...errors import UsageError
from ..networks.bi_diffsr import BiDiffSR

__all__ = ["WideTeacher", "widened"]

_BINARIZERS = ("bi-diffsr", "none")


def widened(student: BiDiffSR, copies: int) -> WideTeacher:
    """A teacher ``copies`` times as wide as ``student``. Raises UsageError for binarizers and
    shortcuts whose layers do more across channels than convolve."""
    config = student.config
    if config.binarizer not in _BINARIZERS or config.shortcut != "identity":
        raise UsageError(f"one_step.wide needs binarizer {' or '.join(_BINARIZERS)} with shortcut "
                         f"identity, not {config.binarizer} with {config.shortcut}")
    with torch.device("meta"):  # its own weights are never used
        wide = BiDiffSR(config, copies)
    wide.shares = student.shares
    return WideTeacher(student, wide)


class WideTeacher(nn.Module):
    """The tensors of ``wide``, a network with the student's parameters in larger shapes.

    The student's parameters become views of them and are no longer trained themselves.
    """

    def __init__(self, student: nn.Module, wide: nn.Module) -> None:
        super().__init__()
        self._network = [wide]  # in a list, so that it is no submodule
        self.tensors = nn.ParameterDict()
        self._shapes: dict[str, torch.Size] = {}
        self._divisors: dict[str, int] = {}
        for (name, value), target in zip(student.named_parameters(), wide.parameters()):
            times = [b // a for a, b in zip(value.shape, target.shape)]
            layout = (torch.channels_last if value.ndim == 4 else torch.contiguous_format)
            shared = nn.Parameter(value.detach().repeat(times).contiguous(memory_format=layout))
            self.tensors[_key(name)] = shared
            self._shapes[name] = value.shape
            self._divisors[name] = times[1] if value.ndim == 4 else 1
            value.requires_grad_(False)
            value.data = _first(shared.data, value.shape)

    def train(self, mode: bool = True) -> WideTeacher:
        super().train(mode)
        self._network[0].train(mode)
        return self

    def student(self) -> dict[str, Tensor]:
        """The student's parameters by name, with gradients."""
        return {name: _first(self.tensors[_key(name)], shape)
                for name, shape in self._shapes.items()}

    def forward(self, *inputs: Any) -> Tensor:
        """The teacher's ``forward``."""
        weights = {name: self.tensors[_key(name)] / divisor if divisor > 1
                   else self.tensors[_key(name)] for name, divisor in self._divisors.items()}
        result: Tensor = functional_call(self._network[0], weights, inputs)
        return result


def _first(tensor: Tensor, shape: torch.Size) -> Tensor:
    return tensor[tuple(slice(size) for size in shape)]


def _key(name: str) -> str:
    return name.replace(".", "/")  # a ParameterDict has no dots
