"""Checkpoint -> bundle: build a graph for each time step, write, hash."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..bundle.manifest import FORMAT, MANIFEST, SCHEMA_VERSION
from ..bundle.weights_file import FILE_NAME, WeightsFile
from ..checkpoint.record import Checkpoint
from ..errors import UsageError
from ..files import atomic_directory, file_sha256
from ..networks import DEFAULT
from ..networks.base import NOISE_PREDICTOR
from ..operators.names import ONNX_OPSET, VERSION
from ..operators.sign_bits import PACKING_VERSION
from ..sampling.schedule import DEFAULT_STEPS, Schedule
from ..version import __version__

__all__ = ["PRECISIONS", "choose_timesteps", "export_bundle"]

# What `export --precision` offers: the type that factors of full-precision products may have, and
# of float16 the maps between layers as well.
PRECISIONS = {"exact": "float32", "fast": "bfloat16", "half": "float16"}
_GRAPH = "network.onnx"  # of a network that runs once


def choose_timesteps(checkpoint: Checkpoint, *, steps: int | None = None,
                     timesteps: Sequence[int] | None = None) -> tuple[int, ...]:
    """The time steps of a bundle, descending; none where the network has no loop.

    ``timesteps`` as listed, else ``steps`` of them by DDIM's leading spacing, else what the
    checkpoint advises, else 50. Raises UsageError for steps that the schedule does not have, or of
    a network without a loop.
    """
    if checkpoint.network.kind != NOISE_PREDICTOR:
        if steps is not None or timesteps is not None:
            raise UsageError(f"{checkpoint.name} is a feed-forward network, without time steps; "
                             "leave --steps and --timesteps out")
        return ()
    schedule = Schedule(**checkpoint.schedule)
    if timesteps is None and steps is None:
        timesteps = checkpoint.sampling.get("timesteps")
        steps = checkpoint.sampling.get("steps") or min(DEFAULT_STEPS, schedule.total_steps)
    if timesteps is None:
        return schedule.leading_timesteps(steps)
    return schedule.check(timesteps)


def export_bundle(checkpoint: Checkpoint, output: str | Path, *, timesteps: Sequence[int] = (),
                  overwrite: bool = False, precision: str = "exact",
                  on_step: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Write the bundle of ``checkpoint`` to the folder ``output``.

    ``timesteps``: of ``choose_timesteps``. ``precision``: a key of ``PRECISIONS``.
    ``on_step(done, total)`` is called after each graph. Returns the manifest. The folder appears
    whole or not at all. Raises UsageError where the scale is not known or the network has no such
    precision, OutputError where the folder cannot be written or exists and ``overwrite`` is not
    given.
    """
    if checkpoint.scale is None:
        raise UsageError(f"{checkpoint.name} does not say what factor it upscales by, and no "
                         "tensor shows it; give --scale 2 or --scale 4, or the options file")
    if checkpoint.network.kind != NOISE_PREDICTOR and precision != "exact":
        raise UsageError(f"{checkpoint.name} is a feed-forward network, all float32 where it is not "
                         "binary; leave --precision out")
    compute = PRECISIONS[precision]
    with atomic_directory(output, overwrite, marker=MANIFEST) as folder:
        of_kind = (_write_steps(checkpoint, folder, timesteps, compute, on_step)
                   if checkpoint.network.kind == NOISE_PREDICTOR
                   else _write_one_run(checkpoint, folder))
        manifest = {**_manifest(checkpoint, folder, compute), **of_kind}
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")
    return manifest


def _write_steps(checkpoint: Checkpoint, folder: Path, timesteps: Sequence[int], compute: str,
                 on_step: Callable[[int, int], None] | None) -> dict[str, Any]:
    """Write a graph a time step; returns what the manifest says of the loop."""
    network, steps = checkpoint.network, []
    names: tuple[str, ...] = ()
    with open(folder / FILE_NAME, "wb") as stream:
        weights = WeightsFile(stream)
        for done, timestep in enumerate(timesteps, 1):
            built = network.build_graph(checkpoint, weights.add, timestep, compute)
            names = built.step_names
            file = f"step_{timestep:04d}.onnx"
            (folder / file).write_bytes(built.model.SerializeToString(deterministic=True))
            steps.append({"timestep": timestep, "file": file,
                          "group": network.group(checkpoint.config, timestep)})
            if on_step:
                on_step(done, len(timesteps))
    start = checkpoint.sampling.get("start")
    if start is not None and not any(timestep <= start for timestep in timesteps):
        start = None
    found: dict[str, Any] = {
        "schedule": Schedule(**checkpoint.schedule).to_dict(),
        "scheduler": {"type": "DDIM", "prediction_type": "epsilon", "eta": 0.0,
                      "clip_sample_range": 1.0, "set_alpha_to_one": True},
        "sampling": {"start": start}, "steps": steps, "step_initializers": list(names)}
    return found if network.name == DEFAULT else {**found, "model": network.name}


def _write_one_run(checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    """Write the one graph; returns what the manifest says of it."""
    network = checkpoint.network
    with open(folder / FILE_NAME, "wb") as stream:
        built = network.build_graph(checkpoint, WeightsFile(stream).add)
    (folder / _GRAPH).write_bytes(built.model.SerializeToString(deterministic=True))
    return {"kind": network.kind, "model": network.name, "graph": _GRAPH}


def _manifest(checkpoint: Checkpoint, folder: Path, compute: str) -> dict[str, Any]:
    """What the manifest says of every kind of network."""
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "bidiff_deploy", "version": __version__},
        "source": {"name": checkpoint.name, "sha256": checkpoint.sha256},
        "assumptions": list(checkpoint.assumptions),
        "zero_weights": checkpoint.zeros,
        "network": checkpoint.config.to_dict(),
        "scale": checkpoint.scale,
        "onnx_opset": ONNX_OPSET,
        "bidiff_opset": VERSION,
        "packing_version": PACKING_VERSION,
        "precision": compute,
        "weights": FILE_NAME,
        "files": {file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
                  for file in sorted(folder.iterdir())},
    }
