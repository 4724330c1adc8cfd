"""report writes one page that holds everything, loads nothing and trusts no text."""

from __future__ import annotations

import base64
import dataclasses
import importlib.machinery
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jinja2
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.errors import BidiffError, UsageError
from bidiff_deploy.pages.document import MAX_CHARS
from bidiff_deploy.pages.pictures import MAX_PIXELS
from bidiff_deploy.report.collect import MAX_IMAGES, Report, collect
from bidiff_deploy.report.filters import greatest
from bidiff_deploy.report.loop import Picture
from bidiff_deploy.report.page import MAX_BYTES, MAX_ROWS, environment, render
from bidiff_deploy.report.pictures import Input, detail, encoded, find_inputs
from bidiff_deploy.report.request import Request
from support.report_pages import (
    Page,
    check_self_contained,
    needs_check,
    needs_library,
    one_examination,
    picture,
    run,
)

SECTIONS = ("pictures", "loop", "speed", "parity", "memory", "packed", "bundle", "machine")
LONG = 900  # characters that a manifest's text may have, and more than a page shows
PAYLOAD = "\"'></p><script>alert(1)</script><img src=x onerror=alert(1)>&amp;\u202e\x00 style="
NAME = "\"><img src=x onerror=alert(1)>&lt;b>.png"  # a file may be called so


@pytest.fixture(scope="module", autouse=True)
def examined_once(shared):
    with one_examination(shared):
        yield


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


def hostile(value, skip=frozenset()):
    """Every text, and every key that is shown, with markup behind it."""
    if isinstance(value, dict):
        return {key: hostile(item, skip) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item, skip) for item in value]
    if isinstance(value, str) and value not in skip and not re.fullmatch(r"[-\d.a-f]+|inf", value):
        return value + PAYLOAD
    return value


@needs_library
@needs_check
def test_hostile_text_stays_text(report_page):
    """The page of strings full of markup has the elements of the page of plain ones."""
    data = report_page[1]
    image = Picture("a.png", 8, 8, 4, 4, 1.0, True, {}, (0, 0, 8), *2 * [encoded(
        {name: np.zeros((8, 8, 3), np.uint8) for name in ("bicubic", "packed")}, 10_000)])
    fields = {name: data[name] for name in ("inspection", "doctor", "bench", "parity")}
    plain = Report("now", data["options"], pictures=(image,), engine="e",
                   missing={"strip": "why"}, **fields)
    keep = frozenset(["layer", "segment", "operator", "step", "loop", "bidiff-check", "float32",
                      "packed", "float", "attention", "onnxruntime", "openvino"])
    fields = {name: hostile(value, keep) for name, value in fields.items()}
    for holder, name in ((fields["inspection"], "operators"), (fields["inspection"], "network"),
                         (fields["inspection"]["versions"], "opsets"),
                         (fields["bench"]["profile"]["roofline"], "parts"),
                         (fields["bench"]["profile"], "parts")):
        holder[name] = {key + PAYLOAD: value for key, value in holder[name].items()}
    evil = dataclasses.replace(plain, created=f"now{PAYLOAD}", engine=f"e{PAYLOAD}", **fields,
                               missing={"strip": f"why{PAYLOAD}"},
                               pictures=(dataclasses.replace(image, name=f"a{PAYLOAD}"),))
    text = render(evil)
    page = check_self_contained(text)
    assert page.structure == Page(render(plain)).structure
    assert "<script>alert" not in text and "<img src=x" not in text
    assert "\u202e" not in text and "\x00" not in text
    assert "<script>alert(1)</script>" in page.words()


def test_hostile_files_and_manifests(reference, tmp_path, edit_manifest):
    bundle = tmp_path / f"{NAME}.bundle"
    shutil.copytree(reference.bundle("tiny", [999, 0]), bundle)

    def change(manifest):
        manifest["source"]["name"] = f"net{PAYLOAD}"
        manifest["tool"] = {"name": PAYLOAD, "version": PAYLOAD}
        manifest["assumptions"] = [f"{PAYLOAD}{'x' * LONG}"] * 60

    edit_manifest(bundle, change)
    photo = picture(tmp_path / NAME, 12, 9)
    page = tmp_path / "page.html"
    code, out, err = run(bundle, photo, "-o", page, "--size", "16x16")
    assert code == 0, err
    assert out.startswith(f"{page}: ") and "without latency: --bench measures it" in out
    text = page.read_text(encoding="utf-8")
    parsed = check_self_contained(text)
    assert "<img src=x" not in text and "<script>alert" not in text
    assert photo.name in parsed.words() and len(text) < 1_000_000
    assert "the bundle contradicts" not in err


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


def test_pages_have_a_limit(reference, tmp_path):
    """More images than a page holds, large ones among them, are cut and told."""
    big = np.random.default_rng(0).integers(0, 256, (140, 2000, 3), np.uint8)  # worst of all
    pictures = dict.fromkeys(("bicubic", "packed"), big)
    for budget in (450_000, 180_000):
        shown = encoded(pictures, budget)
        assert shown.characters <= budget and shown.quality in (95, 88)
        assert shown.part[2] * shown.part[3] < 2000 * 140 < MAX_PIXELS
        assert shown.part[2] / shown.part[3] == pytest.approx(2000 / 140, rel=0.05)
    assert encoded(pictures, 1000) is None
    small = encoded({"packed": big[:40, :40]}, 100_000)
    assert small.quality is None and small.part == (0, 0, 40, 40)
    kind, data = small.uris["packed"].removeprefix("data:image/").split(";base64,")
    (tmp_path / f"a.{kind}").write_bytes(base64.b64decode(data))
    assert (np.asarray(Image.open(tmp_path / f"a.{kind}").convert("RGB")) == big[:40, :40]).all()

    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(MAX_IMAGES + 3):
        picture(folder / f"{index:02d}.png", 8, 8, index)
    page = tmp_path / "page.html"
    code, out, _ = run(reference.bundle("tiny", [999, 0]), folder, "-o", page,
                       "--size", "16x16")
    assert code == 0 and "without 3 more images" in out
    parsed = Page(page.read_text())
    assert "3 more images were given" in parsed.words()
    assert len(parsed.all("article")) == MAX_IMAGES

    report = collect(Request(open_bundle(reference.bundle("tiny", [999, 0])), "tiny",
                             against=None, size=(16, 16)))
    unfit = Picture("a.png", 8, 8, 4, 4, 1.0, True, {}, (0, 0, 8), None, None)
    missing = dict.fromkeys(("strip", "parity", "bench"), "-")
    assert "do not fit" in Page(render(dataclasses.replace(
        report, pictures=(unfit,), missing=missing))).words()
    huge = dataclasses.replace(small, uris={
        "bicubic": "data:image/png;base64," + "A" * MAX_BYTES, "packed": ""})
    with pytest.raises(UsageError, match="give fewer images"):
        render(dataclasses.replace(report, missing=missing, pictures=(
            dataclasses.replace(unfit, shown=huge, parts=small),)))


def rendered(source, **values):
    """A template of this text with all macros and what they know."""
    imports = ('{% from "charts.html" import bar, columns, stack %}'
               '{% from "macros.html" import fact, table %}')
    return environment().from_string(imports + source).render(values)


def test_values_are_escaped_and_cut_and_tables_end():
    assert rendered('<p title="{{ a }}">{{ b }}{{ c }}</p>', a='"><', b="<b>&\"'", c=None) == (
        '<p title="&#34;&gt;&lt;">&lt;b&gt;&amp;&#34;&#39;</p>')
    assert rendered('{{ fact("a", b) }}', b="<b>").count("<b>") == 0
    assert len(rendered("<p>{{ a }}</p>", a="x" * 10_000)) == MAX_CHARS + 7
    with pytest.raises(jinja2.UndefinedError):
        rendered("{{ typo }}")
    rows = Page(rendered('{% call(row) table("c", ["a"], rows) %}<td>{{ row }}</td>{% endcall %}',
                         rows=["x"] * (MAX_ROWS + 7)))
    assert len(rows.all("tr")) == MAX_ROWS + 2 and "7 more rows are not shown" in rows.words()


def test_charts_stay_inside():
    def inside(source, **values):
        text = rendered(source, **values)
        Page(text)
        found = [float(at) for at in re.findall(r'"([-\d.e+naif]+)%"', text)]
        assert all(0 <= at <= 100 for at in found)
        return found

    for value, length in ((0.0, 0.3), (1.0, 50), (float("inf"), 100), (1e300, 100)):
        most = greatest([value, 2.0, 1.5])
        found = inside('{{ bar("a", value, most, "v", spread=(0.0, 2.0), mark=1.5) }}',
                       value=value, most=most)
        assert found[:5] == [100, 0, 100, 0, length]  # the drawing, its track, the bar
    assert greatest([0.0]) == greatest([]) == greatest([float("inf")]) == 1.0
    for items in ([], [("a", None, None), ("b", 2.0, -1.0), ("c", 0.0, 0.5)]):
        inside('{{ columns("t", items, [(0, "none"), (1, "all")]) }}', items=items)
    assert 'aria-label="t: a 30 %; B 70 %"' in rendered(
        '{{ stack("t", [("a", 0.3), ("b", 0.7)], {"b": "B"}) }}')


def test_the_detail_has_the_edges():
    pixels = np.full((300, 400, 3), 128, np.uint8)
    pixels[200:240:4, 300:340] = 255
    top, left, side = detail(pixels)
    assert top <= 200 and left <= 300 and top + side >= 240 and left + side >= 340
    assert detail(pixels[:5, :7]) == (0, 1, 5)


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


def test_figures_fill_their_rows(reference, tmp_path):
    """Two to four, of which three have a row each where the screen is narrow."""
    for arguments, count in (([], 2), ([picture(tmp_path / "a.png", 8, 8)], 3),
                             (["--truth", picture(tmp_path / "b.png", 32, 32)], 4)):
        page = tmp_path / "page.html"
        assert run(reference.bundle("tiny", [999, 0]), *arguments, "-o", page, "--size", "16x16",
                   "--overwrite")[0] == 0
        (tiles,) = re.findall(r'<ul class="tiles n(\d)">(.*?)</ul>', page.read_text(), re.DOTALL)
        assert (int(tiles[0]), tiles[1].count("<li>")) == (count, count)


def test_images_and_truths_are_paired_as_check_does(tmp_path):
    for name in ("baby_small.png", "bird_small.png", "baby.png", "bird.png"):
        picture(tmp_path / name, 9, 11)
    small = [str(tmp_path / name) for name in ("baby_small.png", "bird_small.png")]
    truths = [str(tmp_path / name) for name in ("bird.png", "baby.png")]
    assert [(one.low.name, one.truth.name) for one in find_inputs(small, truths)] == [
        ("baby_small.png", "baby.png"), ("bird_small.png", "bird.png")]
    assert [(one.low, one.truth.name) for one in find_inputs([], truths)] == [
        (None, "bird.png"), (None, "baby.png")]
    low, truth = Input("a", None, tmp_path / "baby.png").read(4)
    assert low.shape == (2, 2, 3) and truth.shape == (8, 8, 3)
    with pytest.raises(BidiffError, match="too small"):
        Input("a", None, tmp_path / "baby.png").read(10)


def test_help_imports_nothing_heavy():
    code = ("import sys; from bidiff_deploy.cli import group\n"
            "try: group(['report', '--help'])\n"
            "except SystemExit: pass\n"
            "print([name for name in ('numpy', 'onnx', 'torch', 'PIL', 'onnxruntime', 'jinja2') "
            "if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "MODEL [CHECKPOINT] [IMAGES...]" in done.stdout
