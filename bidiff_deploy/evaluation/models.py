"""What makes the pictures that are scored: a bundle, a checkpoint run by torch, or a folder of
pictures that something else made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from ..bundle.manifest import MANIFEST
from ..engines.image_engine import ImageEngine
from ..errors import ImageError, UsageError
from ..images.datasets import ImagePair, list_images, listed, read_rgb8
from .benchmark import Benchmark

__all__ = ["EngineModel", "FolderModel", "Model", "open_model"]

OnStep = Callable[[int, int], object]


class Model(Protocol):
    """A context manager that gives the picture of each pair; ``tiles``: in how many tiles the last
    one was computed."""

    scale: int
    description: str
    tiles: int

    def __enter__(self) -> Model: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None: ...

    def check(self, benchmark: Benchmark) -> None:
        """Raise what can be known before the work: pictures that lack, options that do not fit."""

    def picture(self, benchmark: Benchmark, pair: ImagePair, low: np.ndarray,
                on_step: OnStep) -> np.ndarray:
        """uint8 (H, W, 3) of the pair's low-resolution image ``low``, uint8 (h, w, 3)."""


class EngineModel(ExitStack):
    """An engine, closed with the model; ``options``: of its ``upscale``."""

    def __init__(self, engine: ImageEngine, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.engine = self.enter_context(engine)
        self.options = dict(options)
        self.scale = engine.scale
        self.description = engine.description
        self.tiles = 1

    def check(self, benchmark: Benchmark) -> None:
        self.engine.check_loop(self.options.get("steps"), self.options.get("start", "default"),
                               self.options.get("match_color", False))
        tiles = {key: value for key, value in self.options.items()
                 if key in ("tile", "memory", "overlap")}
        for pair in benchmark.pairs:
            self.engine.tile_plan(pair.height // self.scale, pair.width // self.scale, **tiles)

    def picture(self, benchmark: Benchmark, pair: ImagePair, low: np.ndarray,
                on_step: OnStep) -> np.ndarray:
        def on_tile(_: int, count: int) -> None:
            self.tiles = count

        return self.engine.upscale(low, **self.options, on_step=on_step, on_tile=on_tile)


class FolderModel(ExitStack):
    """Pictures by their names: those of the originals or of the low-resolution images, or such a
    name and an ending after a non-letter (``baby_test.png``). Of several data sets each has a
    subfolder of its name, where there is one."""

    tiles = 1

    def __init__(self, folder: Path, scale: int) -> None:
        super().__init__()
        self.folder = folder
        self.scale = scale
        self.description = f"pictures of {folder}"

    def check(self, benchmark: Benchmark) -> None:
        lacking = [pair.name for pair in benchmark.pairs if self._find(benchmark, pair) is None]
        if lacking:
            raise UsageError(f"{self._inside(benchmark)}: has no picture, or several, of "
                             f"{listed(lacking)} of {benchmark.name}; name each as the original, "
                             "or as its low-resolution image")

    def picture(self, benchmark: Benchmark, pair: ImagePair, low: np.ndarray,
                on_step: OnStep) -> np.ndarray:
        path = self._find(benchmark, pair)
        assert path is not None  # check() has seen it
        picture = read_rgb8(path)
        if picture.shape[:2] != (pair.height, pair.width):
            raise ImageError(f"{path}: has {picture.shape[0]}x{picture.shape[1]} pixels, but its "
                             f"original {pair.high} has {pair.height}x{pair.width}; give pictures "
                             f"of scale {self.scale}")
        return picture

    def _inside(self, benchmark: Benchmark) -> Path:
        below = self.folder / benchmark.name
        return below if below.is_dir() else self.folder

    def _find(self, benchmark: Benchmark, pair: ImagePair) -> Path | None:
        stems: dict[str, list[Path]] = {}
        for path in list_images(self._inside(benchmark)):
            stems.setdefault(path.stem, []).append(path)
        names = [pair.high.stem] + ([pair.low.stem] if pair.low is not None else [])
        for name in names:
            if name in stems:
                return stems[name][0] if len(stems[name]) == 1 else None
        longer = [path for stem, paths in stems.items() for path in paths
                  if any(stem.startswith(name) and not stem[len(name)].isalnum()
                         for name in names)]
        return longer[0] if len(longer) == 1 else None


def open_model(path: Path, *, options: Path | None = None, scale: int | None = None,
               backend: str = "onnxruntime", threads: int | None = None, device: str = "auto",
               upscale: Mapping[str, Any] | None = None) -> Model:
    """A bundle's folder, a checkpoint, or a folder of pictures.

    options   option file in the published form for a checkpoint
    scale     needed for pictures; for the others it must be theirs
    device    of a checkpoint: auto, cpu, cuda, cuda:1
    upscale   options of ``upscale``: seed, steps, start, tile and so on. Of a checkpoint ``steps``
              picks from the whole schedule, as ``bidiff-deploy export --steps`` does

    Raises UsageError where the scale is not known or another, and what opening raises.
    """
    upscale = dict(upscale or {})
    if options is not None and path.is_dir():
        raise UsageError(f"--options describes a checkpoint, and {path} is a folder; leave it out")
    if path.is_dir() and not (path / MANIFEST).is_file():
        _check_pictures(path)
        if scale is None:
            raise UsageError(f"{path}: its pictures do not tell the scale they were made with; "
                             "give --scale")
        return FolderModel(path, scale)
    if path.is_dir():
        from .. import load_bundle

        engine: ImageEngine = load_bundle(path, threads=threads, backend=backend)
    else:
        from ..proof.torch_engines import open_checkpoint

        engine = open_checkpoint(path, options, scale, upscale.pop("steps", None), device)
    if scale is not None and engine.scale != scale:
        engine.close()
        raise UsageError(f"{path} enlarges {engine.scale} times, not {scale}; leave --scale out")
    return EngineModel(engine, upscale)


def _check_pictures(folder: Path) -> None:
    """UsageError for a folder that has images neither in it nor in a folder of it."""
    inside = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]
    for one in inside:
        try:
            list_images(one)
            return
        except UsageError:
            continue
    raise UsageError(f"{folder}: is neither a bundle (it has no {MANIFEST}) nor a folder of "
                     "pictures; name a bundle, a checkpoint or pictures")
