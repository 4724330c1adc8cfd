"""Bundle -> model repository for the Python backend of NVIDIA Triton Inference Server.

    REPO/bidiff_repository.json       identifies the folder as such a repository
    REPO/README.md, client.py         how to serve it, and a client
    REPO/<name>/config.pbtxt          inputs, batching, instances, parameters
    REPO/<name>/1/model.py            the adaptor between Triton and bidiff_deploy
    REPO/<name>/1/bundle/             the bundle, its hashes verified before and after the copy

Requests contain raw uint8 RGB instead of image files: Triton knows the sizes and batches equal
ones, the pixel limit is applied without decoding, and untrusted files reach no image decoder.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.manifest import MANIFEST, open_bundle
from ..bundle.record import Bundle
from ..checks import whole_number
from ..engines import BACKENDS
from ..errors import UsageError
from ..files import atomic_directory
from ..networks.base import ONE_RUN
from ..version import __version__
from .text_format import Fields, Name, to_text

__all__ = ["MARKER", "Serving", "config_text", "export_repository"]

MARKER = "bidiff_repository.json"
FORMAT = "bidiff-triton-repository"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Serving:
    """How a bundle is served.

    name            name of the model and its folder
    instances       processes, each with its own engine
    max_batch       largest batch that Triton may form
    queue_delay_us  how long a request may wait for others of its size, in microseconds
    threads         threads of an instance; None: all cores, shared by the instances
    backend         backend that runs the graphs
    tile            side of tiles in output pixels, "auto", or "none": images are computed whole
    memory          peak bytes of an instance; None: chosen at loading by what is free
    max_pixels      largest input image; larger ones are refused

    Raises UsageError for a name that cannot be a folder's name and for numbers out of range.
    """

    name: str
    instances: int = 1
    max_batch: int = 4
    queue_delay_us: int = 500
    threads: int | None = None
    backend: str = "onnxruntime"
    tile: str = "auto"
    memory: int | None = None
    max_pixels: int = 1 << 20

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"--name {self.name!r} cannot be the name of a model; use letters, "
                             "digits, dots, dashes and underscores, and start with a letter or "
                             "digit")
        if self.backend not in BACKENDS:
            raise UsageError(f"--backend {self.backend!r} is not known; known are "
                             f"{', '.join(BACKENDS)}")
        for option, low, high in (("instances", 1, 1024), ("max_batch", 1, 1024),
                                  ("queue_delay_us", 0, 60_000_000), ("threads", 1, 1024),
                                  ("memory", 1, 1 << 62), ("max_pixels", 1, 1 << 32)):
            if (value := getattr(self, option)) is not None:
                whole_number(f"--{option.replace('_', '-')}", value, low, high)
        if self.tile not in ("auto", "none") and not (self.tile.isascii() and self.tile.isdigit()):
            raise UsageError(f"--tile {self.tile!r} must be a number of pixels, auto or none")


def export_repository(source: str | os.PathLike[str], output: str | os.PathLike[str],
                      serving: Serving | None = None, *, overwrite: bool = False,
                      **options: Any) -> Serving:
    """Write the repository that serves the bundle at ``source`` to the folder ``output``.

    ``serving``, or its fields as ``options``; the default name is ``bidiff_x<scale>``. Returns the
    Serving. The folder appears whole or not at all; an existing one is replaced only with
    ``overwrite``, and only if it is such a repository. Raises BundleError for a damaged bundle,
    UsageError as Serving, OutputError if the folder cannot be written.
    """
    bundle = open_bundle(Path(source))
    if serving is None:
        serving = Serving(options.pop("name", None) or f"bidiff_x{bundle.scale}", **options)
    _check_tile(bundle, serving)
    files = importlib.resources.files(__package__) / "repository"
    with atomic_directory(output, overwrite, marker=MARKER) as folder:
        version = folder / serving.name / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(config_text(serving), encoding="ascii")
        (version / "model.py").write_bytes((files / "model.py").read_bytes())
        _copy(bundle, version / "bundle")
        for file in ("README.md", "client.py"):
            text = (files / file).read_text(encoding="utf-8")
            for key, value in (("NAME", serving.name), ("SCALE", str(bundle.scale)),
                               ("VERSION", __version__),
                               ("MAX_PIXELS", str(serving.max_pixels))):
                text = text.replace(f"@{key}@", value)
            (folder / file).write_text(text, encoding="utf-8")
        (folder / MARKER).write_text(json.dumps(
            {"format": FORMAT, "model": serving.name, "bidiff_deploy": __version__}) + "\n")
    return serving


def _check_tile(bundle: Bundle, serving: Serving) -> None:
    """Refuse here what the server would refuse at loading."""
    from ..engines.tile_choice import Tile, choose

    tile: Tile = int(serving.tile) if serving.tile.isdigit() else None
    if serving.tile == "auto":
        tile = "auto"
    network, config = bundle.network, bundle.config
    unit = bundle.scale if network.kind == ONE_RUN else network.size_multiple(config)
    choose((bundle.scale, bundle.scale), tile, serving.memory, None, unit,
           functools.partial(network.work, config), functools.partial(network.peak_bytes, config))


def _copy(bundle: Bundle, target: Path) -> None:
    target.mkdir()
    for name in (MANIFEST, *bundle.manifest["files"]):
        shutil.copyfile(bundle.path / name, target / name)
    open_bundle(target)


def config_text(serving: Serving) -> str:
    """The model's config.pbtxt."""
    return to_text(_config(serving))


def _config(serving: Serving) -> Fields:
    image = [("name", "image"), ("data_type", Name("TYPE_UINT8")),
             ("dims", (-1, -1, 3))]
    fields: list[tuple[str, Any]] = [
        ("name", serving.name), ("backend", "python"), ("max_batch_size", serving.max_batch),
        ("input", image)]
    fields += [("input", [("name", name), ("data_type", Name("TYPE_INT64")), ("dims", (1,)),
                          ("optional", True)]) for name in ("seed", "steps")]
    fields.append(("output", image))
    fields.append(("instance_group", [("kind", Name("KIND_CPU")), ("count", serving.instances)]))
    if serving.max_batch > 1:
        # Without allow_ragged_batch Triton batches only equal sizes. All answers of a batch are
        # sent together, so no request has to wait for a larger image.
        preferred = tuple(1 << n for n in range(1, serving.max_batch.bit_length()))
        fields.append(("dynamic_batching", [
            ("preferred_batch_size", preferred),
            ("max_queue_delay_microseconds", serving.queue_delay_us)]))
    for key, value in (("threads", serving.threads), ("backend", serving.backend),
                       ("tile", serving.tile), ("memory", serving.memory),
                       ("max_pixels", serving.max_pixels)):
        text = "auto" if value is None else str(value)
        fields.append(("parameters", [("key", key), ("value", [("string_value", text)])]))
    return fields
