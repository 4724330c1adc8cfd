"""client.py of the exported repository, against NVIDIA Triton's own server."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from bidiff_deploy import load_bundle
from bidiff_deploy.serving.triton import export_repository
from support.served import export, load_client, picture
from tools.triton_server import TritonServer

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def bundle(shared):
    return shared("diffusion-x2-served.bundle", lambda path: export("diffusion-x2", path))


@pytest.fixture(scope="module")
def repository(bundle, tmp_path_factory):
    path = tmp_path_factory.mktemp("client") / "repository"
    export_repository(bundle, path, threads=1, max_pixels=8192)
    return path


@pytest.fixture(scope="module")
def url(repository, interpreter, tmp_path_factory):
    with TritonServer([repository], interpreter,
                      tmp_path_factory.mktemp("server") / "triton") as running:
        yield running.url


@pytest.fixture(scope="module")
def client(repository):
    return load_client(repository)


def test_it_upscales_a_file(client, url, bundle, tmp_path, capsys):
    pixels = picture(20, 30)[0]
    Image.fromarray(pixels).save(tmp_path / "in.png")
    with load_bundle(bundle, threads=1) as engine:
        for name, more, options in (("a.png", [], {}), ("b.png", ["--seed", "4"], {"seed": 4}),
                                    ("c.png", ["--steps", "1"], {"steps": 1})):
            assert client.main([str(tmp_path / "in.png"), str(tmp_path / name), "--url", url,
                                *more]) == 0
            found = np.asarray(Image.open(tmp_path / name))
            np.testing.assert_array_equal(found, engine.upscale(pixels, **options))
    assert "60x40" in capsys.readouterr().out


def test_its_errors_are_one_line(client, url, tmp_path, capsys, monkeypatch):
    source, target = str(tmp_path / "in.png"), str(tmp_path / "out.png")
    Image.fromarray(picture(100, 100)[0]).save(source)
    (tmp_path / "notes.txt").write_text("no image")
    small = str(tmp_path / "small.png")
    Image.fromarray(picture(8, 8)[0]).save(small)
    cases = [([source, target], "refused the request: input `image` has 100x100 pixels"),
             ([small, target, "--steps", "99"], "refused the request: steps is 99"),
             ([small, target, "--url", "127.0.0.1:1"], "127.0.0.1:1 cannot be reached"),
             ([small, target, "--url", f"http://{url}"], "without http://"),
             ([small, target, "--model", "other"], "model 'other' is not ready on the server"),
             ([small, small], "already exists"),
             ([str(tmp_path / "missing.png"), target], "No such file"),
             ([str(tmp_path / "notes.txt"), target], "not an image that Pillow can read"),
             ([small, str(tmp_path / "no" / "out.png")], "cannot be written"),
             ([small, str(tmp_path / "out.abc")], "cannot be written")]
    for arguments, words in cases:
        assert client.main(["--url", url, *arguments]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]
    monkeypatch.setitem(sys.modules, "tritonclient.http", None)
    assert client.main([small, target]) == 1
    assert "pip install 'tritonclient[http]'" in capsys.readouterr().err
