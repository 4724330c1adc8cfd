"""Compares every path of every operator with the CPU's kernels: integers and rounded floats must be
equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bidiff_deploy.engines import library
from bidiff_deploy.errors import EngineError
from tools.checks.cuda_operators import OPERATORS, Branch, Gpu

from .shapes import Case, random_cases

# GroupNorm's sums are taken in another order than numpy's in float64, and n * sigmoid(n) has an
# error of a few units in the last place of values up to about 6.
NORM_TOLERANCE = 2e-5


@dataclass
class Inputs:
    """Arrays of a case, and its at most two branches."""

    x: np.ndarray
    branches: list[Branch]
    second: np.ndarray | None = None
    skip: np.ndarray | None = None
    residual: np.ndarray | None = None
    time: np.ndarray | None = None
    scale: np.ndarray | None = None
    bias: np.ndarray | None = None


def check(gpu: Gpu, *, cases: int, seed: int, largest: int,
          progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Run ``cases`` random problems of each operator by every path of the GPU.

    Returns:
        cases, runs: numbers; failures: sentences that name case and path, from which each can be
        replayed; paths. signs: for NormBinaryConv in float16, the number of signs in all cases, of
        those too near 0 for the CPU to predict (``uncertain``), and of elements of y that differ
        by more than rounding, which only uncertain signs allow (``reached``).
    """
    failures: list[str] = []
    signs: Counter[str] = Counter(signs=0, uncertain=0, reached=0)
    all_cases = random_cases(OPERATORS, cases, seed, largest)
    runs = 0
    for number, case in enumerate(all_cases):
        failed, tried = check_case(gpu, case, signs)
        failures += failed
        runs += tried
        gpu.close()
        if progress is not None:
            progress(number + 1, len(all_cases))
    return {"cases": len(all_cases), "runs": runs, "paths": list(gpu.paths), "failures": failures,
            "signs": dict(signs)}


def check_case(gpu: Gpu, case: Case, signs: Counter[str] | None = None) -> tuple[list[str], int]:
    """A sentence for each difference, and the number of runs; adds to the counts of ``signs``."""
    inputs = make_inputs(case)
    failures = []
    runs = 0
    paths: Sequence[str] = gpu.paths if inputs.branches else ("auto",)
    if case.operator == "BinaryConv":
        # As floats exactly: the sums are far below 2**24.
        one = np.ones(case.out_channels, np.float32)
        bare = gpu.call("BinaryConv", inputs.x, [Branch(inputs.branches[0].words, one,
                                                        inputs.branches[0].threshold)])
        sums = library.binary_conv_sums(inputs.x.astype(np.float32), inputs.branches[0].words,
                                        inputs.branches[0].threshold)
        for path in paths:
            runs += 1
            failures += _differ(f"{case.name}, sums by {path}", bare.run(path),
                                sums.astype(inputs.x.dtype))
    call = gpu.call(case.operator, inputs.x, inputs.branches, second=inputs.second,
                    residual=inputs.residual, skip=inputs.skip, time=inputs.time,
                    scale=inputs.scale, bias=inputs.bias, groups=case.groups)
    expected = _expected(gpu, case, inputs)
    for path in paths:
        runs += 1
        found = call.run(path)
        if expected is None:  # of float16 the norm is not known to the bit
            failures += _beyond_norm(f"{case.name} by {path}", found, inputs, case.groups,
                                     Counter() if signs is None else signs)
            expected = found  # and the other paths agree to the bit
        tolerance = NORM_TOLERANCE if case.operator == "GroupNormSwish" else 0.0
        failures += _differ(f"{case.name} by {path}", found, expected, tolerance)
    return failures, runs


def make_inputs(case: Case) -> Inputs:
    """Arrays of a case, with ties at the threshold, -0.0 and NaN, and garbage in padding bits.
    Optional inputs are there or not, as maps or vectors or as one element."""
    random = np.random.default_rng(case.seed)
    dtype = np.dtype(case.dtype)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    norm = case.operator in ("NormBinaryConv", "GroupNormSwish")
    in_channels = case.channels // 2 if case.operator == "BinaryDown" else case.channels
    out_channels = case.out_channels if case.operator == "BinaryConv" else in_channels
    shape = (case.batch, case.channels, case.height, case.width)

    def branch() -> Branch:
        words = random.integers(-2**31, 2**31, (out_channels, case.k, case.k,
                                                -(-in_channels // 32))).astype(np.int32)
        threshold = np.round(normal(in_channels), 1).astype(np.float16).astype(np.float32)
        rprelu = normal(3, out_channels)
        return Branch(words, normal(out_channels), threshold if form() < 2 else None,
                      rprelu if form() < 2 else None)

    def form() -> int:
        """0 or 1: whole; 2: one element, where that is allowed; 3: absent."""
        return int(random.integers(4))

    def optional(whole: np.ndarray, one: float) -> np.ndarray | None:
        return (whole, whole, np.full(1, one, whole.dtype), None)[form()]

    count = {"GroupNormSwish": 0, "BinaryConv": 1, "NormBinaryConv": 1}.get(case.operator, 2)
    inputs = Inputs(normal(*shape), [branch() for _ in range(count)])
    if not norm:
        odd = random.random(shape)
        threshold = inputs.branches[0].threshold
        ties = np.resize(np.zeros(1, np.float32) if threshold is None else -threshold,
                         case.channels)[:, None, None]
        inputs.x = np.where(odd < 0.1, ties, inputs.x)
        for low, value in ((0.10, -0.0), (0.13, 0.0), (0.16, np.nan)):
            inputs.x[(odd >= low) & (odd < low + 0.02)] = value
        if case.operator != "BinaryConv":  # whose residual is another map: NaN would hide sums
            inputs.x = np.nan_to_num(inputs.x)
    inputs.x = inputs.x.astype(dtype)
    if case.operator == "BinaryFusion":
        inputs.second = normal(*shape).astype(dtype)
    if case.operator == "BinaryConv":
        inputs.residual = optional(
            normal(case.batch, out_channels, case.height, case.width).astype(dtype), 1.25)
    if case.operator == "NormBinaryConv":
        inputs.skip = optional(normal(*shape).astype(dtype), 0.0)
        if inputs.skip is not None and inputs.skip.size == 1:
            inputs.skip[:] = 0  # of one element, by the contract
    if case.operator in ("BinaryConv", "NormBinaryConv"):
        inputs.time = optional(normal(out_channels), -0.75)
    if norm:
        inputs.scale, inputs.bias = normal(case.channels), normal(case.channels)
    return inputs


def _expected(gpu: Gpu, case: Case, inputs: Inputs) -> np.ndarray | None:
    """The result of the CPU's kernels, in float32, rounded once to the case's type."""
    x = inputs.x.astype(np.float32)
    match case.operator:
        case "BinaryConv":
            y = _conv(x, inputs.branches[0], inputs.residual, inputs.time)
        case "BinaryFusion":
            skip = inputs.second.astype(np.float32)
            first = np.concatenate([x[:, 1::2], skip[:, 0::2]], axis=1)
            second = np.concatenate([x[:, 0::2], skip[:, 1::2]], axis=1)
            y = _conv(first, inputs.branches[0], first) + _conv(second, inputs.branches[1], second)
        case "BinaryDown":
            halves = np.split(x, 2, axis=1)
            y = _unshuffled(sum(_conv(half, branch, half)
                                for half, branch in zip(halves, inputs.branches)))
        case "BinaryUp":
            y = _shuffled(np.concatenate([_conv(x, branch, x) for branch in inputs.branches],
                                         axis=1))
        case "GroupNormSwish":
            return group_norm_swish(x, inputs.scale, inputs.bias, case.groups)
        case "NormBinaryConv":
            if case.dtype != "float32":
                return None
            # From the GPU's own norm, because its last bit may flip a sign.
            h = gpu.call("GroupNormSwish", x, scale=inputs.scale, bias=inputs.bias,
                         groups=case.groups).run()
            y = _conv(h, inputs.branches[0], h, inputs.time)
            if inputs.skip is not None:
                y = y + inputs.skip
        case _:
            raise EngineError(f"{case.operator} has no oracle")
    return y.astype(inputs.x.dtype)


def _beyond_norm(name: str, found: np.ndarray, inputs: Inputs, groups: int,
                 signs: Counter[str]) -> list[str]:
    """Compare a float16 NormBinaryConv with the CPU's, whose norm may differ in the last bits.

    The CPU's h is within NORM_TOLERANCE of the GPU's, so only signs of h + threshold that are this
    near 0 may flip. Each changes the sums of its window by 2: there y may differ accordingly,
    elsewhere by one rounding to float16.
    """
    branch, (_, _, height, width) = inputs.branches[0], inputs.x.shape
    h = group_norm_swish(inputs.x.astype(np.float32), inputs.scale, inputs.bias,
                         groups).astype(np.float32)
    y = _conv(h, branch, h, inputs.time).astype(np.float64)
    if inputs.skip is not None:
        y = y + inputs.skip
    threshold = 0.0 if branch.threshold is None else branch.threshold[:, None, None]
    uncertain = np.abs(h + threshold) <= NORM_TOLERANCE * np.maximum(1, np.abs(h))
    edge = branch.words.shape[1] // 2
    padded = np.pad(uncertain.sum(1), ((0, 0), (edge, edge), (edge, edge)))
    windows = sum(padded[:, row:row + height, column:column + width]
                  for row in range(2 * edge + 1) for column in range(2 * edge + 1))
    steepest = np.abs(branch.alpha)
    if branch.rprelu is not None:
        steepest = steepest * np.maximum(1, np.abs(branch.rprelu[1]))
    flips = 2 * windows[:, None] * steepest[:, None, None]
    error = np.abs(found.astype(np.float64) - y)
    rounding = 2.0 ** -10 * np.maximum(1, np.abs(y))  # once, to 11 bits, either way
    signs.update(signs=h.size, uncertain=int(uncertain.sum()),
                 reached=int((error > rounding).sum()))
    wrong = ~(error <= rounding + flips * (1 + 2.0 ** -10))
    if not wrong.any():
        return []
    first = tuple(int(index) for index in np.argwhere(wrong)[0])
    return [f"{name}: {int(wrong.sum())} of {wrong.size} differ by more than the uncertain signs "
            f"allow, first at {first}: {found[first]!s} instead of {y[first]:.6g}"]


def group_norm_swish(x: np.ndarray, scale: np.ndarray, bias: np.ndarray,
                     groups: int) -> np.ndarray:
    """The contract's GroupNormSwish in float64, (N, C, H, W)."""
    batch, channels, *_ = x.shape
    grouped = x.astype(np.float64).reshape(batch, groups, -1)
    mean, variance = grouped.mean(-1), grouped.var(-1)
    a = scale / np.sqrt(np.repeat(variance, channels // groups, axis=1) + 1e-5)
    b = bias - np.repeat(mean, channels // groups, axis=1) * a
    n = a[:, :, None, None] * x + b[:, :, None, None]
    return n / (1 + np.exp(-n))


def _conv(x: np.ndarray, branch: Branch, residual: np.ndarray | None,
          time: np.ndarray | None = None) -> np.ndarray:
    residual = None if residual is None else residual.astype(np.float32)
    return library.binary_conv(np.ascontiguousarray(x), branch.words, branch.alpha,
                               branch.threshold, branch.rprelu, residual, time)


def _shuffled(x: np.ndarray) -> np.ndarray:
    batch, channels, height, width = x.shape
    return x.reshape(batch, channels // 4, 2, 2, height, width).transpose(
        0, 1, 4, 2, 5, 3).reshape(batch, channels // 4, 2 * height, 2 * width)


def _unshuffled(x: np.ndarray) -> np.ndarray:
    batch, channels, height, width = x.shape
    return x.reshape(batch, channels, height // 2, 2, width // 2, 2).transpose(
        0, 1, 3, 5, 2, 4).reshape(batch, 4 * channels, height // 2, width // 2)


def _differ(name: str, found: np.ndarray, expected: np.ndarray,
            tolerance: float = 0.0) -> list[str]:
    if found.shape != expected.shape:
        return [f"{name}: shape {found.shape}, expected {expected.shape}"]
    if tolerance:
        if found.dtype == np.float16:
            tolerance = max(tolerance, 2.0 ** -10)  # one rounding to 11 bits, either way
        wrong = ~(np.abs(found - expected) <= tolerance * np.maximum(1, np.abs(expected)))
    else:
        wrong = ~((found == expected) | (np.isnan(found) & np.isnan(expected)))
    if not wrong.any():
        return []
    first = tuple(int(index) for index in np.argwhere(wrong)[0])
    return [f"{name}: {int(wrong.sum())} of {wrong.size} differ, first at {first}: "
            f"{found[first]!s} instead of {expected[first]!s}"]
