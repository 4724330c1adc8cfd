"""What a check found: false on failure, with the statistics behind it, and JSON both ways."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import UsageError
from .layers import LayerCheck
from .loops import LoopCheck
from .operators import OperatorCheck
from .segments import SegmentCheck
from .statistics import LayerStatistics, StepStatistics, judge_step

FORMAT = "bidiff-check"
SCHEMA = 2


@dataclass(frozen=True)
class StepCheck:
    """One step: engine, and the reference in another layout, against the reference.
    ``precision``: the engine's."""

    timestep: int
    engine: StepStatistics
    floor: StepStatistics
    precision: str = "float32"

    @property
    def passed(self) -> bool:
        return judge_step(self.engine, self.floor, self.precision)[0]

    @property
    def reason(self) -> str:
        return judge_step(self.engine, self.floor, self.precision)[1]

    @property
    def bound(self) -> float:
        return judge_step(self.engine, self.floor, self.precision)[2]


@dataclass(frozen=True)
class Verdict:
    """One thing that was checked.

    ``what``: layer, segment, operator, step or loop; ``name``: which.
    """

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
    layers              every binary layer at every step that was checked
    segments            every full-precision part between them, likewise
    operators           every fused operator, likewise
    steps, loops        the steps themselves; the images, if any
    notes               sentences a reader should know
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
        """One for each layer, segment and fused operator (the first step it fails at, if any), step
        and image, in order of execution."""
        found = [
            Verdict("layer", name, layer.passed, layer.reason if layer.passed else
                    f"{layer.reason} (t = {layer.timestep})")
            for name, layer in _first_failures((layer.layer, layer) for layer in self.layers)]
        found += [
            Verdict("segment", name, segment.passed, segment.reason if segment.passed else
                    f"{segment.reason} (t = {segment.timestep})")
            for name, segment in _first_failures((part.end, part) for part in self.segments)]
        found += [
            Verdict("operator", name, operator.passed, operator.reason if operator.passed else
                    f"{operator.reason} (t = {operator.timestep})")
            for name, operator in _first_failures((one.operator, one) for one in self.operators)]
        found += [Verdict("step", str(step.timestep), step.passed, step.reason)
                  for step in self.steps]
        return found + [Verdict("loop", loop.image, loop.passed, loop.reason)
                        for loop in self.loops]

    @property
    def failures(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if not verdict.passed]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values. An infinite ratio, which says that both were equal, is "inf"."""
        return {"format": FORMAT, "schema": SCHEMA, "passed": bool(self),
                "verdicts": [dataclasses.asdict(verdict) for verdict in self.verdicts],
                **_plain(dataclasses.asdict(self))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CheckResult:
        """The result that ``to_dict`` wrote. Raises UsageError for anything else."""
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
                                         _step(step["floor"]), step["precision"])
                               for step in raw["steps"]),
                "loops": tuple(LoopCheck(**loop) for loop in raw["loops"])})
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"this result of a check is incomplete or garbled ({error})") from None

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)


def _first_failures(checks: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Of each name its first check that failed, else its first."""
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
