"""Reads a checkpoint file as a ``Checkpoint``.

A file is a published state dict, one of a training run here (``.pth``, ``.pt``, ``.safetensors``),
or a packed checkpoint (``.safetensors``). None needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checks import load_json
from ..errors import BidiffError, CheckpointError, UsageError, listed
from ..files import file_sha256
from ..networks import DEFAULT, NETWORKS, find_network, matching_network
from ..networks.base import LATENT, NOISE_PREDICTOR
from ..sampling.noise import NO_NOISE
from ..sampling.resshift import ResShiftSchedule
from ..sampling.schedule import Schedule
from .autoencoder import read_autoencoder
from .options import Options, check_scale
from .packed import read_packed
from .published_keys import from_published
from .record import Checkpoint, at_scale, from_latent, upscaling_factor
from .tensor_files import read_state

__all__ = ["read_checkpoint"]

_MAX_KEYS = 4  # of a file, in an error


def read_checkpoint(path: str | Path, options: Options | None = None,
                    scale: int | None = None) -> Checkpoint:
    """Read a checkpoint, published, packed or of a training run here.

    ``options`` complete what shapes imply, ``scale`` what neither states. Of a network of several
    upscaling factors ``scale`` chooses one; without it the checkpoint has all, and no scale. Raises
    CheckpointError, one sentence, for missing, truncated, foreign or unsafe files, contradictions,
    and NaN or infinite weights.
    """
    path = Path(path)
    options = options or Options()
    if scale is not None:
        check_scale(scale, "--scale")
    state, metadata, notes = read_state(path)
    digest = file_sha256(path)
    if "bidiff" in metadata:
        if options.autoencoder is not None:
            raise CheckpointError(f"{path} is a packed checkpoint, which has an autoencoder of its "
                                  "own if it needs one; leave --autoencoder out")
        return read_packed(path, state, metadata["bidiff"], options, scale, digest)
    shapes = {key: value.shape for key, value in state.items()}
    network = matching_network(shapes)
    if not network.matches(shapes):
        raise CheckpointError(f"{path} is a checkpoint of no known network ({_titles()}): "
                              f"{_content(state)}; give a state dict with the published keys, or "
                              "a packed checkpoint")
    if options.autoencoder is not None:
        if network.kind != LATENT:
            raise CheckpointError(f"{path} is {network.title}, which has no autoencoder; leave "
                                  "--autoencoder out")
        more, remarks = read_autoencoder(options.autoencoder)
        state, notes = {**state, **more}, notes + remarks
        shapes = {key: value.shape for key, value in state.items()}
    unused = network.unused_keys(shapes)
    stated_scale: int | None = None
    schedule: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    if network.kind == NOISE_PREDICTOR and "recipe" in metadata:
        options, stated_scale, sampling = _recipe_options(metadata["recipe"], options)
    # Stored as float32, which has seven digits.
    stored = {name: float(f"{state[name].item():.7g}") for name in network.tensor_options
              if name in state and state[name].size == 1}
    state = {key: value for key, value in state.items() if key not in network.tensor_options}
    config, assumptions = network.recognise({key: value.shape for key, value in state.items()},
                                            {**stored, **options.network}, str(path))
    if network.kind == NOISE_PREDICTOR:
        schedule = {"total_steps": config.total_step, **options.schedule}
        if not options.schedule:
            assumptions.append("linear beta schedule from 1e-6 to 1e-2, the published default")
        if options.steps:
            sampling = {"steps": options.steps}
    elif network.kind == LATENT:
        schedule, more_assumptions = _resshift(options, str(path))
        assumptions += more_assumptions
        sampling = {"sampler": network.sampler, **({"steps": options.steps} if options.steps
                                                   else {})}
    state = {key: value for key, value in state.items() if key not in unused}
    assumptions += _unused(unused)
    factor = upscaling_factor(config, path, given=scale, in_options=options.scale,
                              in_file=stated_scale)
    return at_scale(from_latent(from_published(state, config, str(path)), config, name=path.name,
                                sha256=digest, origin=str(path), scale=factor, schedule=schedule,
                                sampling=sampling, assumptions=tuple(notes + assumptions)), factor)


def _resshift(options: Options, origin: str) -> tuple[dict[str, Any], list[str]]:
    """The schedule of a latent network, and what was assumed. Raises CheckpointError."""
    published = ResShiftSchedule().to_dict()
    unknown = set(options.schedule) - set(published)
    if unknown:
        raise CheckpointError(f"{origin}: the options have {listed(unknown)}, which a ResShift "
                              "schedule does not have; give the options it was trained with")
    try:
        schedule = ResShiftSchedule(**{**published, **options.schedule})
    except UsageError as error:
        raise CheckpointError(f"{origin}: {error}") from None
    missing = sorted(set(published) - set(options.schedule))
    return schedule.to_dict(), [
        "ResShift's schedule has " + ", ".join(f"{name} = {published[name]:g}" for name in missing)
        + ", the published default for real-world images"] if missing else []


def _unused(keys: Mapping[str, str]) -> list[str]:
    """A sentence for each kind of tensor that is not read."""
    kinds: dict[tuple[str, str], int] = {}
    for key, why in keys.items():
        *_, layer, last = "", *key.split(".")
        kind = f"{layer}.{last}" if last in ("bias", "weight", "values") else last, why
        kinds[kind] = kinds.get(kind, 0) + 1
    return [f"{count} tensors called {name} are not read: {why}"
            for (name, why), count in sorted(kinds.items())]


def _titles() -> str:
    return ", ".join(network.title for network in NETWORKS.values())


def _content(state: Mapping[str, Any]) -> str:
    """What a file has, in a few of its keys."""
    if not state:
        return "it contains no tensors"
    keys = list(state)
    return f"its {len(keys)} tensors are " + listed(keys[:_MAX_KEYS]) + (
        ", ..." if len(keys) > _MAX_KEYS else "")


def _recipe_options(recipe: str, options: Options
                    ) -> tuple[Options, int | None, dict[str, Any]]:
    """``options``, completed from the recipe of the run that wrote the checkpoint, its scale, and
    the timesteps that it was trained for."""
    try:
        found = load_json(recipe)
        network, steps, betas = (found.get(key) for key in ("network", "steps", "betas"))
        config = find_network(found.get("model", DEFAULT), "recipe").config(network, "recipe")
        stated = Schedule(config.total_step, float(betas[0]), float(betas[1]))
        timesteps = list(stated.check(step["timestep"] for step in steps))
        several = NETWORKS[config.network].scales(config)
        scale = None if several else check_scale(found["scale"], "recipe")
        from_condition = steps[0].get("origin") == "condition"
        one_step = found.get("one_step") or {}
        noiseless = bool(one_step.get("timestep")) and one_step.get("noise") is False
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError,
            BidiffError):
        return options, None, {}  # another program's recipe: only the tensors count
    sampling: dict[str, Any] = {"timesteps": timesteps}
    if from_condition:
        sampling["start"] = timesteps[0]
        if noiseless:
            sampling["noise"] = NO_NOISE
    schedule = {"total_steps": stated.total_steps, "beta_start": stated.beta_start,
                "beta_end": stated.beta_end}
    options = replace(options, network={**network, **options.network},
                      schedule={**schedule, **options.schedule})
    return options, scale, sampling
