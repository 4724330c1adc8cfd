"""Sidecars of TensorRT plans: what is written comes back, and no other file is believed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy.engines.tensorrt import sidecar as tensorrt_sidecar
from bidiff_deploy.errors import EngineError
from support.tensorrt_plan_samples import REPEATABLE, info, profiles


@given(profiles(), st.sampled_from(tensorrt_sidecar.VARIANTS),
       st.sampled_from(tensorrt_sidecar.PRECISIONS), st.integers(1, 1 << 40),
       st.floats(0, 1e6), st.one_of(st.none(), st.integers(0, 5)))
@REPEATABLE
def test_a_sidecar_comes_back_as_it_was_written(profile, variant, precision, size, seconds, level):
    made = info(profile, variant=variant, precision=precision, bytes=size, seconds=seconds,
                level=level)
    assert tensorrt_sidecar.parse(json.dumps(made.to_dict()).encode(), "x") == made


@pytest.mark.parametrize("version", ["8.5.3.1", "8.6.1.post1", "9.3.0.post12.dev1", "10.3.0"])
def test_versions_as_wheels_have_them(version):
    made = info(tensorrt=version)
    assert tensorrt_sidecar.parse(json.dumps(made.to_dict()).encode(), "x") == made


DAMAGES = {
    "missing key": lambda found: found.pop("gpu"),
    "missing profile": lambda found: found.pop("profile"),
    "unknown key": lambda found: found.update(path="../../etc/passwd"),
    "another format": lambda found: found.update(format="bidiff-bundle"),
    "older version": lambda found: found.update(version=1),
    "version as text": lambda found: found.update(version="1"),
    "version true": lambda found: found.update(version=True),
    "GPU a number": lambda found: found.update(gpu=87),
    "GPU with a line break": lambda found: found.update(gpu="a\nb"),
    "GPU of a megabyte": lambda found: found.update(gpu="a" * 60_000),
    "GPU of an RTX plan": lambda found: found.update(variant="rtx", plugin=None, layout=None),
    "no GPU of a plan of one": lambda found: found.update(gpu=None),
    "architecture a number": lambda found: found.update(architectures=87),
    "architecture as text": lambda found: found.update(architectures=["87"]),
    "architecture true": lambda found: found.update(architectures=[True]),
    "no architecture": lambda found: found.update(architectures=[]),
    "a thousand architectures": lambda found: found.update(architectures=[87] * 1000),
    "driver no version": lambda found: found.update(driver="twelve"),
    "TensorRT no version": lambda found: found.update(tensorrt="10.3.0; rm -rf ~"),
    "digest too short": lambda found: found.update(bundle="b" * 63),
    "digest upper case": lambda found: found.update(sha256="A" * 64),
    "plugin without layout": lambda found: found.update(layout=None),
    "plugin of a dense plan": lambda found: found.update(variant="dense"),
    "no plugin of a plugin plan": lambda found: found.update(plugin=None, layout=None),
    "variant with a path": lambda found: found.update(variant="../plugin"),
    "precision": lambda found: found.update(precision="float64"),
    "no bytes": lambda found: found.update(bytes=0),
    "more bytes than memory": lambda found: found.update(bytes=1 << 60),
    "bytes a fraction": lambda found: found.update(bytes=1.5),
    "negative seconds": lambda found: found.update(seconds=-1),
    "endless seconds": lambda found: found.update(seconds=1e300),
    "opset": lambda found: found.update(opset=None),
    "profile a list": lambda found: found.update(profile=[1, 2, 3]),
    "profile without optimum": lambda found: found["profile"].pop("optimum"),
    "profile of two numbers": lambda found: found["profile"].update(minimum=[256, 256]),
    "profile of a huge image": lambda found: found["profile"].update(maximum=[1, 1 << 20, 8]),
    "profile of no image": lambda found: found["profile"].update(minimum=[0, 8, 8]),
    "profile out of order": lambda found: found["profile"].update(optimum=[1, 512, 512]),
    "profile of fractions": lambda found: found["profile"].update(maximum=[1, 256.0, 256]),
    "profile with a flag": lambda found: found["profile"].update(minimum=[True, 256, 256]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_sidecar_is_refused_in_one_sentence(damage, tmp_path):
    found = info().to_dict()
    found["profile"] = {key: list(shape) for key, shape in found["profile"].items()}
    found["architectures"] = list(found["architectures"])
    DAMAGES[damage](found)
    with pytest.raises(EngineError) as error:
        tensorrt_sidecar.parse(json.dumps(found).encode(), "x.json")
    assert str(error.value).startswith("x.json ") and len(str(error.value)) < 300


@pytest.mark.parametrize("text", [
    b"", b"{", b"[]", b"null", b'"plan"', b"\xff\xfe", b"[" * 60_000,
    json.dumps(info().to_dict()).replace("1.5", "NaN").encode(),
    json.dumps(info().to_dict()).replace("1.5", "-Infinity").encode(),
    json.dumps(info().to_dict()).replace("87", "9" * 5000).encode()])
def test_what_is_no_sidecar_is_refused(text):
    with pytest.raises(EngineError):
        tensorrt_sidecar.parse(text, "x.json")
