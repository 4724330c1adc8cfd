"""tools/gpu_check: which forms of inputs are drawn, and the norm in float16 held to the CPU."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tools.checks.cuda_operators import OPERATORS, Call
from tools.gpu_check import parity, shapes

pytestmark = pytest.mark.usefixtures("on_stand_in")


def form(value: np.ndarray | None) -> str:
    return "absent" if value is None else "one" if value.size == 1 else "whole"


def test_every_form_of_an_input_is_drawn():
    found: dict[tuple[str, str], set[str]] = {}
    for case in shapes.random_cases(OPERATORS, 60, 0, 5):
        inputs = parity.make_inputs(case)
        for name in ("residual", "time", "skip"):
            found.setdefault((case.operator, name), set()).add(form(getattr(inputs, name)))
        for branch in inputs.branches:
            for name in ("threshold", "rprelu"):
                there = "absent" if getattr(branch, name) is None else "there"
                found.setdefault((case.operator, name), set()).add(there)
        if inputs.skip is not None and inputs.skip.size == 1:
            assert not inputs.skip.any()
    every = {"whole", "one", "absent"}
    assert found["BinaryConv", "residual"] == found["BinaryConv", "time"] == every
    assert found["NormBinaryConv", "skip"] == found["NormBinaryConv", "time"] == every
    for operator in set(OPERATORS) - {"GroupNormSwish"}:
        assert found[operator, "threshold"] == found[operator, "rprelu"] == {"there", "absent"}


def half_case(seed: int, **changed: int) -> shapes.Case:
    given = {"batch": 2, "channels": 32, "out_channels": 32, "k": 3, "height": 6, "width": 5,
             "groups": 8, "seed": seed, **changed}
    return shapes.Case("NormBinaryConv", "float16", **given)


@pytest.mark.parametrize("changed", [{}, {"k": 1}, {"channels": 7, "out_channels": 7, "groups": 1}])
def test_the_norm_in_float16_is_held_to_the_cpu(gpu, changed):
    signs: Counter[str] = Counter()
    for seed in range(4):
        failures, runs = parity.check_case(gpu, half_case(seed, **changed), signs)
        assert failures == [] and runs == len(gpu.paths)
    # Few signs are left open, so that the rest is really held.
    assert signs["signs"] > 0 and signs["uncertain"] <= 0.001 * signs["signs"]


def test_a_wrong_norm_in_float16_is_found(gpu, monkeypatch):
    """By all paths alike, in one element; and one bit of a weight."""
    right = Call.run

    def off(call, path="auto"):
        y = right(call, path)
        y.reshape(-1)[7] += np.float16(0.02) * max(1, abs(y.reshape(-1)[7]))
        return y
    monkeypatch.setattr(Call, "run", off)
    failures, _ = parity.check_case(gpu, half_case(1))
    assert len(failures) == 1 and "1 of 1920 differ by more than the uncertain signs" in failures[0]
    monkeypatch.setattr(Call, "run", right)
    case = half_case(2)
    made = parity.make_inputs(case)
    y = gpu.call("NormBinaryConv", made.x, made.branches, skip=made.skip, time=made.time,
                 scale=made.scale, bias=made.bias, groups=case.groups).run()
    assert parity._beyond_norm("it", y, made, case.groups, Counter()) == []
    made.branches[0].words[0, 1, 1, 0] ^= 1
    told, = parity._beyond_norm("it", y, made, case.groups, Counter())
    assert told.startswith("it: ")
