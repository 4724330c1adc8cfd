"""Option files in the published YAML form, and what they leave open.

Only ``network_g``, ``beta_schedule`` and ``scale`` concern a checkpoint; everything else in a
published option file (data sets, training, metrics) is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..networks.base import MAX_SCALE

MAX_OPTION_BYTES = 1 << 20


@dataclass(frozen=True)
class Options:
    """What an option file says; what it does not say is empty or None.

    network   published network options, without ``type``
    schedule  keyword arguments of ``schedule.Schedule``
    scale     upscaling factor
    steps     how many DDIM steps it samples with
    """

    network: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    scale: int | None = None
    steps: int | None = None


def read_options(path: str | Path) -> Options:
    """Read a YAML (or JSON) option file. Raises CheckpointError in one sentence."""
    import yaml

    path = Path(path)
    try:
        if path.stat().st_size > MAX_OPTION_BYTES:
            raise CheckpointError(f"{path} is larger than an options file can be; "
                                  "give a YAML file in the published form")
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise CheckpointError(f"{path} can not be read as an options file: {reason}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} is not valid YAML: {reason}") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is not an options file: it must be a mapping with "
                              "network_g, beta_schedule or scale")
    return parse_options(document, path)


def parse_options(document: Mapping[str, Any], path: Path) -> Options:
    """``read_options`` of a file's content; ``path`` is what errors call it."""
    network = dict(_mapping(document, "network_g", path))
    network.pop("type", None)
    schedule = _mapping(document, "beta_schedule", path)
    # Training files nest one schedule per phase; both phases are one schedule.
    if isinstance(schedule.get("val") or schedule.get("train"), dict):
        schedule = schedule.get("val") or schedule["train"]
    scale = document.get("scale")
    return Options(network, _schedule(schedule, path),
                   None if scale is None else check_scale(scale, str(path)),
                   _optional_int(schedule, "num_inference_steps", path))


def check_scale(scale: Any, origin: str) -> int:
    """``scale`` as a whole number from 1 to 16, or CheckpointError."""
    if isinstance(scale, bool) or not isinstance(scale, int) or not 1 <= scale <= MAX_SCALE:
        raise CheckpointError(
            f"{origin}: scale {scale!r} must be a whole number from 1 to {MAX_SCALE}")
    return scale


def _mapping(document: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = document.get(key) or {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: {key} must be a mapping of options")
    return value


def _schedule(found: Mapping[str, Any], path: Path) -> dict[str, Any]:
    for key, only in (("scheduler_type", ("DDIM", "DDPM")), ("schedule", ("linear",)),
                      ("prediction_type", ("epsilon",))):
        if key in found and found[key] not in only:
            raise CheckpointError(f"{path}: beta_schedule.{key} {found[key]!r} is not supported; "
                                  f"known is {' or '.join(only)}")
    result: dict[str, Any] = {}
    total = _optional_int(found, "n_timestep", path)
    if total is not None:
        result["total_steps"] = total
    for key, ours in (("linear_start", "beta_start"), ("linear_end", "beta_end")):
        if found.get(key) is not None:
            try:
                # YAML 1.1 reads 1e-6, without a dot, as text.
                result[ours] = float(found[key])
            except (TypeError, ValueError):
                raise CheckpointError(
                    f"{path}: beta_schedule.{key} {found[key]!r} must be a number") from None
    return result


def _optional_int(found: Mapping[str, Any], key: str, path: Path) -> int | None:
    value = found.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(
            f"{path}: beta_schedule.{key} {value!r} must be a positive whole number")
    return value
