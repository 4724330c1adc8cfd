"""Each binary layer alone, fed the engine's input: integers exact, output within rounding.

The expected sums are a float32 convolution of +-1 in torch with the checkpoint's weights: every
partial sum is a whole number below 2^24, and so exact in any order. The expected output is computed
from them in float64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...checkpoint.record import Checkpoint
from ...engines import library
from ...operators.sign_bits import WORD_BITS, unpack_signs
from .bundle_layers import (
    SINGLE_INPUTS,
    Array,
    BundleLayers,
    CpuSessions,
    Sessions,
    run_session,
)
from .statistics import snr

# The op contract rounds six times, each by at most 2^-24 of a partial result no larger than
#   max(1, |slope|) (alpha |sum| + |shift_in|) + |shift_out| + |residual| + |time|;
# the seventh is for the terms of second order.
ROUNDINGS = 7
UNIT = 2.0 ** -24


@dataclass(frozen=True)
class LayerCheck:
    """One layer at one time step.

    sums, wrong_sums  number of integer sums, and of those that are not the reference's
    worst_sum         largest difference of a sum
    rounding          largest error of the output, in units of its bound (at most 1 is right)
    snr               of the output, dB, for information
    time_rounding     as ``rounding`` for the time vector, or None if the layer adds none
    differing         constants that differ from the checkpoint's -> number of differing values
    """

    layer: str
    timestep: int
    sums: int
    wrong_sums: int
    worst_sum: int
    rounding: float
    snr: float
    time_rounding: float | None
    differing: dict[str, int]

    @property
    def passed(self) -> bool:
        return not self.differing and self.wrong_sums == 0 and self.rounding <= 1 and (
            self.time_rounding is None or self.time_rounding <= 1)

    @property
    def reason(self) -> str:
        """Why it failed; "exact" if it passed."""
        parts = []
        if self.wrong_sums:
            parts.append(f"{self.wrong_sums} of {self.sums} sums are wrong, by up to "
                         f"{self.worst_sum}")
        if not self.rounding <= 1:
            parts.append(f"the output's error is {self.rounding:.4g} times its rounding bound")
        if self.time_rounding is not None and not self.time_rounding <= 1:
            parts.append(f"its time vector's error is {self.time_rounding:.4g} times its rounding "
                         "bound")
        if self.differing:
            parts.append("not the checkpoint's: " + ", ".join(
                f"{count} {name}" for name, count in self.differing.items()))
        return "; ".join(parts) or "exact"


class LayerOp:
    """BinaryConv in one backend: its integer sums, and the whole op."""

    def __init__(self, layers: BundleLayers, *, packed: bool = False, threads: int | None = None,
                 sessions: Sessions | None = None) -> None:
        """``sessions``: of another backend; None: of the CPU, ``packed`` or not."""
        self._packed, self._given = packed, sessions is not None
        self._layers, self._sessions = layers, sessions or CpuSessions(layers, packed, threads)
        self._opened: dict[bytes, Any] = {}

    def sums(self, x: Array, words: Array, threshold: Array) -> Array:
        """The sums, int32 (N, Cout, H, W). Packed: the kernel's own popcounts. Else: the op with an
        identity epilogue, whose float32 results are these integers."""
        if self._packed:
            return library.binary_conv_sums(x, words, threshold)
        count = words.shape[0]
        identity = np.repeat(np.array([[0], [1], [0]], np.float32), count, axis=1)
        zero = np.zeros(1, np.float32)
        y = self(x, words, np.ones(count, np.float32), threshold, identity, zero, zero)
        rounded: Array = np.rint(y).astype(np.int32)
        return rounded

    def __call__(self, *inputs: Array) -> Array:
        """float32 (N, Cout, H, W) of the op contract's seven inputs, in its order."""
        session = self._session(inputs[1])
        return run_session(session, dict(zip(SINGLE_INPUTS, inputs)))["y"]

    def _session(self, words: Array) -> Any:
        """On a GPU words must be constants of a graph."""
        key = hashlib.sha256(words.tobytes()).digest() if self._given else b""
        if key not in self._opened:
            self._opened[key] = self._sessions.open(
                self._layers.single_layer(words if self._given else None))
        return self._opened[key]


def check_layers(layers: BundleLayers, op: LayerOp, checkpoint: Checkpoint, network: Any,
                 values: Mapping[str, Array], times: Mapping[str, float],
                 timestep: int) -> list[LayerCheck]:
    """Check every binary layer at one step.

    network  the checkpoint's network in torch
    values   of ``EngineValues``, at this step
    times    of each layer that adds a time vector, that vector's error in units of its bound
    """
    constants = layers.constants(timestep)
    group = checkpoint.network.group(checkpoint.config, timestep)
    found = []
    for layer in layers.layers:
        x, module = values[layer.inputs[0]], network.get_submodule(layer.name)
        maps = {layer.inputs[0]: x}
        if layer.residual not in constants:
            maps[layer.residual] = values[layer.residual]
        given = [maps[name] if name in maps else np.asarray(constants[name])
                 for name in layer.inputs]
        timed = layer.name in times
        residual, error = _shortcut(module, x) if module.shortcut else (np.zeros(1), 0.0)
        if module.adds_previous:  # as the engine computed it, which is judged already
            owner, _, index = layer.key.rpartition(".")
            residual = values[f"{owner}.{int(index) - 1}"]
        # Both sides use the bundle's time vector; its error is judged separately.
        found.append(check_layer(
            layer.name, op, given, checkpoint, module, values[layer.output], group, timestep,
            residual=residual, residual_error=error,
            time=given[6] if timed else np.zeros(1), time_rounding=times.get(layer.name)))
    return found


def check_layer(name: str, op: LayerOp, given: Sequence[Array], checkpoint: Checkpoint,
                module: Any, output: Array, group: int = 0, timestep: int = 0, *, residual: Array,
                time: Array, residual_error: Array | float = 0.0,
                time_rounding: float | None = None) -> LayerCheck:
    """Check one layer on ``given``, the op contract's inputs in the engine's run.

    module          the checkpoint's layer in torch
    output          the layer's output in that run
    residual, time  what the layer adds
    residual_error  bound of the error of the engine's own ``residual``
    time_rounding   the error of ``time`` in units of its bound, None if the layer adds none
    """
    import torch

    x, words, alpha, threshold, rprelu = given[:5]
    weight = checkpoint.network.node_weight(checkpoint.config, checkpoint.binary, name)
    expected = _constants(module, group, weight.in_channels)
    with torch.inference_mode():
        signs = torch.from_numpy(np.where(
            x + expected["threshold"][:, None, None] >= 0, np.float32(1), np.float32(-1)))
        right = torch.nn.functional.conv2d(signs, module.signs(), padding=module.padding)
    right = np.rint(right.contiguous().numpy()).astype(np.int32)
    difference = np.abs(op.sums(x, words, threshold) - right)

    y, bound = _exact(right, residual, expected, time)
    bound = bound + residual_error
    np.maximum(bound, np.finfo(np.float32).tiny, out=bound)
    ratio = max(float(np.max(np.abs(found - y) / bound)) for found in (op(*given), output))
    return LayerCheck(
        name, timestep, int(right.size), int(np.count_nonzero(difference)),
        int(difference.max()), ratio if np.isfinite(ratio) else float("inf"), snr(y, output),
        time_rounding, _differing(words, alpha, threshold, rprelu, weight, expected))


def _shortcut(module: Any, x: Array) -> tuple[Array, Array | float]:
    """The layer's shortcut, and the bound of float32's error in it: it is the input itself, or its
    channels repeated and means of at most all of them."""
    import torch

    if len(module.weight) == x.shape[1]:
        return x, 0.0
    wide = torch.from_numpy(x.astype(np.float64))
    with torch.inference_mode():
        size: Array = module.residual(wide.abs()).numpy()
        exact: Array = module.residual(wide).numpy()
    return exact, (x.shape[1] + 2) * UNIT * size


def _constants(module: Any, group: int, inputs: int) -> dict[str, Array]:
    """The right constants of the layer's BinaryConv, by its torch module; identity values for
    parameters that the module does not have."""
    found = {part: value.detach().numpy() for part, value in module.constants(group).items()}
    zeros = np.zeros_like(found["alpha"])
    return {"threshold": np.zeros(inputs, np.float32), "shift_in": zeros,
            "slope": np.ones_like(zeros), "shift_out": zeros, **found}


def _exact(sums: Array, residual: Array, expected: Mapping[str, Array],
           time: Array) -> tuple[Array, Array]:
    """The layer's output in float64, and the bound of float32's error, elementwise."""
    def column(values: Array) -> Array:
        return np.asarray(values, np.float64)[:, None, None]

    shift_in, slope, shift_out = (column(expected[part])
                                  for part in ("shift_in", "slope", "shift_out"))
    scaled = column(expected["alpha"]) * sums
    y = scaled + shift_in
    y = np.where(y < 0, slope * y, y) + shift_out + residual + column(time)
    size = (np.maximum(1, np.abs(slope)) * (np.abs(scaled) + np.abs(shift_in))
            + np.abs(shift_out) + np.abs(residual) + np.abs(column(time)))
    return y, ROUNDINGS * UNIT * size


def _differing(words: Array, alpha: Array, threshold: Array, rprelu: Array,
               weight: Any, expected: Mapping[str, Array]) -> dict[str, int]:
    if words.shape != weight.words.shape:
        return {"words (their shape)": int(words.size)}
    # Padding bits have no meaning, so words with padding are compared unpacked.
    bits = (unpack_signs(words, weight.in_channels) != unpack_signs(weight.words,
                                                                    weight.in_channels)
            if words.shape[-1] * WORD_BITS != weight.in_channels
            else np.unpackbits((words ^ weight.words).view(np.uint8)))
    found = {"weight bits": int(np.count_nonzero(bits)),
             "alphas": int(np.count_nonzero(alpha != expected["alpha"])),
             "thresholds": int(np.count_nonzero(threshold != expected["threshold"]))}
    for row, part in zip(rprelu, ("shift_in", "slope", "shift_out")):
        found[f"{part}s"] = int(np.count_nonzero(row != expected[part]))
    return {name: count for name, count in found.items() if count}
