"""report writes one page that holds everything, loads nothing and trusts no text."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from bidiff_deploy.report.page import MAX_BYTES
from support.report_pages import (
    Page,
    check_self_contained,
    needs_check,
    needs_library,
    picture,
    run,
)

SECTIONS = ("pictures", "loop", "speed", "parity", "memory", "packed", "bundle", "machine")


@needs_library
@needs_check
def test_a_page_has_every_section_and_needs_nothing_else(report_page):
    path, data = report_page
    text = path.read_text(encoding="utf-8")
    page = check_self_contained(text)
    assert set(SECTIONS) <= set(page.ids())
    assert [section["id"] for section in page.all("section")] == list(SECTIONS)
    assert data["missing"] == {} and "Not on this page" not in page.words()
    assert path.stat().st_size < MAX_BYTES
    assert len([one for one in page.all("div") if one.get("role") == "slider"]) == 2
    assert data["parity"]["passed"] and len(data["pictures"]) == 2
    first = data["pictures"][0]
    assert (first["width"], first["height"]) == (128, 96) and first["made_small"]
    for name in ("bicubic", "packed"):
        assert 5 < first["scores"][name]["psnr_y"] < 60
        assert f"{first['scores'][name]['psnr_y']:.2f} dB" in page.words()
    assert [frame["timestep"] for frame in data["strip"]["frames"]] == [999, 400, 0]
    assert data["strip"]["frames"][-1]["distance"] < 1e-3 < data["strip"]["frames"][0]["distance"]
    assert {one["name"] for one in data["bench"]["measured"]} >= {"packed", "onnxruntime"}
    for layer in data["inspection"]["layers"]:
        assert layer["name"] in page.words() and layer["why"] in page.words()


@needs_library
@needs_check
def test_every_chart_has_a_table_and_words(report_page):
    text = report_page[0].read_text(encoding="utf-8")
    page = Page(text)
    for section in re.split(r"<section", text)[1:]:
        charts = section.count('class="bars"') + section.count('class="columns"')
        assert charts == 0 or section.count("<details") >= 1 <= section.count("<table")
    assert all(one.get("aria-label") for one in page.all("svg") if one.get("role") == "img")
    for one in page.all("th"):
        assert one["scope"] in ("row", "col")
    assert len(page.all("caption")) == len(page.all("table"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below - above <= 1 for above, below in zip(levels, levels[1:]))


def test_without_checkpoint_images_and_latency(reference, tmp_path):
    page = tmp_path / "page.html"
    code, out, err = run(reference.bundle("tiny", [999, 0]), "-o", page, "--size",
                         "16x16")
    assert code == 0 and err == ""
    parsed = check_self_contained(page.read_text(encoding="utf-8"))
    assert [section["id"] for section in parsed.all("section")] == list(SECTIONS)
    assert parsed.words().count("Not on this page: no images were given") == 2
    assert "Not on this page: no checkpoint was given" in parsed.words()
    assert "Not on this page: --bench measures it" in parsed.words()
    assert not parsed.all("img")


@pytest.mark.parametrize("absent", ["torch", "polygraphy"])
def test_without_an_optional_package_the_page_says_so(reference, tmp_path, monkeypatch, absent):
    find = importlib.util.find_spec
    # Of the two, one alone is absent, whatever is installed here.
    known = {"torch": importlib.machinery.ModuleSpec("torch", None),
             "polygraphy": importlib.machinery.ModuleSpec("polygraphy", None), absent: None}
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *rest: known[name] if name in known else find(name, *rest))
    page = tmp_path / "page.html"
    code, out, _ = run(reference.bundle("tiny", [999, 0]), reference.checkpoint("tiny"), "-o",
                       page, "--size", "16x16")
    assert code == 0 and f"without parity: {absent} is not installed; pip install" in out
    assert f"Not on this page: {absent} is not installed" in Page(page.read_text()).words()


def test_without_a_runtime_only_files_are_shown(reference, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    page, photo = tmp_path / "page.html", picture(tmp_path / "a.png", 8, 8)
    code, out, err = run(reference.bundle("tiny", [999, 0]), photo, "-o", page,
                         "--size", "16x16")
    assert code == 0, err
    assert "without images: onnxruntime is not installed" in out
    words = check_self_contained(page.read_text(encoding="utf-8")).words()
    assert words.count("Not on this page: onnxruntime is not installed") == 2


@needs_check
def test_another_network_is_refused_and_nothing_is_written(reference, tmp_path):
    page = tmp_path / "page.html"
    code, _, err = run(reference.bundle("tiny", [999, 0]), reference.checkpoint("small"),
                       "--options", reference.options("small"), "-o", page,
                       "--size", "16x16")
    assert code == 1 and err.count("\n") == 1 and "are of different networks" in err
    assert list(tmp_path.iterdir()) == []


@needs_library
@needs_check
def test_a_failed_check_is_written_and_reported(reference, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file(reference.state("tiny", seed=1), other)
    page = tmp_path / "page.html"
    code, _, err = run(reference.bundle("tiny", [999, 0]), other,
                       picture(tmp_path / "a.png", 16, 16), "--options",
                       reference.options("tiny"), "-o", page, "--size", "16x16",
                       "--quiet")
    assert code == 1 and err.startswith("error: ") and "checks of parity failed" in err
    words = check_self_contained(page.read_text(encoding="utf-8")).words()
    assert "Fail." in words and "checks of parity failed" in words


def test_a_contradicted_manifest_is_written_and_reported(reference, tmp_path):
    bundle = tmp_path / "b.bundle"
    shutil.copytree(reference.bundle("tiny", [999, 0]), bundle)
    (bundle / "litter.txt").write_text("x")
    page = tmp_path / "page.html"
    code, _, err = run(bundle, "-o", page, "--size", "16x16", "--quiet")
    assert code == 1 and "litter.txt" in err and err.count("\n") == 1
    assert "litter.txt" in Page(page.read_text()).words()


@pytest.mark.parametrize("arguments, told", [
    (["nothing.bundle"], "nothing.bundle"),
    (["BUNDLE", "absent.png"], "absent.png does not exist"),
    (["BUNDLE", "absent.pth"], "absent.pth does not exist"),
    (["BUNDLE", "--truth", "empty"], "has no images"),
    (["BUNDLE", "a.png", "b.pth"], "b.pth is neither an image"),
    (["BUNDLE", "--size", "5"], "--size '5' must be height and width"),
    (["BUNDLE", "--size", "17x16"], "must be multiples of"),
    (["BUNDLE", "--bench", "--against", "abacus"], "'abacus' cannot be measured against"),
    (["BUNDLE", "--against", "torch"], "--against requires --bench"),
    (["BUNDLE", "--backend", "abacus"], "backend 'abacus' is not known"),
    (["BUNDLE", "--steps", "9"], "steps is 9"),
    (["BUNDLE", "--seed", "-1"], "seed"),
    (["BUNDLE", "--options", "a.yml"], "name one after the bundle"),
    (["BUNDLE", "a.png", "--truth", "b.png"], "no file of --truth belongs to"),
    (["BUNDLE", "a.png", "--truth", "c/a.png"], "is no ground truth of it"),
    (["BUNDLE", "text.png"], "text.png"),
])
def test_a_mistake_is_one_sentence(reference, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("c").mkdir()
    Path("text.png").write_text("no image")
    for name in ("a.png", "b.png", "c/a.png"):
        picture(Path(name), 8, 8)
    bundle = reference.bundle("tiny", [999, 0])
    code, out, err = run(*[bundle if part == "BUNDLE" else part for part in arguments], "-o",
                         "page.html")
    assert (code, out) == (1, "") and told in err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert not Path("page.html").exists() and not list(Path().glob(".*"))


def test_an_existing_page_is_kept(reference, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("old")
    bundle = reference.bundle("tiny", [999, 0])
    code, _, err = run(bundle, "-o", page)
    assert code == 1 and "already exists" in err and page.read_text() == "old"
    code, out, _ = run(bundle, "-o", page, "--size", "16x16", "--overwrite",
                       "--quiet")
    assert (code, out) == (0, "") and page.read_text().startswith("<!DOCTYPE html>")
    code, _, err = run(bundle, "-o", tmp_path / "none" / "page.html")
    assert code == 1 and "its folder does not exist" in err


def test_a_broken_image_is_named_and_the_others_are_shown(reference, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_text("no image")
    picture(photos / "b.png", 8, 8)
    page = tmp_path / "page.html"
    code, out, err = run(reference.bundle("tiny", [999, 0]), photos, "-o", page, "--size", "16x16")
    assert code == 1 and out.startswith(f"{page}: ")
    assert err.startswith(f"error: {photos}/a.png is a text file") and err.count("\n") == 1
    words = check_self_contained(page.read_text()).words()
    assert f"Not shown: {photos}/a.png is a text file" in words
    assert "for b.png" in words


@needs_library
def test_a_model_by_name_is_compared_with_itself(tmp_path, monkeypatch):
    """Without torch and Polygraphy here, for time."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    page = tmp_path / "page.html"
    code, out, err = run("diffusion-x2", picture(tmp_path / "a.png", 8, 8), "-o", page, "--size",
                         "16x16")
    assert (code, err) == (0, "") and "without parity: torch is not installed" in out
    parsed = Page(page.read_text())
    assert "diffusion-x2: report" in parsed.words() and "path diffusion-x2" in parsed.words()
    for name, says in (("photo-x9", "installed are photo-x2"),
                       ("photo-x2", "use a diffusion model")):
        code, _, err = run(name, "-o", tmp_path / "other.html")
        assert code == 1 and says in err


def test_help_imports_nothing_heavy():
    code = ("import sys; from bidiff_deploy.cli import group\n"
            "try: group(['report', '--help'])\n"
            "except SystemExit: pass\n"
            "print([name for name in ('numpy', 'onnx', 'torch', 'PIL', 'onnxruntime', 'jinja2') "
            "if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "MODEL [CHECKPOINT] [IMAGES...]" in done.stdout
