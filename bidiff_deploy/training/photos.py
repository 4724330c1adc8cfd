"""The photos that a recipe names -> pairs of files, checked before anything is trained."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..images.datasets import ImagePair, pair_files
from .recipe import Photo

__all__ = ["Source", "find_sources"]


@dataclass(frozen=True)
class Source:
    """A pair of files, and how often it is drawn relative to the others."""

    files: ImagePair
    weight: float = 1.0


def find_sources(photos: Sequence[Photo], folder: Path, scale: int, smallest: int = 1, *,
                 cut: bool = False, skip: Callable[[Path, str], None] | None = None,
                 sizes: Sequence[float] = (1.0,)) -> list[Source]:
    """Every photo of a recipe; paths are relative to ``folder``, or of an installed package.

    ``smallest``, ``cut`` and ``skip`` as ``datasets.pair_files`` has them. ``sizes``: each photo is
    used at each of these shares of its size, as far as a side of ``smallest`` is left. Raises
    UsageError for a path that does not exist, for whatever is wrong with a folder, a pair or a
    photo, and if the sizes leave no photo.
    """
    found, wholes = [], []
    for photo in photos:
        low = _resolve(photo.low, folder) if photo.low else None
        for whole in pair_files(_resolve(photo.path, folder), low, photo.template, scale, cut=cut,
                                min_size=smallest, box=photo.box, skip=skip):
            wholes.append(whole)
            used = [whole if size == 1 else whole.smaller(size) for size in sizes]
            found += [Source(files, photo.weight) for files in used
                      if min(files.height, files.width) >= max(smallest, scale)]
    if wholes and not found:
        largest = max(wholes, key=lambda pair: min(pair.height, pair.width))
        raise UsageError(f"{largest.high}: has {largest.height}x{largest.width} pixels, of which "
                         f"data.sizes {list(sizes)} leave less than a crop of {smallest}, as of "
                         "every other photo; use larger photos, larger sizes or a smaller "
                         "data.crop")
    return found


def _resolve(path: str, folder: Path) -> Path:
    found = folder / path
    if not found.exists() and not Path(path).is_absolute():
        package, _, rest = path.partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is not None and spec.submodule_search_locations:
            found = Path(next(iter(spec.submodule_search_locations))) / rest
    if not found.exists():
        raise UsageError(f"{path}: no such photo or folder, neither beside the recipe nor in an "
                         "installed package; correct the path or install the package")
    return found
