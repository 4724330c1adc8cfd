"""Option files of the ResShift family (``model``, ``diffusion``, ``autoencoder``), as published.

Options of training are ignored; those that describe another network or loop than the package has
are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, quoted

__all__ = ["is_resshift", "parse_resshift"]

_IGNORED = frozenset(("dropout", "use_fp16", "in_channels", "out_channels", "lq_size", "num_heads",
                      "use_checkpoint"))
# Options that change what is computed -> the only value that is supported.
_NETWORK = {"conv_resample": True, "dims": 2, "cond_lq": True, "cond_mask": False,
            "patch_norm": False, "lq_channels": None, "swin_attn_type": "AdaLN"}
_DIFFUSION = {"schedule_name": "exponential", "predict_type": "xstart", "scale_factor": 1.0,
              "normalize_input": True, "latent_flag": True}
_SCHEDULE = {"steps": "total_steps", "kappa": "kappa", "etas_end": "etas_end",
             "min_noise_level": "min_noise_level"}
_CODER = {"double_z": False, "in_channels": 3, "out_ch": 3, "attn_resolutions": [],
          "padding_mode": "zeros"}


def is_resshift(document: Mapping[str, Any]) -> bool:
    """Whether an option file is one of the family."""
    return "diffusion" in document and "model" in document


def parse_resshift(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The content of an option file, as arguments of ``options.Options``; the scale is not checked.
    Raises CheckpointError, which names ``path``."""
    model, diffusion = (_params(document, part, path) for part in ("model", "diffusion"))
    size, condition = model.get("image_size"), model.get("lq_size")
    if condition is not None and condition != size:
        raise CheckpointError(f"{path}: model.params.lq_size {quoted(condition)} is not its "
                              f"image_size {quoted(size)}; a condition larger than the latent is "
                              "not supported")
    _require(model, _NETWORK, f"{path}: model.params")
    network = {key: value for key, value in model.items()
               if key not in _IGNORED and key not in _NETWORK}
    if "autoencoder" in document:
        network["autoencoder"] = _autoencoder(_params(document, "autoencoder", path), path)
    _require(diffusion, _DIFFUSION, f"{path}: diffusion.params")
    schedule = {ours: diffusion[key] for key, ours in _SCHEDULE.items()
                if diffusion.get(key) is not None}
    power = _mapping(diffusion.get("schedule_kwargs") or {}, f"{path}: diffusion.params."
                     "schedule_kwargs").get("power")
    if power is not None:
        schedule["power"] = power
    steps = diffusion.get("timestep_respacing")
    if steps is not None and (type(steps) is not int or steps < 1):
        raise CheckpointError(f"{path}: diffusion.params.timestep_respacing {quoted(steps)} must "
                              "be a number of steps; give --timesteps for others")
    return {"network": network, "schedule": schedule, "scale": diffusion.get("sf"), "steps": steps}


def _autoencoder(params: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Its options by the names of ``networks.resshift.vq.VqConfig``."""
    where = f"{path}: autoencoder.params"
    coder = _mapping(params.get("ddconfig") or {}, f"{where}.ddconfig")
    _require(coder, _CODER, f"{where}.ddconfig")
    mult, blocks = coder.get("ch_mult"), coder.get("num_res_blocks")
    if type(blocks) is int and isinstance(mult, list):
        blocks = [blocks] * len(mult)
    found = {"channels": coder.get("ch"), "mult": mult, "blocks": blocks,
             "latent": params.get("embed_dim"), "codes": params.get("n_embed")}
    return {key: value for key, value in found.items() if value is not None}


def _params(document: Mapping[str, Any], part: str, path: Path) -> Mapping[str, Any]:
    found = _mapping(document.get(part) or {}, f"{path}: {part}")
    return _mapping(found.get("params") or {}, f"{path}: {part}.params")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise CheckpointError(f"{where} must be a mapping of options")
    return value


def _require(values: Mapping[str, Any], supported: Mapping[str, Any], where: str) -> None:
    for key, wanted in supported.items():
        if key in values and values[key] != wanted:
            raise CheckpointError(f"{where}.{key} {quoted(values[key])} is not supported; it must "
                                  f"be {wanted}")
