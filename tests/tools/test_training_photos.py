"""What the recipes of photo models train on: fetched from packages, drawn, and never evaluated."""

from __future__ import annotations

import os
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageFont

ROOT = Path(__file__).parents[2]
MORE_PHOTOS = 136
sys.path.insert(0, str(ROOT / "tools"))

import training_photos  # noqa: E402
from drawn_pictures import line_art, text_page  # noqa: E402
from qt_resources import resource_file  # noqa: E402

from bidiff_deploy.errors import UsageError  # noqa: E402
from bidiff_deploy.training.recipe import read_recipe  # noqa: E402

NAMED = yaml.safe_load((ROOT / "training" / "photo_sources.yaml").read_text())
TRAINED, MORE, EVALUATED = (
    [training_photos.name_of(file) for files in NAMED[part].values() for file in files]
    for part in ("train", "more", "evaluate"))


def test_no_recipe_trains_on_what_is_evaluated_or_kept_out():
    evaluated = {*EVALUATED, "chelsea", "china"}
    assert len(set(TRAINED)) == len(TRAINED) == 39 and len(evaluated) == 8
    assert len({name.lower() for name in MORE}) == len(MORE) == MORE_PHOTOS
    kept_out = tuple(name.lower() for name in NAMED["kept_out"])
    recipes = sorted((ROOT / "training").glob("*.yaml"))
    # A resource's name before a photo's own does not hide it.
    stems = {*TRAINED, *MORE, *(name.rpartition("_")[2] for name in MORE)}
    for path in recipes:
        if path.name != "photo_sources.yaml":
            data = read_recipe(path).data
            stems |= {Path(photo.path).stem for photo in (*data.train, *data.validate)}
    assert "astronaut" in stems
    assert not {stem.lower() for stem in stems} & {name.lower() for name in evaluated}
    assert not [stem for stem in stems if stem.lower().startswith(kept_out)]
    # Folders of a recipe are those that the script prepares from that list.
    assert {"photos", "small", "drawn"} <= stems and "evaluate" not in stems


def qt_resource(files: dict[str, bytes]) -> bytes:
    """A compiled Qt resource, version 1, of ``files`` in one folder."""
    names, data, tree = b"", b"", b""
    for name, stored in {"in": None, **files}.items():
        at = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        if stored is None:
            tree += struct.pack(">IHII", 0, 2, 1, 1) + struct.pack(">IHII", at, 2, len(files), 2)
        else:
            tree += struct.pack(">IHHHI", at, 0, 0, 0, len(data))
            data += struct.pack(">I", len(stored)) + stored
    return struct.pack(">4sIIII", b"qres", 1, 20, 20 + len(tree), 20 + len(tree + data)
                       ) + tree + data + names


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Stand-ins for apt-get, which has one package and its fonts, and dpkg, for which a package is
    a tar file."""
    commands, shelf = tmp_path / "bin", tmp_path / "shelf"
    (shelf / "root/usr/share/photos").mkdir(parents=True)
    (shelf / "root/usr/share/fonts").mkdir()
    commands.mkdir()
    rows, columns = np.mgrid[:20, :24]
    photo = ((rows // 2 * 16 + columns // 2) % 251).astype(np.uint8)[:, :, None].repeat(3, 2)
    for name in ("wide", "seen"):
        Image.fromarray(photo).save(shelf / f"root/usr/share/photos/{name}.png")
    stored = (shelf / "root/usr/share/photos/wide.png").read_bytes()
    (shelf / "root/usr/share/photos/animals.rcc").write_bytes(
        qt_resource({"text": b"no photo", "owl.png": stored}))
    Image.new("RGB", (1600, 24), "red").save(shelf / "root/usr/share/photos/long.png")
    font = ImageFont.load_default(12)
    (shelf / "root/usr/share/fonts/one.ttf").write_bytes(font.font_bytes)
    for name in ("photos-one", "photos-two", *training_photos.FONTS):
        about = shelf / "root/usr/share/doc" / name / "copyright"
        about.parent.mkdir(parents=True)
        about.write_text(f"of {name}")
        with tarfile.open(shelf / f"{name}_1.0_all.deb", "w") as archive:
            archive.add(shelf / "root/usr", "usr")
    # photos-two is in the later suite alone, whose index is asked for from the archive in use.
    apt = f"""case "$1" in
    indextargets) echo "Debian-Security elsewhere"; echo "Debian archive";;
    update) grep -q "archive later main" "$(dirname "$APT_CONFIG")/sources.list";;
    *) test "$2" = photos-two -a -z "$APT_CONFIG" || cp {shelf}/"$2"_*.deb . ;;
    esac"""
    for name, body in (("apt-get", apt), ("dpkg", 'tar -xf "$2" -C "$3"')):
        (commands / name).write_text(f"#!/bin/sh\n{body}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    sources = tmp_path / "sources.yaml"
    sources.write_text(yaml.safe_dump({
        "train": {"photos-one": ["usr/share/photos/wide.png"]},
        "more_suite": "later",
        "notices": {"photos-two": "usr/share/doc/photos-one/copyright"},
        "more": {"photos-two": ["usr/share/photos/long.png",
                                "usr/share/photos/animals.rcc/in/owl.png"]},
        "evaluate": {"photos-one": ["usr/share/photos/seen.png"]}}))
    return shelf, sources


def test_packages_become_photos_drawings_and_credits(packages, tmp_path):
    shelf, sources = packages
    for given in (None, shelf):
        out = tmp_path / f"out{given is None}"
        training_photos.prepare(out, given, sources, drawn=1)
        assert {str(path.relative_to(out)) for path in out.rglob("*.*g")} == {
            "photos/wide.png", "small/wide.png", "evaluate/seen.png", "evaluate/chelsea.png",
            "evaluate/china.png", "more/long.png", "more_small/long.png", "more/animals_owl.png",
            "drawn/text_00.png", "drawn/lines_00.png", "evaluate_drawn/text_999.png",
            "evaluate_drawn/lines_999.png"}
        assert (out / "credits/photos-one").read_text() == "of photos-one"
        assert Image.open(out / "photos/wide.png").size == (12, 8)  # half, in multiples of 4
        assert (out / "credits/photos-two").read_text() == "of photos-two"
        assert (out / "credits/photos-two.notice").read_text() == "of photos-one"
        assert Image.open(out / "more/long.png").size == (800, 12)
        assert (out / "more/animals_owl.png").read_bytes() == (
            out / "photos/wide.png").read_bytes()
        assert Image.open(out / "evaluate/seen.png").size == (24, 20)  # small already
        assert max(Image.open(out / "evaluate/china.png").size) == 640


@pytest.mark.parametrize("change, says", [
    (lambda shelf, sources: (shelf / "photos-one_1.0_all.deb").unlink(),
     "photos-one cannot be downloaded"),
    (lambda shelf, sources: (shelf / "photos-one_1.0_all.deb").write_text("no package"),
     "photos-one_1.0_all.deb cannot be unpacked"),
    (lambda shelf, sources: sources.write_text(sources.read_text().replace("wide", "narrow")),
     "package photos-one has no narrow.png"),
    (lambda shelf, sources: sources.write_text(sources.read_text().replace("owl", "text")),
     "animals.rcc of package photos-two has no in/text.png"),
    (lambda shelf, sources: sources.write_text(sources.read_text().replace("later", "none")),
     "the index of Debian none cannot be downloaded")])
def test_what_cannot_be_had_is_named(packages, tmp_path, change, says):
    shelf, sources = packages
    change(shelf, sources)
    with pytest.raises(UsageError, match=says):
        training_photos.prepare(tmp_path / "out", None, sources, drawn=0)


def test_a_damaged_resource_is_refused_and_costs_nothing(tmp_path):
    path, whole = tmp_path / "a.rcc", qt_resource({"text": b"no photo", "owl.png": b"1234"})
    path.write_bytes(whole)
    assert resource_file(path, "in/owl.png") == b"1234"
    assert [resource_file(path, name) for name in ("in", "in/cat", "in/owl.png/x")] == [None] * 3
    endless = whole[:20 + 4] + struct.pack(">HII", 2, 1 << 31, 0) + whole[20 + 14:]  # its own child
    beyond = whole.replace(struct.pack(">I", 4) + b"1234", struct.pack(">I", 1 << 30) + b"1234")
    for damaged, name in ((b"", "in"), (b"PK" + whole[2:], "in"), (whole[:30], "in/owl.png"),
                          (beyond, "in/owl.png"), (endless, "in/in/in/cat")):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match="a.rcc is not a Qt resource, or a damaged one"):
            resource_file(path, name)


def test_drawings_are_functions_of_their_number(tmp_path):
    font = tmp_path / "one.ttf"
    font.write_bytes(ImageFont.load_default(12).font_bytes)
    for draw in (lambda number: text_page(number, [font]), line_art):
        pictures = [np.asarray(draw(number)) for number in (0, 1, 1)]
        assert all(one.shape == (512, 512, 3) for one in pictures)
        assert np.array_equal(pictures[1], pictures[2])
        assert not np.array_equal(pictures[0], pictures[1])
        assert all(one.std() > 8 for one in pictures)
