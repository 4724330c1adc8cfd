"""Prove the CUDA kernels on this machine's GPU, and measure them.

    python tools/gpu_check --json gpu.json
    python tools/gpu_check --only parity,sanitizer

Every path of every operator is held against the CPU's integers over random shapes (and run under
compute-sanitizer where that is found), the reference cases through backend onnxruntime-cuda; every
binary operator of the published network is timed by every path, and a step at 256x256 against cuDNN
(torch, float16, channels_last, CUDA graph) and ONNX Runtime's CUDA provider without our operators.
What cannot run is told in a sentence and the rest goes on. The op library is built if there is
none. Exit code 1 if anything differs or a kernel fails. Clocks are read, never set.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tools.checks.op_library import build_library
from tools.checks.processes import chosen, exit_code, write_json
from tools.gpu_check.parts import PARTS, run
from tools.gpu_check.table import failed, to_text


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="gpu_check", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--only", help=f"parts, of {', '.join(PARTS)}; all by default")
    made.add_argument("--json", type=Path, help="file for every figure, also written after a part")
    made.add_argument("--device", type=int, default=0, help="number of the GPU")
    made.add_argument("--cases", type=int, default=60, help="random problems of each operator")
    made.add_argument("--seed", type=int, default=0, help="of the random problems")
    made.add_argument("--largest", type=int, default=130, help="channels and sides of problems")
    made.add_argument("--batches", default="1,8", help="numbers of images to time")
    made.add_argument("--size", type=int, default=256, help="side of a step's images")
    made.add_argument("--network", default="full", help="weights of a step: full, small or tiny")
    made.add_argument("--reference", default="forward_tiny,forward_small,forward_full_64,"
                      "forward_full_256", help="reference cases to hold")
    made.add_argument("--layers", help="time these instead, such as 64@256k3,512@32k1")
    made.add_argument("--repeats", type=int, default=7, help="measurements, of which the median")
    made.add_argument("--rounds", type=int, default=20, help="runs of a layer in a measurement")
    made.add_argument("--cache", type=int, default=160, help="MiB that a layer's maps rotate over, "
                      "more than the GPU's last cache holds")
    made.add_argument("--steps", type=int, default=20, help="steps in a measurement")
    made.add_argument("--part", help=argparse.SUPPRESS)  # in a process of its own
    made.add_argument("--options", help=argparse.SUPPRESS)
    return made


def main(arguments: list[str] | None = None) -> int:
    return exit_code(parser().parse_args(arguments), PARTS, check)


def check(given: argparse.Namespace) -> int:
    """All parts, the table and the JSON file; returns the exit code."""
    names = chosen("--only", given.only, PARTS)
    build_library(ROOT / "build" / "gpu_check")
    from bidiff_deploy.engines.gpu import library as cuda_library
    cuda_library.device_info(given.device)  # without a GPU there is nothing to check
    options = {name: getattr(given, name) for name in (
        "device", "cases", "seed", "largest", "size", "network", "layers", "repeats", "rounds",
        "cache", "steps")}
    options["batches"] = [int(batch) for batch in given.batches.split(",")]
    options["timesteps"] = [400]
    options["reference_cases"] = given.reference.split(",")
    report = {"command": " ".join(["python tools/gpu_check", *sys.argv[1:]]), "options": options,
              "parts": {}}
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        report["parts"][name] = run(name, options)
        if given.json:
            write_json(given.json, report)
    print(to_text(report))
    return 1 if failed(report) else 0


if __name__ == "__main__":
    sys.exit(main())
