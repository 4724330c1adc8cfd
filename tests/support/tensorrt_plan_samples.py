"""Plans, sidecars and machines that tests make up."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from hypothesis import strategies as st

from bidiff_deploy.engines.tensorrt.plans import Here, PlanInfo, Profile
from support.seeds import examples

CONTENT = b"a plan"
STATIC = Profile((1, 256, 256), (1, 256, 256), (1, 256, 256))
RANGE = Profile((1, 64, 64), (1, 256, 256), (4, 512, 512))
SIDES = st.integers(1, 64).map(lambda number: 8 * number)
SHAPES = st.tuples(st.integers(1, 8), SIDES, SIDES)
REPEATABLE = examples(60)


@st.composite
def profiles(draw) -> Profile:
    axes = [sorted(draw(st.lists(size, min_size=3, max_size=3)))
            for size in (st.integers(1, 8), SIDES, SIDES)]
    return Profile(*(tuple(axis[i] for axis in axes) for i in range(3)))


def info(profile: Profile = STATIC, **changed) -> PlanInfo:
    made = PlanInfo(
        tensorrt="10.3.0", gpu="Orin", architecture=87, driver="12.6", plugin="a" * 64, layout=7,
        bundle="b" * 64, variant="plugin", precision="float16", profile=profile,
        bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest(), opset=17, level=None,
        workspace=None, seconds=1.5)
    made = dataclasses.replace(made, **changed)
    if made.variant != "plugin":
        made = dataclasses.replace(made, plugin=None, layout=None)
    return made


def here(**changed) -> Here:
    made = Here(tensorrt="10.3.0", gpu="Orin", architecture=87, driver="12.6", plugin="a" * 64,
                layout=7, bundle="b" * 64, precision="float16", path=Path("my model.bundle"))
    return dataclasses.replace(made, **changed)
