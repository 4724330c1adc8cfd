"""A page of ``report``, made once for all tests, and what is asked of any page."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from bidiff_deploy.cli import group
from bidiff_deploy.doctor import examine as doctor
from bidiff_deploy.engines import library
from support.forked_measurements import forked_measurements
from support.shared import Shared

needs_library = pytest.mark.skipif(library.library_path() is None, reason="no op library")
needs_check = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "polygraphy")),
    reason="torch or polygraphy is not installed")


class Page(HTMLParser):
    """Elements as (tag, attributes), text, and whether what opens closes."""

    VOID = {"img", "input", "meta", "br", "link"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text.append(data)

    @property
    def structure(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(tag, tuple(attributes)) for tag, attributes in self.elements]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def check_self_contained(text: str) -> Page:
    """One policy, one style and one script with the policy's hashes, and no address at all."""
    page = Page(text)
    (policy,) = [meta["content"] for meta in page.all("meta")
                 if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for tag in ("style", "script"):
        (body,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
        assert "url(" not in body and "@import" not in body and "http" not in body
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "audio", "video")
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("style", "srcset", "action")
            if name == "src":
                assert value.startswith("data:image/")
            if name in ("href", "xlink:href"):
                assert value.startswith("#") and value[1:] in page.ids()
    assert len(page.ids()) == len(set(page.ids()))
    for image in page.all("img"):
        assert image["alt"] and int(image["width"]) and int(image["height"])
    for label in page.all("svg"):
        assert label.get("aria-hidden") or label.get("aria-label") or not label.get("role")
    return page


def run(*arguments) -> tuple[int, str, str]:
    result = CliRunner().invoke(group, ["report", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def picture(path: Path, height: int, width: int, seed: int = 0) -> Path:
    """Smooth colours with a bright square, so that scores are finite and a detail exists."""
    rows, across = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * rows / height, 255 * across / width,
                       128 + 100 * np.sin(rows / 5 + seed)], -1)
    pixels[height // 3:height // 2, width // 3:width // 2] = 240
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def examination(shared: Shared) -> dict:
    """What `doctor --json` reports of this machine, which takes seconds."""
    def make(path: Path) -> None:
        done = subprocess.run([sys.executable, "-m", "bidiff_deploy", "doctor", "--json"],
                              text=True, capture_output=True)
        assert done.returncode == 0, done.stderr  # the tests need a backend as well
        path.write_text(done.stdout)

    return json.loads(shared("machine.json", make).read_text())


@contextmanager
def one_examination(shared: Shared) -> Iterator[None]:
    """Inside, the machine is what one examination found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "examine", lambda: examination(shared))
        yield


@pytest.fixture(scope="session")
def report_page(reference, shared) -> tuple[Path, dict]:
    """A page with every section, and the data behind it."""
    def make(folder: Path) -> None:
        truths = folder / "photos"
        truths.mkdir(parents=True)
        picture(truths / "first.png", 98, 131)
        picture(truths / "second.png", 64, 64, 2)
        with one_examination(shared), forked_measurements():
            code, out, err = run(
                reference.bundle("tiny", [999, 400, 0]), reference.checkpoint("tiny"), "--options",
                reference.options("tiny"), "--truth", truths, "-o", folder / "report.html",
                "--size", "16x16", "--bench", "--rounds", 1, "--against", "onnxruntime,openvino",
                "--threads", 1, "--json")
        assert code == 0, err
        (folder / "report.json").write_text(out)

    folder = shared("page", make)
    return folder / "report.html", json.loads((folder / "report.json").read_text())
