"""Verify the CUDA kernels on this machine's GPU, and measure them.

    python tools/gpu_check --json gpu.json
    python tools/gpu_check --only parity,sanitizer

Every path of every operator is compared with the CPU's integers on random shapes (and run under
compute-sanitizer if it is found), the reference cases run through backend onnxruntime-cuda. Every
binary operator of the published network is timed by every path, and a step at 256x256 against cuDNN
(torch, float16, channels_last, CUDA graph) and ONNX Runtime's CUDA provider without our operators.
What cannot run is reported with the reason and the rest continues. The op library is built if it is
missing. Exit code 1 if anything differs or a kernel fails. Clocks are read, never set.
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
    made.add_argument("--only", help=f"parts to run, of {', '.join(PARTS)}; default: all")
    made.add_argument("--json", type=Path, help="write every figure to this file after each part")
    made.add_argument("--device", type=int, default=0, help="number of the GPU")
    made.add_argument("--cases", type=int, default=60, help="random problems of each operator")
    made.add_argument("--seed", type=int, default=0, help="seed of the random problems")
    made.add_argument("--largest", type=int, default=130, help="most channels and longest side")
    made.add_argument("--batches", default="1,8", help="batch sizes to time")
    made.add_argument("--size", type=int, default=256, help="side of a step's images")
    made.add_argument("--network", default="full", help="weights of a step: full, small or tiny")
    made.add_argument("--reference", default="forward_tiny,forward_small,forward_full_64,"
                      "forward_full_256", help="reference cases to check")
    made.add_argument("--layers", help="time only these layers, such as 64@256k3,512@32k1")
    made.add_argument("--repeats", type=int, default=7, help="measurements to take the median of")
    made.add_argument("--rounds", type=int, default=20, help="runs of a layer in a measurement")
    made.add_argument("--cache", type=int, default=160, help="MiB that a layer's maps rotate over, "
                      "more than the GPU's last cache")
    made.add_argument("--steps", type=int, default=20, help="steps in a measurement")
    made.add_argument("--part", help=argparse.SUPPRESS)  # in a separate process
    made.add_argument("--options", help=argparse.SUPPRESS)
    return made


def main(arguments: list[str] | None = None) -> int:
    return exit_code(parser().parse_args(arguments), PARTS, check)


def check(given: argparse.Namespace) -> int:
    """Run all parts, print the table, write the JSON file, and return the exit code."""
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
