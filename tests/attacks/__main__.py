"""Run attacks: ``python -m attacks [NAME...]``; see the package."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from support.reference_cases import Reference

from .bundles import GRAPHS, MANIFESTS, write
from .limited import outcome_of


def made(path: Path, make: Callable[[Path], object]) -> Path:
    if not path.exists():
        make(path)
    return path


def main(names: list[str]) -> int:
    known = {**GRAPHS, **MANIFESTS}
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        honest = Reference(lambda name, make: made(Path(folder) / name, make)).bundle(
            "tiny", [900, 400])
        for name in names or known:
            bundle = Path(folder) / "hostile.bundle"
            shutil.rmtree(bundle, ignore_errors=True)
            shutil.copytree(honest, bundle)
            write(bundle, known[name])
            outcome = outcome_of(bundle)
            failed += not outcome.good
            print(f"{'ok  ' if outcome.good else 'FAIL'} {name}: {outcome}")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
