"""The repository for Triton as it is written: its configuration's text, its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from google.protobuf import descriptor_pb2
from google.protobuf import text_format as protobuf

from bidiff_deploy import BundleError, OutputError, UsageError
from bidiff_deploy.cli import group
from bidiff_deploy.serving import text_format, triton
from bidiff_deploy.serving.text_format import Name
from bidiff_deploy.serving.triton import Serving, config_text, export_repository


def test_texts_are_escaped():
    """Read back by the parser of that format; FileDescriptorProto has fields of each kind."""
    text = 'a"b\\c\n\t\x01é'
    fields = [("name", text), ("public_dependency", (1, -2)),
              ("message_type", [("name", "x"), ("reserved_name", text)]),
              ("options", [("java_multiple_files", True), ("optimize_for", Name("CODE_SIZE"))])]
    written = text_format.to_text(fields)
    found = protobuf.Parse(written, descriptor_pb2.FileDescriptorProto())
    assert written.isascii() and found.name == text and list(found.public_dependency) == [1, -2]
    assert list(found.message_type[0].reserved_name) == [text]
    assert found.options.java_multiple_files and found.options.optimize_for == 2
    with pytest.raises(TypeError, match="float"):
        text_format.to_text([("name", 1.5)])


def test_a_batch_of_one_is_not_waited_for():
    assert "dynamic_batching" in config_text(Serving("two", max_batch=2))
    assert "dynamic_batching" not in config_text(Serving("one", max_batch=1))


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


def test_the_repository_is_whole_or_absent(bundle, tmp_path, edit_manifest):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"a")
    with pytest.raises(OutputError, match="is not replaced"):
        export_repository(bundle, tmp_path / "photos", overwrite=True)
    export_repository(bundle, tmp_path / "repo")
    served = tmp_path / "repo" / "bidiff_x2" / "1" / "bundle"
    assert {path.name: path.read_bytes() for path in served.iterdir()} == {
        path.name: path.read_bytes() for path in bundle.iterdir()}
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
