"""The sidecar of a TensorRT plan: what the plan was built from, for which machine, and how.

A plan is machine code that TensorRT reads without checking its origin. So the sidecar records
everything that the plan depends on, and ``plans`` compares it before TensorRT reads a byte. The
file may come from anyone: its size is bounded, and every key and value is checked.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from ...checks import load_json
from ...errors import EngineError, quoted
from .profiles import Profile

__all__ = ["FORMAT", "MAX_SIDECAR_BYTES", "MAX_WORKSPACE", "PRECISIONS", "RTX_VARIANTS",
           "VARIANTS", "VERSION", "PlanInfo", "PlanTarget", "parse"]

FORMAT, VERSION = "bidiff-tensorrt-plan", 2
VARIANTS = ("plugin", "dense", "dense-int8", "rtx", "rtx-int8")
RTX_VARIANTS = VARIANTS[-2:]  # of TensorRT-RTX
PRECISIONS = ("float32", "float16")
MAX_SIDECAR_BYTES = 1 << 16
MAX_WORKSPACE = 1 << 50  # more than any GPU has
_MAX_SIDE, _MAX_BATCH, _MAX_NUMBER = 1 << 16, 1 << 12, 1 << 40
_MAX_ARCHITECTURES = 16
_NAME = re.compile(r"[ -~]{1,200}")
# Wheels of 9 are 9.3.0.post12.dev1.
_VERSION = re.compile(r"\d{1,4}(\.[a-z]{0,4}\d{1,6}){1,6}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

@dataclass(frozen=True)
class PlanTarget:
    """What a plan is tied to.

    tensorrt          version of TensorRT, or of TensorRT-RTX
    gpu               the GPU's name; None: any, as for plans of TensorRT-RTX
    architectures     compute capabilities, 10 * major + minor, of the GPUs that it runs on
    driver            the CUDA version that the GPU's driver supports; None: any
    plugin, layout    SHA-256 of the plugin library and the layout of its words; None without plugin
    bundle            SHA-256 of the bundle's manifest
    precision         one of PRECISIONS
    """

    tensorrt: str
    gpu: str | None
    architectures: tuple[int, ...]
    driver: str | None
    plugin: str | None
    layout: int | None
    bundle: str
    precision: str


@dataclass(frozen=True)
class PlanInfo:
    """The content of a sidecar.

    target         the machine and bundle that the plan was built for
    variant        one of VARIANTS
    profile        the shapes that the plan runs
    bytes, sha256  of the plan itself
    opset          of the graph that TensorRT parsed
    level          the builder's optimization level; None: TensorRT's default
    workspace      limit in bytes; None: TensorRT's default
    seconds        duration of the build
    """

    target: PlanTarget
    variant: str
    profile: Profile
    bytes: int
    sha256: str
    opset: int
    level: int | None
    workspace: int | None
    seconds: float

    @property
    def stem(self) -> str:
        """The file name of plan and sidecar, without extension."""
        return f"{self.variant}-{self.target.precision}-{self.profile.label}"

    def to_dict(self) -> dict[str, Any]:
        """The sidecar as JSON values, the target's fields among the plan's."""
        values = asdict(self)
        return {"format": FORMAT, "version": VERSION, **values.pop("target"), **values}


def parse(text: bytes, name: str) -> PlanInfo:
    """The content of a sidecar, which errors call ``name``.

    Raises:
        EngineError: the text is no sidecar, or of a newer version, incomplete or invalid.
    """
    try:
        found = load_json(text)
    except ValueError:
        raise EngineError(f"{name} is not valid JSON") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise EngineError(f"{name} does not describe a TensorRT plan")
    version = found.get("version")
    if type(version) is not int or version != VERSION:
        raise EngineError(f"{name} has format version {quoted(version)}, but this version of "
                          f"bidiff-deploy reads {VERSION}")
    tied = {field.name for field in fields(PlanTarget)}
    keys = tied | {field.name for field in fields(PlanInfo)} - {"target"}
    if missing := keys - set(found):
        raise EngineError(f"{name} has no {sorted(missing)[0]}")
    if unknown := set(found) - keys - {"format", "version"}:
        raise EngineError(f"{name} has an unknown key {quoted(sorted(unknown)[0])}")
    for key in sorted(keys - {"profile", "architectures"}):
        if not _valid(key, found[key]):
            raise EngineError(f"{name} has an invalid {key}: {quoted(found[key])}")
    profile = _profile(found["profile"])
    if profile is None:
        raise EngineError(f"{name} has an invalid profile: {quoted(found['profile'])}")
    architectures = found["architectures"]
    if not isinstance(architectures, list) or not 1 <= len(architectures) <= _MAX_ARCHITECTURES or (
            not all(type(one) is int and 10 <= one <= 10_000 for one in architectures)):
        raise EngineError(f"{name} has an invalid architectures: {quoted(architectures)}")
    if ((found["gpu"] is None), (found["driver"] is None)) != (
            (found["variant"] in RTX_VARIANTS,) * 2):
        raise EngineError(f"{name} has a gpu or driver that contradicts its variant")
    if (found["plugin"] is None) != (found["variant"] != "plugin") or (
            (found["layout"] is None) != (found["plugin"] is None)):
        raise EngineError(f"{name} has a plugin or layout that contradicts its variant")
    target = {**{key: found[key] for key in tied}, "architectures": tuple(architectures)}
    return PlanInfo(PlanTarget(**target), profile=profile,
                    **{key: found[key] for key in keys - tied - {"profile"}})


def _valid(key: str, value: Any) -> bool:
    if key in ("layout", "level", "workspace", "plugin", "gpu", "driver") and value is None:
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


_NUMBERS = {"bytes": (1, _MAX_NUMBER), "opset": (1, 1000),
            "level": (0, 100), "workspace": (1, MAX_WORKSPACE), "layout": (-(1 << 63), 1 << 64)}
_CHOICES = {"variant": VARIANTS, "precision": PRECISIONS}
_TEXTS = {"tensorrt": _VERSION, "gpu": _NAME, "driver": _VERSION, "plugin": _DIGEST,
          "bundle": _DIGEST, "sha256": _DIGEST}


def _profile(found: Any) -> Profile | None:
    """The profile of its JSON value; None for an invalid one."""
    names = [field.name for field in fields(Profile)]
    if not isinstance(found, dict) or sorted(found) != sorted(names):
        return None
    shapes = [found[name] for name in names]
    limits = (_MAX_BATCH, _MAX_SIDE, _MAX_SIDE)
    if not all(isinstance(shape, list) and len(shape) == 3 and
               all(type(side) is int and 1 <= side <= limit
                   for side, limit in zip(shape, limits)) for shape in shapes):
        return None
    if not all(low <= middle <= high for low, middle, high in zip(*shapes)):
        return None
    minimum, optimum, maximum = ((batch, height, width) for batch, height, width in shapes)
    return Profile(minimum, optimum, maximum)
