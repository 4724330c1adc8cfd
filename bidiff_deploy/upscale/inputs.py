"""One argument of the command line -> the images that it names, and what is passed over."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError
from ..images.image import READ_EXTENSIONS
from ..images.kinds import HEAD_BYTES, kind_of

__all__ = ["InputArgument", "PassedOver"]


@dataclass(frozen=True)
class PassedOver:
    """A file that is not read: its kind, such as "HEIC image", and why."""

    path: Path
    kind: str
    reason: str


class InputArgument:
    """One input of the command line: a file, a folder or a pattern (``kind``)."""

    def __init__(self, name: str) -> None:
        self.name = name
        if os.path.exists(name):  # names may hold brackets
            self.kind = "folder" if os.path.isdir(name) else "file"
        elif glob.has_magic(name):
            self.kind = "pattern"
        elif os.path.islink(name):
            self.kind = "file"  # reading it says why its target is not there
        else:
            raise ImageError(f"{name or repr(name)} does not exist")

    def images(self, out: Path) -> tuple[list[tuple[Path, Path]], list[PassedOver]]:
        """Each image with its path below the output folder ``out``, and what is passed over."""
        if self.kind == "file":
            return [(Path(self.name), Path(os.path.basename(self.name)))], []
        root = Path(self.name) if self.kind == "folder" else _fixed_part(self.name)
        paths = (_files_below(root, out) if self.kind == "folder"
                 else _matches(self.name, root, out))
        images, others = [], []
        for path in _once(paths):
            if path.suffix.lower() in READ_EXTENSIONS and not path.is_dir():
                images.append((path, path.relative_to(root)))
            else:
                others.append(_passed_over(path))
        return images, others


def _fixed_part(pattern: str) -> Path:
    """The leading folders of a pattern, up to its first part with a wildcard."""
    parts = Path(pattern).parts[:-1]
    fixed = [index for index, part in enumerate(parts) if glob.has_magic(part)]
    return Path(*parts[:fixed[0]] if fixed else parts)


def _once(paths: Iterable[Path]) -> list[Path]:
    """Each file once, by its shortest path: links to folders may lead to it again."""
    found: dict[tuple[str, str], Path] = {}
    for path in paths:
        key = os.path.realpath(path.parent), path.name
        other = found.setdefault(key, path)
        if len(path.parts) < len(other.parts):
            found[key] = path
    return list(found.values())


def _matches(pattern: str, root: Path, out: Path) -> Iterator[Path]:
    """Files that match or are in a folder that matches, except hidden ones and those below
    ``out``."""
    avoid = os.path.realpath(out)
    inside = avoid != os.path.realpath(root)
    parts = Path(pattern).parts
    fixed = len(root.parts)
    for path in sorted(_expanded(root, parts[fixed:])):
        if path.is_dir():
            # "**" matches every folder and also every file in them.
            below: Iterable[Path] = () if "**" in parts else _files_below(path, out)
        else:
            below = (path,)
        for file in below:
            if not (inside and Path(os.path.realpath(file)).is_relative_to(avoid)):
                yield file


def _expanded(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """What matches the parts of a pattern below a folder, as ``glob`` has it, but "**" visits each
    folder once, also where links lead in a circle."""
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        for below in _folders_below(folder):
            yield from _expanded(below, rest or ["*"])
    elif glob.has_magic(part):
        for name in _names(folder):
            if fnmatch.fnmatchcase(name, part) and (name[0] != "." or part[0] == "."):
                if not rest or (folder / name).is_dir():
                    yield from _expanded(folder / name, rest)
    elif os.path.lexists(folder / part):
        yield from _expanded(folder / part, rest)


def _folders_below(root: Path) -> Iterator[Path]:
    """A folder and the visible ones below it, each once, those behind links last."""
    seen: set[str] = set()
    tops = deque([root])
    while tops:
        for here, subfolders, _ in os.walk(tops.popleft()):
            real = os.path.realpath(here)
            subfolders[:] = sorted(name for name in subfolders if name[0] != ".") \
                if real not in seen else []
            if real not in seen:
                seen.add(real)
                tops += [Path(here, name) for name in subfolders
                         if os.path.islink(os.path.join(here, name))]
                yield Path(here)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _files_below(folder: Path, out: Path) -> Iterator[Path]:
    """Files in a folder at any depth, sorted, without hidden ones and those below ``out``; links to
    folders as if they were files."""
    avoid = os.path.realpath(out) if os.path.realpath(out) != os.path.realpath(folder) else None
    for here, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if name[0] != "."
                               and os.path.realpath(os.path.join(here, name)) != avoid)
        links = [name for name in subfolders if os.path.islink(os.path.join(here, name))]
        yield from (Path(here, name) for name in sorted([*names, *links]) if name[0] != ".")


def _passed_over(path: Path) -> PassedOver:
    if path.is_dir():
        return PassedOver(path, "link to a folder", "it is a link to a folder, which is followed "
                          "only if it is named, or by a pattern with **")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return PassedOver(path, "special file", "it is not a regular file")
        with open(path, "rb") as file:
            kind = kind_of(file.read(HEAD_BYTES))
    except OSError as error:
        return PassedOver(path, "unreadable file", f"it cannot be read: {error.strerror}")
    if kind is None:
        ending = f"{path.suffix.lower()} file" if path.suffix else "other file"
        return PassedOver(path, ending, "it is not an image of a kind that is read")
    name = kind.partition(",")[0].split(" ", 1)[1]
    if name.endswith("image") and name.split()[0] in ("PNG", "JPEG", "WebP", "TIFF", "BMP", "GIF"):
        return PassedOver(path, f"{name} under another name", f"it is {kind}, but its name does "
                          "not end like one; name the file itself to upscale it")
    return PassedOver(path, name, f"it is {kind}, which is not read")
