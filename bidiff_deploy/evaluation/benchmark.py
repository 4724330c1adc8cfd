"""A data set on disk: originals with or without their low-resolution images.

    Set5/HR/baby.png    Set5/LR_bicubic/X4/babyx4.png     layout of the authors and of EDSR
    Set5/GTmod12/...    Set5/LRbicx4/...                  layout of BasicSR
    photos/...                                            originals alone
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..images.datasets import (
    ImagePair,
    check_template,
    list_images,
    listed,
    match_names,
    pair_files,
)

__all__ = ["Benchmark", "open_benchmark"]

_HIGH = ("HR", "GTmod12")
_LOW = ("LR_bicubic/X{scale}", "LRbicx{scale}")
_TEMPLATES = ("{}", "{}x%d", "{}_LRBI_x%d")


@dataclass(frozen=True)
class Benchmark:
    """The pairs of one data set, sorted by name. ``low``: the folder of its low-resolution images;
    None: they are computed from the originals as by Matlab's imresize."""

    name: str
    pairs: tuple[ImagePair, ...]
    low: Path | None


def open_benchmark(folder: Path, scale: int, template: str | None = None,
                   limit: int | None = None) -> Benchmark:
    """The data set in ``folder``, with names and sizes checked.

    ``template``: how low-resolution names follow from the originals' ('{}x4'); None: the known
    template that fits. ``limit``: use only the first images. Originals that exceed ``scale`` times
    their low-resolution image by less than ``scale`` are cropped, as in the published code. Raises
    UsageError for a folder without a data set, which names those that its subfolders are, and for
    pairs that do not fit.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; name one that contains images, or HR and "
                         f"LR_bicubic/X{scale}")
    if template is not None:
        check_template(template)
    high = next((folder / name for name in _HIGH if (folder / name).is_dir()), folder)
    if high == folder and not _has_images(folder) and (sets := _data_sets(folder)):
        raise UsageError(f"{folder} contains no images, but the data "
                         f"set{'s' * (len(sets) > 1)} {listed([one.name for one in sets])}; "
                         f"evaluate MODEL {shlex.join(map(str, sets))}")
    low = None
    if high != folder:
        low = next((found for name in _LOW
                    if (found := folder / name.format(scale=scale)).is_dir()), None)
    if low is not None and template is None:
        template = _fitting(high, low, scale)
    pairs = pair_files(high, low, template or "{}", scale, cut=True)
    resolved = folder.resolve()
    name = resolved.parent.name if resolved.name in _HIGH else resolved.name
    return Benchmark(name, tuple(pairs[:limit]), low)


def _data_sets(folder: Path) -> list[Path]:
    """The subfolders that are data sets."""
    return [one for one in sorted(folder.iterdir()) if one.is_dir() and (
        any((one / name).is_dir() for name in _HIGH) or _has_images(one))]


def _has_images(folder: Path) -> bool:
    try:
        return bool(list_images(folder))
    except UsageError:
        return False


def _fitting(high: Path, low: Path, scale: int) -> str:
    """The known template that leaves the fewest images without a partner."""
    highs, lows = list_images(high), list_images(low)
    known = [text % scale if "%" in text else text for text in _TEMPLATES]
    return min(known, key=lambda text: len(highs) - len(match_names(highs, lows, text)[0]))
