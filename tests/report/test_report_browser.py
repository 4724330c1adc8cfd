"""A page of ``report`` in a browser: it loads nothing, runs by keyboard, fits screens and paper."""

from __future__ import annotations

import pytest

from support.browser import Browser, find_chromium
from support.report_pages import needs_check, needs_library

needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="no chromium")

_CONTRAST = """(() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const wrong = [];
  for (const part of document.querySelectorAll("body, body *")) {
    const own = [...part.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || part.closest(".compare, svg") || !part.offsetParent) continue;
    let behind = part, back;
    do {
      back = parse(getComputedStyle(behind).backgroundColor);
      behind = behind.parentElement;
    } while (back.length === 4 && back[3] === 0 && behind);
    const front = parse(getComputedStyle(part).color);
    const [high, low] = [light(front), light(back)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) wrong.push(part.tagName + " " + part.className + " " + ratio.toFixed(2));
  }
  return wrong.join("; ");
})()"""


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
    browser.evaluate("document.querySelector('input.line').focus()")
    at = "document.querySelector('.compare').style.getPropertyValue('--at')"
    assert browser.evaluate(at) == "50%"
    for _ in range(3):
        browser.press("ArrowRight", 39)
    assert browser.evaluate(at) == "53%"
    browser.press("Home", 36)
    assert browser.evaluate(at) == "0%"
    assert browser.evaluate("document.querySelector('input.line').ariaValueText || document"
                            ".querySelector('input.line').getAttribute('aria-valuetext')") == (
        "0 % bicubic, 100 % packed")
    shown = ("getComputedStyle(document.querySelector('.compare .{}')).visibility")
    assert browser.evaluate(shown.format("original")) == "hidden"
    browser.evaluate("document.querySelector('.choice input[value=original]').click()")
    assert browser.evaluate(shown.format("original")) == "visible"
    assert browser.evaluate(shown.format("bicubic")) == "hidden"


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
    assert browser.evaluate(_CONTRAST) == ""
    back = "getComputedStyle(document.body).backgroundColor"
    before = browser.evaluate(back)
    other = {"light": 2, "dark": 1}[scheme]  # auto, light, dark
    for _ in range(other):
        browser.evaluate("document.getElementById('theme').click()")
    assert browser.evaluate(back) != before and browser.evaluate(_CONTRAST) == ""
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
    assert browser.evaluate(_CONTRAST) == ""
    hidden = ("[...document.querySelectorAll('.frame')].filter(f => getComputedStyle(f)"
              ".visibility !== 'visible' || getComputedStyle(f).clipPath !== 'none').length")
    assert browser.evaluate(hidden) == 0
    browser.evaluate("dispatchEvent(new Event('afterprint'))")
    assert browser.evaluate("document.querySelectorAll('details[open]').length") == 0
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    browser.evaluate("document.getElementById('theme').click()")
