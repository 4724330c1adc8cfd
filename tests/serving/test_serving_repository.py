"""The repository for Triton as it is written: its configuration's text, its files, its client."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from bidiff_deploy import BundleError, OutputError, UsageError
from bidiff_deploy.cli import group
from bidiff_deploy.serving import text_format, triton
from bidiff_deploy.serving.triton import Serving, config_text, export_repository
from stand_ins import triton as stand_in
from support.serving_setup import parse, picture


def test_the_configuration_is_what_triton_reads():
    config = parse(config_text(Serving("photos", instances=2, max_batch=6, queue_delay_us=700,
                                       threads=3, memory=1 << 30)))
    assert (config.name, config.backend, config.max_batch_size) == ("photos", "python", 6)
    image, seed, steps = config.input
    assert (image.name, image.data_type, list(image.dims)) == ("image", 2, [-1, -1, 3])
    assert not image.optional
    for one, name in ((seed, "seed"), (steps, "steps")):
        assert (one.name, one.data_type, list(one.dims), one.optional) == (name, 9, [1], True)
    [output] = config.output
    assert (output.name, output.data_type, list(output.dims)) == ("image", 2, [-1, -1, 3])
    [instances] = config.instance_group
    assert (instances.kind, instances.count) == (2, 2)
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 700
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "threads": "3", "backend": "onnxruntime", "tile": "auto", "memory": str(1 << 30),
        "max_pixels": str(1 << 20)}


def test_a_batch_of_one_is_not_waited_for():
    config = parse(config_text(Serving("one", max_batch=1)))
    assert config.max_batch_size == 1 and not config.HasField("dynamic_batching")


def test_text_is_escaped():
    text = 'a"b\\c\n\t\x01é'
    fields = [("name", text), ("input", [("optional", True), ("dims", (1, -2))])]
    config = parse(text_format.to_text(fields))
    assert config.name == text and list(config.input[0].dims) == [1, -2]
    assert text_format.to_text(fields).isascii()
    with pytest.raises(TypeError, match="float"):
        text_format.to_text([("name", 1.5)])


@pytest.mark.parametrize(("options", "match"), [
    ({"name": "../up"}, "cannot be the name of a model"),
    ({"name": ""}, "cannot be the name of a model"),
    ({"instances": 0}, "--instances is 0; it must be a whole number, from 1 to 1024"),
    ({"max_batch": 0}, "--max-batch is 0"), ({"queue_delay_us": -1}, "--queue-delay-us is -1"),
    ({"threads": 0}, "--threads is 0"), ({"max_pixels": 0}, "--max-pixels is 0"),
    ({"memory": 0}, "--memory is 0"), ({"tile": "big"}, "--tile 'big'"),
    ({"tile": "²"}, "--tile"), ({"backend": "abacus"}, "--backend 'abacus' is not known")])
def test_options_out_of_range(options, match):
    with pytest.raises(UsageError, match=match):
        Serving(**{"name": "good", **options})


def test_the_repository_is_whole_or_absent(bundle, repository, tmp_path, edit_manifest):
    served = repository / "bidiff_x2" / "1" / "bundle"
    assert {path.name: path.read_bytes() for path in served.iterdir()} == {
        path.name: path.read_bytes() for path in bundle.iterdir()}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"a")
    with pytest.raises(OutputError, match="is not replaced"):
        export_repository(bundle, tmp_path / "photos", overwrite=True)
    export_repository(bundle, tmp_path / "repo")
    with pytest.raises(OutputError, match="already exists"):
        export_repository(bundle, tmp_path / "repo")
    export_repository(bundle, tmp_path / "repo", overwrite=True, name="other")
    assert not (tmp_path / "repo" / "bidiff_x2").exists()
    edit_manifest(tmp_path / "repo" / "other" / "1" / "bundle",
                  lambda manifest: manifest["files"]["weights.bin"].update(sha256="0" * 64))
    with pytest.raises(BundleError, match="is not the file that was exported"):
        export_repository(tmp_path / "repo" / "other" / "1" / "bundle", tmp_path / "again")
    with pytest.raises(UsageError, match="tile is 63"):
        export_repository(bundle, tmp_path / "again", tile="63")
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "repo"}


def test_a_file_changed_while_it_is_copied_is_noticed(bundle, tmp_path, monkeypatch):
    def spoiling(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:-1] + b"?")

    monkeypatch.setattr(triton.shutil, "copyfile", spoiling)
    with pytest.raises(BundleError):
        export_repository(bundle, tmp_path / "repo")
    assert not list(tmp_path.iterdir())


def test_the_command(bundle, tmp_path):
    run = CliRunner().invoke
    target = tmp_path / "repo"
    done = run(group, ["export-triton", str(bundle), "-o", str(target), "--name", "night",
                       "--instances", "3", "--memory", "1GiB", "--tile", "NONE"])
    assert done.exit_code == 0 and "model night" in done.output
    for path in target.rglob("*"):
        if path.is_file() and path.suffix != ".bin" and path.suffix != ".onnx":
            assert "@" not in path.read_text().replace("@dataclass", ""), path
    assert "# Model `night`" in (target / "README.md").read_text()
    failed = run(group, ["export-triton", str(bundle), "-o", str(target)])
    assert failed.exit_code == 1 and "already exists" in failed.output
    done = run(group, ["export-triton", str(bundle), "-o", str(target), "--overwrite", "--json"])
    assert json.loads(done.output) == {
        "repository": str(target), "name": "bidiff_x2", "instances": 1, "max_batch": 4,
        "queue_delay_us": 500, "threads": None, "backend": "onnxruntime", "tile": "auto",
        "memory": None, "max_pixels": 1 << 20}


@pytest.fixture
def client(repository, server, monkeypatch):
    """client.py sends requests to the stand-in of a server."""
    stand_in.client_modules(server.model.execute, "bidiff_x2", monkeypatch)
    spec = importlib.util.spec_from_file_location("served_client", repository / "client.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_client_upscales_a_file(client, tmp_path, alone, capsys):
    pixels = picture(20, 30)[0]
    Image.fromarray(pixels).save(tmp_path / "in.png")
    for name, more, options in (("a.png", [], {}), ("b.png", ["--seed", "4"], {"seed": 4}),
                                ("c.png", ["--steps", "1"], {"steps": 1})):
        assert client.main([str(tmp_path / "in.png"), str(tmp_path / name), *more]) == 0
        found = np.asarray(Image.open(tmp_path / name))
        np.testing.assert_array_equal(found, alone(pixels, **options))
    assert "60x40" in capsys.readouterr().out


def test_the_clients_errors_are_one_line(client, tmp_path, capsys, monkeypatch):
    source, target = str(tmp_path / "in.png"), str(tmp_path / "out.png")
    Image.fromarray(picture(100, 100)[0]).save(source)
    (tmp_path / "notes.txt").write_text("no image")
    small = str(tmp_path / "small.png")
    Image.fromarray(picture(8, 8)[0]).save(small)
    cases = [([source, target], "refused the request: input `image` has 100x100 pixels"),
             ([small, target, "--steps", "99"], "refused the request: steps is 99"),
             ([small, target, "--url", "nowhere:1"], "nowhere:1 cannot be reached"),
             ([small, target, "--url", "http://localhost:8000"], "without http://"),
             ([small, target, "--model", "other"], "model 'other' is not ready on the server"),
             ([small, small], "already exists"),
             ([str(tmp_path / "missing.png"), target], "No such file"),
             ([str(tmp_path / "notes.txt"), target], "not an image that Pillow can read"),
             ([small, str(tmp_path / "no" / "out.png")], "cannot be written"),
             ([small, str(tmp_path / "out.abc")], "cannot be written")]
    for arguments, words in cases:
        assert client.main(arguments) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    monkeypatch.setitem(sys.modules, "tritonclient.http", None)
    assert client.main([small, target]) == 1
    assert "pip install 'tritonclient[http]'" in capsys.readouterr().err
