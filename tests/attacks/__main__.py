"""Run attacks: ``python -m attacks [NAME...]``, or ``python -m attacks --mutants 3000 [--seed 1]``;
see the package."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from bidiff_deploy.export.write import export_bundle
from support.reference_cases import Reference
from support.small_bbcu import small_bbcu

from . import checkpoints
from .bundles import GRAPHS, MANIFESTS, write
from .limited import Outcome, outcome_of, outcome_of_reading
from .mutants import write_mutant

BEFORE = Path(__file__).parents[1] / "bundle" / "exported_before" / "tiny.bundle"  # schema 1


def made(path: Path, make: Callable[[Path], object]) -> Path:
    if not path.exists():
        make(path)
    return path


def on_checkpoints(reference: Reference, folder: Path) -> dict[str, Callable[[], Outcome]]:
    """What attacks by checkpoints and option files come to, by name."""
    def read(maker: checkpoints.Maker) -> Outcome:
        return outcome_of_reading(maker(folder, reference.state("tiny")))

    def read_options(text: str) -> Outcome:
        (folder / "hostile.yml").write_text(text)
        return outcome_of_reading(reference.checkpoint("tiny"), folder / "hostile.yml")

    return {**{name: partial(read, maker) for name, maker in
               {**checkpoints.REFUSED, **checkpoints.READ}.items()},
            **{name: partial(read_options, text) for name, text in checkpoints.OPTIONS.items()}}


def main() -> int:
    known = {**GRAPHS, **MANIFESTS}
    parser = argparse.ArgumentParser(description="Open hostile files, each within limits.")
    parser.add_argument("names", nargs="*", help="attacks; default: all")
    parser.add_argument("--mutants", type=int, default=0, help="open so many random ones instead")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        reference = Reference(lambda name, make: made(Path(folder) / name, make))
        path = reference.bundle("tiny", [900, 400])
        honest, bundle = outcome_of(path), Path(folder) / "hostile.bundle"
        print(f"honest: {honest}")
        feedforward = Path(folder) / "bbcu.bundle"
        export_bundle(small_bbcu(), feedforward)
        for index in range(given.mutants):
            base = (path, BEFORE, feedforward)[index % 3]
            name = write_mutant(base, bundle, np.random.default_rng([given.seed, index]))
            outcomes.append((f"{index}, {name}", outcome_of(bundle)))
        written = on_checkpoints(reference, Path(folder))
        for name in () if given.mutants else given.names or known:
            if name not in known:
                continue
            shutil.rmtree(bundle, ignore_errors=True)
            shutil.copytree(path, bundle)
            write(bundle, known[name])
            outcomes.append((name, outcome_of(bundle)))
            print(f"{name}: {outcomes[-1][1]}")
        for name in () if given.mutants else given.names or written:
            if name in written:
                outcomes.append((name, written[name]()))
                print(f"{name}: {outcomes[-1][1]}")
    failed = [(name, outcome) for name, outcome in outcomes
              if not (outcome.good and outcome.costs_no_more_than(honest))]
    for name, outcome in failed:
        print(f"FAIL {name}: {outcome}")
    refused = sum(bool(outcome.error) for _, outcome in outcomes)
    print(f"{len(outcomes)} files: {refused} refused, {len(failed)} failed; at most "
          f"{max(o.grown for _, o in outcomes) >> 20} MiB and "
          f"{max(o.seconds for _, o in outcomes):.2f} s")
    return min(len(failed), 1)


if __name__ == "__main__":
    sys.exit(main())
