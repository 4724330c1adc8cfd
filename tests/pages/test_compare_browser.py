"""The page of before and after in a browser: mouse, fingers, keys, sizes, themes, no script."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bidiff_deploy.pages.compare import ComparePage
from support.browser import CONTRAST, Browser, find_chromium, needs_chromium

pytestmark = needs_chromium
SLIDER = "document.querySelector('.line')"
VIEW = "document.querySelector('.view')"
AT = f"Number({SLIDER}.getAttribute('aria-valuenow'))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(find_chromium(), tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """Of a picture of 600x400 and one of 2x2 pixels, and a sentence about a third."""
    folder = tmp_path_factory.mktemp("page")
    pairs = []
    for name, width, height in (("large", 300, 200), ("tiny", 1, 1)):
        rows, columns = np.mgrid[:height, :width]
        small = Image.fromarray(np.stack([rows, columns, rows + columns], -1).astype(np.uint8))
        paths = folder / f"{name}.png", folder / f"{name}_x2.png"
        for path, factor in zip(paths, (1, 2)):
            small.resize((factor * width, factor * height)).save(path)
        pairs.append(tuple(map(str, paths)))
    made = ComparePage([Path(pairs[0][1])], folder, False)
    made.write(pairs, ["third.png is broken"])
    return made.path.as_uri()


def mouse(browser: Browser, *events: tuple[str, float, float]) -> None:
    for kind, x, y in events:
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1,
                     clickCount=1)


def place(browser: Browser, part: str) -> dict[str, float]:
    """The middle of an element on the screen, and its size."""
    return browser.evaluate(f"(() => {{ const r = {part}.getBoundingClientRect(); return {{"
                            "x: r.x + r.width / 2, y: r.y + Math.min(r.height / 2, 100),"
                            "width: r.width, height: r.height}; })()")


def choose(browser: Browser, value: str) -> None:
    browser.evaluate(f"document.querySelector('.bar input[value=\"{value}\"]').click()")


def test_it_loads_nothing_and_says_nothing(browser, page):
    browser.view(1200)
    browser.open(page)
    assert browser.errors == []
    assert {url for url in browser.requests if not url.startswith("data:")} <= {page, "about:blank"}
    assert browser.evaluate("[...document.images].filter(i => !i.naturalWidth).length") == 0


def test_the_line_moves_by_keys(browser, page):
    browser.view(1200)
    browser.open(page)
    browser.evaluate(f"{SLIDER}.focus()")
    for key, code, at in (("ArrowRight", 39, 51), ("ArrowUp", 38, 52), ("ArrowLeft", 37, 51),
                          ("ArrowDown", 40, 50), ("PageUp", 33, 60), ("PageDown", 34, 50),
                          ("End", 35, 100), ("ArrowRight", 39, 100), ("Home", 36, 0)):
        browser.press(key, code)
        assert browser.evaluate(AT) == at, key
    assert browser.evaluate(f"{SLIDER}.getAttribute('aria-valuetext')") == (
        "0 % Before, 100 % After")


def test_the_line_moves_by_mouse_and_a_large_picture_by_dragging_it(browser, page):
    browser.view(1200)
    browser.open(page)
    line, view = place(browser, SLIDER), place(browser, VIEW)
    mouse(browser, ("mousePressed", line["x"], line["y"]),
          ("mouseMoved", line["x"] + view["width"] / 4, line["y"]),
          ("mouseReleased", line["x"] + view["width"] / 4, line["y"]))
    assert browser.evaluate(AT) == 75
    left = view["x"] - view["width"] / 4
    mouse(browser, ("mousePressed", left, line["y"]), ("mouseReleased", left, line["y"]))
    assert browser.evaluate(AT) == 25
    browser.view(500)
    choose(browser, "2")
    view = place(browser, VIEW)
    before = browser.evaluate(f"{VIEW}.scrollLeft")
    mouse(browser, ("mousePressed", view["x"], view["y"]),
          ("mouseMoved", view["x"] - 60, view["y"]), ("mouseReleased", view["x"] - 60, view["y"]))
    assert browser.evaluate(f"{VIEW}.scrollLeft") == before + 60 and browser.evaluate(AT) == 25


def test_the_line_moves_by_touch(browser, page):
    browser.view(390)
    browser.open(page)
    line = place(browser, SLIDER)
    for kind, x in (("touchStart", 0), ("touchMove", 20), ("touchMove", 60), ("touchEnd", None)):
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=[] if x is None else [
            {"x": line["x"] + x, "y": line["y"]}])
    width = place(browser, VIEW)["width"]
    assert browser.evaluate(AT) == pytest.approx(50 + 100 * 60 / width, abs=1)


def test_sizes_are_of_the_screens_own_pixels(browser, page):
    stage = "document.querySelector('.stage')"
    for ratio in (1, 2):
        browser.call("Emulation.setDeviceMetricsOverride", width=1000, height=800,
                     deviceScaleFactor=ratio, mobile=False)
        browser.open(page)
        assert place(browser, stage)["width"] == 600 / ratio
        choose(browser, "2")
        assert place(browser, stage)["width"] == 1200 / ratio
        choose(browser, "fit")
        assert place(browser, stage)["width"] <= place(browser, VIEW)["width"]
        tiny = place(browser, "document.querySelectorAll('.stage')[1]")
        assert tiny["width"] == 256 / ratio


def test_lanczos_is_a_choice_and_the_line_cuts_it(browser, page):
    browser.view(1200)
    browser.open(page)
    shown = "getComputedStyle(document.querySelector('.{}')).visibility"
    assert browser.evaluate(shown.format("before")) == "visible"
    choose(browser, "lanczos")
    assert browser.evaluate(shown.format("before")) == "hidden"
    assert browser.evaluate(shown.format("lanczos")) == "visible"
    assert browser.evaluate("document.querySelector('.compare').dataset.left") == "Lanczos"
    cut = "getComputedStyle(document.querySelector('.stage')).getPropertyValue('--cut')"
    assert browser.evaluate(cut) == "300px"


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_nothing_is_wider_than_the_screen(browser, page, width):
    browser.view(width)
    browser.open(page)
    for size in ("fit", "1", "2"):
        choose(browser, size)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_in_both_themes(browser, page, scheme):
    browser.view(1000, scheme=scheme)
    browser.open(page)
    back = "getComputedStyle(document.body).backgroundColor"
    before = browser.evaluate(back)
    assert browser.evaluate(CONTRAST) == ""
    for _ in range({"light": 2, "dark": 1}[scheme]):  # auto, light, dark
        browser.evaluate("document.getElementById('theme').click()")
    assert browser.evaluate(back) != before and browser.evaluate(CONTRAST) == ""
    browser.evaluate("localStorage.clear()")


def test_without_script_and_on_paper_all_pictures_are_there(browser, page):
    seen = ("[...document.querySelectorAll('.stage figure')].filter(f => f.offsetWidth && "
            "getComputedStyle(f).visibility === 'visible' && "
            "getComputedStyle(f).clipPath === 'none').length")
    browser.view(320)
    browser.open(page)
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate(seen) == 6
    browser.call("Emulation.setEmulatedMedia", media="")
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(page)
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.evaluate(seen) == 6
    assert browser.evaluate("document.documentElement.scrollWidth") <= 320
    assert browser.evaluate(f"{SLIDER}.offsetWidth") == 0
