"""What is written beside a TensorRT plan: what it was built of, for, and with.

A plan is machine code that TensorRT reads without asking whose it is, so everything that it hangs
on is told here and compared before TensorRT sees a byte. The file may come from anyone: it is
bounded, and every key and value is checked.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from ...errors import EngineError

__all__ = ["FORMAT", "MAX_SIDECAR_BYTES", "MAX_WORKSPACE", "PRECISIONS", "VARIANTS", "VERSION",
           "PlanInfo", "Profile", "Shape", "parse"]

FORMAT, VERSION = "bidiff-tensorrt-plan", 1
VARIANTS = ("plugin", "dense", "dense-int8")
PRECISIONS = ("float32", "float16")
MAX_SIDECAR_BYTES = 1 << 16
MAX_WORKSPACE = 1 << 50  # more than any GPU has
_MAX_SIDE, _MAX_BATCH, _MAX_NUMBER = 1 << 16, 1 << 12, 1 << 40
_NAME = re.compile(r"[ -~]{1,200}")
# Wheels of 9 are 9.3.0.post12.dev1.
_VERSION = re.compile(r"\d{1,4}(\.[a-z]{0,4}\d{1,6}){1,6}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Profile:
    """Shapes (N, H, W) that a plan runs; ``optimum`` is what its kernels were chosen at."""

    minimum: Shape
    optimum: Shape
    maximum: Shape

    @property
    def static(self) -> bool:
        """Whether it is one shape."""
        return self.minimum == self.maximum

    @property
    def label(self) -> str:
        """``1x256x256``, or ``1x64x64-1x256x256-4x512x512``: a part of the plan's file name."""
        shapes = (self.optimum,) if self.static else (self.minimum, self.optimum, self.maximum)
        return "-".join("x".join(map(str, shape)) for shape in shapes)

    @property
    def area(self) -> int:
        """Pixels of the largest batch: what activation memory grows with."""
        return math.prod(self.maximum)

    def contains(self, shape: Shape) -> bool:
        """Whether a batch of that shape can be run."""
        return all(low <= side <= high for low, side, high in
                   zip(self.minimum, shape, self.maximum, strict=True))


@dataclass(frozen=True)
class PlanInfo:
    """A sidecar's content.

    tensorrt, gpu, architecture, driver  where it was built: version, name of the GPU, 10 * major +
                      minor of its compute capability, CUDA version of its driver
    plugin, layout    SHA-256 of the plugin library and the form of its words; None without plugin
    bundle            SHA-256 of the bundle's manifest
    variant, precision  one of VARIANTS and of PRECISIONS
    profile           the shapes
    bytes, sha256     of the plan itself
    opset             of the graph that TensorRT parsed
    level             the builder's optimization level; None: TensorRT's default
    workspace         limit in bytes; None: TensorRT's default
    seconds           that the build took
    """

    tensorrt: str
    gpu: str
    architecture: int
    driver: str
    plugin: str | None
    layout: int | None
    bundle: str
    variant: str
    precision: str
    profile: Profile
    bytes: int
    sha256: str
    opset: int
    level: int | None
    workspace: int | None
    seconds: float

    @property
    def stem(self) -> str:
        """File name of plan and sidecar, without ending."""
        return f"{self.variant}-{self.precision}-{self.profile.label}"

    def to_dict(self) -> dict[str, Any]:
        """What the sidecar holds as JSON."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


def parse(text: bytes, name: str) -> PlanInfo:
    """The content of a sidecar called ``name``.

    Raises:
        EngineError: it is no sidecar, of a newer version, incomplete, or has values that none has.
    """
    try:
        found = json.loads(text.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise EngineError(f"{name} is not valid JSON") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise EngineError(f"{name} does not describe a TensorRT plan")
    version = found.get("version")
    if type(version) is not int or version != VERSION:
        raise EngineError(f"{name} has format version {str(version)[:20]}, this version of "
                          f"bidiff-deploy reads {VERSION}")
    keys = {field.name for field in fields(PlanInfo)}
    if missing := keys - set(found):
        raise EngineError(f"{name} has no {sorted(missing)[0]}")
    if unknown := set(found) - keys - {"format", "version"}:
        raise EngineError(f"{name} has an unknown key {sorted(unknown)[0][:40]!r}")
    for key in sorted(keys - {"profile"}):
        if not _valid(key, found[key]):
            raise EngineError(f"{name} has the {key} {_short(found[key])}, which can not be")
    profile = _profile(found["profile"])
    if profile is None:
        raise EngineError(f"{name} has the profile {_short(found['profile'])}, which can not be")
    if (found["plugin"] is None) != (found["variant"] != "plugin") or (
            (found["layout"] is None) != (found["plugin"] is None)):
        raise EngineError(f"{name} contradicts itself about the plugin")
    return PlanInfo(**{key: found[key] for key in keys - {"profile"}}, profile=profile)


def _valid(key: str, value: Any) -> bool:
    if key in ("layout", "level", "workspace", "plugin") and value is None:
        return True
    if key == "seconds":
        return type(value) in (int, float) and 0 <= value < 1e9
    if key in _NUMBERS:
        low, high = _NUMBERS[key]
        return type(value) is int and low <= value <= high
    if not isinstance(value, str):
        return False
    if key in _CHOICES:
        return value in _CHOICES[key]
    return _TEXTS[key].fullmatch(value) is not None


_NUMBERS = {"architecture": (10, 10_000), "bytes": (1, _MAX_NUMBER), "opset": (1, 1000),
            "level": (0, 100), "workspace": (1, MAX_WORKSPACE), "layout": (-(1 << 63), 1 << 64)}
_CHOICES = {"variant": VARIANTS, "precision": PRECISIONS}
_TEXTS = {"tensorrt": _VERSION, "gpu": _NAME, "driver": _VERSION, "plugin": _DIGEST,
          "bundle": _DIGEST, "sha256": _DIGEST}


def _profile(found: Any) -> Profile | None:
    names = [field.name for field in fields(Profile)]
    if not isinstance(found, dict) or sorted(found) != sorted(names):
        return None
    shapes = [found[name] for name in names]
    limits = (_MAX_BATCH, _MAX_SIDE, _MAX_SIDE)
    if not all(isinstance(shape, list) and len(shape) == 3 and
               all(type(side) is int and 1 <= side <= limit
                   for side, limit in zip(shape, limits)) for shape in shapes):
        return None
    low, middle, high = (tuple(shape) for shape in shapes)
    if not all(a <= b <= c for a, b, c in zip(low, middle, high)):
        return None
    return Profile(low, middle, high)


def _refuse(word: str) -> None:
    raise ValueError(word)


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, (dict, list)) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:60]} ..."
