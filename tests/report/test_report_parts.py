"""Parts of a page of ``report``: their limits, charts, pictures, and text that trusts nobody."""

from __future__ import annotations

import base64
import dataclasses
import re
import shutil

import jinja2
import numpy as np
import pytest
from PIL import Image

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
    picture,
    run,
)

LONG = 900  # characters that a manifest's text may have, and more than a page shows


PAYLOAD = "\"'></p><script>alert(1)</script><img src=x onerror=alert(1)>&amp;\u202e\x00 style="


NAME = "\"><img src=x onerror=alert(1)>&lt;b>.png"  # a file may be called so


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
