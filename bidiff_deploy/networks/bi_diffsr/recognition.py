"""Options of a BI-DiffSR network from the keys and shapes of its checkpoint.

Shapes show every width, level, block count, attention and full-precision level, and the number of
TaR/TaA groups; keys name the binarizer and its bits, and a scalar has the preconditioning. The
GroupNorm groups, the total number of time steps, the dropout, the resolution that levels are named
by and the upscaling factors of a network of several are in no shape: they are taken from options or
from defaults. Each such assumption is returned as a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...errors import CheckpointError, listed
from ..base import Shapes
from .binarizers import BINARIZERS, CFB, DOREFA, IDENTITY, NONE, PUBLISHED
from .config import MAX_LEVELS, NetworkConfig

_UNSEEN = {"norm_groups": "groups of GroupNorm", "total_step": "diffusion time steps",
           "image_size": "resolution that levels are named by"}
_SCALES = (2, 3, 4)
_OF_BBCU = {"alignment": "BBCU's residual alignment at 64 channels"}


def recognise(shapes: Shapes, given: Mapping[str, Any],
              origin: str) -> tuple[NetworkConfig, list[str]]:
    """See ``Network.recognise``."""
    derived = _derive(shapes, origin)
    default = NetworkConfig()
    assumptions = []
    image_size = given.get("image_size")
    if not isinstance(image_size, int) or image_size < 1:
        image_size = default.image_size
    levels = {key: derived.pop(key) for key in ("attn_levels", "fp_levels")}
    options: dict[str, Any] = dict(derived)
    for key, what in (("attn_res", "attn_levels"), ("fp_res", "fp_levels")):
        options[key] = tuple(image_size >> level for level in sorted(levels[what]))
    full = options["binarizer"] == NONE
    for key, meaning in (_UNSEEN | _OF_BBCU if options["binarizer"] == "bbcu"
                         else _UNSEEN).items():
        if key not in given:
            options[key] = getattr(default, key)
            if key != "image_size" or levels["attn_levels"] or (levels["fp_levels"] and not full):
                assumptions.append(f"{key} = {options[key]} ({meaning}), the published default: "
                                   "no tensor shows it")
    if any(".res_block.block1.scale." in key for key in shapes) and not given.get("scales"):
        options["scales"] = _SCALES
        assumptions.append(f"scales = {list(_SCALES)}, which one set of weights serves: no tensor "
                           "shows them")
    config = NetworkConfig.from_dict({**options, **given}, origin)
    for key, value in options.items():
        if key in given and key not in ("attn_res", "fp_res"):
            stated = getattr(config, key)
            if stated != value:
                raise CheckpointError(
                    f"{origin}: the options say {key}={_plain(stated)}, but the checkpoint's "
                    f"tensors have {key}={_plain(value)}; use the options it was trained with")
    for key, what in (("attn_res", "attn_levels"), ("fp_res", "fp_levels")):
        if full and key == "fp_res":
            continue  # every level is full precision, so fp_res has no meaning
        stated = {level for level in range(config.levels)
                  if config.image_size >> level in getattr(config, key)}
        if stated != levels[what]:
            raise CheckpointError(
                f"{origin}: the options say {key}={_plain(getattr(config, key))} at "
                f"image_size={config.image_size}, but the checkpoint's tensors have it at "
                f"{_plain(options[key])}; use the options it was trained with")
    return config, assumptions


def _derive(shapes: Shapes, origin: str) -> dict[str, Any]:
    time = _shape(shapes, "timestep_level_mlp.1.weight", 2, origin)
    stem = _shape(shapes, "downs.0.weight", 4, origin)
    head = _shape(shapes, "final_conv.block.3.weight", 4, origin)
    inner = time[1]
    if not inner or stem[0] % inner:
        raise _foreign(origin, f"the stem's {stem[0]} channels are no multiple of the time "
                               f"embedding's {inner}")
    kinds = _stage(shapes, "downs")
    per_level: list[int] = [0]
    attention: set[int] = set()
    for kind in kinds[1:]:
        if kind == "down":
            per_level.append(0)
        elif kind.startswith("residual"):
            per_level[-1] += 1
            if kind.endswith("+attention"):
                attention.add(len(per_level) - 1)
        else:
            raise _foreign(origin, "its encoder has a block that is neither residual nor CP-Down")
    if len(set(per_level)) != 1 or not per_level[0] or len(per_level) > MAX_LEVELS:
        raise _foreign(origin, "its encoder's levels do not have equally many residual blocks")
    full_precision: set[int] = set()
    level = len(per_level) - 1
    for kind in _stage(shapes, "ups"):
        if kind == "down":  # keys of CP-Up and CP-Down are alike
            level -= 1
        elif kind in ("residual float", "residual float+attention"):
            full_precision.add(level)
    binarizer, weight_bits, activation_bits = _binarizer(shapes, origin)
    groups = {int(match.group(1)) for key in shapes
              if (match := re.search(r"\.TaR\.dynamic_move_(\d{1,6})\.bias$", key))}
    if binarizer != PUBLISHED:
        groups = {0}
    if not groups:
        raise _foreign(origin, "it has no TaR parameters")
    if len(groups) != max(groups) + 1:
        raise _foreign(origin, f"its TaR groups are not numbered 0 to {max(groups)}")
    first = stem[0] // inner
    return {"in_channel": stem[1], "out_channel": head[0], "inner_channel": inner,
            "channel_mults": tuple(first << i for i in range(len(per_level))),
            "res_blocks": per_level[0], "dynamic_group": max(groups) + 1,
            "binarizer": binarizer, "weight_bits": weight_bits,
            "activation_bits": activation_bits, "shortcut": _shortcut(shapes),
            "attn_levels": attention, "fp_levels": full_precision}


def _binarizer(shapes: Shapes, origin: str) -> tuple[str, int, int]:
    """The binarizer that the keys of weights name, and the bits of its weights and activations;
    published keys name none."""
    found = {match.group(1) for key in shapes
             if (match := re.search(r"conv\d?(?:_\d)?\.([a-z0-9_-]{1,20})\.weight$", key))}
    if "downs.1.res_block.block1.conv.weight" in shapes:
        return NONE, 1, 1
    if len(found) == 1 and (bits := re.fullmatch(rf"{DOREFA}-w(\d)a(\d)", min(found))):
        return DOREFA, int(bits.group(1)), int(bits.group(2))
    unknown = sorted(found - {"binary_conv"} - set(BINARIZERS))
    if unknown or len(found) > 1:
        raise _foreign(origin, f"its binary layers are of {' and '.join(sorted(found))}, not of "
                               f"one of the binarizers {', '.join(BINARIZERS)}")
    return PUBLISHED if not found or found == {"binary_conv"} else found.pop(), 1, 1


def _shortcut(shapes: Shapes) -> str:
    """Whether a block that changes the number of channels has one layer or two."""
    layers: dict[str, set[str]] = {"1": set(), "2": set()}
    for key in shapes:
        if match := re.match(r"((?:ups|downs)\.\d{1,4}\.biconv_?)([12])\.", key):
            layers[match.group(2)].add(match.group(1))
    return CFB if layers["1"] - layers["2"] else IDENTITY


def _stage(shapes: Shapes, stage: str) -> list[str]:
    """Kind of each numbered block of ``downs`` or ``ups``."""
    inside: dict[int, list[str]] = {}
    for key in shapes:
        if match := re.match(rf"{stage}\.(\d{{1,4}})\.(.+)", key):
            inside.setdefault(int(match.group(1)), []).append(match.group(2))
    kinds = []
    for index in sorted(inside):
        keys = inside[index]
        if any(key.startswith("res_block.") for key in keys):
            kind = "residual"
            if "res_block.block1.conv.weight" in keys:
                kind += " float"
            if any(key.startswith("attn.") for key in keys):
                kind += "+attention"
        elif any(key.startswith("biconv1.") for key in keys):
            kind = "down"
        elif any(key.startswith("biconv_1.") for key in keys):
            kind = "fusion"
        else:
            kind = "convolution"
        kinds.append(kind)
    return kinds


def _shape(shapes: Shapes, key: str, rank: int, origin: str) -> tuple[int, ...]:
    shape = shapes.get(key)
    if shape is None:
        raise _foreign(origin, f"it has no tensor {key}; it has "
                               f"{listed(list(shapes)[:3])}" + (", ..." if shapes else ""))
    if len(shape) != rank:
        raise _foreign(origin, f"{key} has {len(shape)} dimensions instead of {rank}")
    return tuple(shape)


def _foreign(origin: str, reason: str) -> CheckpointError:
    return CheckpointError(f"{origin} is not a BI-DiffSR checkpoint: {reason}; give a state dict "
                           "with the published keys, or a packed checkpoint")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
