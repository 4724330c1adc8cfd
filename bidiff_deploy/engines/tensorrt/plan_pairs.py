"""A plan and its sidecar as a pair, of which one is never new while the other is old.

While a plan is replaced, the new sidecar already has a name with the new plan's hash, so that at
any moment one of the sidecars belongs to the plan.
"""

from __future__ import annotations

import glob
import json
from contextlib import suppress
from pathlib import Path

from ...errors import OutputError
from ...files import atomic_file, file_sha256
from .sidecar import PlanInfo

__all__ = ["SIDECAR_SUFFIX", "sidecar_of", "write_pair"]

SIDECAR_SUFFIX = ".json"
_DIGITS = 16  # of the plan's hash, in the name of a sidecar that waits for its plan


def write_pair(plan: Path, content: bytes | memoryview, info: PlanInfo, overwrite: bool) -> None:
    """Write a plan and its sidecar. Raises OutputError."""
    text = json.dumps(info.to_dict(), indent=1) + "\n"

    def write_sidecar(path: Path) -> None:
        with atomic_file(path, True, mode=0o644) as temporary:
            temporary.write_text(text, encoding="utf-8")

    waiting = _waiting(plan, info.sha256)
    try:
        write_sidecar(waiting)
        with atomic_file(plan, overwrite, mode=0o644) as temporary:
            temporary.write_bytes(content)
        write_sidecar(plan.with_suffix(SIDECAR_SUFFIX))
    except OutputError:  # such as a full disk: if the plan is the old one, so is its sidecar
        with suppress(OSError):
            if file_sha256(plan) != info.sha256:
                waiting.unlink()
        raise
    for left_over in _all_waiting(plan):
        left_over.unlink(missing_ok=True)


def sidecar_of(plan: Path) -> Path:
    """The sidecar that belongs to a plan; it need not exist. Raises OSError."""
    if waiting := _all_waiting(plan):  # a build was killed
        whole = _waiting(plan, file_sha256(plan))
        if whole in waiting:
            return whole
    return plan.with_suffix(SIDECAR_SUFFIX)


def _waiting(plan: Path, sha256: str) -> Path:
    """The sidecar of a plan with this hash, until it has its final name."""
    return plan.with_suffix(f".{sha256[:_DIGITS]}{SIDECAR_SUFFIX}")


def _all_waiting(plan: Path) -> list[Path]:
    return list(plan.parent.glob(f"{glob.escape(plan.stem)}.{'[0-9a-f]' * _DIGITS}"
                                 f"{SIDECAR_SUFFIX}"))
