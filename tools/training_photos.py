#!/usr/bin/env python3
"""Fetch and prepare what the recipes photo_*.yaml train on, in one folder:

    python tools/training_photos.py training/photo_data

    photos/NAME.png     photos of Debian packages (training/photo_sources.yaml), reduced by a whole
                        number, so that compression and demosaicing do not show
    small/NAME.png      the same, reduced as the evaluation set is
    more/NAME.png       photos of a later Debian's packages, reduced by a whole number, at least 2
    more_small/NAME.png the large ones of these, reduced as the evaluation set is
    drawn/NAME.png      text and line art (tools/drawn_pictures.py)
    evaluate/NAME.png   the public evaluation set, at most 768 pixels a side; never trained on:
                        six photos of packages and the two of training/photos
    evaluate_drawn/     other text and line art, likewise
    credits/PACKAGE     authors and licences

Packages are downloaded by `apt-get download` and unpacked by `dpkg`; --packages FOLDER uses files
that are there already, which systems other than Debian need. Downloads take 540 MB, what is
prepared 140 MB. The packages of more/ come from the release of Debian that the list names,
whichever this machine runs: its index is fetched for them.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from drawn_pictures import line_art, text_page
from PIL import Image
from qt_resources import resource_file

from bidiff_deploy.errors import BidiffError, UsageError
from bidiff_deploy.files import atomic_file, make_directory
from bidiff_deploy.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "training" / "photo_sources.yaml"
FONTS = ("fonts-dejavu-core", "fonts-liberation")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
NO_SUITE = ("the index of Debian {} cannot be downloaded by apt-get; check the network, install or "
            "update debian-archive-keyring on Debian, elsewhere give the packages in a folder by "
            "--packages")
DRAWN = 24  # pages of text, and as many pictures of line art
FIRST = 999  # of those that are not trained on; it looks scanned
LONG = 1400  # photos to train on are reduced to about this many pixels, at least by 2
RESOURCE = ".rcc/"  # a path goes on inside such a file
SMALL = 768  # and again, as those of the evaluation set, to at most this many


def prepare(folder: Path, packages: Path | None, sources: Path = SOURCES,
            drawn: int = DRAWN) -> None:
    """Everything above in ``folder``; ``packages``: a folder of .deb files. Raises UsageError for
    packages that cannot be had, and for files that they lack."""
    named = yaml.safe_load(sources.read_text())
    more = named.get("more", {})
    wanted = sorted({*named["train"], *named["evaluate"], *FONTS})
    with tempfile.TemporaryDirectory() as temporary, Progress(
            "prepare", len(wanted) + 2 * len(more) + 3) as shown:
        root = Path(temporary)
        later = _later_suite(named["more_suite"], root) if more and packages is None else None
        for index, package in enumerate([*wanted, *sorted(more)]):
            _unpack(package, packages, root, later if package in more else None)
            _copy_text(root / "usr/share/doc" / package / "copyright",
                       folder / "credits" / package)
            if notice := named.get("notices", {}).get(package):
                _copy_text(root / notice, folder / "credits" / f"{package}.notice")
            shown.update(index + 1)
        for step, (part, to) in enumerate((("train", "photos"), ("evaluate", "evaluate"))):
            for package, files in named[part].items():
                for file in files:
                    name = f"{name_of(file)}.png"
                    photo = _photo(root, file, package)
                    _save(_reduced(photo, part == "evaluate"), folder / to / name)
                    if part == "train":
                        _save(_reduced(photo, True), folder / "small" / name)
            shown.update(len(wanted) + len(more) + step + 1)
        for index, (package, files) in enumerate(more.items()):
            shown.update(len(wanted) + len(more) + 2 + index)
            for file in files:
                photo, name = _photo(root, file, package), f"{name_of(file)}.png"
                _save(_reduced(photo, False), folder / "more" / name)
                if max(photo.size) > 2 * SMALL:
                    _save(_reduced(photo, True), folder / "more_small" / name)
        for file in sorted((ROOT / "training" / "photos").iterdir()):
            _save(_reduced(_photo(file.parent, file.name, ""), True),
                  folder / "evaluate" / f"{file.stem}.png")
        fonts = sorted((root / "usr/share/fonts").rglob("*.ttf"))
        for to, numbers in (("drawn", range(drawn)),
                            ("evaluate_drawn", range(FIRST, FIRST + min(drawn, 3)))):
            for number in numbers:
                _save(text_page(number, fonts), folder / to / f"text_{number:02d}.png")
                _save(line_art(number), folder / to / f"lines_{number:02d}.png")


def name_of(file: str) -> str:
    """What a prepared photo is called: its own name, that of its wallpaper's folder, or its own
    after that of the Qt resource that it is in."""
    path = Path(file)
    if RESOURCE in file:
        return f"{Path(file.split(RESOURCE)[0]).name}_{path.stem}"
    return path.parts[3] if "contents" in path.parts else path.stem


def _later_suite(suite: str, root: Path) -> Path:
    """A configuration of apt that knows only ``suite``, from the archive that this machine uses;
    kept in ``root``, so that nothing of the machine changes."""
    targets = _run(["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)",
                    "Created-By: Packages"], root, NO_SUITE.format(suite))
    # Debian's archive of security updates has the label Debian-Security.
    archives = [line.split()[1] for line in targets.splitlines() if line.startswith("Debian ")]
    if not archives:
        raise UsageError(NO_SUITE.format(suite))
    apt = root / "apt"
    make_directory(apt / "lists" / "partial")
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {archives[0]} {suite} main\n")
    (apt / "conf").write_text(f'Dir::Etc::sourcelist "{apt}/sources.list";\n'
                              'Dir::Etc::sourceparts "/dev/null";\n'
                              f'Dir::State::lists "{apt}/lists";\nDir::Cache "{apt}";\n'
                              'Acquire::Languages "none";\n')
    _run(["apt-get", "update"], root, NO_SUITE.format(suite), apt / "conf")
    return apt / "conf"


def _unpack(package: str, packages: Path | None, root: Path, apt: Path | None) -> None:
    folder = packages or root
    if packages is None:
        _run(["apt-get", "download", package], folder, f"{package} cannot be downloaded; on Debian "
             "run apt-get update, elsewhere give the packages in a folder by --packages", apt)
    files = sorted(folder.glob(f"{package}_*.deb"))
    if not files:
        raise UsageError(f"{folder} contains no {package}_*.deb; download it with apt-get download "
                         f"{package}")
    _run(["dpkg", "-x", str(files[-1]), str(root)], folder,
         f"{files[-1]} cannot be unpacked; download it again")


def _run(command: list[str], folder: Path, failure: str, apt: Path | None = None) -> str:
    environment = {**os.environ, "APT_CONFIG": str(apt)} if apt else None
    try:
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True,
                              env=environment).stdout
    except (OSError, subprocess.CalledProcessError):
        raise UsageError(failure) from None


def _photo(root: Path, file: str, package: str) -> Image.Image:
    inside = file.partition(RESOURCE)[2]
    path = root / (file.removesuffix(f"/{inside}") if inside else file)
    if not path.is_file():
        raise UsageError(f"package {package} has no {Path(file).name}; correct {SOURCES.name}")
    if not inside:
        with Image.open(path) as image:
            return image.convert("RGB")
    if (stored := resource_file(path, inside)) is None:
        raise UsageError(f"{path.name} of package {package} has no {inside}; correct "
                         f"{SOURCES.name}")
    with Image.open(io.BytesIO(stored)) as image:
        return image.convert("RGB")


def _reduced(photo: Image.Image, small: bool) -> Image.Image:
    long = max(photo.size)
    factor = -(-long // SMALL) if small else max(2, min(4, round(long / LONG)))
    # A whole number of pixels of either scale, x2 and x4.
    width, height = (side // factor // 4 * 4 for side in photo.size)
    return photo.resize((width, height), Image.Resampling.LANCZOS,
                        (0, 0, width * factor, height * factor))


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
