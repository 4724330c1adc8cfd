"""Times bidiff::BinaryConv against ONNX Runtime's float32 Conv, on the shapes of the network.

Both run in one process under ONNX Runtime, with the same threads and tensors, in interleaved rounds
after warm-up; the Conv has the folded weights alpha * sign(W). All sessions share one thread pool:
workers spin for a while after a run, so the workers of another pool would occupy the core that the
next candidate needs. Several threads are pinned to one core each if the system supports it, because
a scheduler may leave two spinning threads on one core. Layers whose input and output are about as
large as the last cache (256x256 maps) rotate over more memory than the cache, because otherwise
chance decides whether their input is cached; smaller ones reuse one buffer, as an arena does.
``bare`` is BinaryConv as a convolution alone; ``fused`` adds threshold, RPReLU, residual and time,
for which the float graph would need further nodes, which are not timed.

    python tools/bench_binary_conv.py --threads 1 --json result.json
    BIDIFF_KERNEL=avx2 python tools/bench_binary_conv.py      (or --kernel avx2)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

# (channels, k, height = width, number of such layers in a step of the published network)
LAYERS = [(32, 3, 256, 2), (64, 3, 256, 4), (64, 3, 128, 2), (128, 3, 128, 6), (128, 3, 64, 2),
          (256, 3, 64, 12), (256, 1, 64, 6), (512, 3, 32, 16), (512, 1, 32, 6)]
WARM_UP = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--kernel", help="kernel to force; default: the best this CPU supports")
    parser.add_argument("--layers", help="only these, such as 64@256k3,512@32k1")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    arguments = parser.parse_args()
    if arguments.kernel:
        os.environ["BIDIFF_KERNEL"] = arguments.kernel  # before the library is loaded

    import onnxruntime

    from bidiff_deploy.engines import library

    kernel = library.selected_kernel()
    start_pool(arguments.threads)
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    print(f"kernel {kernel}, onnxruntime {onnxruntime.__version__}, {arguments.threads} thread(s), "
          f"{cores} cores, load average {load:.2f}")
    if load > 0.5:
        print("warning: the machine is busy; the ratios may be wrong", file=sys.stderr)

    wanted = arguments.layers.split(",") if arguments.layers else None
    results = []
    print("ms are medians of rounds, and (minima); x is Conv's median / ours, and (of the minima)")
    print(f"{'layer':>10} {'n':>3} | {'Conv ms':>16} | {'bare ms':>16} {'x':>13} {'spread':>13}"
          f" | {'fused ms':>16} {'x':>13} | GMAC/s bare")
    for channels, k, size, count in LAYERS:
        name = f"{channels}@{size}k{k}"
        if wanted and name not in wanted:
            continue
        times = measure(channels, k, size, arguments.rounds)
        results.append({"layer": name, "count": count, **report(name, count, times,
                                                                channels, k, size)})
    total = {key: sum(row["count"] * row[key] for row in results)
             for key in ("conv", "bare", "fused")}
    print(f"all, by how often a step runs each: Conv {total['conv']:.1f} ms, "
          f"bare {total['bare']:.1f} ms ({total['conv'] / total['bare']:.1f}x), "
          f"fused {total['fused']:.1f} ms ({total['conv'] / total['fused']:.1f}x)")
    if arguments.json:
        arguments.json.write_text(json.dumps({
            "kernel": kernel, "onnxruntime": onnxruntime.__version__, "cores": cores,
            "threads": arguments.threads, "rounds": arguments.rounds,
            "load_average": [load, os.getloadavg()[0]], "unit": "ms", "layers": results}, indent=1))
    return 0


def start_pool(threads: int) -> None:
    """Create one thread pool for all sessions: this thread and ``threads`` - 1 others."""
    import onnxruntime

    tasks = Path("/proc/self/task")
    before = set(tasks.iterdir()) if tasks.is_dir() else set()
    onnxruntime.set_global_thread_pool_sizes(threads, 1)
    cores = sorted(os.sched_getaffinity(0)) if before else []
    if 1 < threads <= len(cores):
        workers = sorted(int(task.name) for task in set(tasks.iterdir()) - before)
        for thread, core in zip([0, *workers], cores):
            os.sched_setaffinity(thread, {core})


def measure(channels: int, k: int, size: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds a run of "conv", "bare" and "fused", one value for each round."""
    import numpy as np
    from onnxruntime import OrtValue

    generator = np.random.default_rng(channels * size + k)
    pair = 2 * 4 * channels * size * size  # bytes of an input and its output
    cache = last_cache_bytes()
    buffers = min(64, max(1, -(-2 * cache // pair))) if size >= 256 else 1

    def empty() -> OrtValue:  # from ONNX Runtime's allocator, aligned as inside a graph
        shape = (1, channels, size, size)
        return OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cpu", 0)

    inputs, outputs = [empty() for _ in range(buffers)], [empty() for _ in range(buffers)]
    for x in inputs:
        x.update_inplace(generator.standard_normal((1, channels, size, size)).astype(np.float32))
    bindings = {}
    for name, model in models(channels, k, size, generator).items():
        session = make_session(model)
        bindings[name] = (session, [bind(session, x, y) for x, y in zip(inputs, outputs)])

    # Short layers run several times a round, so that the cost of reading the clock is negligible.
    repeats = 5 if channels * channels * k * k * size * size < 1 << 30 else 1
    times: dict[str, list[float]] = {name: [] for name in bindings}
    turn = 0
    for round_number in range(WARM_UP + rounds):
        for name, (session, bound) in bindings.items():
            start = time.perf_counter()
            for _ in range(repeats):
                session.run_with_iobinding(bound[turn % buffers])
                turn += 1
            elapsed = (time.perf_counter() - start) / repeats * 1e3
            if round_number >= WARM_UP:
                times[name].append(elapsed)
    return times


def models(channels: int, k: int, size: int, generator) -> dict[str, bytes]:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weights = generator.standard_normal((channels, channels, k, k)).astype(np.float32)
    alpha = np.abs(weights).mean(axis=(1, 2, 3)).astype(np.float32)
    folded = np.where(weights >= 0, 1, -1).astype(np.float32) * alpha[:, None, None, None]
    bits = np.zeros((channels, k, k, -(-channels // 32) * 32), np.uint8)
    bits[..., :channels] = (weights >= 0).transpose(0, 2, 3, 1)
    constants = {
        "folded": folded,
        "words": np.packbits(bits, axis=-1, bitorder="little").view(np.int32),
        "alpha": alpha,
        "threshold": (0.1 * generator.standard_normal(channels)).astype(np.float32),
        "rprelu": (0.1 * generator.standard_normal((3, channels))).astype(np.float32),
        "time": generator.standard_normal(channels).astype(np.float32),
    }
    nodes = {
        "conv": helper.make_node("Conv", ["x", "folded"], ["y"], pads=[k // 2] * 4),
        "bare": helper.make_node("BinaryConv", ["x", "words", "alpha"], ["y"], domain="bidiff"),
        "fused": helper.make_node("BinaryConv", ["x", "words", "alpha", "threshold", "rprelu", "x",
                                                 "time"], ["y"], domain="bidiff"),
    }
    shape = [1, channels, size, size]
    built = {}
    for name, node in nodes.items():
        used = [numpy_helper.from_array(constants[i], i) for i in node.input if i in constants]
        graph = helper.make_graph(
            [node], name, [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)], used)
        built[name] = helper.make_model(graph, ir_version=8, opset_imports=[
            helper.make_opsetid("", 17), helper.make_opsetid("bidiff", 1)]).SerializeToString()
    return built


def make_session(model: bytes):
    import onnxruntime

    from bidiff_deploy.engines import library

    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False
    options.register_custom_ops_library(str(library.library_path()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def bind(session, x, y):
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", x)
    binding.bind_ortvalue_output("y", y)
    return binding


def report(name: str, count: int, times: dict[str, list[float]], channels: int, k: int,
           size: int) -> dict[str, object]:
    """Print one row; ratios are of medians, the spread is that of the rounds' ratios."""
    medians = {key: statistics.median(values) for key, values in times.items()}
    ratios = sorted(a / b for a, b in zip(times["conv"], times["bare"]))
    rate = channels * channels * k * k * size * size / medians["bare"] / 1e6

    def shown(key: str) -> str:
        return f"{medians[key]:8.3f} ({min(times[key]):.2f})".rjust(16)

    def ratio(key: str) -> str:
        best = min(times["conv"]) / min(times[key])
        return f"{medians['conv'] / medians[key]:5.2f} ({best:5.2f})"

    print(f"{name:>10} {count:>3} | {shown('conv')} | {shown('bare')} {ratio('bare')} "
          f"{ratios[0]:5.1f} -{ratios[-1]:5.1f}  | {shown('fused')} {ratio('fused')} | {rate:8.0f}",
          flush=True)
    return {**medians, "ratio_bare": medians["conv"] / medians["bare"],
            "ratio_fused": medians["conv"] / medians["fused"],
            "ratio_bare_minima": min(times["conv"]) / min(times["bare"]),
            "ratio_fused_minima": min(times["conv"]) / min(times["fused"]), "rounds": times}


def last_cache_bytes() -> int:
    """Size of the first core's largest cache; 32 MiB if it is unknown."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        if text.endswith("K"):
            sizes.append(int(text[:-1]) << 10)
    return max(sizes, default=32 << 20)


if __name__ == "__main__":
    raise SystemExit(main())
