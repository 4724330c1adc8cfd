"""A bundle from a stranger: every way that it can be damaged or hostile is one sentence."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.cli import group
from bidiff_deploy.errors import BundleError


@pytest.fixture
def bundle(reference, tmp_path):
    copy = tmp_path / "model.bundle"
    shutil.copytree(reference.bundle("tiny", [900, 400, 0]), copy)
    return copy


def refused(bundle, match):
    with pytest.raises(BundleError, match=match) as caught:
        open_bundle(bundle)
    assert "\n" not in str(caught.value) and str(bundle) in str(caught.value)


def test_a_whole_bundle_opens(bundle):
    found = open_bundle(bundle)
    assert found.timesteps == (900, 400, 0)
    assert found.scale == 4 and found.config.dynamic_group == 3
    assert [step.group for step in found.steps] == [2, 1, 0]
    assert found.schedule.total_steps == 1000
    assert found.bytes == sum(f.stat().st_size for f in bundle.iterdir()
                              if f.name != "manifest.json")


@pytest.mark.parametrize("name", ["weights.bin", "step_0400.onnx"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_changed_byte_is_found(bundle, name, place):
    data = bytearray((bundle / name).read_bytes())
    data[place] ^= 1
    (bundle / name).write_bytes(data)
    refused(bundle, f"{name}.*SHA-256")


def test_missing_truncated_and_linked_files(bundle):
    step = bundle / "step_0400.onnx"
    data = step.read_bytes()
    step.unlink()
    refused(bundle, "step_0400.onnx is missing")
    step.write_bytes(data[:100])
    refused(bundle, "not the file that was exported")


def test_a_bundle_of_links_is_read_through_them(bundle):
    """As in the caches of Hugging Face, DVC and git-annex; hashes guard the content."""
    before = load_bundle(bundle, threads=1)
    blobs = bundle.parent / "blobs"
    blobs.mkdir()
    for file in list(bundle.iterdir()):
        file.rename(blobs / file.name)
        file.symlink_to(Path("..") / "blobs" / file.name)
    linked = bundle.parent / "linked.bundle"
    linked.symlink_to(bundle)
    inputs = np.ones((2, 1, 3, 16, 16), np.float32)
    for backend in ("onnxruntime", "onnxruntime-stock"):
        with load_bundle(linked, threads=1, backend=backend) as engine:
            np.testing.assert_allclose(engine.predict(*inputs, 400), before.predict(*inputs, 400),
                                       rtol=1e-2, atol=1e-2)
    assert CliRunner().invoke(group, ["inspect", str(linked)]).exit_code == 0
    data = bytearray((blobs / "weights.bin").read_bytes())
    data[70] ^= 1
    (blobs / "weights.bin").write_bytes(data)
    refused(bundle, "weights.bin.*SHA-256")


@pytest.mark.parametrize("name", ["weights.bin", "step_0400.onnx", "manifest.json"])
@pytest.mark.parametrize("kind, says", [
    ("absent", "a link to a file that is absent; fetch"), ("itself", "cannot be read|absent"),
    ("device", "is missing|it has no manifest"), ("pipe", "is missing|it has no manifest"),
    ("folder", "is missing|it has no manifest"), ("other", "SHA-256|is not the manifest")])
def test_links_to_other_things_are_refused(bundle, name, kind, says):
    """A link is followed to a regular file only: nothing blocks and nothing is without end."""
    target = {"absent": "nowhere", "itself": name, "device": "/dev/zero", "pipe": "pipe",
              "folder": ".", "other": "other.json"}[kind]
    os.mkfifo(bundle / "pipe")
    (bundle / "other.json").write_text("{}")
    (bundle / name).unlink()
    (bundle / name).symlink_to(target)
    refused(bundle, says)


@pytest.mark.parametrize("name", ["../weights.bin", "/etc/passwd", "a/b", "..", ".hidden", "",
                                  "C:\\x", "manifest.json", "x" * 200, 7, None])
@pytest.mark.parametrize("where", ["weights", "step", "files"])
def test_names_that_leave_the_folder_are_refused(bundle, edit_manifest, name, where):
    (bundle.parent / "weights.bin").write_bytes((bundle / "weights.bin").read_bytes())

    def change(manifest):
        if where == "weights":
            manifest["weights"] = name
        elif where == "step":
            manifest["steps"][0]["file"] = name
        else:
            manifest["files"][str(name)] = manifest["files"]["weights.bin"]
    edit_manifest(bundle, change)
    refused(bundle, "missing" if where == "files" and name in (7, None) else "not allowed")


@pytest.mark.parametrize("key", ["network", "scale", "schedule", "steps", "files", "weights",
                                 "step_initializers", "sampling", "precision", "bidiff_opset",
                                 "packing_version"])
def test_missing_or_garbled_entries(bundle, edit_manifest, key):
    original = (bundle / "manifest.json").read_text()
    for value in (None, "absent", 3.5, -1, "x", [], [7], {}, {"a": "b"}, True):
        (bundle / "manifest.json").write_text(original)
        if value == json.loads(original)[key] \
                or (key, value) == ("step_initializers", []):
            continue
        edit_manifest(bundle, (lambda m: m.pop(key)) if value is None
                      else (lambda m, value=value: m.update({key: value})))
        refused(bundle, ".")


def test_newer_versions_say_so(bundle, edit_manifest):
    for key in ("schema_version", "bidiff_opset", "packing_version"):
        original = (bundle / "manifest.json").read_text()
        edit_manifest(bundle, lambda m, key=key: m.update({key: 99}))
        refused(bundle, "newer")
        (bundle / "manifest.json").write_text(original)


def test_steps_must_descend_within_the_schedule(bundle, edit_manifest):
    original = (bundle / "manifest.json").read_text()
    for change in (lambda m: m["steps"].reverse(), lambda m: m["steps"].clear(),
                   lambda m: m["steps"][0].update(timestep=1000),
                   lambda m: m["steps"][-1].update(timestep=-1),
                   lambda m: m["steps"][0].update(timestep=True)):
        edit_manifest(bundle, change)
        refused(bundle, "steps|whole number")
        (bundle / "manifest.json").write_text(original)


def test_what_is_no_bundle(tmp_path):
    refused(tmp_path / "absent", "does not exist")
    refused(tmp_path, "not a bundle")
    (tmp_path / "manifest.json").write_text("")
    refused(tmp_path, "not valid JSON")
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    refused(tmp_path, "not valid JSON")
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    refused(tmp_path, "not valid JSON")
    (tmp_path / "manifest.json").write_text("[1]")
    refused(tmp_path, "not the manifest")
    (tmp_path / "manifest.json").write_text("{}")
    refused(tmp_path, "not the manifest")
    (tmp_path / "manifest.json").write_text(" " * (5 << 20))
    refused(tmp_path, "larger than")
