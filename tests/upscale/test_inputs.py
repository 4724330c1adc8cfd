"""Folders and patterns: every file is upscaled once, or named with the reason why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

from bidiff_deploy.images.read import read_image
from support import forked
from support.batch_setting import Setting, outputs


def picture(path: str, form: str | None = None, **options) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(path, form, **options)


@pytest.mark.parametrize("inputs", [["in"], ["in/*"], ["in/**/*"], ["in/**"]])
def test_every_ending_is_taken_or_counted(setting: Setting, inputs: list[str]) -> None:
    for ending in ("jfif", "jpe", "JIF", "jpeg"):
        picture(f"in/{ending}.{ending}", "JPEG")
    picture("in/b.bmp")
    picture("in/g.gif")
    Path("in/h.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    Path("in/i.HEIC").write_bytes(b"\0\0\0\x18ftypmif1" + bytes(20))
    Path("in/v.avif").write_bytes(b"\0\0\0\x18ftypavif" + bytes(20))
    Path("in/n.txt").write_text("notes")
    Path("in/x.dat").write_bytes(bytes(range(200, 256)))
    picture("in/odd.heic", "PNG")
    os.mkfifo("in/pipe.jpe")
    result = setting.run(*inputs, "-o", "out", code=1)
    assert outputs(setting) == ["JIF.png", "b.png", "g.png", "jfif.png", "jpe.png", "jpeg.png"]
    lines = result.stderr.splitlines()
    assert lines[0] == "error: in/pipe.jpe is not a file"
    assert lines[1] == (
        "warning: passed over: 2 HEIC images, 1 text file, 1 PNG image under another name, 1 AVIF "
        "image, 1 .dat file; convert images to PNG, JPEG, WebP or TIFF")
    assert result.stdout.splitlines()[-1] == \
        "6 of 13 written to out/ (1 failed, 6 passed over)"
    os.unlink("in/pipe.jpe")
    entries = json.loads(setting.run(*inputs, "-o", "out", "--overwrite", "--json").stdout)
    reasons = {entry["input"]: entry["passed_over"] for entry in entries if "passed_over" in entry}
    assert set(reasons) == {f"in/{name}" for name in ("h.heic", "i.HEIC", "v.avif", "n.txt",
                                                      "x.dat", "odd.heic")}
    assert "a HEIC image, which is not read" in reasons["in/h.heic"]
    assert "name the file itself" in reasons["in/odd.heic"]


def test_a_folder_of_nothing_that_is_read(setting: Setting) -> None:
    Path("in").mkdir()
    Path("in/h.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    assert "folder in has no images (none of .png" in setting.refused("in", "-o", "out")
    assert "passed over: 1 HEIC image; convert" in setting.refused("in", "-o", "out")


def test_the_last_line_counts(setting: Setting) -> None:
    picture("in/a.png")
    Path("in/b.png").write_text("no image")
    result = setting.run("in", "-o", "out/", code=1)
    assert result.stdout.splitlines()[-1] == "1 of 2 written to out/ (1 failed)"
    assert setting.run("in/a.png", "-o", "b.png").stdout.count("\n") == 1
    assert setting.run("in/a.png", "-o", "out", "--overwrite", "--quiet").stdout == ""


def test_equal_names_get_a_number_and_that_is_reported(setting: Setting) -> None:
    for name in ("in/a.jpg", "in/a.png", "in/a.tif", "in/a-2.png", "other/a.jpg"):
        picture(name)
    result = setting.run("in", "other/a.jpg", "-o", "out")
    assert outputs(setting) == ["a-2.png", "a-3.png", "a-4.png", "a-5.png", "a.png"]
    assert result.stderr.splitlines() == [
        f"warning: {source}: it is written as out/{name}, because in/a.jpg becomes out/a.png"
        for source, name in (("in/a.png", "a-3.png"), ("in/a.tif", "a-4.png"),
                             ("other/a.jpg", "a-5.png"))]
    entries = json.loads(setting.run("in", "other/a.jpg", "-o", "out", "--resume",
                                     "--json").stdout)
    assert len(entries) == 5 and all(entry["skipped"] for entry in entries)
    found = {entry["input"]: entry["output"] for entry in entries}
    assert found["in/a-2.png"] == "out/a-2.png" and found["other/a.jpg"] == "out/a-5.png"


def test_one_name_from_two_folders(setting: Setting) -> None:
    for folder in ("x", "y"):
        picture(f"{folder}/one.jpg")
    setting.run("x/one.jpg", "y/one.jpg", "-o", "out", "--format", "same")
    assert outputs(setting) == ["one-2.jpg", "one.jpg"]


@pytest.mark.parametrize("pattern", ["in/**/*.png", "**/*.png", "in/**", "in/*"])
def test_links_in_a_circle_give_each_file_once(setting: Setting, pattern: str) -> None:
    picture("in/deep/a.png")
    picture("in/z.png")
    for name in ("in/deep/aa", "in/deep/bb", "in/0"):
        os.symlink(Path("in").absolute(), name)
    os.symlink(Path("in/z.png").absolute(), "in/also.png")  # a name of its own
    setting.run(pattern, "-o", "out")
    below = "in/" if pattern.startswith("*") else ""
    assert outputs(setting) == [f"{below}also.png", f"{below}deep/a.png", f"{below}z.png"]


def test_links_to_folders_are_followed_by_patterns_and_reported_in_folders(
        setting: Setting) -> None:
    picture("elsewhere/a.png")
    picture("in/b.png")
    os.symlink(Path("elsewhere").absolute(), "in/linked")
    result = setting.run("in", "-o", "out")
    assert outputs(setting) == ["b.png"]
    assert result.stderr == "warning: passed over: 1 link to a folder\n"
    os.symlink(Path("elsewhere").absolute(), "in/too")
    result = setting.run("in", "-o", "out", "--overwrite")
    assert result.stderr == "warning: passed over: 2 links to folders\n"
    os.remove("in/too")
    setting.run("in/**/*.png", "-o", "out", "--overwrite")
    assert outputs(setting) == ["b.png", "linked/a.png"]


@pytest.mark.parametrize("form", ["same", "webp"])
def test_lossless_webp_and_quality(setting: Setting, form: str) -> None:
    picture("in/a.webp", lossless=True)
    setting.run("in", "-o", "out", "--format", form)
    assert read_image("out/a.webp").lossless
    setting.run("in", "-o", "out", "--format", form, "--quality", "80", "--overwrite")
    assert not read_image("out/a.webp").lossless
    setting.run("in", "-o", "out", "--format", form, "--quality", "80", "--resume")
    assert setting.engine is not None and setting.engine.calls == []
    result = setting.run("in", "-o", "out", "--format", form, "--resume", code=1)
    assert "another --quality" in result.stderr


@pytest.mark.parametrize("name", ["a.gif", "a.bmp"])
def test_formats_that_are_not_written_become_png(setting: Setting, name: str) -> None:
    picture(f"in/{name}")
    setting.run("in", "-o", "out", "--format", "same")
    assert outputs(setting) == ["a.png"]


def command(reference, *arguments: str, encoding: str = "utf-8",
            name: str = "upscale") -> tuple[int, bytes, bytes]:
    """Exit code, stdout and stderr of the command in its own process, with a bundle of the tiny
    network."""
    done = forked.command(name, reference.bundle("tiny", [0]), *arguments,
                          environment={"PYTHONIOENCODING": encoding})
    return done.returncode, os.fsencode(done.stdout), os.fsencode(done.stderr)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_names_that_stdout_cannot_encode(reference, tmp_path: Path, encoding: str) -> None:
    pytest.importorskip("onnxruntime")
    folder = os.fsencode(tmp_path) + b"/in"
    os.mkdir(folder)
    for name in (b"a.png", b"caf\xe9.png", "写真.png".encode(), b"z.png"):
        pillow.new("RGB", (8, 8)).save(open(folder + b"/" + name, "wb"), "PNG")
    code, out, err = command(reference, f"{tmp_path}/in", "-o", f"{tmp_path}/out",
                             encoding=encoding)
    assert code == 0, err
    assert len(os.listdir(tmp_path / "out")) == 5  # with the journal
    assert b"4 of 4 written" in out and b"caf\\udce9.png" in out
    if encoding == "latin-1":
        assert rb"\u5199\u771f.png" in out
        code, out, err = command(reference, f"{tmp_path}/in", name="evaluate", encoding=encoding)
        assert code == 0, err
        assert b"caf\\udce9.png" in out and b"mean" in out


def test_names_do_not_control_the_terminal(reference, tmp_path: Path) -> None:
    """Neither in results and warnings nor in errors, on stdout or stderr."""
    pytest.importorskip("onnxruntime")
    (tmp_path / "in").mkdir()
    odd = "\x1b[2J\nerror: fake"
    pillow.new("RGB", (8, 8)).save(tmp_path / "in" / f"{odd}.gif", save_all=True,
                                   append_images=[pillow.new("RGB", (8, 8), "red")])
    (tmp_path / "in" / f"{odd}.png").write_bytes(b"none")
    (tmp_path / "in" / "loop.png").symlink_to("loop.png")
    _, out, err = command(reference, f"{tmp_path}/in", "-o", f"{tmp_path}/out")
    assert b"\x1b" not in out + err
    assert rb"fake.png: 32x32" in out and b"levels of symbolic" in err
    assert [line.split(b":")[0] for line in err.splitlines()] == [b"warning", b"error", b"error"]
    _, _, err = command(reference, f"{tmp_path}/in/loop.png")
    assert b"loop.png' cannot be read: Too many levels" in err


def test_a_reader_that_ends_does_not_end_the_batch(reference, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "in").mkdir()
    for index in range(6):
        pillow.new("RGB", (8, 8)).save(tmp_path / "in" / f"{index}.png")
    result = subprocess.run(
        f"{sys.executable} -m bidiff_deploy upscale {reference.bundle('tiny', [0])} "
        f"'{tmp_path}/in' -o '{tmp_path}/out' | head -1", shell=True, capture_output=True)
    assert result.stdout.count(b"\n") == 1
    assert len(list((tmp_path / "out").glob("*.png"))) == 6
    assert b"warning: stdout is closed" in result.stderr and b"Traceback" not in result.stderr
