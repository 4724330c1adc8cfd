"""The base class of every engine: images in, larger images out."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from ..errors import EngineError, ImageError, UsageError
from ..images.convert import from_array, from_pil, to_array, to_pil
from ..images.image import Image
from ..images.tiles import TilePlan
from ..sampling.sampler import OnStep
from .ensemble import check_count
from .tile_choice import Tile

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage
    from typing_extensions import Self

    from ..bundle.record import Bundle

__all__ = ["ImageEngine", "Start"]

Start = int | None | Literal["default"]


class ImageEngine(abc.ABC):
    """An open bundle that upscales images; a context manager.

    bundle      the bundle it was opened from
    scale       how many times larger the output is than the low-resolution image
    kernel      the kernel of the binary convolutions; "stock": standard ONNX operators
    fuses_loop  whether a loop runs as one piece of work, and faster, when no ``on_step`` is given
    """

    channels = 3
    kernel = ""
    fuses_loop = False

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.scale: int = bundle.scale
        self.closed = False

    @property
    @abc.abstractmethod
    def description(self) -> str:
        """Backend, version, kernel and threads in a few words."""

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release what the engine holds. May be called again; no other method may."""
        if not self.closed:
            self.closed = True
            self._close()

    @abc.abstractmethod
    def _close(self) -> None:
        """Release what the backend holds; called once."""

    @abc.abstractmethod
    def check_loop(self, steps: int | None, start: Start = "default",
                   match_color: bool = False, ensemble: int = 1) -> None:
        """Raise UsageError for options that ``upscale_image`` would refuse."""

    def _check_no_ensemble(self, ensemble: int) -> None:
        """Raise UsageError for more than one copy, for engines that start from noise: the copies
        would have other noise, and their mean less detail."""
        if check_count(ensemble) != 1:
            raise UsageError(f"ensemble {ensemble} is for feed-forward bundles; the mean of "
                             "several results of a diffusion model has less detail than each, so "
                             "leave ensemble out")

    @abc.abstractmethod
    def tile_plan(self, height: int, width: int, tile: Tile = "auto", memory: int | None = None,
                  overlap: int | None = None) -> TilePlan:
        """The tiles that ``upscale_image`` would run with these options.

        ``height``, ``width``: of the low-resolution image in pixels; sizes in the plan are the
        output's. Raises UsageError for options that are out of range or contradict each other.
        """

    def check_tiles(self, tile: Tile, memory: int | None, overlap: int | None = None) -> None:
        """Raise UsageError if no image can be run with these options of ``tile_plan``."""
        self.tile_plan(1, 1, tile, memory, overlap)

    @abc.abstractmethod
    def upscale_image(self, image: Image, seed: int = 0, *, tile: Tile = "auto",
                      memory: int | None = None, overlap: int | None = None,
                      steps: int | None = None, start: Start = "default",
                      match_color: bool = False, ensemble: int = 1,
                      plan: TilePlan | None = None,
                      on_step: OnStep | None = None, on_tile: OnStep | None = None) -> Image:
        """``image`` at ``scale`` times the size; bit depth, grey, alpha and profile are kept.

        seed     of the noise
        tile     side of square tiles in output pixels, at least 64, rounded up; None: the image
                 is run whole; "auto": whole if it is small enough and fits ``memory``, else tiles
                 that fit it and take the least time
        memory   estimated peak bytes that one step may need; None: half of the available memory.
                 The result and the image itself come on top
        overlap  of neighbouring tiles in output pixels, rounded up; None: the usual one
        steps, start, match_color  as in ``NoisePredictor.sample``
        ensemble  how many turned and mirrored copies of the image are enlarged, 1, 2, 4 or 8; the
                 result is their mean. More than 1 is for feed-forward networks only
        plan     what ``tile_plan`` returned for this size, instead of ``tile``, ``memory`` and
                 ``overlap``
        on_step  called with (steps done, steps in all), counted over all tiles
        on_tile  called with (tiles done, tiles in all)

        Raises UsageError as ``tile_plan`` and ``check_loop``.
        """

    @overload
    def upscale(self, image: np.ndarray, seed: int = 0, **options: Any) -> np.ndarray: ...

    @overload
    def upscale(self, image: PillowImage, seed: int = 0, **options: Any) -> PillowImage: ...

    def upscale(self, image: PillowImage | np.ndarray, seed: int = 0,
                **options: Any) -> PillowImage | np.ndarray:
        """The image at ``scale`` times the size, of the type that was given.

        ``image``: a Pillow image (palettes become RGB or RGBA, EXIF orientation is applied, 16-bit
        grey stays 16-bit grey), or an array of uint8 or uint16, (H, W), (H, W, 3) or (H, W, 4)
        with alpha. Grey stays grey; alpha is enlarged by bicubic interpolation. ``options``: those
        of ``upscale_image``. Returns a Pillow image, or an array of the same dtype. Raises
        ImageError for anything else, and what ``upscale_image`` raises.
        """
        self._check_open()
        if isinstance(image, np.ndarray):
            return to_array(self.upscale_image(from_array(image), seed, **options))
        if not (hasattr(image, "getexif") and hasattr(image, "mode")):
            raise ImageError(f"an image of type {type(image).__name__} is not supported; give a "
                             "Pillow image, or a numpy array of uint8 or uint16")
        return to_pil(self.upscale_image(from_pil(image), seed, **options))

    def _check_open(self) -> None:
        if self.closed:
            raise EngineError("the engine is closed; open the bundle again")

    def _tensor(self, name: str, array: np.ndarray, channels: int | None = 3) -> np.ndarray:
        """``array`` as contiguous float32 (N, channels, H, W); None: any number of channels. Raises
        UsageError, which calls it ``name``, for another shape or type, and for values that are not
        finite."""
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise UsageError(f"{name} is of type {kind}; give a numpy array of float32")
        if array.ndim != 4 or channels not in (None, array.shape[1]) or 0 in array.shape:
            raise UsageError(f"{name} has shape {array.shape}; it must be (N, {channels or 'C'}, "
                             "H, W), none of them 0")
        with np.errstate(over="ignore"):  # an overflow is reported below
            array = np.ascontiguousarray(array, np.float32)
        if not np.isfinite(array).all():
            raise UsageError(f"{name} contains values that are not finite")
        return array
