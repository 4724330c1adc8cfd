"""DQC: the bounds of quantised layers, trained so that the network computes what it did in float32.

Source: Liu et al., "2DQuant" (NeurIPS 2024, arXiv 2406.06649), section 3.3, and its published code.
Only bounds are trained; the teacher is the float32 network, so no originals are needed. The loss is
the mean absolute difference of the outputs, divided by their number of values, and ``FEATURES``
times the mean squared difference of the quantised blocks' outputs, each divided by its norm, over
their number of values. Adam has the published rate and momenta, the rate falls along a cosine as in
the paper. Unlike there, bounds are symmetric, a weight has one for each output channel, and they
are trained relative to what the search found; the inputs are latents of the sampling loop, or of a
network without a loop low-resolution images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint.record import Checkpoint
from ..engines.tiled import to_tensor
from ..images.resample import pad_reflect, to_condition
from ..networks.base import NOISE_PREDICTOR
from ..networks.quantised import MAP_LEVELS, WEIGHT_LEVELS, Bounds, LayerBounds
from ..sampling import sampler
from ..sampling.noise import NO_NOISE, first_noise
from ..sampling.schedule import Schedule
from .networks.quantised import QuantisedConv2d, quantised_layer, replace_layers
from .weights import torch_network

__all__ = ["Sample", "loop_samples", "quantised_network", "train_bounds"]

RATE, MOMENTA, FEATURES = 1e-2, (0.9, 0.99), 5.0
LEAST = 1e-2  # of a bound, relative to the searched one


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the network reads at one step: maps (1, 3, H, W)."""

    noisy: Tensor
    condition: Tensor
    timestep: int


def quantised_network(checkpoint: Checkpoint, bounds: Bounds, *,
                      weight_levels: int = WEIGHT_LEVELS, map_levels: int = MAP_LEVELS
                      ) -> nn.Module:
    """The checkpoint's network with quantised layers; other levels than an engine's simulate other
    numbers of bits."""
    network = torch_network(checkpoint).eval().requires_grad_(False)
    return replace_layers(network, bounds, lambda name, conv: QuantisedConv2d(
        conv, bounds[name], weight_levels, map_levels))


def loop_samples(network: nn.Module, checkpoint: Checkpoint, timesteps: Sequence[int],
                 crops: Sequence[npt.NDArray[np.uint8]]) -> list[Sample]:
    """One latent of each group of timesteps for each crop, from the loop of ``network``."""
    assert checkpoint.scale is not None
    rng, schedule, found = np.random.default_rng(0), Schedule(**checkpoint.schedule), []
    by_group: dict[int, list[int]] = {}
    start = checkpoint.sampling.get("start")
    if start is not None and min(timesteps) > start:
        start = None  # as in the bundle
    visited = sampler.pick_timesteps(tuple(timesteps), start=start)
    for timestep in visited:
        by_group.setdefault(checkpoint.network.group(checkpoint.config, timestep),
                            []).append(timestep)
    multiple = checkpoint.network.size_multiple(checkpoint.config)
    for seed, crop in enumerate(crops):
        condition, _ = pad_reflect(to_condition(crop, checkpoint.scale)[None], multiple)
        wanted = {int(rng.choice(members)) for members in by_group.values()}

        def predict(noisy: np.ndarray, given: np.ndarray, timestep: int,
                    wanted: set[int] = wanted) -> np.ndarray:
            sample = Sample(torch.from_numpy(noisy.copy()), torch.from_numpy(given), timestep)
            if timestep in wanted:
                found.append(sample)
            with torch.no_grad():
                prediction: np.ndarray = network(sample.noisy, sample.condition, timestep).numpy()
            return prediction

        sampler.sample(predict, condition, visited, schedule,
                       first_noise(condition.shape, seed, checkpoint.sampling.get("noise")
                                   == NO_NOISE), start=start)
    return found


def train_bounds(checkpoint: Checkpoint, bounds: Bounds, timesteps: Sequence[int],
                 crops: Sequence[npt.NDArray[np.uint8]], iterations: int, *, batch: int = 4,
                 weight_levels: int = WEIGHT_LEVELS, map_levels: int = MAP_LEVELS,
                 on_iteration: Callable[[int], object] = lambda done: None
                 ) -> dict[str, LayerBounds]:
    """The bounds after ``iterations`` of ``batch`` latents each. ``on_iteration(done)`` is called
    after each."""
    teacher = torch_network(checkpoint).eval().requires_grad_(False)
    student = quantised_network(checkpoint, bounds, weight_levels=weight_levels,
                                map_levels=map_levels)
    layers = {name: quantised_layer(student, name) for name in bounds}
    samples = ([(one.noisy, one.condition, one.timestep)
                for one in loop_samples(teacher, checkpoint, timesteps, crops)]
               if checkpoint.network.kind == NOISE_PREDICTOR else
               [(torch.from_numpy(to_tensor(crop)),) for crop in crops])
    trained = [parameter for layer in layers.values() for parameter in layer.parameters()
               if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, RATE, MOMENTA)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, iterations))
    blocks = dict.fromkeys(_block(student, name) for name in bounds)
    rng = np.random.default_rng(1)
    with _outputs(teacher, blocks) as theirs, _outputs(student, blocks) as ours:
        for done in range(1, iterations + 1):
            optimizer.zero_grad()
            for index in rng.integers(len(samples), size=batch):
                inputs = samples[int(index)]
                with torch.no_grad():
                    wanted = teacher(*inputs)
                loss = _distance(student(*inputs), wanted, ours, theirs)
                (loss / batch).backward()  # type: ignore[no-untyped-call]  # torch has no types
            optimizer.step()
            cosine.step()
            with torch.no_grad():
                for parameter in trained:
                    parameter.clamp_(min=LEAST)
            on_iteration(done)
    return {name: layer.bounds() for name, layer in layers.items()
            if isinstance(layer, QuantisedConv2d)}


def _block(network: nn.Module, name: str) -> str:
    """The block that a layer is part of; the layer itself if there is none."""
    owner = name.rpartition(".")[0]
    alone = not owner or isinstance(network.get_submodule(owner), nn.ModuleList)
    return name if alone else owner


def _distance(output: Tensor, wanted: Tensor, ours: dict[str, Tensor],
              theirs: dict[str, Tensor]) -> Tensor:
    """The loss times the output's number of values, which changes no step of Adam, but keeps its
    gradients far above Adam's epsilon."""
    loss = F.l1_loss(output, wanted)
    for name, feature in ours.items():
        whole = theirs[name]
        share = output[0].numel() / feature[0].numel()
        loss = loss + FEATURES * share * F.mse_loss(feature / feature.detach().norm(),
                                                    whole / whole.norm())
    return loss


@contextmanager
def _outputs(network: nn.Module, names: Any) -> Iterator[dict[str, Tensor]]:
    """The outputs of named modules in the last run."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            found[name] = output
        return hook

    hooks = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
