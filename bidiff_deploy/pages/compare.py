"""The page of before and after that ``upscale --compare`` writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ..errors import BidiffError
from ..files import atomic_file, check_target
from .document import asset, make_environment
from .photo import Photo, view_photo

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["MAX_BYTES", "MAX_PHOTOS", "ComparePage"]

MAX_BYTES = 20_000_000
MAX_PHOTOS = 60
_PICTURE_BYTES = 19_000_000  # of all pictures, which leaves a megabyte for words
_PHOTO_BYTES = 9_000_000  # of one photo's pictures: pages are sent by mail
_MARK = '<meta name="generator" content="bidiff-deploy upscale --compare">'
_HEAD_BYTES = 4096  # of a page, which contain the mark
_MAX_LINES = 200  # about photos that failed


class ComparePage:
    """The page of a run: ``photo_x2_compare.html`` next to the output of a photo that is ``alone``,
    else ``compare.html`` in ``folder``, which contains all ``outputs``.

    Made before the work is done: raises OutputError for a page that cannot be written, or exists
    without ``overwrite``; ``resume`` allows it to replace a page that an earlier run wrote.
    """

    def __init__(self, outputs: Sequence[Path], folder: Path, alone: bool, *,
                 overwrite: bool = False, resume: bool = False) -> None:
        self.path = (outputs[0].with_name(f"{outputs[0].stem}_compare.html") if alone
                     else folder / "compare.html")
        self._overwrite = overwrite or resume and _is_ours(self.path)
        if self.path.parent.exists():
            check_target(self.path, self._overwrite)

    def write(self, pairs: Sequence[tuple[str, str]], failed: Sequence[str],
              on_photo: Callable[[int, str], object] = lambda done, name: None) -> dict[str, Any]:
        """Write the page of ``pairs``, the input and output file of each photo, whole or not at
        all; ``failed``: sentences about other photos.

        Of more than ``MAX_PHOTOS`` photos the first are shown; each gets an equal share of what
        ``MAX_BYTES`` leave. ``on_photo(done, name)`` is called before each. Returns what ``--json``
        prints: the page's path, how many photos it shows, its bytes, and a sentence for each that
        it cannot show. Raises OutputError.
        """
        photos: list[Photo] = []
        shown, left = pairs[:MAX_PHOTOS], _PICTURE_BYTES
        missing = [] if len(shown) == len(pairs) else [
            f"a page shows {MAX_PHOTOS} photos, the first of {len(pairs)}"]
        for done, (source, output) in enumerate(shown):
            on_photo(done, Path(source).name)
            budget = min(_PHOTO_BYTES, left // (len(shown) - done))
            try:
                photos.append(view_photo(Path(source), Path(output), budget))
                left -= photos[-1].shown.characters
            except (BidiffError, MemoryError) as error:
                missing.append(str(error) or f"there is not enough memory to show {output}")
        more = len(failed) - _MAX_LINES
        data = _render(photos, [*failed[:_MAX_LINES], *missing,
                                *([f"{more} more failed"] if more > 0 else [])])
        with atomic_file(self.path, self._overwrite) as temporary:
            temporary.write_bytes(data)
        return {"compare": str(self.path), "photos": len(photos), "bytes": len(data),
                **({"missing": missing} if missing else {})}


def _is_ours(page: Path) -> bool:
    try:
        with open(page, "rb") as file:
            return _MARK.encode() in file.read(_HEAD_BYTES)
    except OSError:
        return False


def _render(photos: Sequence[Photo], missing: Sequence[str]) -> bytes:
    page = _environment().get_template("compare.html").render(
        photos=photos, missing=missing, mark=Markup(_MARK),
        style=asset("theme.css", "slider.css", "compare.css"),
        script=asset("theme.js", "slider.js"))
    return page.encode("utf-8", "backslashreplace")  # names of files


@cache
def _environment() -> Environment:
    return make_environment()
