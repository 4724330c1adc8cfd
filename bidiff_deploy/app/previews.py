"""A photo before and after as two pictures of one size that any browser shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..images.convert import to_pil
from ..images.image import to_8_bits
from ..images.read import read_image
from ..pages.pictures import MAX_PIXELS

if TYPE_CHECKING:
    from ..images.image import Image

__all__ = ["write_previews"]


def write_previews(original: Path, larger: Path, folder: Path, max_pixels: int
                   ) -> tuple[str, str]:
    """Write both pictures into ``folder``, at most MAX_PIXELS each, the original enlarged by
    Lanczos; returns their paths. ``max_pixels``: what the larger photo may have. Raises ImageError.
    """
    after = read_image(larger, max_pixels)
    shrink = min(1.0, (MAX_PIXELS / (after.width * after.height)) ** 0.5)
    size = max(1, int(after.width * shrink)), max(1, int(after.height * shrink))
    written = _write(after, size, folder / f"{larger.stem}.after")
    del after  # before the original is read: both may be large
    before = read_image(original, max_pixels)
    return _write(before, size, folder / f"{larger.stem}.before"), written


def _write(image: Image, size: tuple[int, int], stem: Path) -> str:
    from PIL.Image import Resampling

    opened = to_pil(to_8_bits(image))
    if opened.size != size:
        opened = opened.resize(size, Resampling.LANCZOS)
    see_through = image.alpha is not None
    path = stem.with_name(stem.name + (".png" if see_through else ".jpg"))
    options: dict[str, Any] = ({"compress_level": 1} if see_through
                               else {"quality": 95, "subsampling": 0})
    stem.parent.mkdir(parents=True, exist_ok=True)
    opened.save(path, icc_profile=image.icc_profile, **options)
    return str(path)
