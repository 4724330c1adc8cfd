"""Images a second through NVIDIA Triton's server, by batch and instances, beside the engine itself.

    .venv/nvidia/bin/python tools/bench_triton.py photo-x2 --interpreter .venv/triton --side 64

Requests of one image come from as many clients at once as two batches of every instance need. All
configurations are served by one server and take turns; a figure is the median of the rounds, with
the ratio to the engine alone in the same round. The clients run on the same cores. CPU time is that
of the server and the model's processes, or of the engine; other work changes it little.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

from bidiff_deploy import load_bundle, machine  # noqa: E402
from bidiff_deploy.engines.image_engine import ImageEngine  # noqa: E402
from bidiff_deploy.models.open import bundle_folder  # noqa: E402
from bidiff_deploy.serving.triton import Serving, export_repository  # noqa: E402
from tools.triton_server import TritonServer, client, inputs  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a bundle, a checkpoint or the name of an installed model")
    parser.add_argument("--interpreter", type=Path, required=True,
                        help="environment of Triton's Python backend, with numpy 1")
    parser.add_argument("--side", type=int, default=64, help="of the input images, in pixels")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a measurement")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cores = max(1, int(machine.usable_cores()))
    grid = [Serving(f"b{batch}i{instances}", max_batch=batch, instances=instances)
            for instances in dict.fromkeys((1, cores)) for batch in (1, 4)]
    side = arguments.side
    image = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    with bundle_folder(arguments.model) as bundle, tempfile.TemporaryDirectory() as folder:
        for serving in grid:
            export_repository(bundle, Path(folder, serving.name), serving)
        with load_bundle(bundle, threads=cores) as engine, TritonServer(
                [Path(folder, serving.name) for serving in grid], arguments.interpreter.absolute(),
                Path(folder, "triton")) as server:
            rounds: list[list[tuple[float, float]]] = []
            for number in range(arguments.rounds + 1):  # the first one warms up
                speeds = [_alone(engine, image[0], arguments.seconds)]
                speeds += [_served(server, serving, image, arguments.seconds) for serving in grid]
                rounds += [speeds] if number else []
    print(f"{arguments.model}, {side}x{side}, {cores} cores, median of {arguments.rounds} rounds")
    print(f"{'':36} images/s  ratio                 CPU ms an image")
    for place, name in enumerate(["engine alone"] + [
            f"{serving.instances} instances, batches of up to {serving.max_batch}"
            for serving in grid]):
        ratios = sorted(speeds[place][0] / speeds[0][0] for speeds in rounds)
        speed, cost = (statistics.median(speeds[place][kind] for speeds in rounds)
                       for kind in (0, 1))
        print(f"{name:36} {speed:8.1f}  {statistics.median(ratios):.2f}x "
              f"({ratios[0]:.2f} to {ratios[-1]:.2f})  {1000 * cost:7.2f}")
    return 0


def _alone(engine: ImageEngine, image: np.ndarray, seconds: float) -> tuple[float, float]:
    """Images a second, and CPU seconds an image."""
    started, spent, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < seconds:
        engine.upscale(image)
        count += 1
    return count / (time.perf_counter() - started), (time.process_time() - spent) / count


def _served(server: TritonServer, serving: Serving, image: np.ndarray,
            seconds: float) -> tuple[float, float]:
    """As ``_alone``."""
    processes = [server.process.pid, *server.workers(serving.name)]
    counts: list[int] = []
    spent = sum(map(_cpu_seconds, processes))
    started = time.perf_counter()
    deadline = started + seconds

    def send() -> None:
        count = 0
        with client(server.url) as connection:
            while time.perf_counter() < deadline:
                connection.infer(serving.name, inputs(image))
                count += 1
        counts.append(count)

    threads = [threading.Thread(target=send)
               for _ in range(2 * serving.max_batch * serving.instances)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    return sum(counts) / elapsed, (sum(map(_cpu_seconds, processes)) - spent) / sum(counts)


def _cpu_seconds(process: int) -> float:
    times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
