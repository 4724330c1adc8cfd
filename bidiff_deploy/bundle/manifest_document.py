"""What the keys of a bundle's manifest may be; export/bundle_format.md says what they mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..checks import Entries, Items, Keys, OrNull, Text, Value, Whole
from ..errors import quoted
from ..networks.base import DECODER, ENCODER, LATENT, MAX_SCALE, NOISE_PREDICTOR
from ..sampling.noise import NO_NOISE

__all__ = ["MANIFEST", "MAX_STEPS", "check_manifest"]

MANIFEST = "manifest.json"
MAX_STEPS = 10_000
MAX_TIMESTEP = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class _FileName:
    """A bare file name: no separator, no drive, no parent, not hidden."""

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, str) or not _NAME.fullmatch(value) or value == MANIFEST:
            raise ValueError(f"{name}: file name {quoted(value)} is not allowed, because the files "
                             "of a bundle are in its own folder")


_BYTES = Whole(0, 1 << 50)
_SOME = OrNull(Text())
_TENSOR = Text(200, ".+", "a name of a tensor")
_COMMON: Mapping[str, Value] = {
    "network": Entries(Text(100)), "scale": Whole(1, MAX_SCALE),
    "bidiff_opset": Whole(1), "packing_version": Whole(1), "precision": Text(),
    "weights": _FileName(),
    "files": Entries(_FileName(), Keys({
        "bytes": _BYTES, "sha256": Text(64, "[0-9a-f]{64}", "64 hexadecimal digits")}))}
_INFORMATION: Mapping[str, Value] = {
    "tool": Keys({"name": _SOME, "version": _SOME}),
    "source": Keys({"name": _SOME, "sha256": _SOME}),
    "assumptions": Items(Text(), 0, 1000), "zero_weights": Whole(), "onnx_opset": Whole(1),
    "model": Text(), "kind": Text()}
_STEP: Mapping[str, Value] = {
    "timestep": Whole(0, MAX_TIMESTEP), "group": Whole(0, MAX_TIMESTEP), "file": _FileName()}
_OFFSETS: Mapping[str, Value] = {"tensors": Entries(_TENSOR, _BYTES)}
_PART = Keys({"file": _FileName(), **_OFFSETS})
# Of each kind that has steps, beyond the steps themselves.
_OF_KIND: Mapping[str, Mapping[str, Value]] = {
    NOISE_PREDICTOR: {"sampling": Keys({"start": OrNull(Whole(0, MAX_TIMESTEP))},
                                       {"noise": Text(9, NO_NOISE, repr(NO_NOISE))})},
    LATENT: {"sampling": Keys({"sampler": Text(100)}), ENCODER: _PART, DECODER: _PART}}


def check_manifest(manifest: Mapping[str, Any], schema: int, kind: str) -> None:
    """Check types, ranges and lengths of all keys that are read. Raises ValueError in a sentence
    that names the first that is wrong.

    ``kind``: of its network.
    """
    required = dict(_COMMON)
    if schema > 1:
        required.update(_OFFSETS)
    if kind not in _OF_KIND:
        required["graph"] = _FileName()
    else:
        step = {**_STEP, "offsets": Items(_BYTES)} if schema > 1 else _STEP
        required.update({
            "schedule": Entries(Text()), **_OF_KIND[kind],
            "steps": Items(Keys(step), 1, MAX_STEPS), "step_initializers": Items(_TENSOR)})
    Keys(required, _INFORMATION).check("", manifest)
