"""The app as a process: in a browser, against strangers, at its end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from click.testing import CliRunner

from bidiff_deploy.app import server
from bidiff_deploy.cli import group
from bidiff_deploy.images.image import Image
from bidiff_deploy.images.write import write_image
from bidiff_deploy.models.shipped import SHIPPED
from support.browser import Browser, find_chromium
from support.image_samples import profile
from support.report_pages import needs_library
from support.waiting import HANG_SECONDS, wait_until

MODEL = "photo-x2-fast"


class App:
    """A running app. ``root``: where its files are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bidiff_deploy", "app", "--no-open", "--model", MODEL,
             "--threads", "1"], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(folder)})
        self.address = self.process.stdout.readline().split()[0]
        [self.root] = folder.iterdir()

    def files(self) -> list[Path]:
        # Not rglob, which fails where a folder is removed meanwhile.
        return [Path(here, name) for here, _, names in os.walk(self.root) for name in names]

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc,
                                                timeout=HANG_SECONDS)
        connection.request("GET" if body is None else "POST", path,
                           None if body is None else json.dumps(body),
                           {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
        connection.close()
        return answer.status, text

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(HANG_SECONDS)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    if find_spec("gradio") is None:  # importing it takes seconds
        pytest.skip("gradio is not installed")
    folder = tmp_path_factory.mktemp("app")
    running = App(folder)
    yield running
    assert running.end() == 0
    assert list(folder.iterdir()) == []


def photo(path: Path, seed: int, **more) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 1 << 16, (18, 26, 3)).astype(np.uint16)
    write_image(path, Image(pixels, **more))
    return path


@needs_library
@pytest.mark.skipif(find_chromium() is None, reason="no chromium")
def test_photos_are_dropped_compared_and_downloaded(app, tmp_path):
    photos = [photo(tmp_path / "deep.png", 0, icc_profile=profile()),
              photo(tmp_path / "other.tif", 1)]
    made = CliRunner().invoke(group, ["upscale", *map(str, photos), "--model", MODEL])
    assert made.exit_code == 0, made.output
    expected = {name: (tmp_path / name).read_bytes() for name in ("deep_x2.png", "other_x2.png")}
    broken = tmp_path / "broken${1+1}<img src=x onerror=ran=1>.jpg"
    broken.write_text("no image")
    browser = Browser(find_chromium(), tmp_path / "profile")
    try:
        for width in (390, 1280):
            browser.view(width, 900)
            browser.open(app.address)
            wait_until(lambda: browser.evaluate("!!document.querySelector('#start')"))
            _drop(browser, *photos, broken)
            browser.click("#start")
            wait_until(lambda: browser.evaluate(
                "document.querySelectorAll('#sentences p').length === 3"
                " && !!document.querySelector('#everything')"))
            sentences = browser.evaluate("document.querySelector('#sentences').innerText")
            assert "deep_x2.png: 52x36" in sentences and "onerror=ran=1>.jpg is a text" in sentences
            assert browser.evaluate("typeof ran") == "undefined"
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
        downloads = tmp_path / "downloads"
        browser.download_to(downloads)
        for link, name in (("#results a[download='deep_x2.png']", "deep_x2.png"),
                           ("#results a[download='other_x2.png']", "other_x2.png"),
                           ("#everything", "photos_x2.zip")):
            browser.click(link)
            wait_until((downloads / name).exists)
        assert {path.name: path.read_bytes() for path in downloads.glob("*.png")} == expected
        with zipfile.ZipFile(downloads / "photos_x2.zip") as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == expected
        _slide(browser)
        hosts = {urlsplit(url).netloc for url in browser.requests
                 if not url.startswith(("data:", "blob:", "about:"))}
        assert hosts == {urlsplit(app.address).netloc}
        assert app.files()
        assert browser.evaluate(
            "new Promise(done => { document.onsecuritypolicyviolation = e => done(e.blockedURI); "
            "document.body.append(Object.assign(new Image(), {src: 'http://192.0.2.1/a'})); })"
        ) == "http://192.0.2.1/a"
        browser.call("Page.navigate", url="about:blank")
        wait_until(lambda: not app.files())
    finally:
        browser.close()


def _drop(browser: Browser, *files: Path) -> None:
    x, y = _middle(browser, "#photos")
    data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)
    wait_until(lambda: browser.evaluate(
        f"document.querySelectorAll('#photos tr, #photos li').length >= {len(files)}"))


def _slide(browser: Browser) -> None:
    """Move the line between before and after with the mouse."""
    clip = "document.querySelector('#slider img.fixed').style.clipPath"
    wait_until(lambda: "50%" in (browser.evaluate(clip) or ""))
    browser.evaluate("document.querySelector('#slider').scrollIntoView()")
    x, y = _middle(browser, "#slider .outer .inner")
    for kind, by, buttons in (("mousePressed", 0, 1), ("mouseMoved", 40, 1),
                              ("mouseReleased", 40, 0)):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x + by, y=y, button="left",
                     buttons=buttons, clickCount=1)
    wait_until(lambda: "50%" not in browser.evaluate(clip))


def _middle(browser: Browser, selector: str) -> list[float]:
    return browser.evaluate("(r => [r.x + r.width / 2, r.y + r.height / 2])"
                            f"(document.querySelector('{selector}').getBoundingClientRect())")


def test_strangers_get_no_files_and_send_it_nowhere(app):
    assert app.ask("/")[0] == 200
    assert app.ask("/", Host="evil.example")[0] == 403
    assert app.ask("/gradio_api/file=http://example.com/")[0] == 404
    for path in ("/etc/passwd", f"{app.root}/../../etc/passwd", str(app.root)):
        assert app.ask(f"/gradio_api/file={path}")[0] in (403, 404)
    functions = {one["api_name"]: one["id"] for one in json.loads(app.ask("/config")[1])[
        "dependencies"]}
    for path, reason in (("/etc/passwd", "not uploaded by a user"),
                         ("http://example.com/a.png", "asks no other host"),
                         (f"{app.root}/vibe.png", "not on the server any more")):
        file = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        body = {"fn_index": functions["add"], "session_hash": "s", "data": [[file]]}
        assert reason in app.ask("/gradio_api/run/predict", body)[1]
        assert app.ask("/gradio_api/run/predict", body, Origin="http://evil.example")[0] == 403
    run = {"fn_index": functions["run"], "session_hash": "s", "data": [[], 2, "/etc/passwd"]}
    assert app.ask("/gradio_api/run/predict", run)[0] == 404  # only through the queue
    assert app.root.stat().st_mode & 0o777 == 0o700


def test_the_page_offers_a_choice_by_kind_first():
    pytest.importorskip("gradio")
    from bidiff_deploy.app.layout import model_choices

    label, model, scale = model_choices(None)[0]
    assert (model, scale) == ("", 2) and "photo-jpeg-x2" in label
    assert [model for _, model, _ in model_choices(None)[1:]] == [one.name for one in SHIPPED]
    assert model_choices("photo-x4")[0][1:] == ("photo-x4", 4)


@needs_library
def test_an_address_in_use_is_a_sentence(app):
    port = str(urlsplit(app.address).port)
    done = subprocess.run([sys.executable, "-m", "bidiff_deploy", "app", "--no-open", "--port",
                           port], capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"error: cannot listen at 127.0.0.1:{port}: ")
    assert len(done.stderr.splitlines()) == 1


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: None)
    done = CliRunner().invoke(group, ["app", "--host", "0.0.0.0"])
    assert done.exit_code == 1 and done.stdout == ""
    warning, error = done.stderr.splitlines()
    assert warning.startswith("warning: anybody who reaches 0.0.0.0 can use the page")
    assert error == "error: gradio is not installed; pip install 'bidiff-deploy[app]'"
