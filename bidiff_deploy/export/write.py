"""Checkpoint -> bundle: builds the graph of each time step, writes the files, hashes them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from ..bundle.manifest import FORMAT, MANIFEST, SCHEMA_VERSION, WITH_NOISE, bundle_of
from ..bundle.record import Bundle
from ..bundle.weights_file import FILE_NAME, WeightsFile
from ..checkpoint.record import Checkpoint, known_scale
from ..errors import UsageError
from ..files import atomic_directory, file_sha256
from ..networks import DEFAULT
from ..networks.base import DECODER, ENCODER, LATENT, NOISE_PREDICTOR, ONE_RUN
from ..operators.names import INT8, ONNX_OPSET, VERSION
from ..operators.sign_bits import PACKING_VERSION
from ..sampling.noise import NO_NOISE
from ..sampling.resshift import ResShiftSchedule
from ..sampling.schedule import DEFAULT_STEPS, Schedule
from ..version import __version__

__all__ = ["PRECISIONS", "bundle_in_memory", "choose_timesteps", "export_bundle", "schedule_of"]

# Values of `export --precision`: the type to which factors of full-precision products may be
# rounded; with float16 maps between layers too; with int8 those of some layers are.
PRECISIONS = {"exact": "float32", "fast": "bfloat16", "half": "float16", "int8": INT8}
_GRAPH = "network.onnx"  # graph of a network that runs once


def choose_timesteps(checkpoint: Checkpoint, *, steps: int | None = None,
                     timesteps: Sequence[int] | None = None) -> tuple[int, ...]:
    """The time steps of a bundle, descending; none for a network that runs once.

    ``timesteps`` as listed, else ``steps`` of them (by DDIM's leading spacing; of a latent network
    evenly, from the highest on), else those that the checkpoint recommends, else DEFAULT_STEPS or
    those of the latent network. Raises UsageError for steps that the schedule does
    not have, and for any steps of a network that runs once.
    """
    if checkpoint.network.kind == ONE_RUN:
        if steps is not None or timesteps is not None:
            raise UsageError(f"{checkpoint.name} is a feed-forward network, without time steps; "
                             "leave --steps and --timesteps out")
        return ()
    schedule = schedule_of(checkpoint)
    if steps is None and timesteps is None:
        timesteps = checkpoint.sampling.get("timesteps")
        steps = checkpoint.sampling.get("steps") or None
    if timesteps is not None:
        return schedule.check(timesteps)
    if isinstance(schedule, ResShiftSchedule):
        if steps is not None:
            return schedule.spaced_timesteps(steps)
        chosen: tuple[int, ...] = checkpoint.network.timesteps(schedule)
        return chosen
    if steps is None:
        steps = min(DEFAULT_STEPS, schedule.total_steps)
    return schedule.leading_timesteps(steps)


def schedule_of(checkpoint: Checkpoint) -> Schedule | ResShiftSchedule:
    """The schedule of a network with time steps."""
    values = checkpoint.schedule
    return (ResShiftSchedule(**values) if checkpoint.network.kind == LATENT
            else Schedule(**values))


def export_bundle(checkpoint: Checkpoint, output: str | Path, *, timesteps: Sequence[int] = (),
                  overwrite: bool = False, precision: str = "exact",
                  on_step: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Write the bundle of ``checkpoint`` to the folder ``output``.

    ``timesteps``: from ``choose_timesteps``. ``precision``: a key of ``PRECISIONS``.
    ``on_step(done, total)`` is called after each graph. Returns the manifest. The folder is written
    whole or not at all. Raises UsageError if the scale is unknown or the network does not have that
    precision, OutputError if the folder cannot be written, or exists without ``overwrite``.
    """
    _check(checkpoint, precision)
    with atomic_directory(output, overwrite, marker=MANIFEST) as folder:
        with open(folder / FILE_NAME, "wb") as stream:
            manifest = _build(checkpoint, timesteps, precision, WeightsFile(stream),
                              lambda name, data: (folder / name).write_bytes(data), on_step)
        manifest["files"] = {
            file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
            for file in sorted(folder.iterdir())}
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")
    return manifest


def bundle_in_memory(checkpoint: Checkpoint, *, timesteps: Sequence[int] = (),
                     precision: str = "exact") -> Bundle:
    """The bundle that ``export_bundle`` would write, without files: its path is the checkpoint's
    name. Raises UsageError as ``export_bundle`` does."""
    _check(checkpoint, precision)
    files: dict[str, dict[str, Any]] = {}

    def describe(name: str, data: bytes | memoryview) -> None:
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    stream = io.BytesIO()
    manifest = _build(checkpoint, timesteps, precision, WeightsFile(stream), describe)
    describe(FILE_NAME, stream.getbuffer())
    return bundle_of(Path(checkpoint.name), {**manifest, "files": files},
                     np.frombuffer(stream.getbuffer(), np.uint8))


def _check(checkpoint: Checkpoint, precision: str) -> None:
    known_scale(checkpoint)
    network = checkpoint.network
    int8 = network.int8_layers(checkpoint.config)
    names = [name for name, compute in PRECISIONS.items()
             if (compute in network.computes or compute == INT8 and int8)
             and (compute != "bfloat16" or network.rounds(checkpoint.config))]
    if precision != "int8" and precision not in names:
        raise UsageError(f"{checkpoint.name} is a network {network.title}, which has no "
                         f"--precision {precision}, only {', '.join(names)}")
    if precision == "int8":
        missing = set(int8) - set(checkpoint.bounds)
        if missing:
            raise UsageError(f"{checkpoint.name} has no bounds of {sorted(missing)[0]}, which int8 "
                             "needs; calibrate it with --calibration FOLDER")
        if not checkpoint.bounds:
            raise UsageError(f"{checkpoint.name} has no full-precision layer that int8 concerns; "
                             "leave --precision out")


def _build(checkpoint: Checkpoint, timesteps: Sequence[int], precision: str, weights: WeightsFile,
           save: Callable[[str, bytes], object],
           on_step: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Store the tensors, ``save(name, data)`` every graph; returns the manifest without
    ``files``."""
    compute = PRECISIONS[precision]
    if checkpoint.network.kind == ONE_RUN:
        of_kind = _build_one_run(checkpoint, compute, weights, save)
    else:
        of_kind = _build_steps(checkpoint, timesteps, compute, weights, save, on_step)
        of_kind.update(_noise_predictor(checkpoint, timesteps)
                       if checkpoint.network.kind == NOISE_PREDICTOR
                       else _latent(checkpoint, weights, save))
    return {**_manifest(checkpoint, compute), **of_kind}


def _build_steps(checkpoint: Checkpoint, timesteps: Sequence[int], compute: str,
                 weights: WeightsFile, save: Callable[[str, bytes], object],
                 on_step: Callable[[int, int], None] | None) -> dict[str, Any]:
    """Build the graph of each time step; returns the manifest's keys of steps."""
    network, steps = checkpoint.network, []
    names: tuple[str, ...] = ()
    for done, timestep in enumerate(timesteps, 1):
        built = network.build_graph(checkpoint, weights.add, timestep, compute)
        names, offsets = built.step_names, _offsets(built.model)
        file = f"step_{timestep:04d}.onnx"
        save(file, built.model.SerializeToString(deterministic=True))
        steps.append({"timestep": timestep, "file": file,
                      "group": network.group(checkpoint.config, timestep),
                      "offsets": [offsets.pop(name) for name in names]})
        if on_step:
            on_step(done, len(timesteps))
    found = {"schedule": schedule_of(checkpoint).to_dict(), "steps": steps,
             "step_initializers": list(names), "tensors": offsets}
    return found if network.name == DEFAULT else {**found, "model": network.name}


def _noise_predictor(checkpoint: Checkpoint, timesteps: Sequence[int]) -> dict[str, Any]:
    """The manifest's keys of a noise predictor's loop."""
    start = checkpoint.sampling.get("start")
    if start is not None and not any(timestep <= start for timestep in timesteps):
        start = None
    sampling: dict[str, Any] = {"start": start}
    noiseless = start is not None and checkpoint.sampling.get("noise") == NO_NOISE
    if noiseless:
        sampling["noise"] = NO_NOISE
    return {"schema_version": SCHEMA_VERSION if noiseless else WITH_NOISE,
            "scheduler": {"type": "DDIM", "prediction_type": "epsilon", "eta": 0.0,
                          "clip_sample_range": 1.0, "set_alpha_to_one": True},
            "sampling": sampling}


def _latent(checkpoint: Checkpoint, weights: WeightsFile,
            save: Callable[[str, bytes], object]) -> dict[str, Any]:
    """Build encoder and decoder; returns the manifest's keys of a latent network."""
    network = checkpoint.network
    found: dict[str, Any] = {"kind": network.kind, "sampling": {
        "sampler": checkpoint.sampling.get("sampler", network.sampler)}}
    for part in (ENCODER, DECODER):
        built, file = network.build_part(checkpoint, weights.add, part), f"{part}.onnx"
        save(file, built.model.SerializeToString(deterministic=True))
        found[part] = {"file": file, "tensors": _offsets(built.model)}
    return found


def _build_one_run(checkpoint: Checkpoint, compute: str, weights: WeightsFile,
                   save: Callable[[str, bytes], object]) -> dict[str, Any]:
    """Build the one graph; returns the manifest's keys of a network that runs once."""
    network = checkpoint.network
    built = network.build_graph(checkpoint, weights.add, compute=compute)
    save(_GRAPH, built.model.SerializeToString(deterministic=True))
    return {"kind": network.kind, "model": network.name, "graph": _GRAPH,
            "tensors": _offsets(built.model)}


def _offsets(model: ModelProto) -> dict[str, int]:
    """Where each initializer of a graph is in the weights file."""
    return {tensor.name: next(int(entry.value) for entry in tensor.external_data
                              if entry.key == "offset") for tensor in model.graph.initializer}


def _manifest(checkpoint: Checkpoint, compute: str) -> dict[str, Any]:
    """The manifest's keys of every kind of network."""
    return {
        "format": FORMAT,
        "schema_version": WITH_NOISE,
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
    }
