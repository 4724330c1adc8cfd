"""Files, folders and patterns -> one job an image, before any work is done."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import OutputError, UsageError
from ..files import check_target
from ..images.image import EXTENSIONS, READ_EXTENSIONS
from ..images.write import check_output
from .inputs import InputArgument, PassedOver
from .shard import Shard

__all__ = ["FORMATS", "Job", "Jobs", "plan", "summary"]

FORMATS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tif": ".tif", "same": None}


@dataclass(frozen=True)
class Job:
    """One image file, its output, and its number among all jobs, from 0.

    note  why the output has another name than the input; None if it has not
    """

    index: int
    source: Path
    target: Path
    note: str | None = None


class Jobs(list[Job]):
    """All jobs of a run, in the order of the inputs.

    folder       contains every output
    to_file      whether the output is a file that the user named
    passed_over  files of the inputs that are not read
    """

    def __init__(self, jobs: Iterable[Job], folder: Path, to_file: bool,
                 passed_over: Iterable[PassedOver] = ()) -> None:
        super().__init__(jobs)
        self.folder = folder
        self.to_file = to_file
        self.passed_over = tuple(passed_over)


def plan(inputs: Sequence[str], output: str | None, form: str = "png", overwrite: bool = False,
         scale: int = 0, fit: int | None = None, shard: Shard | None = None) -> Jobs:
    """The jobs of a command line, or of its ``shard``; errors are raised before any is computed.

    ``inputs``: files, folders, and patterns (unless a file has that very name). ``output``: a file
    or folder; None: outputs are next to their inputs, with ``_x`` and ``scale``, or ``_fit`` and
    ``fit``, after the name of the file or folder. Of two inputs with one output the second gets
    another name. Raises ImageError for a missing file, UsageError for a folder or pattern without
    images, OutputError for outputs that exist, cannot be written, or are inputs.
    """
    given = [InputArgument(name) for name in inputs]
    if output is None:
        return _plan_next_to(given, form, overwrite, f"_x{scale}" if fit is None else f"_fit{fit}",
                             shard)
    out = Path(output)
    to_file = (len(given) == 1 and given[0].kind == "file" and not out.is_dir()
               and not output.endswith(("/", os.sep)) and out.suffix != "")
    if not to_file and out.exists() and not out.is_dir():
        raise OutputError(f"{output} is a file; give a folder for folders, patterns or several "
                          "images")
    pairs: list[tuple[Path, Path]] = []
    passed_over: dict[Path, PassedOver] = {}
    for one in given:
        if to_file:
            pairs.append((Path(one.name), out))
            continue
        found, others = _images(one, out)
        passed_over |= {other.path: other for other in others}
        pairs += [(source, out / below.with_suffix(_suffix(source, form)))
                  for source, below in found]
    if not to_file:
        _check_folder(out)
    return _jobs(pairs, passed_over, out.parent if to_file else out, to_file, overwrite, shard,
                 None if to_file else out)


def _plan_next_to(given: Sequence[InputArgument], form: str, overwrite: bool, mark: str,
                  shard: Shard | None) -> Jobs:
    """Outputs next to their inputs: of a file next to it, of a folder in one next to that."""
    pairs: list[tuple[Path, Path]] = []
    passed_over: dict[Path, PassedOver] = {}
    outs: list[Path | None] = []
    for one in given:
        out = _beside(Path(one.name), mark) if one.kind == "folder" else None
        outs.append(out)
        if out is not None and out.exists() and not out.is_dir():
            raise OutputError(f"{out} is a file; choose a folder for the outputs with -o")
        found, others = _images(one, out or Path(os.devnull))
        passed_over |= {other.path: other for other in others}
        for source, below in found:
            target = (source.with_name(source.stem + mark) if out is None else out / below)
            if _made_before(source):
                passed_over[source] = PassedOver(source, _EARLIER,
                                                 "it is an output of an earlier run")
            else:
                pairs.append((source, target.with_name(
                    (target.name if out is None else target.stem) + _suffix(source, form))))
    if not pairs:
        first = next(path for path, other in passed_over.items() if other.kind == _EARLIER)
        raise UsageError(f"{first} is an output of an earlier run, by its name; give the new "
                         "output a name with -o to upscale it again")
    folder = outs[0] if len(outs) == 1 and outs[0] is not None else Path(os.path.commonpath(
        [os.path.abspath(target.parent) for _, target in pairs]))
    return _jobs(pairs, passed_over, folder, all(one.kind != "folder" for one in given), overwrite,
                 shard, None)


_MARK = re.compile(r"(.+)_(x[0-9]{1,2}|fit[0-9]{1,5})(-[0-9]+)?")  # the number as `_named` adds it


_EARLIER = "earlier output"


def _beside(folder: Path, mark: str) -> Path:
    """The folder of that name with the mark; of ``.`` and ``..`` the name is looked up."""
    if folder.name in ("", ".."):
        folder = Path(os.path.abspath(folder))
    return folder.with_name(folder.name + mark)


def _made_before(source: Path) -> bool:
    """Whether a file has the name of an output next to its input, which is still there: its own
    name or that of one of its folders has a mark at its end."""
    path = Path(os.path.abspath(source))
    if (own := _MARK.fullmatch(path.stem)) and _has_image(path.with_name(own[1])):
        return True
    for folder in path.parents:
        marked = _MARK.fullmatch(folder.name)
        if marked and _has_image(folder.with_name(marked[1])
                                 / path.relative_to(folder).with_suffix("")):
            return True
    return False


def _has_image(stem: Path) -> bool:
    """Whether there is an image of that path, which has no extension."""
    return any(stem.with_name(stem.name + suffix).exists() for suffix in READ_EXTENSIONS)


def _images(one: InputArgument, out: Path) -> tuple[list[tuple[Path, Path]], list[PassedOver]]:
    """``one.images(out)``. Raises UsageError where there are none."""
    found, others = one.images(out)
    if not found:
        more = f"; {summary(others)}" if others else ""
        lacks = "has no images" if one.kind == "folder" else "matches no image"
        raise UsageError(f"{one.kind} {one.name} {lacks} (none of "
                         f"{', '.join(READ_EXTENSIONS)}){more}")
    return found, others


def _jobs(pairs: Sequence[tuple[Path, Path]], passed_over: dict[Path, PassedOver], folder: Path,
          to_file: bool, overwrite: bool, shard: Shard | None, root: Path | None) -> Jobs:
    """The jobs of sources and their outputs, which are checked. A shard's are selected by paths of
    outputs, below ``root`` if it is given; the first shard reports what is passed over."""
    sources = {os.path.realpath(source) for source, _ in pairs}
    jobs = _named(pairs, sources)
    if shard is not None:
        jobs = [replace(job, index=index) for index, job in enumerate(
            job for job in jobs if shard.has(job.target.relative_to(root) if root else job.target))]
        passed_over = passed_over if shard.number == 1 else {}
    for job in jobs:
        if os.path.realpath(job.target) in sources:
            raise OutputError(f"{job.target} is one of the inputs and would be overwritten; choose "
                              "another output")
        if to_file or job.target.parent.exists():
            try:
                check_output(job.target, overwrite)
            except OutputError as error:
                if to_file or not os.path.lexists(job.target):
                    raise
                raise OutputError(f"{error}, or skip what is done with --resume") from None
        elif job.target.suffix.lower() not in EXTENSIONS:
            raise OutputError(f"{job.source} has no known extension for --format same; choose "
                              "another --format")
    return Jobs(jobs, folder, to_file,
                (other for path, other in passed_over.items()
                 if os.path.realpath(path) not in sources))


def summary(passed_over: Sequence[PassedOver]) -> str:
    """How many files of each kind are passed over, and what to do with images."""
    kinds = Counter(other.kind for other in passed_over)
    listed = ", ".join(f"{count} {_plural(kind) if count > 1 else kind}"
                       for kind, count in kinds.most_common())
    images = any(kind.endswith(("image", "photo", "drawing", "document")) for kind in kinds)
    return f"passed over: {listed}" + (
        "; convert images to PNG, JPEG, WebP or TIFF" if images else "")


def _plural(kind: str) -> str:
    return "links to folders" if kind == "link to a folder" else f"{kind}s"


def _suffix(source: Path, form: str) -> str:
    suffix = FORMATS[form] or source.suffix.lower()
    return ".png" if suffix in _READ_ONLY else suffix


_READ_ONLY = (".bmp", ".dib", ".gif")  # with --format same


def _named(pairs: Sequence[tuple[Path, Path]], sources: set[str]) -> list[Job]:
    """A job for each pair of a source and its output, but one for a source that is given twice;
    of two sources with one output, the second gets a number in its name."""
    wanted = {target for _, target in pairs}
    taken: dict[Path, Job] = {}
    for source, target in pairs:
        first, note, number = taken.get(target), None, 2
        if first is not None:
            if os.path.realpath(first.source) == os.path.realpath(source):
                continue
            free = target
            while free in wanted or free in taken or os.path.realpath(free) in sources:
                free = target.with_name(f"{target.stem}-{number}{target.suffix}")
                number += 1
            note = f"it is written as {free}, because {first.source} becomes {target}"
            target = free
        taken[target] = Job(len(taken), source, target, note)
    return list(taken.values())


def _check_folder(folder: Path) -> None:
    """Raise OutputError unless the folder exists or can be created; nothing is created."""
    missing = None
    while not folder.exists():
        missing, folder = folder, folder.parent
    if missing is None:
        return
    try:
        check_target(missing, directory=True)
    except OutputError:
        if not missing.is_dir():  # created by another run in the meantime
            raise
