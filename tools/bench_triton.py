"""Images a second through NVIDIA Triton's server, by batch and instances, beside the engine itself.

    .venv/nvidia/bin/python tools/bench_triton.py photo-x2 --interpreter .venv/triton --side 64

Requests of one image come from as many clients at once as two batches of every instance need. All
configurations are served by one server and take turns; a figure is the median of the rounds, with
the ratio to the engine alone in the same round. The clients run on the same cores.
"""

from __future__ import annotations

import argparse
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
            rounds: list[list[float]] = []
            for number in range(arguments.rounds + 1):  # the first one warms up
                speeds = [_alone(engine, image[0], arguments.seconds)]
                speeds += [_served(server, serving, image, arguments.seconds) for serving in grid]
                rounds += [speeds] if number else []
    print(f"{arguments.model}, {side}x{side}, {cores} cores, images/s, median of "
          f"{arguments.rounds} rounds")
    for place, name in enumerate(["engine alone"] + [
            f"{serving.instances} instances, batches of up to {serving.max_batch}"
            for serving in grid]):
        ratios = sorted(speeds[place] / speeds[0] for speeds in rounds)
        print(f"{name:36} {statistics.median(speeds[place] for speeds in rounds):7.1f}  "
              f"{statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return 0


def _alone(engine: ImageEngine, image: np.ndarray, seconds: float) -> float:
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        engine.upscale(image)
        count += 1
    return count / (time.perf_counter() - started)


def _served(server: TritonServer, serving: Serving, image: np.ndarray, seconds: float) -> float:
    counts: list[int] = []
    deadline = time.perf_counter() + seconds
    started = time.perf_counter()

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
    return sum(counts) / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
