"""Reads a checkpoint file as a ``Checkpoint``.

A file is a published state dict, one of a training run here (``.pth``, ``.pt``, ``.safetensors``),
or a packed checkpoint (``.safetensors``). Only ``.pth`` and ``.pt`` need torch.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files import file_sha256
from ..networks import DEFAULT, find_network, matching_network
from ..networks.base import NOISE_PREDICTOR
from .options import Options, check_scale
from .packed import read_packed
from .published_keys import from_published
from .record import Checkpoint, from_latent, upscaling_factor
from .tensor_files import read_state

__all__ = ["read_checkpoint"]


def read_checkpoint(path: str | Path, options: Options | None = None,
                    scale: int | None = None) -> Checkpoint:
    """Read a checkpoint, published, packed or of a training run here.

    ``options`` override what shapes imply, ``scale`` overrides both. Raises CheckpointError, one
    sentence, for missing, truncated, foreign or unsafe files, contradictions, and NaN or infinite
    weights.
    """
    path = Path(path)
    options = options or Options()
    if scale is not None:
        check_scale(scale, "--scale")
    state, metadata, notes = read_state(path)
    digest = file_sha256(path)
    if "bidiff" in metadata:
        return read_packed(path, state, metadata["bidiff"], options, scale, digest)
    network = matching_network({key: value.shape for key, value in state.items()})
    schedule: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    if network.kind == NOISE_PREDICTOR and "recipe" in metadata:
        options, sampling = _recipe_options(metadata["recipe"], options)
    hidden = network.options_as_tensors(network.config_class())
    stored = {name: float(state[name].item()) for name in hidden
              if name in state and state[name].size == 1}
    state = {key: value for key, value in state.items() if key not in hidden}
    config, assumptions = network.recognise({key: value.shape for key, value in state.items()},
                                            {**stored, **options.network}, str(path))
    if network.kind == NOISE_PREDICTOR:
        schedule = {"total_steps": config.total_step, **options.schedule}
        if not options.schedule:
            assumptions.append("linear beta schedule from 1e-6 to 1e-2, the published default")
        if options.steps:
            sampling = {"steps": options.steps}
    return from_latent(from_published(state, config, str(path)), config, name=path.name,
                       sha256=digest, origin=str(path),
                       scale=upscaling_factor(config, scale or options.scale, path),
                       schedule=schedule, sampling=sampling,
                       assumptions=tuple(notes + assumptions))


def _recipe_options(recipe: str, options: Options) -> tuple[Options, dict[str, Any]]:
    """``options``, completed from the recipe of the run that wrote the checkpoint, and the
    timesteps that it was trained for."""
    found = json.loads(recipe)
    try:
        network, steps, betas = (found.get(key) for key in ("network", "steps", "betas"))
        config = find_network(found.get("model", DEFAULT), "recipe").config(network, "recipe")
        timesteps = [int(step["timestep"]) for step in steps]
        schedule = {"total_steps": config.total_step,
                    "beta_start": float(betas[0]), "beta_end": float(betas[1])}
        scale = None if options.scale else check_scale(found["scale"], "recipe")
        from_condition = steps[0].get("origin") == "condition"
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, CheckpointError):
        return options, {}  # another program's recipe: only the tensors count
    sampling: dict[str, Any] = {"timesteps": timesteps}
    if from_condition:
        sampling["start"] = timesteps[0]
    options = replace(options, network={**network, **options.network},
                      schedule={**schedule, **options.schedule}, scale=options.scale or scale)
    return options, sampling
