"""Opens a bundle, the directory that export writes and every backend reads.

    manifest.json     network, scale, schedule, steps, versions, SHA-256 of each file
    step_1960.onnx    one graph per time step
    weights.bin       the bytes of every tensor of all graphs, 64-byte aligned, equal ones once

A bundle may be from an untrusted source: names in the manifest may not leave the directory, sizes
are bounded, and the hash of every file is checked before anything reads it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import BidiffError, BundleError
from ..files import file_sha256
from ..networks import DEFAULT, find_network
from ..networks.base import MAX_SCALE, NOISE_PREDICTOR
from ..operators.names import COMPUTE, VERSION
from ..operators.sign_bits import PACKING_VERSION
from ..sampling.schedule import Schedule
from .record import Bundle, NoisePredictorBundle, Step

FORMAT = "bidiff-bundle"
SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 4 << 20
MAX_STEPS = 10_000
Opened = TypeVar("Opened")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def open_bundle(path: str | Path, *, verify: bool = True) -> Bundle:
    """Read and verify a bundle. ``verify=False`` skips the hashes, not the sizes or names.

    Returns a ``NoisePredictorBundle`` if its network is a noise predictor. Raises BundleError for a
    folder that is no bundle, damaged, changed or missing files, names that leave the folder, and
    newer schemas.
    """
    return _open(Path(path), _parse, verify)


def open_noise_predictor(path: str | Path, *, verify: bool = True) -> NoisePredictorBundle:
    """``open_bundle`` of a noise predictor's bundle. Raises BundleError for other kinds too."""
    return _open(Path(path), _parse_noise_predictor, verify)


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 that identifies a bundle: of its manifest, which has the hash of each file."""
    return hashlib.sha256(json.dumps(dict(manifest), sort_keys=True).encode()).hexdigest()


def bundle_of(path: Path, manifest: Mapping[str, Any], data: npt.NDArray[np.uint8]) -> Bundle:
    """The bundle in memory of a manifest that export made, and of the bytes of its weights file.
    ``path`` is what errors call it."""
    return dataclasses.replace(_parse(path, manifest), data=data)


def _open(path: Path, parse: Callable[[Path, Mapping[str, Any]], Opened],
          verify: bool) -> Opened:
    """Read the manifest, parse it, check the files it names."""
    manifest = _read_manifest(path)
    where = path / MANIFEST
    schema = manifest.get("schema_version")
    if manifest.get("format") != FORMAT or type(schema) is not int:
        raise BundleError(f"{where} is not the manifest of a bundle; "
                          "make a bundle with `bidiff-deploy export`")
    if schema > SCHEMA_VERSION:
        raise BundleError(f"{path} has bundle schema {schema}, newer than the {SCHEMA_VERSION} "
                          "that this version reads; upgrade bidiff-deploy")
    try:
        bundle = parse(path, manifest)
    except BidiffError as error:
        raise BundleError(f"{where}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BundleError(f"{where} is incomplete or garbled ({type(error).__name__}: {error}); "
                          "export the bundle again") from None
    _check_files(path, manifest, verify)
    return bundle


def _read_manifest(path: Path) -> Mapping[str, Any]:
    where = path / MANIFEST
    try:
        if not path.exists():
            raise BundleError(f"{path} does not exist; make a bundle with `bidiff-deploy export`")
        if not where.is_file():
            raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}; "
                              "make one with `bidiff-deploy export`")
        if where.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{where} is larger than a manifest can be; export the bundle again")
        manifest = json.loads(where.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{where} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise BundleError(f"{where} is not valid JSON; export the bundle again") from None
    if not isinstance(manifest, dict):
        raise BundleError(f"{where} is not the manifest of a bundle; "
                          "make a bundle with `bidiff-deploy export`")
    return manifest


def _check_versions(manifest: Mapping[str, Any]) -> None:
    """Refuse operators and packings that are newer than this version."""
    for key, known in (("bidiff_opset", VERSION), ("packing_version", PACKING_VERSION)):
        if _integer(manifest, key) < 1:
            raise ValueError(f"{key} must be at least 1, not {manifest[key]}")
        if manifest[key] > known:
            raise BundleError(f"{key} {manifest[key]} is newer than the {known} this version "
                              "reads; upgrade bidiff-deploy")


def _file_names(manifest: Mapping[str, Any], *used: str) -> tuple[str, ...]:
    """``used``, after checking these names and those of all files in the manifest."""
    files = manifest["files"]
    for name, entry in files.items():
        _check_name(name)
        if not re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]) or _integer(entry, "bytes") < 0:
            raise BundleError(f"the entry of {name!r} is garbled; export the bundle again")
    for name in used:
        _check_name(name)
        if name not in files:
            raise BundleError(f"{name!r} is used but has no hash; export the bundle again")
    return used


def _parse(path: Path, manifest: Mapping[str, Any]) -> Bundle:
    """The bundle that a manifest describes; its files are not read."""
    _check_versions(manifest)
    kind = manifest.get("kind", NOISE_PREDICTOR)
    network = find_network(manifest.get("model", DEFAULT), "network")
    if network.kind != kind:
        raise BundleError(f"kind {str(kind)[:60]!r} is not that of its network {network.name}; "
                          "upgrade bidiff-deploy, or export the bundle again")
    config = network.config(manifest["network"], "network")
    if set(manifest["network"]) != set(config.to_dict()):
        raise BundleError("its network options are not complete; export the bundle again")
    scale, fixed = _integer(manifest, "scale"), network.fixed_scale(config)
    if fixed not in (None, scale):
        raise BundleError(f"its scale {scale} is not that of its network, {fixed}; export the "
                          "bundle again")
    if not 1 <= scale <= MAX_SCALE:
        raise BundleError(f"scale {scale} must be from 1 to {MAX_SCALE}; export the bundle again")
    precision = manifest["precision"]
    if precision not in COMPUTE:
        raise BundleError(f"precision {str(precision)[:60]!r} is not known; upgrade bidiff-deploy")
    tensors = _offsets(manifest.get("tensors"), manifest)
    if kind != NOISE_PREDICTOR:
        graph, weights = _file_names(manifest, manifest["graph"], manifest["weights"])
        return Bundle(path, config, scale, (Step(0, 0, graph),), (), precision, weights, tensors,
                      manifest)
    schedule = Schedule.from_dict(manifest["schedule"])
    stated = manifest["schema_version"] > 1
    steps = tuple(Step(_integer(step, "timestep"), _integer(step, "group"), step["file"],
                       tuple(map(_offset, step["offsets"])) if stated else ())
                  for step in manifest["steps"])
    times = [step.timestep for step in steps]
    if not 1 <= len(steps) <= MAX_STEPS or any(a <= b for a, b in zip(times, times[1:])) or (
            times[-1] < 0 or times[0] >= schedule.total_steps):
        raise BundleError("its steps are not descending time steps of its schedule; "
                          "export the bundle again")
    weights, *_ = _file_names(manifest, manifest["weights"], *(step.file for step in steps))
    initializers = manifest["step_initializers"]
    if not isinstance(initializers, list) or not all(isinstance(n, str) for n in initializers):
        raise BundleError("step_initializers must be names; export the bundle again")
    if stated and any(len(step.offsets) != len(initializers) for step in steps):
        raise BundleError("a step must have one offset for each of step_initializers; export the "
                          "bundle again")
    start = manifest["sampling"]["start"]
    if start is not None and (type(start) is not int or not steps[-1].timestep <= start):
        raise BundleError(f"its sampling starts at {start!r}, below all of its steps; "
                          "export the bundle again")
    return NoisePredictorBundle(path, config, scale, steps, tuple(initializers), precision, weights,
                                tensors, manifest, schedule, start)


def _parse_noise_predictor(path: Path, manifest: Mapping[str, Any]) -> NoisePredictorBundle:
    bundle = _parse(path, manifest)
    if not isinstance(bundle, NoisePredictorBundle):
        raise BundleError(f"this is a bundle of kind {bundle.network.kind!r}, which has no time "
                          "steps; use a diffusion model's bundle, or upscale, evaluate, check or "
                          "inspect, which take both")
    return bundle


def _check_files(path: Path, manifest: Mapping[str, Any], verify: bool) -> None:
    for name, entry in manifest["files"].items():
        file = path / name
        try:
            if file.is_symlink() or not file.is_file():
                raise BundleError(f"{file} is missing from the bundle; export the bundle again")
            if file.stat().st_size != entry["bytes"] or (
                    verify and file_sha256(file) != entry["sha256"]):
                raise BundleError(f"{file} is not the file that was exported (its SHA-256 or size "
                                  "differs); copy the bundle again or export it again")
        except OSError as error:
            raise BundleError(f"{file} cannot be read: {error.strerror or error}") from None


def _check_name(name: Any) -> None:
    # A bare file name: no separator, no drive, no parent, nothing hidden.
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name) or name == MANIFEST:
        raise BundleError(f"file name {name!r} is not allowed: the files of a bundle must be in "
                          "its folder; do not use this bundle")


def _offsets(tensors: Any, manifest: Mapping[str, Any]) -> dict[str, int]:
    """``{name: offset}`` of the shared tensors; none in schema 1, whose graphs state them."""
    if manifest["schema_version"] == 1:
        return {}
    if not isinstance(tensors, dict):
        raise ValueError("tensors must be a mapping of names to offsets")
    return {name: _offset(offset) for name, offset in tensors.items()}


def _offset(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"an offset must be a whole number from 0, not {str(value)[:60]!r}")
    return value


def _integer(mapping: Mapping[str, Any], key: str) -> int:
    value = mapping[key]
    if type(value) is not int:
        raise ValueError(f"{key} must be a whole number, not {value!r}")
    return value
