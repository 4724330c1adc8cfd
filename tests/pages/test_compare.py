"""The page of before and after: it needs nothing else, trusts no text and has a limit."""

from __future__ import annotations

import numpy as np
import pytest

from bidiff_deploy.errors import OutputError
from bidiff_deploy.images.write import write_image
from bidiff_deploy.pages import compare
from bidiff_deploy.pages.compare import MAX_BYTES, ComparePage
from support.report_pages import check_self_contained

EVIL = "\"><img src=x onerror=alert(1)>&lt;b>\u202e.png"


def pair(folder, name="a.png", side=6):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side + 2, 3), np.uint8)
    source, output = folder / name, folder / f"large {name}"
    write_image(source, pixels, overwrite=True)
    write_image(output, pixels.repeat(2, 0).repeat(2, 1), overwrite=True)
    return str(source), str(output)


def test_a_page_of_one_photo(tmp_path):
    page = ComparePage([tmp_path / "large a.png"], tmp_path, True)
    found = page.write([pair(tmp_path)], [])
    assert page.path == tmp_path / "large a_compare.html"
    assert found == {"compare": str(page.path), "photos": 1, "bytes": page.path.stat().st_size}
    parsed = check_self_contained(page.path.read_text(encoding="utf-8"))
    assert "8×6 became 16×12 pixels" in parsed.words()
    assert [image["alt"] for image in parsed.all("img")] == [
        "a.png, before", "a.png, lanczos", "a.png, after"]
    assert parsed.all("html") == [{"lang": "en"}]
    (slider,) = [one for one in parsed.all("div") if one.get("role") == "slider"]
    assert slider["aria-label"].startswith("a.png") and slider["tabindex"] == "0"


def test_names_are_text_and_what_is_not_shown_is_named(tmp_path):
    page = ComparePage([tmp_path / "a.png"], tmp_path, False)
    found = page.write([pair(tmp_path, EVIL), ("gone.png", "gone.png")], [f"{EVIL} is broken"])
    assert found["photos"] == 1 and found["missing"] == ["gone.png does not exist"]
    text = page.path.read_text(encoding="utf-8")
    parsed = check_self_contained(text)
    assert "<img src=x" not in text and "\u202e" not in text
    assert "onerror=alert(1)>&lt;b>?.png is broken" in parsed.words()
    assert "gone.png does not exist" in parsed.words() and len(parsed.all("img")) == 3


def test_a_page_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "MAX_PHOTOS", 3)
    monkeypatch.setattr(compare, "_PICTURE_BYTES", 900_000)
    page = ComparePage([tmp_path / "a.png"], tmp_path, False)
    found = page.write([pair(tmp_path, f"{name}.png", 100) for name in "abcd"], [])
    assert found["photos"] == 3 and found["bytes"] < 900_000 + MAX_BYTES - 19_000_000
    assert found["missing"] == ["a page shows 3 photos, the first of 4"]


def test_only_its_own_page_is_replaced_when_a_run_resumes(tmp_path):
    page = tmp_path / "compare.html"
    page.write_text("mine")
    for resume in (False, True):
        with pytest.raises(OutputError, match="already exists"):
            ComparePage([tmp_path / "a.png"], tmp_path, False, resume=resume)
    ComparePage([tmp_path / "a.png"], tmp_path, False, overwrite=True).write([], [])
    with pytest.raises(OutputError, match="already exists"):
        ComparePage([tmp_path / "a.png"], tmp_path, False)
    ComparePage([tmp_path / "a.png"], tmp_path, False, resume=True).write([pair(tmp_path)], [])
    assert "large a.png" in page.read_text()
