"""Plans, sidecars and machines that tests make up."""

from __future__ import annotations

import dataclasses
import hashlib

from hypothesis import strategies as st

from bidiff_deploy.engines.tensorrt.profiles import Profile
from bidiff_deploy.engines.tensorrt.sidecar import RTX_VARIANTS, PlanInfo, PlanTarget
from support.seeds import examples

CONTENT = b"a plan"
STATIC = Profile(*[(1, 256, 256)] * 3)
RANGE = Profile((1, 64, 64), (1, 256, 256), (4, 512, 512))
SIDES = st.integers(1, 64).map(lambda number: 8 * number)
SHAPES = st.tuples(st.integers(1, 8), SIDES, SIDES)
REPEATABLE = examples(40)


def profiles() -> st.SearchStrategy[Profile]:
    """Three shapes in ascending order."""
    return st.tuples(*[st.lists(size, min_size=3, max_size=3).map(sorted)
                       for size in (st.integers(1, 8), SIDES, SIDES)]).map(
        lambda axes: Profile(*zip(*axes)))


def target(**changed) -> PlanTarget:
    return dataclasses.replace(PlanTarget("10.3.0", "Orin", (87,), "12.6", "a" * 64, 7, "b" * 64,
                                          "float16"), **changed)


def info(profile: Profile = STATIC, *, variant: str = "plugin", content: bytes = CONTENT,
         **changed) -> PlanInfo:
    """``content``: the plan's bytes; ``changed``: fields of PlanInfo or of its target."""
    tied = {field.name for field in dataclasses.fields(PlanTarget)} & changed.keys()
    without = {} if variant == "plugin" else {"plugin": None, "layout": None}
    without |= {"gpu": None, "driver": None} if variant in RTX_VARIANTS else {}
    built = target(**{name: changed.pop(name) for name in tied}, **without)
    return dataclasses.replace(PlanInfo(
        built, variant, profile, len(content), hashlib.sha256(content).hexdigest(), opset=17,
        level=None, workspace=None, seconds=1.5), **changed)
