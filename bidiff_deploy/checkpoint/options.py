"""Option files in the published YAML form.

Only ``network_g``, ``beta_schedule`` and ``scale`` concern a checkpoint; everything else in a
published option file (data sets, training, metrics) is ignored. ``resshift_options`` reads the form
of the ResShift family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..checks import whole_number
from ..errors import CheckpointError, one_line, quoted
from ..networks.base import MAX_SCALE
from .resshift_options import is_resshift, parse_resshift


@dataclass(frozen=True)
class Options:
    """The content of an option file; missing options are empty or None.

    network      published network options, without ``type``
    schedule     keyword arguments of the network's schedule
    scale        upscaling factor
    steps        number of steps
    autoencoder  file of a latent network's autoencoder
    """

    network: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    scale: int | None = None
    steps: int | None = None
    autoencoder: str | None = None


def given_options(path: str | None, autoencoder: str | None = None) -> Options | None:
    """The options of two options of the command line, None for neither."""
    if path is None and autoencoder is None:
        return None
    return replace(read_options(path) if path else Options(), autoencoder=autoencoder)


def read_options(path: str | Path) -> Options:
    """Read a YAML (or JSON) option file. Raises CheckpointError."""
    from .yaml_text import load_yaml, read_text

    path = Path(path)
    try:
        document = load_yaml(read_text(path))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read as an options file: "
                              f"{error.strerror or error}; check the path") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid YAML: {one_line(error)}; give an options file "
                              "in the published form") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is not an options file: it must be a mapping with "
                              "network_g, beta_schedule or scale")
    if is_resshift(document):
        found = Options(**parse_resshift(document, path))
        return found if found.scale is None else replace(found, scale=check_scale(found.scale,
                                                                                 str(path)))
    return parse_options(document, path)


def parse_options(document: Mapping[str, Any], path: Path) -> Options:
    """``read_options`` of a file's content; errors name ``path``."""
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
    """``scale`` as a whole number from 1 to MAX_SCALE. Raises CheckpointError, which names
    ``origin``."""
    return whole_number(f"{origin}: scale", scale, 1, MAX_SCALE, error=CheckpointError)


def _mapping(document: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = document.get(key) or {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: {key} must be a mapping of options")
    return value


def _schedule(found: Mapping[str, Any], path: Path) -> dict[str, Any]:
    for key, known in (("scheduler_type", ("DDIM", "DDPM")), ("schedule", ("linear",)),
                       ("prediction_type", ("epsilon",))):
        if key in found and found[key] not in known:
            raise CheckpointError(f"{path}: beta_schedule.{key} {quoted(found[key])} is not "
                                  "supported; "
                                  f"use {' or '.join(known)}")
    result: dict[str, Any] = {}
    total = _optional_int(found, "n_timestep", path)
    if total is not None:
        result["total_steps"] = total
    for key, ours in (("linear_start", "beta_start"), ("linear_end", "beta_end")):
        if found.get(key) is not None:
            try:
                # YAML 1.1 reads 1e-6, without a dot, as text.
                result[ours] = float(found[key])
            except (TypeError, ValueError, OverflowError):
                raise CheckpointError(f"{path}: beta_schedule.{key} {quoted(found[key])} must be "
                                      "a number") from None
    return result


def _optional_int(found: Mapping[str, Any], key: str, path: Path) -> int | None:
    value = found.get(key)
    return None if value is None else whole_number(f"{path}: beta_schedule.{key}", value, 1,
                                                   error=CheckpointError)
