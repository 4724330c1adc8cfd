"""Sidecars of TensorRT plans: what is written comes back, and no other file is believed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy.engines.tensorrt import sidecar as tensorrt_sidecar
from bidiff_deploy.errors import EngineError
from support.tensorrt_building import REPEATABLE, info, profiles


@given(profiles(), st.sampled_from(tensorrt_sidecar.VARIANTS),
       st.sampled_from(tensorrt_sidecar.PRECISIONS), st.integers(1, 1 << 40),
       st.floats(0, 1e6), st.one_of(st.none(), st.integers(0, 5)),
       st.sampled_from(["8.5.3.1", "8.6.1.post1", "9.3.0.post12.dev1", "10.3.0"]))
@REPEATABLE
def test_a_sidecar_comes_back_as_it_was_written(profile, variant, precision, size, seconds, level,
                                                version):
    made = info(profile, variant=variant, precision=precision, bytes=size, seconds=seconds,
                level=level, tensorrt=version)
    assert tensorrt_sidecar.parse(json.dumps(made.to_dict()).encode(), "x") == made


DAMAGES = [
    *({name: value} for name, values in {
        "path": ["../../etc/passwd"], "format": ["bidiff-bundle"], "version": [1, "1", True],
        # a number, a line break, a megabyte, and none of a plan that has one
        "gpu": [87, "a\nb", "a" * 60_000, None],
        "architectures": [87, ["87"], [True], [], [87] * 1000], "driver": ["twelve"],
        "tensorrt": ["10.3.0; rm -rf ~"], "bundle": ["b" * 63], "sha256": ["A" * 64],
        "layout": [None], "variant": ["dense", "../plugin"], "precision": ["float64"],
        "bytes": [0, 1 << 60, 1.5], "seconds": [-1, 1e300], "opset": [None],
        "profile": [[1, 2, 3]]}.items() for value in values),
    {"variant": "rtx", "plugin": None, "layout": None},  # with a GPU
    {"plugin": None, "layout": None},  # of a plugin plan
]
PROFILES = [  # two numbers, a huge image, no image, out of order, fractions, a flag
    {"minimum": [256, 256]}, {"maximum": [1, 1 << 20, 8]}, {"minimum": [0, 8, 8]},
    {"optimum": [1, 512, 512]}, {"maximum": [1, 256.0, 256]}, {"minimum": [True, 256, 256]}]


def test_a_damaged_sidecar_is_refused_in_one_sentence():
    whole = json.loads(json.dumps(info().to_dict()))
    damaged = [{**whole, **change} for change in DAMAGES]
    damaged += [{**whole, "profile": {**whole["profile"], **change}} for change in PROFILES]
    damaged += [{key: value for key, value in whole.items() if key != gone}
                for gone in ("gpu", "profile")]
    damaged.append({**whole, "profile": {"minimum": [1, 8, 8], "maximum": [1, 8, 8]}})
    text = json.dumps(whole)
    tensorrt_sidecar.parse(text.encode(), "x.json")
    for found in (b"", b"{", b"[]", b"null", b'"plan"', b"\xff\xfe", b"[" * 60_000,
                  *(text.replace(*change).encode() for change in (
                      ("1.5", "NaN"), ("1.5", "-Infinity"), ("87", "9" * 5000))),
                  *(json.dumps(one).encode() for one in damaged)):
        with pytest.raises(EngineError) as error:
            tensorrt_sidecar.parse(found, "x.json")
        assert str(error.value).startswith("x.json ") and len(str(error.value)) < 300
