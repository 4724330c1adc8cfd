"""A page of ``report`` in a browser: it loads nothing, runs by keyboard, fits screens and paper."""

from __future__ import annotations

import pytest

from support.browser import CONTRAST, Browser, find_chromium, needs_chromium
from support.report_pages import needs_check, needs_library


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(find_chromium(), tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@needs_library
@needs_check
@needs_chromium
def test_in_a_browser_it_loads_nothing_and_says_nothing(report_page, browser):
    browser.view(1200)
    browser.open(report_page[0].as_uri())
    assert browser.errors == []
    asked = {url for url in browser.requests if not url.startswith("data:")}
    assert asked <= {report_page[0].as_uri(), "about:blank"}
    broken = browser.evaluate("[...document.images].filter(i => !i.naturalWidth).length")
    assert broken == 0
    # What gets past all escaping would still not run, nor load.
    browser.evaluate("document.body.insertAdjacentHTML('beforeend', "
                     "'<img src=x onerror=\"window.ran = 1\">'); "
                     "const s = document.createElement('script'); s.textContent = 'ran = 1'; "
                     "document.body.append(s)")
    assert browser.evaluate("typeof window.ran") == "undefined"


@needs_library
@needs_check
@needs_chromium
def test_the_slider_moves_by_keyboard(report_page, browser):
    browser.view(1200)
    browser.open(report_page[0].as_uri())
    browser.evaluate("document.querySelector('.line').focus()")
    for _ in range(3):
        browser.press("ArrowRight", 39)
    text = "document.querySelector('.line').getAttribute('aria-valuetext')"
    assert browser.evaluate(text) == "53 % Bicubic, 47 % Packed 1-bit"
    shown = ("getComputedStyle(document.querySelector('.compare .{}')).visibility")
    assert browser.evaluate(shown.format("original")) == "hidden"
    browser.evaluate("document.querySelector('.bar input[value=original]').click()")
    assert browser.evaluate(shown.format("original")) == "visible"
    assert browser.evaluate(shown.format("bicubic")) == "hidden"
    assert browser.evaluate(text) == "53 % Original, 47 % Packed 1-bit"


@needs_library
@needs_check
@needs_chromium
def test_a_link_opens_what_is_folded(report_page, browser):
    browser.view(1200)
    browser.open(report_page[0].as_uri())
    opened = "[...document.querySelectorAll('.fold')].filter(f => f.open).length"
    assert browser.evaluate(opened) == 0
    browser.open(report_page[0].as_uri() + "#parity")
    assert browser.evaluate(opened) == 1


@needs_library
@needs_check
@needs_chromium
@pytest.mark.parametrize("width", [320, 360, 768, 1200])
def test_nothing_is_wider_than_the_screen(report_page, browser, width):
    browser.view(width)
    browser.open(report_page[0].as_uri())
    browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


@needs_library
@needs_check
@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_in_both_themes(report_page, browser, scheme):
    browser.view(1000, scheme=scheme)
    browser.open(report_page[0].as_uri())
    browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.evaluate(CONTRAST) == ""
    back = "getComputedStyle(document.body).backgroundColor"
    before = browser.evaluate(back)
    other = {"light": 2, "dark": 1}[scheme]  # auto, light, dark
    for _ in range(other):
        browser.evaluate("document.getElementById('theme').click()")
    assert browser.evaluate(back) != before and browser.evaluate(CONTRAST) == ""
    for _ in range(3 - other):
        browser.evaluate("document.getElementById('theme').click()")
    assert browser.evaluate(back) == before


@needs_library
@needs_check
@needs_chromium
def test_paper_is_light_and_shows_everything(report_page, browser):
    browser.view(1000, scheme="dark")
    browser.open(report_page[0].as_uri())
    browser.evaluate("document.getElementById('theme').click(); "
                     "document.getElementById('theme').click()")
    assert browser.evaluate("document.documentElement.dataset.theme") == "dark"
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert browser.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    browser.call("Emulation.setEmulatedMedia", media="print", features=[
        {"name": "prefers-color-scheme", "value": "dark"}])
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)")
    assert browser.evaluate(CONTRAST) == ""
    hidden = ("[...document.querySelectorAll('.stage figure')].filter(f => getComputedStyle(f)"
              ".visibility !== 'visible' || getComputedStyle(f).clipPath !== 'none').length")
    assert browser.evaluate(hidden) == 0
    browser.evaluate("dispatchEvent(new Event('afterprint'))")
    assert browser.evaluate("document.querySelectorAll('details[open]').length") == 0
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    browser.evaluate("document.getElementById('theme').click()")
