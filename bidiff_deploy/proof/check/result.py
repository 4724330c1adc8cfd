"""The result of a check: false on failure, with its statistics, to JSON and back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import UsageError, one_line
from ...networks.base import STEP
from .forced import SegmentCheck
from .layers import LayerCheck
from .loops import LoopCheck
from .operators import OperatorCheck
from .statistics import LayerStatistics, StepStatistics, decibel, judge_step

FORMAT = "bidiff-check"
SCHEMA = 3
# If rounding decides more of all signs than this, a check of them proves little.
UNDECIDABLE_SHARE = 1e-4


@dataclass(frozen=True)
class StepCheck:
    """One step. Where the values inside an engine's run are known, each part of it was judged
    alone, and the step passes if all of them do, and their run is the engine's. Elsewhere the parts
    are those of another engine, and it is also compared with the reference by its signal-to-noise
    ratio.

    engine      the engine's prediction against the reference's, both of the same latent
    floor       the reference in another layout against itself; None if it was not needed
    precision   the engine's
    differing   number of values of the engine's prediction that are not those of the run whose
                parts were judged; None if none were
    wrong       the first part of this step that is wrong, or None
    part        of ``networks.base.PARTS``; encoder and decoder have no timestep, and 0
    lowest      the SNR, dB, that a part of a latent network must reach; None for others
    """

    timestep: int
    engine: StepStatistics
    floor: StepStatistics | None
    precision: str = "float32"
    differing: int | None = None
    wrong: str | None = None
    part: str = STEP
    lowest: float | None = None

    @property
    def name(self) -> str:
        """Its timestep, or the part that it is."""
        return str(self.timestep) if self.part == STEP else self.part

    @property
    def passed(self) -> bool:
        if self.lowest is not None:
            return self.engine.snr >= self.lowest and self.wrong is None
        same = (judge_step(self.engine, self.floor, self.precision)[0] if self.differing is None
                else not self.differing)
        return same and self.wrong is None

    @property
    def reason(self) -> str:
        if self.lowest is not None and self.wrong is not None:
            return f"signs of what {self.wrong} reads differ where rounding cannot explain it"
        if self.lowest is not None:
            return (f"at least {decibel(self.lowest)}" if self.passed else
                    f"{decibel(self.engine.snr, 3)} is below {decibel(self.lowest, 3)}")
        if self.differing:
            return (f"{self.differing} values of the engine's output are not those of the run "
                    "whose parts were compared")
        if self.wrong is not None:
            return f"a part is wrong, the first is {self.wrong}"
        if self.differing is None:
            return judge_step(self.engine, self.floor, self.precision)[1]
        flips = self.engine.flips
        return f"equal up to {flips} legitimate flip{'' if flips == 1 else 's'}"

    @property
    def bound(self) -> float | None:
        """The lowest SNR, dB, with which the step passes; None if its parts were judged."""
        if self.lowest is not None:
            return self.lowest
        if self.differing is not None:
            return None
        return judge_step(self.engine, self.floor, self.precision)[2]


@dataclass(frozen=True)
class Verdict:
    """Whether one part passed. ``what``: layer, segment, operator, step or loop; ``name``: its
    name."""

    what: str
    name: str
    passed: bool
    reason: str


@dataclass(frozen=True)
class CheckResult:
    """Everything that was compared; true if all of it passed, and something was compared.

    bundle, checkpoint  paths, as given
    engine, reference   backend, version, kernel and threads of both
    size                (height, width) of the network's input in layers and steps
    layers              every binary layer at every checked step
    segments            every part at every checked step, with its float values and signs
    operators           every fused operator at every checked step
    steps, loops        the steps themselves; the images, if any
    notes               sentences on what was not compared and why
    """

    bundle: str
    checkpoint: str
    engine: str
    reference: str
    size: tuple[int, int]
    layers: tuple[LayerCheck, ...] = ()
    segments: tuple[SegmentCheck, ...] = ()
    operators: tuple[OperatorCheck, ...] = ()
    steps: tuple[StepCheck, ...] = ()
    loops: tuple[LoopCheck, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.layers or self.steps) and all(
            verdict.passed for verdict in self.verdicts)

    @property
    def verdicts(self) -> list[Verdict]:
        """One for each layer, segment and fused operator (of its first failing step, if any), step
        and image, in order of execution."""
        parts: list[tuple[str, list[tuple[str, Any]]]] = [
            ("layer", [(layer.layer, layer) for layer in self.layers]),
            ("segment", [(segment.end, segment) for segment in self.segments]),
            ("operator", [(operator.operator, operator) for operator in self.operators])]
        found = [Verdict(what, name, check.passed, check.reason if check.passed else
                         f"{check.reason} (t = {check.timestep})")
                 for what, checks in parts for name, check in _first_failures(checks)]
        found += [Verdict("step", step.name, step.passed, step.reason)
                  for step in self.steps]
        return found + [Verdict("loop", loop.image, loop.passed, loop.reason)
                        for loop in self.loops]

    @property
    def signs(self) -> int:
        """Number of signs that were compared."""
        return sum(part.signs for part in self.segments)

    @property
    def undecidable(self) -> int:
        """Number of signs that rounding decides."""
        return sum(part.undecidable for part in self.segments)

    @property
    def failures(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if not verdict.passed]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values. An infinite ratio (both are equal) is "inf"."""
        return {"format": FORMAT, "schema": SCHEMA, "passed": bool(self),
                "verdicts": [dataclasses.asdict(verdict) for verdict in self.verdicts],
                **_plain(dataclasses.asdict(self))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CheckResult:
        """The result that ``to_dict`` turned into ``values``. Raises UsageError for others."""
        if values.get("format") != FORMAT or values.get("schema") != SCHEMA:
            raise UsageError(f"this is no result of a check of schema {SCHEMA}; write it again "
                             "with `bidiff-deploy check --json`")
        try:
            raw = _numbers({field.name: values[field.name] for field in dataclasses.fields(cls)})
            return cls(**{
                **raw, "size": tuple(raw["size"]), "notes": tuple(raw["notes"]),
                "layers": tuple(LayerCheck(**layer) for layer in raw["layers"]),
                "segments": tuple(SegmentCheck(**part) for part in raw["segments"]),
                "operators": tuple(OperatorCheck(**one) for one in raw["operators"]),
                "steps": tuple(StepCheck(step["timestep"], _step(step["engine"]),
                                         step["floor"] and _step(step["floor"]), step["precision"],
                                         step["differing"], step["wrong"],
                                         step.get("part", STEP), step.get("lowest"))
                               for step in raw["steps"]),
                "loops": tuple(LoopCheck(**loop) for loop in raw["loops"])})
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError("this result of a check is incomplete or garbled "
                             f"({one_line(error)}); write it again with `bidiff-deploy check "
                             "--json`") from None

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)


def undecidable_notes(segments: Iterable[SegmentCheck]) -> list[str]:
    """A sentence if rounding decides too many signs."""
    parts = list(segments)
    signs, undecidable = (sum(getattr(part, name) for part in parts)
                          for name in ("signs", "undecidable"))
    if undecidable <= UNDECIDABLE_SHARE * signs:
        return []
    return [f"the signs prove little: rounding decides {undecidable} of {signs}, more than 1 in "
            f"{1 / UNDECIDABLE_SHARE:,.0f}"]


def part_statistics(layers: Iterable[LayerCheck],
                    segments: Iterable[SegmentCheck]) -> tuple[LayerStatistics, ...]:
    """The binary layers of one step, of their two checks."""
    outputs = {layer.layer: layer.snr for layer in layers}
    return tuple(LayerStatistics(part.end, part.flips, part.signs, part.snr, outputs[part.end],
                                 part.undecidable) for part in segments if part.signs)


def first_wrong(*checks: Iterable[Any]) -> str | None:
    """The name of the first part that failed, checks in order of importance."""
    for name, kind in zip(("end", "layer", "operator"), checks):
        for check in kind:
            if not check.passed:
                return str(getattr(check, name))
    return None


def _first_failures(checks: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """For each name its first failed check, else its first check."""
    found: dict[str, Any] = {}
    for name, check in checks:
        if name not in found or (found[name].passed and not check.passed):
            found[name] = check
    return list(found.items())


def _step(values: Mapping[str, Any]) -> StepStatistics:
    return StepStatistics(**{**values, "layers": tuple(LayerStatistics(**layer)
                                                       for layer in values["layers"])})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if value in ("inf", "-inf", "nan") else value
