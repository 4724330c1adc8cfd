"""Packed checkpoints (``.safetensors``): sign bits, alpha and the rest in float32 or float16.

They have about a tenth of the size of published ones, with float16 less. Float16 is widened as it
is read, so what reads a checkpoint has float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import load_json, whole_number
from ..errors import CheckpointError, one_line, quoted
from ..files import atomic_file
from ..networks import DEFAULT, find_network, parameters
from ..networks.base import LATENT, NOISE_PREDICTOR, Parameter
from ..operators.sign_bits import PACKING_VERSION, BinaryWeight, words_per_tap
from ..sampling.noise import NO_NOISE
from ..sampling.resshift import ResShiftSchedule, check_sampler
from ..sampling.schedule import Schedule, check_timesteps
from .options import Options
from .record import Checkpoint, at_scale, upscaling_factor

__all__ = ["read_packed", "write_packed"]

PACKED_FORMAT = "bidiff-packed"
PACKED_SCHEMA = 2  # 1 unless sampling starts without noise, which older versions cannot do
_MAX_ASSUMPTIONS = 100


def write_packed(path: str | Path, checkpoint: Checkpoint, *, overwrite: bool = False,
                 half: bool = False) -> None:
    """Write a packed checkpoint (``.safetensors``).

    ``half``: tensors of two axes and more are rounded to float16: full-precision weights, and the
    vectors of groups of timesteps; other vectors (biases, alpha, norms) and indices are not. Raises
    OutputError, and CheckpointError for a weight beyond float16's range.
    """
    from safetensors.numpy import save

    tensors: dict[str, np.ndarray] = dict(checkpoint.state)
    if half:
        tensors.update(_halved(checkpoint))
    for name, weight in checkpoint.binary.items():
        tensors[f"{name}.words"] = weight.words
        tensors[f"{name}.alpha"] = weight.alpha
    header = {
        "format": PACKED_FORMAT, "schema": PACKED_SCHEMA if "noise" in checkpoint.sampling else 1,
        "packing": PACKING_VERSION,
        "network": checkpoint.config.to_dict(), "scale": checkpoint.scale,
        "schedule": dict(checkpoint.schedule), "sampling": dict(checkpoint.sampling),
        "zeros": {name: weight.zeros for name, weight in checkpoint.binary.items()
                  if weight.zeros},
        "assumptions": list(checkpoint.assumptions),
        "source": {"name": checkpoint.name, "sha256": checkpoint.sha256},
    }
    if checkpoint.network.name != DEFAULT:
        header["model"] = checkpoint.network.name
    # One metadata entry: the order of several is not fixed, but the bytes must be.
    data = save(tensors, {"bidiff": json.dumps(header, sort_keys=True)})
    with atomic_file(path, overwrite) as temporary:
        temporary.write_bytes(data)


def _halved(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """The tensors that are stored as float16."""
    found, wanted = {}, parameters(checkpoint.config)
    for name, value in checkpoint.state.items():
        if value.ndim < 2 or wanted[name].indices:
            continue
        with np.errstate(over="ignore"):
            found[name] = value.astype(np.float16)
        if not np.isfinite(found[name]).all():
            raise CheckpointError(f"{checkpoint.name}: {name} has a value of "
                                  f"{np.abs(value).max():g}, and float16 ends at "
                                  f"{np.finfo(np.float16).max:g}; leave --half out")
    return found


def read_packed(path: Path, tensors: Mapping[str, np.ndarray], text: str, options: Options,
                scale: int | None, digest: str) -> Checkpoint:
    """``Checkpoint`` of a packed file's tensors and its header ``text``.

    ``options`` and ``scale`` override the header; ``digest`` is the file's SHA-256. Raises
    CheckpointError for damaged files, newer versions, and options of another network.
    """
    header = _header(path, text)
    try:
        network = find_network(header.get("model", DEFAULT), str(path))
        config = network.config({**header["network"], **options.network}, str(path))
        stated = network.config(header["network"], str(path))
        schedule = {**header["schedule"], **options.schedule}
        if network.kind == NOISE_PREDICTOR:
            Schedule.from_dict({**Schedule().to_dict(), **schedule})
        elif network.kind == LATENT:
            ResShiftSchedule.from_dict({**ResShiftSchedule().to_dict(), **schedule})
        sampling = _sampling(header["sampling"], schedule)
        zeros = dict(header["zeros"])
        assumptions = tuple(one_line(line) for line in header["assumptions"][:_MAX_ASSUMPTIONS])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"its header is incomplete or garbled ({one_line(error)})") from None
    if config != stated:
        raise CheckpointError(f"{path}: the options file contradicts the network that the packed "
                              "checkpoint states; leave --options out")
    state, binary = _weights(path, tensors, network.each_parameter(config), zeros)
    found = upscaling_factor(config, path, given=scale, in_options=options.scale,
                             in_file=header.get("scale"))
    return at_scale(Checkpoint(path.name, digest, config, state, binary, found, schedule, sampling,
                               assumptions), found)


def _header(path: Path, text: str) -> dict[str, Any]:
    """The header, of a version that can be read."""
    try:
        header = load_json(text)
        if not isinstance(header, dict):
            raise ValueError("it is not a mapping")
        schema, packing = header["schema"], header["packing"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"its header is not readable ({one_line(error)})") from None
    if type(schema) is not int or type(packing) is not int or schema < 1 or packing < 1:
        raise _damaged(path, f"its header is not readable (schema {quoted(schema)}, packing "
                             f"{quoted(packing)})")
    if schema > PACKED_SCHEMA or packing > PACKING_VERSION:
        raise CheckpointError(f"{path} was packed by a newer version (schema {quoted(schema)}, "
                              f"packing {quoted(packing)}); upgrade bidiff-deploy to read it")
    return header


def _sampling(stated: Mapping[str, Any], schedule: Mapping[str, Any]) -> dict[str, Any]:
    """The recommended sampling, checked. Raises TypeError or ValueError (UsageError is one)."""
    found = {key: stated[key] for key in ("timesteps", "steps", "start") if key in stated}
    total = schedule.get("total_steps", 0)
    if "timesteps" in found:
        found["timesteps"] = list(check_timesteps(found["timesteps"], total))
    if "sampler" in stated:
        found["sampler"] = check_sampler(stated["sampler"])
    for key in ("steps", "start"):
        if found.get(key) is not None:
            found[key] = whole_number(key, found[key], 0, total)
    if "noise" in stated:
        if stated["noise"] != NO_NOISE or found.get("start") is None:
            raise ValueError(f"its noise is {quoted(stated['noise'])}")
        found["noise"] = NO_NOISE
    return found


def _weights(path: Path, tensors: Mapping[str, np.ndarray],
             wanted: Iterable[tuple[str, Parameter]], zeros: Mapping[str, object]
             ) -> tuple[dict[str, np.ndarray], dict[str, BinaryWeight]]:
    """The float parameters and the binary ones, checked against their shapes; the first that is
    missing ends it, so that a header costs no more than its tensors."""
    state, binary = {}, {}
    for name, parameter in wanted:
        parts = {name: parameter.shape}
        if parameter.binary:
            cout, cin, k, _ = parameter.shape
            rows = cout * parameter.planes
            parts = {f"{name}.words": (rows, k, k, words_per_tap(cin)), f"{name}.alpha": (rows,)}
        for key, shape in parts.items():
            dtype = np.dtype(np.int32 if key.endswith(".words") else np.float32)
            value = tensors.get(key)
            if value is None or value.shape != shape or value.dtype != dtype:
                raise _damaged(path, f"{key} must be {dtype.name} of shape {shape}")
            if dtype == np.float32 and not np.isfinite(value).all():
                raise _damaged(path, f"{key} contains NaN or infinite values")
        if parameter.binary:
            count = zeros.get(name, 0)
            binary[name] = BinaryWeight(tensors[f"{name}.words"], tensors[f"{name}.alpha"],
                                        parameter.shape[1], count if type(count) is int else 0,
                                        parameter.planes)
        else:
            state[name] = tensors[name]
    return state, binary


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is a damaged packed checkpoint: {reason}; "
                           "write it again with `bidiff-deploy pack`")
