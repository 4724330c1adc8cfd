"""What engines of every kind of bundle have in common: pictures in, larger pictures out."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EngineError, ImageError, UsageError
from ..images.convert import from_array, from_pil, to_array, to_pil
from ..images.image import Image
from ..images.tiles import TilePlan
from .tile_choice import Tile

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

    from ..bundle.record import Bundle

__all__ = ["ImageEngine"]


class ImageEngine(abc.ABC):
    """A bundle that is open and can run: a context manager that upscales pictures.

    bundle  what it was opened from
    scale   how many times larger the output is than the low-resolution image
    """

    channels = 3
    kernel = ""  # of the binary convolutions; "stock": the graphs' standard operators
    whole_loops = False  # whether a loop is faster where nothing listens to its steps

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.scale: int = bundle.scale
        self.closed = False

    @property
    @abc.abstractmethod
    def description(self) -> str:
        """Backend, version, kernel and threads in a few words."""

    def __enter__(self) -> Any:
        self._check_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give back what the engine holds; more than once is fine, using it after is not."""
        if not self.closed:
            self.closed = True
            self._close()

    @abc.abstractmethod
    def _close(self) -> None:
        """Give back what the backend holds; called once."""

    @abc.abstractmethod
    def check_loop(self, steps: Any, start: Any, match_color: bool = False) -> None:
        """Raise UsageError for options that ``upscale_image`` would refuse."""

    @abc.abstractmethod
    def tile_plan(self, height: int, width: int, tile: Tile = "auto", memory: int | None = None,
                  overlap: int | None = None) -> TilePlan:
        """How ``upscale_image`` would run an image of ``height`` x ``width`` pixels (before
        enlarging) with these options; sizes in the plan are the output's. Raises UsageError for
        options that are out of range or contradict each other."""

    def check_tiles(self, tile: Tile, memory: int | None, overlap: int | None = None) -> None:
        """Raise UsageError where these options of ``tile_plan`` fit no image."""
        self.tile_plan(1, 1, tile, memory, overlap)

    @abc.abstractmethod
    def upscale_image(self, image: Image, seed: int = 0, **options: Any) -> Image:
        """An ``Image`` at ``scale`` times the size, with its depth, grey, alpha, profile."""

    def upscale(self, image: PillowImage | np.ndarray, seed: int = 0,
                **options: Any) -> PillowImage | np.ndarray:
        """A picture at ``scale`` times the size, in the form that it came in.

        ``image``: a Pillow image (palettes become RGB or RGBA, EXIF orientation is applied, 16-bit
        grey stays so), or an array of uint8 or uint16, (H, W), (H, W, 3) or (H, W, 4) with alpha.
        Grey stays grey; alpha is enlarged by bicubic. ``options``: as ``upscale_image`` has them.
        Returns a Pillow image, or an array of the same type. Raises ImageError for anything else,
        and as ``upscale_image``.
        """
        self._check_open()
        if isinstance(image, np.ndarray):
            result = self.upscale_image(from_array(image), seed, **options)
            return to_array(result)
        if not (hasattr(image, "getexif") and hasattr(image, "mode")):
            raise ImageError(f"an image of type {type(image).__name__} is not supported; give a "
                             "Pillow image, or a numpy array of uint8 or uint16")
        return to_pil(self.upscale_image(from_pil(image), seed, **options))

    def _check_open(self) -> None:
        if self.closed:
            raise EngineError("the engine is closed; open the bundle again")

    def _planes(self, name: str, array: np.ndarray) -> np.ndarray:
        """``array`` as contiguous float32 (N, 3, H, W), or UsageError."""
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise UsageError(f"{name} is of type {kind}; give a numpy array of float32")
        if array.ndim != 4 or array.shape[1] != self.channels or 0 in array.shape:
            raise UsageError(f"{name} has shape {array.shape}; it must be (N, {self.channels}, H, "
                             "W) with none of them 0")
        with np.errstate(over="ignore"):  # what overflows is told below
            array = np.ascontiguousarray(array, np.float32)
        if not np.isfinite(array).all():
            raise UsageError(f"{name} holds values that are not finite")
        return array
