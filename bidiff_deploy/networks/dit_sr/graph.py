"""One step of DiT-SR as an ONNX graph in standard operators.

Inputs ``noisy``, the scaled latent (N, C, H, W), and ``condition``, the low-resolution image in
[-1, 1], (N, 3, H, W); output ``prediction``, the clean latent. A step's initializers are the
kernels of AdaFM, of which the graph makes matrices; nothing else depends on time.
"""

from __future__ import annotations

import numpy as np

from ...operators.value_names import short
from ..base import StepGraph, Store, Weights
from ..resshift.swin import SwinWriter
from ..resshift.time_embedding import linear, silu, time_features
from ..resshift.vq import COLORS
from .architecture import DitSrConfig, blocks
from .modulation import circulant_places, kernel

__all__ = ["build_step", "step_kernels"]

_EPSILON = 1e-5  # of the last GroupNorm


def build_step(weights: Weights, store: Store, timestep: int) -> StepGraph:
    """Build the graph of one step; ``store`` as in ``networks.base.Store``."""
    config: DitSrConfig = weights.config
    write = _Writer(weights, store, step_kernels(weights, timestep))
    write.width, write.head_channels = config.swin_embed_dim, config.num_head_channels
    x = write.op("Concat", "noisy", "condition", axis=1, name="input")
    skips: list[str] = []
    for block in blocks(config):
        if block.kind == "stage":
            write.cell = config.cell(block.level)
            x = write.stage(x, block.name, config.level(block.level), block.depth)
        elif block.kind == "head":
            x = write.group_norm(x, f"{block.name}.0", _EPSILON)
            x = write.convolution(write.silu(x, "out.1"), f"{block.name}.2")
        elif block.kind != "none":
            if block.kind == "join":
                x = write.op("Concat", x, skips.pop(), axis=1, name=f"{short(block.name)}/both")
            elif block.kind == "up":
                x = write.nearest_twice(x, f"{short(block.name)}/large")
            x = write.convolution(x, block.name, stride=2 if block.kind == "down" else 1)
        if block.pushes:
            skips.append(x)
    write.nodes[-1].output[0] = "prediction"
    latent = config.autoencoder.latent
    return write.finished("step", {"noisy": latent, "condition": COLORS}, "prediction", latent)


def step_kernels(weights: Weights, timestep: int) -> dict[str, np.ndarray]:
    """``{layer name: float32 (f^2,)}``: the kernel of every AdaFM at a timestep."""
    config: DitSrConfig = weights.config
    active = silu(time_features(weights.state, timestep, config.model_channels))
    found = {}
    for block in blocks(config):
        cell = config.cell(block.level)
        for index in range(block.depth):
            for part in ("msa", "mlp"):
                name = f"{block.name}.blocks.{index}.adaLN_scale_{part}"
                scale = linear(weights.state, f"{name}.1", active).reshape(cell, -1)
                found[f"{name}.kernel"] = kernel(scale).astype(np.float32).reshape(-1)
    return found


class _Writer(SwinWriter):
    cell: int  # side of AdaFM's cells in the stage that is written

    def modulate(self, x: str, name: str, window: int) -> str:
        """The product of AdaFM's matrix with the pixels of each cell."""
        key, cell = short(name), self.cell
        if cell != window:
            x = self.windows(self.joined(x, window, f"{key}/map"), cell, f"{key}/cells")
        places = self.initializer(f"circulant.{cell}", circulant_places(cell))
        matrix = self.op("Gather", self.step(f"{name}.kernel"), places, axis=0,
                         name=f"{key}/matrix")
        x = self.op("MatMul", matrix, x, name=key)
        if cell != window:
            x = self.windows(self.joined(x, cell, f"{key}/map_after"), window, f"{key}/windows")
        return x
