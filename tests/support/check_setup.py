"""What tests of ``check`` share: a quick check, and changes of what it compares."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import onnx

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.checkpoint.record import from_latent
from bidiff_deploy.proof.check.noise_predictor import check_bundle
from bidiff_deploy.proof.check.result import CheckResult

TIMES = [999, 400, 0]
SIZE = (16, 24)


def check(bundle, checkpoint, **options) -> CheckResult:
    return check_bundle(open_bundle(bundle), checkpoint,
                        **{"threads": 1, "size": SIZE, **options})


def changed(checkpoint, name: str, change):
    """The checkpoint with one parameter replaced by ``change(parameter)``."""
    latent = checkpoint.latent()
    latent[name] = change(latent[name].copy())
    return from_latent(latent, checkpoint.config, name="changed", scale=checkpoint.scale,
                       schedule=checkpoint.schedule)


def damaged(bundle: Path, copy: Path, tensor: str, change) -> Path:
    """A bundle whose bytes of one tensor are changed, and whose manifest says that all is well."""
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    graph = onnx.load_model_from_string((copy / manifest["steps"][0]["file"]).read_bytes()).graph
    (found,) = (entry for entry in graph.initializer if entry.name == tensor)
    place = {entry.key: entry.value for entry in found.external_data}
    dtype = np.int32 if found.data_type == onnx.TensorProto.INT32 else np.float32
    data = bytearray((copy / "weights.bin").read_bytes())
    values = np.frombuffer(data, dtype, math.prod(found.dims), int(place["offset"]))
    change(values.reshape(tuple(found.dims)))
    (copy / "weights.bin").write_bytes(data)
    manifest["files"]["weights.bin"]["sha256"] = hashlib.sha256(data).hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy
