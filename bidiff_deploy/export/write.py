"""Checkpoint -> bundle: fold, pack, build a graph for each time step, write, hash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import onnx_ir as ir

from .. import __version__
from ..bundle.manifest import FORMAT, MANIFEST, OPSET_VERSION, SCHEMA_VERSION
from ..checkpoint.record import Checkpoint
from ..errors import UsageError
from ..files import atomic_directory, file_sha256
from ..operators.sign_bits import PACKING_VERSION
from ..sampling.schedule import Schedule
from ..networks.bi_diffsr.step_constants import group_parameters, time_vectors
from ..networks.bi_diffsr.graph import build_step
from ..operators.names import ONNX_OPSET
from ..bundle.weights_file import FILE_NAME, WeightsFile

DEFAULT_STEPS = 50  # of the published sampler
# What `export --precision` offers: the type that factors of full-precision products may have, and
# of float16 the maps between layers as well.
PRECISIONS = {"exact": "float32", "fast": "bfloat16", "half": "float16"}


def choose_timesteps(checkpoint: Checkpoint, *, steps: int | None = None,
                     timesteps: Sequence[int] | None = None) -> tuple[int, ...]:
    """The time steps of a bundle, descending.

    ``timesteps`` as listed, else ``steps`` of them by DDIM's leading spacing, else what the
    checkpoint advises, else 50. Raises UsageError for steps that the schedule does not have.
    """
    schedule = Schedule(**checkpoint.schedule)
    if timesteps is None and steps is None:
        timesteps = checkpoint.sampling.get("timesteps")
        steps = checkpoint.sampling.get("steps") or min(DEFAULT_STEPS, schedule.total_steps)
    if timesteps is None:
        return schedule.leading_timesteps(steps)
    return schedule.check(timesteps)


def export_bundle(checkpoint: Checkpoint, output: str | Path, *, timesteps: Sequence[int],
                  overwrite: bool = False, precision: str = "exact",
                  on_step: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Write the bundle of ``checkpoint`` for ``timesteps`` (descending) to the folder ``output``.

    ``precision``: a key of ``PRECISIONS``. ``on_step(done, total)`` is called after each graph.
    Returns the manifest. The folder appears whole or not at all. Raises UsageError where the scale
    is not known, OutputError where the folder can not be written or exists and ``overwrite`` is not
    given.
    """
    if checkpoint.scale is None:
        raise UsageError(f"{checkpoint.name} does not say what factor it upscales by, and no "
                         "tensor shows it; give --scale 2 or --scale 4, or the options file")
    with atomic_directory(output, overwrite, marker=MANIFEST) as folder:
        compute = PRECISIONS[precision]
        steps, step_names = _write_graphs(checkpoint, folder, timesteps, compute, on_step)
        manifest = _manifest(checkpoint, folder, steps, step_names, compute)
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")
    return manifest


def _write_graphs(checkpoint: Checkpoint, folder: Path, timesteps: Sequence[int], compute: str,
                  on_step: Callable[[int, int], None] | None
                  ) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    steps: list[dict[str, Any]] = []
    names: tuple[str, ...] = ()
    groups: dict[int, dict[str, np.ndarray]] = {}
    with open(folder / FILE_NAME, "wb") as stream:
        weights = WeightsFile(stream)
        for done, timestep in enumerate(timesteps, 1):
            group = checkpoint.config.group(timestep)
            if group not in groups:
                groups[group] = group_parameters(checkpoint, group)
            constants = dict(groups[group])
            constants.update((f"{name}.time", vector) for name, vector
                             in time_vectors(checkpoint, timestep).items())
            built = build_step(checkpoint, lambda name, make: weights.add(name, make()), constants,
                               compute)
            names = built.step_names
            file = f"step_{timestep:04d}.onnx"
            (folder / file).write_bytes(
                ir.to_proto(built.model).SerializeToString(deterministic=True))
            steps.append({"timestep": timestep, "group": group, "file": file})
            if on_step:
                on_step(done, len(timesteps))
    return steps, names


def _manifest(checkpoint: Checkpoint, folder: Path, steps: list[dict[str, Any]],
              step_names: Sequence[str], compute: str) -> dict[str, Any]:
    schedule = Schedule(**checkpoint.schedule)
    start = checkpoint.sampling.get("start")
    if start is not None and not any(step["timestep"] <= start for step in steps):
        start = None
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "bidiff_deploy", "version": __version__},
        "source": {"name": checkpoint.name, "sha256": checkpoint.sha256},
        "assumptions": list(checkpoint.assumptions),
        "zero_weights": checkpoint.zeros,
        "network": checkpoint.config.to_dict(),
        "scale": checkpoint.scale,
        "schedule": schedule.to_dict(),
        "scheduler": {"type": "DDIM", "prediction_type": "epsilon", "eta": 0.0,
                      "clip_sample_range": 1.0, "set_alpha_to_one": True},
        "sampling": {"start": start},
        "steps": steps,
        "step_initializers": list(step_names),
        "onnx_opset": ONNX_OPSET,
        "bidiff_opset": OPSET_VERSION,
        "packing_version": PACKING_VERSION,
        "precision": compute,
        "weights": FILE_NAME,
        "files": {file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
                  for file in sorted(folder.iterdir())},
    }
