"""Files, folders and patterns -> one job an image, before any work is done."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError, OutputError, UsageError
from ..files import check_target
from ..images.image import EXTENSIONS
from ..images.write import check_output

__all__ = ["FORMATS", "Job", "Jobs", "plan"]

FORMATS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tif": ".tif", "same": None}


@dataclass(frozen=True)
class Job:
    """One image file, its output, and its number among all jobs, from 0."""

    index: int
    source: Path
    target: Path


class Jobs(list[Job]):
    """All jobs of a run, in the order of the inputs, and the folder that contains every output."""

    def __init__(self, jobs: Iterator[Job], folder: Path, to_file: bool) -> None:
        super().__init__(jobs)
        self.folder = folder
        self.to_file = to_file


def plan(inputs: Sequence[str], output: str, form: str = "png", overwrite: bool = False) -> Jobs:
    """The jobs of a command line; every error is raised before any image is computed.

    ``inputs``: files, folders, and patterns (unless a file has that very name). Raises ImageError
    for a missing file, UsageError for a folder or pattern without images and for two inputs with
    one output, OutputError for outputs that exist, cannot be written, or are inputs.
    """
    out = Path(output)
    given = [_InputArgument(name) for name in inputs]
    to_file = (len(given) == 1 and given[0].kind == "file" and not out.is_dir()
               and not output.endswith(("/", os.sep)) and out.suffix != "")
    if not to_file and out.exists() and not out.is_dir():
        raise OutputError(f"{output} is a file; give a folder for folders, patterns or several "
                          "images")
    pairs: list[tuple[Path, Path]] = []
    for one in given:
        if to_file:
            pairs.append((Path(one.name), out))
            continue
        for source, below in one.images(out):
            pairs.append((source, out / below.with_suffix(FORMATS[form] or source.suffix.lower())))
    sources = {os.path.realpath(source) for source, _ in pairs}
    taken: dict[Path, Path] = {}
    for source, target in pairs:
        other = taken.setdefault(target, source)
        if os.path.realpath(other) != os.path.realpath(source):
            raise UsageError(f"{other} and {source} would both become {target}; give them "
                             "different folders, or --format same")
        if os.path.realpath(target) in sources:
            raise OutputError(f"{target} is one of the inputs and would be overwritten; choose "
                              "another output")
        if to_file or target.parent.exists():
            check_output(target, overwrite)
        elif target.suffix.lower() not in EXTENSIONS:
            raise OutputError(f"{source} has no known extension for --format same; choose another "
                              "--format")
    if not to_file:
        _check_folder(out)
    return Jobs((Job(index, source, target) for index, (target, source)
                 in enumerate(taken.items())), out.parent if to_file else out, to_file)


class _InputArgument:
    """One input of the command line: a file, a folder or a pattern (``kind``)."""

    def __init__(self, name: str) -> None:
        self.name = name
        if os.path.exists(name):  # names may hold brackets
            self.kind = "folder" if os.path.isdir(name) else "file"
        elif glob.has_magic(name):
            self.kind = "pattern"
        else:
            raise ImageError(f"{name} does not exist")

    def images(self, out: Path) -> list[tuple[Path, Path]]:
        """Each image, and its path below the output folder ``out``."""
        if self.kind == "file":
            return [(Path(self.name), Path(os.path.basename(self.name)))]
        root = Path(self.name) if self.kind == "folder" else _fixed_part(self.name)
        found = (_images_below(root, out) if self.kind == "folder"
                 else _matches(self.name, root, out))
        if not found:
            raise UsageError(f"folder {self.name} has no images (none of {', '.join(EXTENSIONS)})"
                             if self.kind == "folder" else
                             f"pattern {self.name} matches no image (none of "
                             f"{', '.join(EXTENSIONS)})")
        return [(path, path.relative_to(root)) for path in found]


def _fixed_part(pattern: str) -> Path:
    """The leading folders of a pattern, up to its first part with a wildcard."""
    parts = Path(pattern).parts[:-1]
    fixed = [index for index, part in enumerate(parts) if glob.has_magic(part)]
    return Path(*parts[:fixed[0]] if fixed else parts)


def _matches(pattern: str, root: Path, out: Path) -> list[Path]:
    """Images that match or are in a folder that matches, except hidden ones and those below
    ``out``."""
    avoid = os.path.realpath(out)
    inside = avoid != os.path.realpath(root)
    found: dict[Path, None] = {}
    for name in sorted(glob.iglob(pattern, recursive=True)):
        path = Path(name)
        if path.is_dir():
            # "**" matches every folder and also every file in them.
            below = [] if "**" in pattern else _images_below(path, out)
        else:
            below = [path] if path.suffix.lower() in EXTENSIONS else []
        for image in below:
            if not (inside and Path(os.path.realpath(image)).is_relative_to(avoid)):
                found[image] = None
    return list(found)


def _images_below(folder: Path, out: Path) -> list[Path]:
    """Images in a folder at any depth, sorted, without hidden ones and those below ``out``."""
    avoid = os.path.realpath(out) if os.path.realpath(out) != os.path.realpath(folder) else None
    found = []
    for here, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".")
                               and os.path.realpath(os.path.join(here, name)) != avoid)
        found += [Path(here, name) for name in sorted(names) if not name.startswith(".")
                  and os.path.splitext(name)[1].lower() in EXTENSIONS]
    return found


def _check_folder(folder: Path) -> None:
    """Raise OutputError unless the folder exists or can be created; nothing is created."""
    missing = None
    while not folder.exists():
        missing, folder = folder, folder.parent
    if missing is not None:
        check_target(missing, directory=True)
