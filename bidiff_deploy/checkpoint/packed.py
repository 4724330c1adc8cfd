"""Packed checkpoints (``.safetensors``): sign bits, alpha and the rest in float32.

About a tenth of the size of a published one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import CheckpointError
from ..files import atomic_file
from ..networks import DEFAULT, find_network, parameters
from ..operators.sign_bits import PACKING_VERSION, BinaryWeight, words_per_tap
from .options import Options
from .record import Checkpoint, upscaling_factor

__all__ = ["read_packed", "write_packed"]

PACKED_FORMAT = "bidiff-packed"
PACKED_SCHEMA = 1


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
    if checkpoint.network.name != DEFAULT:
        header["model"] = checkpoint.network.name
    # One metadata entry: the order of several is not fixed, and bytes are to be.
    data = save(tensors, {"bidiff": json.dumps(header, sort_keys=True)})
    with atomic_file(path, overwrite) as temporary:
        temporary.write_bytes(data)


def read_packed(path: Path, tensors: Mapping[str, np.ndarray], text: str, options: Options,
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
        network = find_network(header.get("model", DEFAULT), str(path))
        config = network.config({**header["network"], **options.network}, str(path))
        stated = network.config(header["network"], str(path))
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
    found = upscaling_factor(config, scale or options.scale or header.get("scale"), path)
    return Checkpoint(path.name, digest, config, state, binary, found, schedule, sampling,
                      assumptions)
