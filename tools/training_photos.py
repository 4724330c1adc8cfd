#!/usr/bin/env python3
"""Fetch and prepare what the recipes photo_*.yaml train on, in one folder:

    python tools/training_photos.py training/photo_data

    photos/NAME.png     photos of Debian packages (training/photo_sources.yaml), reduced by a whole
                        number, so that compression and demosaicing do not show
    small/NAME.png      the same, reduced as the evaluation set is
    drawn/NAME.png      text and line art (tools/drawn_pictures.py)
    evaluate/NAME.png   the public evaluation set, at most 768 pixels a side; never trained on:
                        six photos of packages and the two of training/photos
    evaluate_drawn/     other text and line art, likewise
    credits/PACKAGE     authors and licences

Packages are downloaded by `apt-get download` and unpacked by `dpkg`; --packages FOLDER uses files
that are there already. Downloads take 370 MB, what is prepared 60 MB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from drawn_pictures import line_art, text_page
from PIL import Image

from bidiff_deploy.errors import BidiffError, UsageError
from bidiff_deploy.files import atomic_file, make_directory
from bidiff_deploy.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "training" / "photo_sources.yaml"
FONTS = ("fonts-dejavu-core", "fonts-liberation")
DRAWN = 24  # pages of text, and as many pictures of line art
FIRST = 999  # of those that are not trained on; it looks scanned
LONG = 1400  # photos to train on are reduced to about this many pixels, at least by 2
SMALL = 768  # and again, as those of the evaluation set, to at most this many


def prepare(folder: Path, packages: Path | None, sources: Path = SOURCES,
            drawn: int = DRAWN) -> None:
    """Everything above in ``folder``; ``packages``: a folder of .deb files. Raises UsageError for
    packages that cannot be had, and for files that they lack."""
    named = yaml.safe_load(sources.read_text())
    wanted = sorted({*named["train"], *named["evaluate"], *FONTS})
    with tempfile.TemporaryDirectory() as temporary, Progress("prepare", len(wanted) + 3) as shown:
        root = Path(temporary)
        for index, package in enumerate(wanted):
            _unpack(package, packages, root)
            _copy_text(root / "usr/share/doc" / package / "copyright",
                       folder / "credits" / package)
            shown.update(index + 1)
        for step, (part, to) in enumerate((("train", "photos"), ("evaluate", "evaluate"))):
            for package, files in named[part].items():
                for file in files:
                    name = f"{name_of(file)}.png"
                    _reduced(root / file, package, folder / to / name, part == "evaluate")
                    if part == "train":
                        _reduced(root / file, package, folder / "small" / name, True)
            shown.update(len(wanted) + step + 1)
        for file in sorted((ROOT / "training" / "photos").iterdir()):
            _reduced(file, "", folder / "evaluate" / f"{file.stem}.png", True)
        fonts = sorted((root / "usr/share/fonts").rglob("*.ttf"))
        for to, numbers in (("drawn", range(drawn)),
                            ("evaluate_drawn", range(FIRST, FIRST + min(drawn, 3)))):
            for number in numbers:
                _save(text_page(number, fonts), folder / to / f"text_{number:02d}.png")
                _save(line_art(number), folder / to / f"lines_{number:02d}.png")


def name_of(file: str) -> str:
    """What a prepared photo is called: its own name, or that of its wallpaper's folder."""
    path = Path(file)
    return path.parts[3] if "contents" in path.parts else path.stem


def _unpack(package: str, packages: Path | None, root: Path) -> None:
    folder = packages or root
    if packages is None:
        _run(["apt-get", "download", package], folder, f"{package} cannot be downloaded; on Debian "
             "run apt-get update, elsewhere give the packages in a folder by --packages")
    files = sorted(folder.glob(f"{package}_*.deb"))
    if not files:
        raise UsageError(f"{folder} contains no {package}_*.deb; download it with apt-get download "
                         f"{package}")
    _run(["dpkg", "-x", str(files[-1]), str(root)], folder,
         f"{files[-1]} cannot be unpacked; download it again")


def _run(command: list[str], folder: Path, failure: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise UsageError(failure) from None


def _reduced(file: Path, package: str, target: Path, small: bool) -> None:
    if not file.is_file():
        raise UsageError(f"package {package} has no {file.name}; correct {SOURCES.name}")
    with Image.open(file) as image:
        photo = image.convert("RGB")
    long = max(photo.size)
    factor = -(-long // SMALL) if small else max(2, min(4, round(long / LONG)))
    # A whole number of pixels of either scale, x2 and x4.
    width, height = (side // factor // 4 * 4 for side in photo.size)
    _save(photo.resize((width, height), Image.Resampling.LANCZOS,
                       (0, 0, width * factor, height * factor)), target)


def _save(image: Image.Image, target: Path) -> None:
    make_directory(target.parent)
    with atomic_file(target, overwrite=True) as temporary:
        image.save(temporary, "PNG")


def _copy_text(source: Path, target: Path) -> None:
    make_directory(target.parent)
    with atomic_file(target, overwrite=True) as temporary:
        temporary.write_bytes(source.read_bytes() if source.is_file() else b"")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--packages", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    try:
        prepare(given.folder, given.packages)
    except BidiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
