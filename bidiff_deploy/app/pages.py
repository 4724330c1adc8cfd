"""The files of open pages: what was uploaded, what was made of it, and their removal.

    root/                  a temporary folder of this user alone, which also is Gradio's
      <digest>/photo.png   an upload; pages that upload the same file share it
      page-<token>/        what is made for one page, a folder for each press of the button
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UsageError, printable
from ..files.temporaries import remove

__all__ = ["Page", "Pages", "Upload", "Work"]

_MAX_STEM_BYTES = 120
_UNCLAIMED_SECONDS = 3600.0


@dataclass(frozen=True)
class Upload:
    """A file as Gradio stored it, and the name that it has on the user's machine."""

    path: Path
    name: str


@dataclass(eq=False)
class Work:
    """What one press of the button makes.

    folder     of its files
    photos     the uploads under the names that users gave them
    lines      what is known of each photo so far
    results    previews before and after by the name of the larger photo
    stopped    set when the work is to end
    abandoned  whether nobody wants its files either
    """

    folder: Path
    photos: list[Path] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    results: dict[str, tuple[str, str]] = field(default_factory=dict)
    stopped: threading.Event = field(default_factory=threading.Event)
    abandoned: bool = False

    def add(self, upload: Upload) -> None:
        """Another photo. Each has another stem: results that differ in their ending alone would
        have one name."""
        stem, suffix = os.path.splitext(_plain(upload.name))
        stem = os.fsencode(stem)[:_MAX_STEM_BYTES].decode("utf-8", "ignore") or "photo"
        unique, number = stem, 2
        while unique.lower() in {photo.stem.lower() for photo in self.photos}:
            unique, number = f"{stem}-{number}", number + 1
        self.photos.append(self.folder / "originals" / f"{unique}{suffix[:10]}")
        self.photos[-1].parent.mkdir(parents=True, exist_ok=True)
        os.link(upload.path, self.photos[-1])


@dataclass(eq=False)
class Page:
    """One open page: the folder of what is made for it, the uploads that it shows, its last work.
    """

    folder: Path
    uploads: frozenset[Path] = frozenset()
    work: Work | None = None

    def start(self, uploads: Iterable[Upload]) -> Work:
        """New work on these uploads, which must be those of ``Pages.open``; the last one is stopped
        and its files are deleted."""
        self.abandon()
        self.work = Work(self.folder / secrets.token_hex(4))
        for upload in uploads:
            self.work.add(upload)
        return self.work

    def abandon(self) -> None:
        """End the last work and delete its files."""
        if self.work is not None:
            self.work.abandoned = True
            self.work.stopped.set()
            remove(self.work.folder)


class Pages:
    """All open pages, by the names that Gradio gives them.

    ``root``: the folder of everything. ``max_bytes``: what the uploads of one page may have in all.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root, self._max_bytes = root, max_bytes
        self._lock = threading.Lock()
        self._pages: dict[str, Page] = {}

    def open(self, name: str, uploads: Sequence[Upload] = ()) -> Page:
        """The page called ``name``, which from now on shows these uploads; others of its uploads
        are deleted. Raises UsageError for files that are not uploads or are too large together.
        """
        with self._lock:
            page = self._pages.get(name)
            if page is None:
                page = self._pages[name] = Page(self._root / f"page-{secrets.token_hex(16)}")
            before, page.uploads = page.uploads, frozenset(
                upload.path for upload in uploads if self._is_upload(upload.path))
            self._delete_unused(before)
            if len(page.uploads) < len({upload.path for upload in uploads}):
                raise UsageError("a photo is not on the server any more; remove it and add it "
                                 "again")
            if sum(path.stat().st_size for path in page.uploads) > self._max_bytes:
                raise UsageError(f"the photos have more than {self._max_bytes // 1_000_000} MB "
                                 "together; remove some, or start the app with a larger "
                                 "--max-upload")
            return page

    def find(self, name: str) -> Page | None:
        return self._pages.get(name)

    def close(self, name: str) -> None:
        """End the work of a page and delete its files."""
        with self._lock:
            page = self._pages.pop(name, None)
            if page is not None:
                page.abandon()
                remove(page.folder)
                self._delete_unused(page.uploads)

    def close_all(self) -> None:
        for name in list(self._pages):
            self.close(name)

    def _is_upload(self, path: Path) -> bool:
        return (path.parent.parent == self._root and not path.parent.name.startswith("page-")
                and path.is_file() and not path.is_symlink())

    def _delete_unused(self, uploads: Iterable[Path]) -> None:
        """Delete those that no page shows, and uploads of pages that closed before they had them.
        """
        used = frozenset[Path]().union(*(page.uploads for page in self._pages.values()))
        before = time.time() - _UNCLAIMED_SECONDS
        with suppress(OSError):
            late = [path for path in (*self._root.glob("*/*"), *self._root.glob("tmp*"))
                    if not path.is_dir() and path.lstat().st_mtime < before]
            uploads = {*uploads, *late}
        for path in {*uploads} - used:
            with suppress(OSError):
                path.unlink()
                path.parent.rmdir()  # unless a file of the same content has another name


def _plain(name: str) -> str:
    """The last part of a name, printable, not hidden."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return printable(last).replace("\\", "_").lstrip(".")
