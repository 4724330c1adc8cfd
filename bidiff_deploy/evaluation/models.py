"""What upscales the images that are scored: a bundle, a checkpoint run by torch, or a folder of
images that something else has upscaled."""

from __future__ import annotations

import abc
import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from ..bundle.manifest import MANIFEST
from ..checks import whole_number
from ..engines.image_engine import ImageEngine
from ..errors import ImageError, UsageError
from ..images.datasets import ImagePair, list_images, listed, read_rgb8
from ..images.image import Image
from ..models.open import open_model as load
from ..models.shipped import is_name
from ..networks.base import MAX_SCALE
from ..sampling.sampler import OnStep
from ..upscale.options import UpscaleOptions
from .benchmark import Benchmark

__all__ = ["EngineModel", "FolderModel", "Model", "open_model"]


class Model(abc.ABC):
    """A context manager that upscales the image of each pair, or has it already."""

    scale: int
    description: str

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 - nothing to close by default
        """Release what the model holds."""

    @abc.abstractmethod
    def check(self, benchmark: Benchmark) -> None:
        """Raise, before the work, UsageError for missing images and for options that do not fit."""

    @abc.abstractmethod
    def upscale(self, benchmark: Benchmark, pair: ImagePair, low: np.ndarray,
                on_step: OnStep) -> tuple[np.ndarray, int]:
        """``low``, uint8 (h, w, 3), the pair's low-resolution image, upscaled to uint8 (H, W, 3),
        and the number of tiles it was computed in."""


class EngineModel(Model):
    """An engine, which is closed with the model."""

    def __init__(self, engine: ImageEngine, options: UpscaleOptions) -> None:
        self.engine, self.options = engine, options
        self.scale, self.description = engine.scale, engine.description

    def close(self) -> None:
        self.engine.close()

    def check(self, benchmark: Benchmark) -> None:
        self.options.check(self.engine)
        for pair in benchmark.pairs:
            self.options.plan(self.engine, pair.height // self.scale, pair.width // self.scale)

    def upscale(self, benchmark: Benchmark, pair: ImagePair, low: np.ndarray,
                on_step: OnStep) -> tuple[np.ndarray, int]:
        plan = self.options.plan(self.engine, *low.shape[:2])
        result = self.options.upscale(self.engine, Image(low), plan, on_step=on_step)
        # Contiguous, as files are read: sums over pixels depend on their order in memory.
        return np.ascontiguousarray(result.pixels), plan.count


class FolderModel(Model):
    """Images found by name: that of the original or of the low-resolution image, optionally
    continued after a character that is no letter or digit (``baby_test.png``). Each data set may
    have a subfolder of its name."""

    def __init__(self, folder: Path, scale: int) -> None:
        self.folder, self.scale = folder, scale
        self.description = f"images in {folder}"

    def check(self, benchmark: Benchmark) -> None:
        lacking = [pair.name for pair in benchmark.pairs if self._find(benchmark, pair) is None]
        if lacking:
            raise UsageError(f"{self._inside(benchmark)} contains no image, or several, for "
                             f"{listed(lacking)} of {benchmark.name}; name each like the original "
                             "or like its low-resolution image")

    def upscale(self, benchmark: Benchmark, pair: ImagePair, low: np.ndarray,
                on_step: OnStep) -> tuple[np.ndarray, int]:
        path = self._find(benchmark, pair)
        assert path is not None  # check() has seen it
        pixels = read_rgb8(path)
        if pixels.shape[:2] != (pair.height, pair.width):
            raise ImageError(f"{path} has {pixels.shape[0]}x{pixels.shape[1]} pixels, but its "
                             f"original {pair.high} has {pair.height}x{pair.width}; give images "
                             f"of scale {self.scale}")
        return pixels, 1

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


def open_model(model: str | Path, *, options: Path | None = None, scale: int | None = None,
               backend: str = "onnxruntime", threads: int | None = None, device: str = "auto",
               upscale: UpscaleOptions | None = None) -> Model:
    """Opens a bundle, an installed model by its name, a checkpoint, or a folder of images.

    options   options file of a checkpoint, in the published form
    scale     required for images; for the others it must match theirs
    device    for a checkpoint: auto, cpu, cuda, cuda:1
    upscale   how each image is upscaled; a checkpoint's ``steps`` are picked from the whole
              schedule, as by ``bidiff-deploy export --steps``

    Raises UsageError for a scale that is unknown or does not match, and what opening raises.
    """
    upscale = upscale or UpscaleOptions()
    name, path = os.fspath(model), Path(model)
    if scale is not None:
        whole_number("--scale", scale, 2, MAX_SCALE)
    if options is not None and (is_name(name) or path.is_dir()):
        what = "an installed model" if is_name(name) else "a folder"
        raise UsageError(f"--options describes a checkpoint, but {path} is {what}; leave it out")
    if is_name(name) or (path / MANIFEST).is_file():
        engine = load(name, threads=threads, backend=backend)
    elif path.is_dir():
        _check_images(path)
        if scale is None:
            raise UsageError(f"the scale of the images in {path} is unknown; give --scale")
        return FolderModel(path, scale)
    else:
        from ..proof.torch_engines import open_checkpoint

        engine = open_checkpoint(path, options, scale, upscale.steps, device)
        upscale = replace(upscale, steps=None)
    if scale is not None and engine.scale != scale:
        engine.close()
        raise UsageError(f"{path} enlarges {engine.scale} times, not {scale}; leave --scale out")
    return EngineModel(engine, upscale)


def _check_images(folder: Path) -> None:
    """Raise UsageError for a folder with no images in it or in one of its subfolders."""
    for one in (folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())):
        try:
            list_images(one)
            return
        except UsageError:
            continue
    raise UsageError(f"{folder} is neither a bundle (it has no {MANIFEST}) nor a folder of images; "
                     "name a bundle, a checkpoint or images")
