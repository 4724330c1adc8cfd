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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..checks import MAX_JSON_BYTES, load_json
from ..errors import BidiffError, BundleError, one_line, quoted
from ..files import file_sha256
from ..networks import DEFAULT, find_network
from ..networks.base import DECODER, ENCODER, LATENT, NOISE_PREDICTOR
from ..operators.names import INT8, VERSION
from ..operators.sign_bits import PACKING_VERSION
from ..sampling.resshift import ResShiftSchedule, check_sampler
from ..sampling.schedule import Schedule
from .manifest_document import MANIFEST, check_manifest
from .record import Bundle, LatentBundle, NoisePredictorBundle, Part, Step

__all__ = ["FORMAT", "MANIFEST", "SCHEMA_VERSION", "WITH_NOISE", "manifest_digest", "open_bundle",
           "open_noise_predictor"]

FORMAT = "bidiff-bundle"
SCHEMA_VERSION = 3
WITH_NOISE = 2  # what is written for models that older versions can run
Opened = TypeVar("Opened")


def open_bundle(path: str | Path, *, verify: bool = True) -> Bundle:
    """Read and verify a bundle. ``verify=False`` skips the hashes, not the sizes or names.

    Returns a ``NoisePredictorBundle`` or ``LatentBundle`` if its network is of that kind. Raises
    BundleError for a folder that is no bundle, damaged, changed or missing files, names that leave
    the folder, and newer schemas.
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
    if manifest.get("format") != FORMAT or type(schema) is not int or schema < 1:
        raise BundleError(f"{where} is not the manifest of a bundle; "
                          "make a bundle with `bidiff-deploy export`")
    if schema > SCHEMA_VERSION:
        raise BundleError(f"{path} has bundle schema {schema}, newer than the {SCHEMA_VERSION} "
                          "that this version reads; upgrade bidiff-deploy")
    try:
        bundle = parse(path, manifest)
    except BidiffError as error:
        raise BundleError(f"{where}: {error}") from None
    except ValueError as error:
        raise BundleError(f"{where} is incomplete or garbled: {error}; export the bundle again"
                          ) from None
    _check_files(path, manifest, verify)
    return bundle


def _read_manifest(path: Path) -> Mapping[str, Any]:
    where = path / MANIFEST
    try:
        if not path.exists():
            raise BundleError(f"{path} does not exist; make a bundle with `bidiff-deploy export`")
        if where.is_symlink() and not where.exists():
            raise BundleError(f"{where} is a link to a file that is absent; fetch that with the "
                              "tool that made the link, or copy the bundle with cp -rL")
        if not where.is_file():
            raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}; "
                              "make one with `bidiff-deploy export`")
        if where.stat().st_size > MAX_JSON_BYTES:
            raise BundleError(f"{where} is larger than a manifest can be; export the bundle again")
        manifest = load_json(where.read_bytes())
    except OSError as error:
        raise BundleError(f"{where} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise BundleError(f"{where} is not valid JSON ({one_line(error)}); export the bundle again"
                          ) from None
    if not isinstance(manifest, dict):
        raise BundleError(f"{where} is not the manifest of a bundle; "
                          "make a bundle with `bidiff-deploy export`")
    return manifest


def _check_versions(manifest: Mapping[str, Any]) -> None:
    """Refuse operators and packings that are newer than this version."""
    for key, known in (("bidiff_opset", VERSION), ("packing_version", PACKING_VERSION)):
        if manifest[key] > known:
            raise BundleError(f"{key} {manifest[key]} is newer than the {known} this version "
                              "reads; upgrade bidiff-deploy")


def _parse(path: Path, manifest: Mapping[str, Any]) -> Bundle:
    """The bundle that a manifest describes; its files are not read. Raises ValueError, in a
    sentence, for keys that are missing or garbled."""
    kind = manifest.get("kind", NOISE_PREDICTOR)
    network = find_network(manifest.get("model", DEFAULT), "network")
    if network.kind != kind:
        raise BundleError(f"kind {quoted(kind)} is not that of its network {network.name}; "
                          "upgrade bidiff-deploy, or export the bundle again")
    schema = manifest["schema_version"]
    check_manifest(manifest, schema, network.kind)
    _check_versions(manifest)
    config = network.config(manifest["network"], "network")
    if set(manifest["network"]) != set(config.to_dict()):
        raise BundleError("its network options are not complete; export the bundle again")
    if network.scales(config):
        raise BundleError("its network is of several scales, of which a bundle has one; export the "
                          "bundle again")
    scale, fixed = manifest["scale"], network.fixed_scale(config)
    if fixed not in (None, scale):
        raise BundleError(f"its scale {scale} is not that of its network, {fixed}; export the "
                          "bundle again")
    precision, weights = manifest["precision"], manifest["weights"]
    if precision not in (*network.computes, INT8):
        raise BundleError(f"precision {quoted(precision)} is not known; upgrade bidiff-deploy")
    stated = schema > 1  # the graphs of schema 1 state the offsets
    tensors = manifest["tensors"] if stated else {}
    if kind not in (NOISE_PREDICTOR, LATENT):
        _check_listed(manifest, weights, manifest["graph"])
        return Bundle(path, config, scale, (Step(0, 0, manifest["graph"]),), (), precision, weights,
                      tensors, manifest)
    schedule = (Schedule if kind == NOISE_PREDICTOR else ResShiftSchedule).from_dict(
        manifest["schedule"])
    steps = tuple(Step(step["timestep"], step["group"], step["file"],
                       tuple(step["offsets"]) if stated else ()) for step in manifest["steps"])
    times = [step.timestep for step in steps]
    if any(a <= b for a, b in zip(times, times[1:])) or times[0] >= schedule.total_steps:
        raise BundleError("its steps are not descending time steps of its schedule; "
                          "export the bundle again")
    parts = {} if kind == NOISE_PREDICTOR else {
        part: Part(manifest[part]["file"], manifest[part]["tensors"])
        for part in (ENCODER, DECODER)}
    files = [*(step.file for step in steps), *(part.file for part in parts.values())]
    if len(set(files)) < len(files):
        raise BundleError("two of its steps have the same file; export the bundle again")
    _check_listed(manifest, weights, *files)
    initializers = tuple(manifest["step_initializers"])
    if stated and any(len(step.offsets) != len(initializers) for step in steps):
        raise BundleError("a step must have one offset for each of step_initializers; export the "
                          "bundle again")
    common = (path, config, scale, steps, initializers, precision, weights, tensors, manifest)
    if isinstance(schedule, ResShiftSchedule):
        if not stated:
            raise BundleError("a bundle of schema 1 cannot have its network; export it again")
        return LatentBundle(*common, schedule, check_sampler(manifest["sampling"]["sampler"]),
                            parts)
    start = manifest["sampling"]["start"]
    if start is not None and steps[-1].timestep > start:
        raise BundleError(f"its sampling starts at {start}, below all of its steps; "
                          "export the bundle again")
    noiseless = "noise" in manifest["sampling"]
    if noiseless and start is None:
        raise BundleError("its sampling has neither noise nor a start; export the bundle again")
    return NoisePredictorBundle(*common, schedule, start, noiseless)


def _check_listed(manifest: Mapping[str, Any], *used: str) -> None:
    for name in used:
        if name not in manifest["files"]:
            raise BundleError(f"{name!r} is used but has no hash; export the bundle again")


def _parse_noise_predictor(path: Path, manifest: Mapping[str, Any]) -> NoisePredictorBundle:
    bundle = _parse(path, manifest)
    if not isinstance(bundle, NoisePredictorBundle):
        lacks = "predicts no noise" if bundle.network.kind == LATENT else "has no time steps"
        raise BundleError(f"this is a bundle of kind {bundle.network.kind!r}, which {lacks}; use a "
                          "diffusion model's bundle, or upscale, evaluate, check, inspect or "
                          "bench, which take every kind")
    return bundle


def _check_files(path: Path, manifest: Mapping[str, Any], verify: bool) -> None:
    for name, entry in manifest["files"].items():
        file = path / name
        try:
            # Links are followed (caches of Hugging Face, DVC and git-annex are made of them), as
            # hashes guard the content; devices and pipes at their ends are not.
            if file.is_symlink() and not file.exists():
                raise BundleError(f"{file} is a link to a file that is absent; fetch that with the "
                                  "tool that made the link (git annex get, dvc pull), or copy the "
                                  "bundle with cp -rL from where it is whole")
            if not file.is_file():
                raise BundleError(f"{file} is missing from the bundle; export the bundle again")
            if file.stat().st_size != entry["bytes"] or (
                    verify and file_sha256(file) != entry["sha256"]):
                raise BundleError(f"{file} is not the file that was exported (its SHA-256 or size "
                                  "differs); copy the bundle again or export it again")
        except OSError as error:
            raise BundleError(f"{file} cannot be read: {error.strerror or error}") from None
