"""Times a bundle's step with this build of the op library against another build of it.

Both are loaded into one process, each by a session of its own on the same graph, inputs and thread
pool, and take turns round by round: a ratio is the median of the rounds' ratios. That shows what a
change to the kernels gains, also for kernels of a CPU that is not at hand but can be forced
(``--kernel avx2``), where ONNX Runtime's own operators would use what this CPU has. Operators are
compared by profiles, taken in turns too.

    git worktree add build/before COMMIT
    cmake -S build/before/engines -B build/before/build -DBIDIFF_CUDA=OFF
    cmake --build build/before/build
    python tools/bench_library.py x4.bundle build/before/build/libbidiff_ops.so --kernel avx2
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from bidiff_deploy.graphs.record import ParameterizedGraph

WARM_UP = 3
PROFILED = 5  # runs of each library in a profile
PAUSE_SECONDS = 0.02  # in which the other session's threads stop spinning


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("other", type=Path, help="another build of libbidiff_ops.so")
    parser.add_argument("--size", default="256x256", metavar="HxW")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--kernel", help="kernel to force in both; default: the best of this CPU")
    parser.add_argument("--processor-time", action="store_true",
                        help="time the processor, not the clock; with one thread")
    parser.add_argument("--profile", action="store_true", help="compare operators too")
    parser.add_argument("--nodes", action="store_true", help="compare single nodes too")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    arguments = parser.parse_args()
    if arguments.processor_time and arguments.threads != 1:
        parser.error("--processor-time needs --threads 1")
    if arguments.kernel:
        os.environ["BIDIFF_KERNEL"] = arguments.kernel  # before the libraries are loaded

    import numpy as np

    from bidiff_deploy.engines import library

    mine = library.library_path()
    if mine is None:
        parser.error(library.missing_reason())
    graph, feeds = step(arguments.bundle, *map(int, arguments.size.split("x")))
    pin(arguments.threads)
    files = {"this": mine, "other": arguments.other}
    load = os.getloadavg()[0]
    sessions = {name: open_session(graph, file, arguments.threads) for name, file in files.items()}
    # Of one thread, which does not wait for others, processor time is what a busy machine leaves
    # nearly alone.
    clock = time.process_time if arguments.processor_time else time.perf_counter
    seconds, outputs = take_turns(sessions, feeds, arguments.rounds, clock)
    ratios = [b / a for a, b in zip(seconds["this"], seconds["other"])]
    difference = float(np.abs(outputs["this"] - outputs["other"]).max())
    print(f"{arguments.bundle}, {arguments.size}, {arguments.threads} threads, "
          f"{arguments.rounds} rounds, {'processor' if arguments.processor_time else 'wall'} time, "
          f"kernel {library.selected_kernel()}, floats {library.float_kernels()}, "
          f"load average {load:.2f} to {os.getloadavg()[0]:.2f}")
    for name, times in seconds.items():
        print(f"{name:<8}{statistics.median(times) * 1e3:8.2f} ms ({min(times) * 1e3:.2f} to "
              f"{max(times) * 1e3:.2f})  {files[name]}")
    print(f"this is {statistics.median(ratios):.3f} times as fast ({min(ratios):.3f} to "
          f"{max(ratios):.3f}); outputs differ by at most {difference:.2e}, "
          f"{signal_to_noise(outputs):.1f} dB")
    del sessions
    found: dict[str, Any] = {"seconds": seconds, "ratios": ratios, "difference": difference}
    if arguments.profile or arguments.nodes:
        nodes = profiles(graph, files, feeds, arguments.threads)
        found["nodes"] = nodes
        by_operator: dict[str, dict[str, float]] = {name: defaultdict(float) for name in files}
        for name, rows in nodes.items():
            for (_, operator), value in rows.items():
                by_operator[name][operator] += value
        print_table(by_operator)
        if arguments.nodes:
            print_table({name: {f"{operator} {node}": value
                                for (node, operator), value in rows.items()}
                         for name, rows in nodes.items()})
        found["nodes"] = {name: [[*key, value] for key, value in rows.items()]
                          for name, rows in nodes.items()}
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
    return 0


def step(bundle: Path, height: int, width: int) -> tuple[ParameterizedGraph, dict[str, np.ndarray]]:
    """The graph of a bundle's first step, or of its one run, and its inputs."""
    import numpy as np

    from bidiff_deploy.bundle.manifest import open_bundle
    from bidiff_deploy.bundle.step_graphs import StepGraphs
    from bidiff_deploy.graphs.lowering import parameterized_graph

    opened = open_bundle(bundle)
    graphs = StepGraphs(opened)
    graph = parameterized_graph(graphs)
    generator = np.random.default_rng(0)
    feeds: dict[str, np.ndarray] = {}
    for value in graph.model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if len(shape) == 4 and not shape[-1]:
            feeds[value.name] = generator.random((1, shape[1], height, width), np.float32)
    if "noisy" in feeds:
        feeds["noisy"] = generator.standard_normal(feeds["noisy"].shape).astype(np.float32)
    for name, constant in graphs.constants(opened.steps[0].timestep).items():
        feeds[name] = np.asarray(constant)
    return graph, feeds


def open_session(graph: ParameterizedGraph, file: Path, threads: int,
                 profile: str | None = None) -> Any:
    import numpy as np
    import onnxruntime

    from bidiff_deploy.engines.onnxruntime.session import register, session_options

    options = session_options(threads)
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    register(options, file)
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(value))
              for name, value in graph.constants.items()}
    options.add_external_initializers(list(values), list(values.values()))
    return onnxruntime.InferenceSession(graph.serialized(), options,
                                        providers=["CPUExecutionProvider"])


def take_turns(sessions: dict[str, Any], feeds: dict[str, np.ndarray], rounds: int,
               clock: Callable[[], float] = time.perf_counter
               ) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Seconds of each round's second run: the first one has the other library's caches."""
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    outputs = {}
    for index in range(WARM_UP + rounds):
        for name, session in sessions.items():
            time.sleep(PAUSE_SECONDS)
            session.run(None, feeds)
            started = clock()
            outputs[name] = session.run(None, feeds)[0]
            if index >= WARM_UP:
                seconds[name].append(clock() - started)
    return seconds, outputs


def profiles(graph: ParameterizedGraph, files: dict[str, Path], feeds: dict[str, np.ndarray],
             threads: int) -> dict[str, dict[tuple[str, str], float]]:
    """Median seconds of every node, by name and operator."""
    with tempfile.TemporaryDirectory() as folder:
        sessions = {name: open_session(graph, file, threads, str(Path(folder, name)))
                    for name, file in files.items()}
        take_turns(sessions, feeds, PROFILED)
        found = {}
        for name, session in sessions.items():
            events = json.loads(Path(session.end_profiling()).read_text())
            runs: dict[tuple[str, str], list[float]] = defaultdict(list)
            for event in events:
                if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                    key = event["name"][:-len("_kernel_time")], event["args"]["op_name"]
                    runs[key].append(event["dur"] / 1e6)
            found[name] = {key: statistics.median(values[2 * WARM_UP + 1::2])
                           for key, values in runs.items()}
    return found


def print_table(rows: dict[str, dict[str, float]]) -> None:
    for key, value in sorted(rows["this"].items(), key=lambda row: -row[1]):
        other = rows["other"].get(key, 0.0)
        print(f"  {key:<44}{value * 1e3:9.2f} ms {other * 1e3:9.2f} ms"
              f"{other / value if value else 0.0:7.2f}")
    totals = [sum(values.values()) * 1e3 for values in rows.values()]
    print(f"  {'all':<44}{totals[0]:9.2f} ms {totals[1]:9.2f} ms{totals[1] / totals[0]:7.2f}")


def signal_to_noise(outputs: dict[str, np.ndarray]) -> float:
    from bidiff_deploy.proof.check.statistics import snr

    return snr(outputs["other"], outputs["this"])


def pin(threads: int) -> None:
    """Restrict this process to as many cores as it has threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


if __name__ == "__main__":
    sys.exit(main())
