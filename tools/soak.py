"""Run the tests of random cases again and again, with other seeds, until the time is up.

    python tools/soak.py [--minutes 10] [--seed N]

A round takes about a minute and is never cut short. The first that fails ends the run with exit
code 1; its seed, given again with --minutes 0, repeats it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9 + 1)
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    seed = given.seed
    while True:
        print(f"seed {seed}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", "2", f"--hypothesis-seed={seed}"],
            cwd=ROOT, env={**os.environ, "BIDIFF_SOAK_SEED": str(seed)})
        if done.returncode:
            print(f"error: seed {seed} fails; make soak MINUTES=0 SEED={seed} repeats it",
                  file=sys.stderr)
            return 1
        seed += 1
        if time.monotonic() >= end:
            return 0


if __name__ == "__main__":
    sys.exit(main())
