"""Pairs of files from the photos that a recipe names, checked before training starts."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..images.datasets import ImagePair, pair_files
from .recipe_parts import Photo

__all__ = ["Source", "find_sources"]


@dataclass(frozen=True)
class Source:
    """A pair of files; ``weight`` is how often it is drawn, relative to the others."""

    files: ImagePair
    weight: float = 1.0


def find_sources(photos: Sequence[Photo], folder: Path, scale: int, min_size: int = 1, *,
                 cut: bool = False, skip: Callable[[Path, str], None] | None = None,
                 sizes: Sequence[float] = (1.0,)) -> list[Source]:
    """Every photo of a recipe; paths are relative to ``folder`` or in an installed package.

    ``min_size``, ``cut`` and ``skip`` are passed to ``datasets.pair_files``. ``sizes``: each photo
    is used at each of these shares of its size, if both sides are at least ``min_size``. Raises
    UsageError for a path that does not exist, for a folder, pair or photo that cannot be used, and
    if no photo is large enough at any size.
    """
    found, wholes = [], []
    for photo in photos:
        low = _resolve(photo.low, folder) if photo.low else None
        for whole in pair_files(_resolve(photo.path, folder), low, photo.template, scale, cut=cut,
                                min_size=min_size, box=photo.box, skip=skip):
            wholes.append(whole)
            used = [whole if size == 1 else whole.smaller(size) for size in sizes]
            found += [Source(files, photo.weight) for files in used
                      if min(files.height, files.width) >= max(min_size, scale)]
    if wholes and not found:
        largest = max(wholes, key=lambda pair: min(pair.height, pair.width))
        raise UsageError(f"{largest.high}: the largest photo has {largest.height}x{largest.width} "
                         f"pixels, less than a crop of {min_size} at data.sizes {list(sizes)}; use "
                         "larger photos, larger sizes or a smaller data.crop")
    return found


def _resolve(path: str, folder: Path) -> Path:
    found = folder / path
    if not found.exists() and not Path(path).is_absolute():
        package, _, rest = path.partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is not None and spec.submodule_search_locations:
            found = Path(next(iter(spec.submodule_search_locations))) / rest
    if not found.exists():
        raise UsageError(f"{path}: no such photo or folder, neither relative to the recipe nor in "
                         "an installed package; correct the path or install the package")
    return found
