"""Untrusted files, changed at random (seeded): read, or refused in one sentence."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.checkpoint.options import read_options
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.errors import BidiffError, BundleError, CheckpointError, ImageError
from bidiff_deploy.images.read import read_image
from support.seeds import examples

FIXTURES = [HealthCheck.function_scoped_fixture]
fuzz = examples(30, suppress_health_check=FIXTURES)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-2 ** 70, 2 ** 70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner,
                                                                max_size=3), max_leaves=6)


def change_somewhere(document, data):
    """Replace, remove or add a value at a random place of a JSON document."""
    place, keys = document, []
    while isinstance(place, (dict, list)) and place and (not keys or data.draw(st.booleans())):
        options = sorted(place) if isinstance(place, dict) else range(len(place))
        keys.append((place, data.draw(st.sampled_from(options))))
        place = place[keys[-1][1]]
    owner, key = keys[-1]
    if data.draw(st.integers(0, 3)) == 0:
        del owner[key]
    else:
        owner[key] = data.draw(values)


@fuzz
@given(st.data())
def test_manifests(reference, tmp_path, data):
    source = reference.bundle("tiny", [900, 400, 0])
    bundle = tmp_path / "b"
    if not bundle.exists():
        shutil.copytree(source, bundle)
    manifest = json.loads((source / "manifest.json").read_text())
    change_somewhere(manifest, data)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    try:
        found = open_bundle(bundle)
    except BundleError as error:
        assert "\n" not in str(error) and str(bundle) in str(error)
    else:
        assert found.timesteps and all((bundle / s.file).is_file() for s in found.steps)


@fuzz
@given(st.data())
def test_packed_checkpoints(reference, tmp_path, data):
    good = tmp_path / "good.safetensors"
    if not good.exists():
        write_packed(good, reference.read("tiny"))
    with safe_open(str(good), "numpy") as stream:
        header = json.loads(stream.metadata()["bidiff"])
        tensors = {key: stream.get_tensor(key) for key in stream.keys()}
    if data.draw(st.booleans()):
        change_somewhere(header, data)
    else:
        key = data.draw(st.sampled_from(sorted(tensors)))
        tensors[key] = data.draw(st.sampled_from([
            tensors[key].astype(np.float64), tensors[key].ravel()[:-1],
            tensors[key][None].copy(), tensors[key].astype(np.int8), np.zeros(0, np.float32),
            np.full_like(tensors[key].astype(np.float32), np.nan)]))
    bad = tmp_path / "bad.safetensors"
    save_file(tensors, bad, {"bidiff": json.dumps(header)})
    try:
        read_checkpoint(bad)
    except CheckpointError as error:
        assert "\n" not in str(error) and str(bad) in str(error)


@fuzz
@given(st.data())
def test_bytes_of_checkpoints(reference, tmp_path, data):
    """Cut anywhere, or with a few bytes changed in the header."""
    whole = bytearray(reference.checkpoint("tiny").read_bytes())
    if data.draw(st.booleans()):
        whole = whole[:data.draw(st.integers(0, len(whole) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            whole[data.draw(st.integers(0, 2000))] = data.draw(st.integers(0, 255))
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(whole)
    try:
        read_checkpoint(bad)
    except CheckpointError as error:
        assert "\n" not in str(error) and str(bad) in str(error)


@fuzz
@given(st.text(max_size=200) | st.dictionaries(
    st.sampled_from(["scale", "network_g", "beta_schedule", "x"]),
    values | st.dictionaries(st.sampled_from([
        "inner_channel", "channel_mults", "n_timestep", "linear_start", "schedule", "train"]),
        values, max_size=3), max_size=4).map(lambda d: json.dumps(d)))
def test_options_files(reference, tmp_path, text):
    path = tmp_path / "o.yml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        options = read_options(path)
        read_checkpoint(reference.checkpoint("tiny"), options)
    except BidiffError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "tiff"])
@examples(15, suppress_health_check=FIXTURES)
@given(data=st.data())
def test_images(tmp_path, form, data):
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    Image.fromarray(pixels).save(stream, form)
    whole = bytearray(stream.getvalue())
    if data.draw(st.booleans()):
        whole = whole[:data.draw(st.integers(0, len(whole) - 1))]
    for _ in range(data.draw(st.integers(0, 6))):
        if whole:
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"x.{form}"
    path.write_bytes(whole)
    try:
        found = read_image(path)
    except ImageError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert found.pixels.shape[:2] == (found.height, found.width)
