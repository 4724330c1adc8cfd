"""Verify the TensorRT backend on this machine's GPU, and measure it.

    python tools/tensorrt_check --json trt.json --tensorrt-root DIR
    python tools/tensorrt_check --json trt.json --parts parity-plugin,speed-demo

Needs a GPU, TensorRT 8.5 or newer with its Python bindings, Python 3.10 or newer and a checkout
with the package's requirements, but neither torch nor a network. The reference cases and crops of
photos run through every variant (plugin, dense, dense int8). Builds, memory, steps and loops are
measured: ours, dense engines and onnxruntime-cuda take turns in one process. trtexec runs the
plugin without Python. If it is missing, the plugin is built into --work, which also stores plans.
What cannot run is reported with the reason and the rest continues. Exit code 1 if parity fails.
Clocks are read, never set.

If a command may only run for a few minutes, repeat the same command. Finished parts are kept in
--json. An interrupted part continues with the plans that it has built, except build and
build-dense, which measure builds from nothing. --json and --work may be copied to another machine
with the same GPU, driver and TensorRT. How long a build takes on a GPU is not known yet; the most
engines that each part builds are:

    parity-plugin, parity-dense, parity-dense-int8    8 each
    images                                            6, of the demo model
    build, build-dense                                3 and 2, and a tiny one each
    speed-network, speed-demo                         4 for each of --batches
    memory                                            8, of which speed-network has built 4
    trtexec                                           1

Start with --quick, whose networks are small; then, with another --json, run --parts parity-plugin,
speed-demo, speed-network, build and the rest in separate commands. If build does not end in time,
use --network small with another --json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from bidiff_deploy.errors import UsageError
from tools.checks.op_library import build_library
from tools.checks.processes import (
    Options,
    Result,
    chosen,
    exit_code,
    write_json,
)
from tools.tensorrt_check.parts import PARTS, run
from tools.tensorrt_check.table import failed, to_text

_MAX_REPORT = 1 << 24
_FIRST = ("machine", "plugin")  # always run again, because the others depend on them
_QUICK = {"steps": 10, "repeats": 3, "network": "small", "batches": "1",
          "reference": "forward_tiny,forward_small"}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="tensorrt_check", allow_abbrev=False,
                                   description=(__doc__ or "").splitlines()[0])
    made.add_argument("--parts", help=f"parts to run, of {', '.join(PARTS)}; default: all")
    made.add_argument("--json", type=Path, help="write every figure to this file after each part")
    made.add_argument("--tensorrt-root", help="folder with TensorRT's headers, to build the plugin")
    made.add_argument("--quick", action="store_true", help="a little of everything: --network "
                      "small, 10 steps, batch 1, two reference cases")
    made.add_argument("--again", action="store_true", help="repeat finished parts in --json, and "
                      "rebuild the plugin in --work")
    made.add_argument("--work", type=Path, default=ROOT / "build" / "tensorrt_check",
                      help="folder for plugin and plans")
    made.add_argument("--device", type=int, default=0, help="number of the GPU")
    made.add_argument("--batches", default="1,8", help="batch sizes to time")
    made.add_argument("--size", type=int, default=256, help="side of images")
    made.add_argument("--steps", type=int, default=50, help="steps of a loop")
    made.add_argument("--repeats", type=int, default=9, help="rounds to take the median of")
    made.add_argument("--network", default="full", help="weights for build, memory, "
                      "speed-network and trtexec: full, small or tiny")
    made.add_argument("--reference", default="forward_tiny,forward_small,forward_full_64,"
                      "forward_full_256", help="reference cases to check")
    made.add_argument("--part", help=argparse.SUPPRESS)  # in a separate process
    made.add_argument("--options", help=argparse.SUPPRESS)
    return made


def main(arguments: list[str] | None = None) -> int:
    return exit_code(parser().parse_args(arguments), PARTS, check)


def check(given: argparse.Namespace) -> int:
    """Run all parts, print the table, write the JSON file, and return the exit code."""
    names = chosen("--parts", given.parts, PARTS)
    options = options_of(given)
    earlier = {} if given.again else read_report(given.json, options)
    build_library(ROOT / "build" / "gpu_check")
    report: Result = {"command": " ".join(["python tools/tensorrt_check", *sys.argv[1:]]),
                      "options": options, "parts": {}}
    for name in _FIRST:
        print(f"{name} ...", file=sys.stderr, flush=True)
        report["parts"][name] = run(name, options)
        if name == "machine" and not report["parts"][name]["ok"]:
            raise UsageError(f"nothing can be checked here: {report['parts'][name]['reason']}")
    enter(options, report["parts"]["plugin"])
    if not same_machine(earlier, report):
        earlier = {}
    # Earlier parts that are not run now stay in the file.
    report["parts"].update({name: part for name, part in earlier.items() if name not in _FIRST
                            and (name not in names or part.get("ok"))})
    for name in names:
        if name not in _FIRST and not report["parts"].get(name, {}).get("ok"):
            print(f"{name} ...", file=sys.stderr, flush=True)
            report["parts"][name] = run(name, options)
        if given.json:
            write_json(given.json, report)
    report["parts"] = {name: report["parts"][name] for name in PARTS if name in report["parts"]}
    print(to_text(report))
    return 1 if failed(report) else 0


def options_of(given: argparse.Namespace) -> Options:
    """The options of the parts, the same for all."""
    values = vars(given)
    if given.quick:
        defaults = vars(parser().parse_args([]))
        values = {**values, **{name: value for name, value in _QUICK.items()
                               if values[name] == defaults[name]}}
    options = {name: values[name] for name in ("device", "size", "steps", "repeats", "network",
                                               "tensorrt_root", "again")}
    if min(options["size"], options["steps"], options["repeats"]) < 1:
        raise UsageError("--size, --steps and --repeats must be at least 1")
    return {**options, "work": str(given.work.resolve()),
            "batches": [int(batch) for batch in values["batches"].split(",")],
            "reference_cases": values["reference"].split(",")}


def enter(options: Options, plugin: Result) -> None:
    """Set the environment of the other parts: the plugin, and plans in the folder ``work``."""
    if plugin["ok"]:
        os.environ["BIDIFF_TENSORRT_PLUGIN"] = plugin["file"]
    os.environ["XDG_DATA_HOME"] = str(Path(options["work"], "data"))
    os.environ.pop("BIDIFF_TENSORRT_PLANS", None)  # one folder would mix the bundles' plans


def read_report(path: Path | None, options: Options) -> dict[str, Result]:
    """The parts of an earlier report with the same options; empty without a report."""
    if path is None or not path.exists():
        return {}
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(_MAX_REPORT))
        measured, parts = found["options"], found["parts"]
        valid = all(isinstance(part, dict) for part in parts.values()) and set(parts) <= set(PARTS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        valid, measured, parts = False, {}, {}
    if not valid:
        raise UsageError(f"{path} is not a report of tensorrt_check; name another file, or remove "
                         "it")
    ignored = ("again", "tensorrt_root", "work")
    if ({name: value for name, value in measured.items() if name not in ignored}
            != {name: value for name, value in options.items() if name not in ignored}):
        raise UsageError(f"{path} was measured with other options; name another file, give the "
                         "same options, or add --again")
    return dict(parts)


def same_machine(earlier: dict[str, Result], report: Result) -> bool:
    """Whether an earlier report is from this machine, TensorRT and plugin."""
    def identity(parts: dict[str, Result]) -> list[object]:
        return [parts.get("machine", {}).get("tensorrt"),
                parts.get("machine", {}).get("device", {}).get("name"),
                parts.get("machine", {}).get("device", {}).get("driver"),
                parts.get("plugin", {}).get("sha256")]
    return identity(earlier) == identity(report["parts"])


if __name__ == "__main__":
    sys.exit(main())
