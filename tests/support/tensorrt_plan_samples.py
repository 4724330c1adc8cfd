"""Plans, sidecars and machines that tests make up."""

from __future__ import annotations

import dataclasses
import hashlib

from hypothesis import strategies as st

from bidiff_deploy.engines.tensorrt.profiles import Profile
from bidiff_deploy.engines.tensorrt.sidecar import RTX_VARIANTS, PlanInfo, PlanTarget
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


def target(**changed) -> PlanTarget:
    made = PlanTarget(tensorrt="10.3.0", gpu="Orin", architectures=(87,), driver="12.6",
                      plugin="a" * 64, layout=7, bundle="b" * 64, precision="float16")
    return dataclasses.replace(made, **changed)


def info(profile: Profile = STATIC, *, variant: str = "plugin", content: bytes = CONTENT,
         **changed) -> PlanInfo:
    """``content``: the plan's bytes; ``changed``: fields of PlanInfo or of its target."""
    tied = {field.name for field in dataclasses.fields(PlanTarget)} & changed.keys()
    built = target(**{name: changed.pop(name) for name in tied})
    if variant != "plugin":
        built = dataclasses.replace(built, plugin=None, layout=None)
    if variant in RTX_VARIANTS:
        built = dataclasses.replace(built, gpu=None, driver=None)
    made = PlanInfo(built, variant, profile, bytes=len(content),
                    sha256=hashlib.sha256(content).hexdigest(), opset=17, level=None,
                    workspace=None, seconds=1.5)
    return dataclasses.replace(made, **changed)
