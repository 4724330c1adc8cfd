"""Checkpoints of BI-DiffSR and BBCU-M: what is kept of one, and the two ways of writing it.

``read_checkpoint`` takes a published or own state dict (``.pth``, ``.pt``, ``.safetensors``) or a
packed checkpoint (``.safetensors``: sign bits, alpha, the rest in float32, about a tenth of the
size) and gives the same ``Checkpoint`` for both. Only ``.pth`` and ``.pt`` need torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Mapping

import numpy as np

from ..errors import CheckpointError
from ..networks.bbcu import recognition as bbcu
from ..files import atomic_file, file_sha256
from ..networks import DIFFUSION, Config, config_from_dict, model_of, parameters
from ..networks.bi_diffsr.config import NetworkConfig
from .options import Options, check_scale
from ..operators.sign_bits import PACKING_VERSION, BinaryWeight, words_per_tap
from .published_keys import from_published
from ..networks.bi_diffsr.recognition import recognise
from .tensor_files import read_state

PACKED_FORMAT = "bidiff-packed"
PACKED_SCHEMA = 1


@dataclass(frozen=True)
class Checkpoint:
    """Everything that export needs of a trained network.

    name         file name it was read from
    sha256       of that file, hex
    config       the network's options
    state        float32 parameters that are not binary, by the names of ``models.parameters``
    binary       binary weights, by the same names
    scale        upscaling factor, or None where nothing states it
    schedule     keyword arguments of ``schedule.Schedule``; empty for a feed-forward network
    sampling     what its maker advises: ``timesteps`` (descending) and ``start``, both optional
    assumptions  sentences about what was not in the file
    """

    name: str
    sha256: str
    config: Config
    state: Mapping[str, np.ndarray]
    binary: Mapping[str, BinaryWeight]
    scale: int | None = None
    schedule: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()

    @property
    def zeros(self) -> int:
        """How many binary weights were exactly zero, and so were taken as +1."""
        return sum(weight.zeros for weight in self.binary.values())

    def latent(self) -> dict[str, np.ndarray]:
        """All parameters as float32, binary ones as alpha * sign: what a torch network loads."""
        return {name: self.binary[name].to_float() if parameter.binary else self.state[name]
                for name, parameter in parameters(self.config).items()}


def from_latent(latent: Mapping[str, np.ndarray], config: Config, *, name: str,
                sha256: str = "", origin: str | None = None, **rest: Any) -> Checkpoint:
    """Checkpoint from float parameters under this project's names (all of
    ``models.parameters(config)``). ``rest``: other fields of Checkpoint. Raises
    CheckpointError, which calls the source ``origin``, for NaN or infinite values."""
    origin = origin or name
    state, binary = {}, {}
    for key, parameter in parameters(config).items():
        value = np.ascontiguousarray(latent[key], np.float32)
        if parameter.binary:
            binary[key] = BinaryWeight.from_float(value, f"{origin}: {key}")
        elif not np.isfinite(value).all():
            raise CheckpointError(f"{origin}: {key} holds NaN or infinite values; "
                                  "the training diverged, so use an earlier checkpoint")
        else:
            state[key] = value
    return Checkpoint(name, sha256, config, state, binary, **rest)


def read_checkpoint(path: str | Path, options: Options | None = None,
                    scale: int | None = None) -> Checkpoint:
    """Read a checkpoint, published, own or packed.

    ``options`` come before what is derived from shapes, ``scale`` before both. Raises
    CheckpointError in one sentence: missing, truncated, foreign or unsafe files, contradictions,
    NaN or infinite weights.
    """
    path = Path(path)
    options = options or Options()
    if scale is not None:
        check_scale(scale, "--scale")
    state, metadata, notes = read_state(path)
    digest = file_sha256(path)
    if "bidiff" in metadata:
        return _read_packed(path, state, metadata["bidiff"], options, scale, digest)
    if bbcu.is_bbcu(state):
        return _read_bbcu(path, state, notes, options, scale, digest)
    sampling: dict[str, Any] = {}
    if "recipe" in metadata:
        options, sampling = _of_the_run(metadata["recipe"], options)
    config, assumptions = recognise({key: value.shape for key, value in state.items()},
                                    options.network, str(path))
    schedule = dict(options.schedule)
    if "total_steps" not in schedule:
        schedule["total_steps"] = config.total_step
    if not options.schedule:
        assumptions.append("linear beta schedule from 1e-6 to 1e-2, the published default")
    return from_latent(from_published(state, config, str(path)), config, name=path.name,
                       sha256=digest, origin=str(path), scale=scale or options.scale,
                       schedule=schedule,
                       sampling={"steps": options.steps} if options.steps else sampling,
                       assumptions=tuple(notes + assumptions))


def _of_the_run(recipe: str, options: Options) -> tuple[Options, dict[str, Any]]:
    """``options`` with what they leave open from the recipe of the run that wrote a checkpoint, and
    the timesteps it was trained for."""
    found = json.loads(recipe)
    network, steps, betas = (found.get(key) for key in ("network", "steps", "betas"))
    try:
        timesteps = [int(step["timestep"]) for step in steps]
        schedule = {"total_steps": int(network.get("total_step", NetworkConfig.total_step)),
                    "beta_start": float(betas[0]), "beta_end": float(betas[1])}
        scale = None if options.scale else check_scale(found["scale"], "recipe")
        from_condition = steps[0].get("origin") == "condition"
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, CheckpointError):
        return options, {}  # no recipe of ours, so the tensors alone have to tell
    sampling: dict[str, Any] = {"timesteps": timesteps}
    if from_condition:
        sampling["start"] = timesteps[0]
    options = replace(options, network={**network, **options.network},
                      schedule={**schedule, **options.schedule}, scale=options.scale or scale)
    return options, sampling


def _read_bbcu(path: Path, state: Mapping[str, np.ndarray], notes: list[str], options: Options,
               scale: int | None, digest: str) -> Checkpoint:
    state, given = dict(state), dict(options.network)
    alignment = state.pop("alignment", None)  # of a training run; published files lack it
    if alignment is not None and alignment.size == 1:
        given.setdefault("alignment", float(alignment.item()))
    config, assumptions = bbcu.recognise({key: value.shape for key, value in state.items()}, given,
                                         str(path))
    return from_latent(from_published(state, config, str(path)), config, name=path.name,
                       sha256=digest, origin=str(path),
                       scale=_factor(config, scale or options.scale, path),
                       assumptions=tuple(notes + assumptions))


def _factor(config: Config, stated: int | None, path: Path) -> int | None:
    """The upscaling factor: as stated, or the one that a feed-forward network's upsampler has."""
    if model_of(config) == DIFFUSION:
        return None if stated is None else check_scale(stated, str(path))
    if stated not in (None, config.scale):
        raise CheckpointError(f"{path} upscales by {config.scale}, which its upsampler fixes, and "
                              f"not by {stated}; leave the scale out")
    return config.scale


def write_packed(path: str | Path, checkpoint: Checkpoint, *, overwrite: bool = False) -> None:
    """Write a packed checkpoint (``.safetensors``). Raises OutputError."""
    from safetensors.numpy import save

    tensors: dict[str, np.ndarray] = dict(checkpoint.state)
    for name, weight in checkpoint.binary.items():
        tensors[f"{name}.words"] = weight.words
        tensors[f"{name}.alpha"] = weight.alpha
    header = {
        "format": PACKED_FORMAT, "schema": PACKED_SCHEMA, "packing": PACKING_VERSION,
        "network": checkpoint.config.to_dict(), "scale": checkpoint.scale,
        "schedule": dict(checkpoint.schedule), "sampling": dict(checkpoint.sampling),
        "zeros": {name: weight.zeros for name, weight in checkpoint.binary.items()
                  if weight.zeros},
        "assumptions": list(checkpoint.assumptions),
        "source": {"name": checkpoint.name, "sha256": checkpoint.sha256},
    }
    if model_of(checkpoint.config) != DIFFUSION:
        header["model"] = model_of(checkpoint.config)
    # One metadata entry: the order of several is not fixed, and bytes are to be.
    data = save(tensors, {"bidiff": json.dumps(header, sort_keys=True)})
    with atomic_file(path, overwrite) as temporary:
        temporary.write_bytes(data)


def _read_packed(path: Path, tensors: Mapping[str, np.ndarray], text: str, options: Options,
                 scale: int | None, digest: str) -> Checkpoint:
    def broken(reason: str) -> CheckpointError:
        return CheckpointError(f"{path} is a damaged packed checkpoint: {reason}; "
                               "write it again with `bidiff-deploy pack`")

    try:
        header = json.loads(text)
        schema, packing = header["schema"], header["packing"]
        newer = int(schema) > PACKED_SCHEMA or int(packing) > PACKING_VERSION
    except (ValueError, KeyError, TypeError, RecursionError):
        raise broken("its header is not readable") from None
    if newer:
        raise CheckpointError(f"{path} was packed by a newer version (schema {schema}, packing "
                              f"{packing}); upgrade bidiff-deploy to read it")
    try:
        model = header.get("model", DIFFUSION)
        config = config_from_dict(model, {**header["network"], **options.network}, str(path))
        stated = config_from_dict(model, header["network"], str(path))
        schedule = {**header["schedule"], **options.schedule}
        sampling, zeros = dict(header["sampling"]), dict(header["zeros"])
        assumptions = tuple(str(line) for line in header["assumptions"])
    except (KeyError, TypeError, ValueError) as error:
        raise broken(f"its header lacks or garbles {error}") from None
    if config != stated:
        raise CheckpointError(f"{path}: the options file contradicts the network that the packed "
                              "checkpoint states; leave --options out")
    state, binary = {}, {}
    wanted = parameters(config)
    for name, parameter in wanted.items():
        parts = {name: parameter.shape}
        if parameter.binary:
            cout, cin, k, _ = parameter.shape
            parts = {f"{name}.words": (cout, k, k, words_per_tap(cin)), f"{name}.alpha": (cout,)}
        for key, shape in parts.items():
            dtype = np.int32 if key.endswith(".words") else np.float32
            value = tensors.get(key)
            if value is None or value.shape != shape or value.dtype != dtype:
                raise broken(f"{key} must be {np.dtype(dtype).name} of shape {shape}")
            if dtype == np.float32 and not np.isfinite(value).all():
                raise broken(f"{key} holds NaN or infinite values")
        if parameter.binary:
            count = zeros.get(name, 0)
            binary[name] = BinaryWeight(tensors[f"{name}.words"], tensors[f"{name}.alpha"],
                                        parameter.shape[1], count if type(count) is int else 0)
        else:
            state[name] = tensors[name]
    found = _factor(config, scale or options.scale or header.get("scale"), path)
    return Checkpoint(path.name, digest, config, state, binary, found, schedule, sampling,
                      assumptions)
