"""The demo: photos the shipped model never saw, made small, upscaled, compared and timed.

    python tools/demo.py BUNDLE PHOTO... -o FOLDER

For each photo, cut to its middle 400 x 400 pixels: the low-resolution image (Pillow's BICUBIC, antialiased, 8 bits), the result, and
a picture with nearest, bicubic, ours and the original side by side. Then PSNR-Y and SSIM-Y of
each, and time and peak memory of the packed engine against the same graphs run by a stock ONNX
Runtime in float32 (their function bodies), interleaved in this process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bidiff_deploy import load_bundle
from bidiff_deploy.images import read_image, write_image
from bidiff_deploy.metrics import psnr_y, ssim_y

ROUNDS = 7
# Photos are cut to their middle of at most this many pixels a side: the attention map grows with
# the square of the area, and a demo should run on a small machine.
LARGEST = 400
BACKENDS = {"packed": "onnxruntime", "stock float32": "onnxruntime-stock"}
_MEMORY = """
import sys
import numpy as np
from bidiff_deploy import load_bundle
from bidiff_deploy.memory import peak_memory
with load_bundle(sys.argv[1], threads=int(sys.argv[2]), backend=sys.argv[3]) as engine:
    x = np.zeros((1, 3, int(sys.argv[4]), int(sys.argv[5])), np.float32)
    engine.predict(x, x, engine.timesteps[-1])
    print(peak_memory())
"""


def shrink(photo: np.ndarray, scale: int) -> np.ndarray:
    """uint8 (H, W, 3) made ``scale`` times smaller; H and W are multiples of it."""
    height, width = photo.shape[:2]
    small = Image.fromarray(photo).resize((width // scale, height // scale),
                                          Image.Resampling.BICUBIC)
    return np.asarray(small)


def enlarge(small: np.ndarray, scale: int, how: Image.Resampling) -> np.ndarray:
    size = small.shape[1] * scale, small.shape[0] * scale
    return np.asarray(Image.fromarray(small).resize(size, how))


def detail(photo: np.ndarray, size: int) -> tuple[int, int]:
    """Top left of the square of ``size`` with the most edges: what a comparison should show.

    Edges, not noise: gradients count as far as they agree in direction with those around them
    (the difference of the structure tensor's eigenvalues).
    """
    dy, dx = (gradient[1:-1, 1:-1] for gradient in np.gradient(photo.mean(-1)))
    xx, yy, xy = (_box(product, 9) for product in (dx * dx, dy * dy, dx * dy))
    sums = _box(np.hypot(xx - yy, 2 * xy), size - 12)
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    return int(top), int(left)


def _box(values: np.ndarray, size: int) -> np.ndarray:
    """Sums over all squares of ``size``."""
    total = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return (total[size:, size:] - total[:-size, size:] - total[size:, :-size]
            + total[:-size, :-size])


def side_by_side(panels: dict[str, np.ndarray], scores: dict[str, str], size: int,
                 zoom: int) -> Image.Image:
    """The same square of every panel, enlarged without smoothing, with its name and score."""
    original = panels["original"]
    size = min(size, *original.shape[:2])
    top, left = detail(original, size)
    side, gap, text = size * zoom, 12, 46
    sheet = Image.new("RGB", (gap + len(panels) * (side + gap), side + 2 * gap + text), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(18)
    for i, (name, image) in enumerate(panels.items()):
        crop = Image.fromarray(image[top:top + size, left:left + size])
        x = gap + i * (side + gap)
        sheet.paste(crop.resize((side, side), Image.Resampling.NEAREST), (x, gap))
        draw.text((x, side + gap + 4), f"{name}  {scores.get(name, '')}", "black", font)
    return sheet


def upscale_photo(engine, path: Path, folder: Path) -> dict:
    """Make one photo small, upscale it, write the pictures; returns its figures."""
    scale = engine.scale
    photo = read_image(path).pixels[..., :3]
    for axis in (0, 1):
        side = min(photo.shape[axis], LARGEST) // scale * scale
        start = (photo.shape[axis] - side) // 2
        photo = photo.take(range(start, start + side), axis)
    small = shrink(photo, scale)
    started = time.perf_counter()
    ours = engine.upscale(small)
    seconds = time.perf_counter() - started
    panels = {"nearest": enlarge(small, scale, Image.Resampling.NEAREST),
              "bicubic": enlarge(small, scale, Image.Resampling.BICUBIC),
              "bidiff_deploy": ours, "original": photo}
    # The field crops ``scale`` pixels at the border before it measures.
    figures = {name: {"psnr_y": psnr_y(image, photo, scale), "ssim_y": ssim_y(image, photo, scale)}
               for name, image in panels.items() if name != "original"}
    scores = {name: f"{f['psnr_y']:.2f} dB  {f['ssim_y']:.4f}" for name, f in figures.items()}
    write_image(folder / f"{path.stem}_small.png", small, overwrite=True)
    write_image(folder / f"{path.stem}_x{scale}.png", ours, overwrite=True)
    sheet = side_by_side(panels, scores, size=128, zoom=3)
    write_image(folder / f"{path.stem}_compared.png", np.asarray(sheet), overwrite=True)
    return {"photo": path.name, "height": photo.shape[0], "width": photo.shape[1],
            "seconds": seconds, "quality": figures}


def time_steps(bundle: Path, threads: int, height: int, width: int) -> dict:
    """Seconds of one step by each backend, interleaved, and peak memory in a process of its own."""
    rng = np.random.default_rng(0)
    noisy, condition = rng.random((2, 1, 3, height, width), np.float32)
    engines = {name: load_bundle(bundle, threads=threads, backend=backend)
               for name, backend in BACKENDS.items()}
    times: dict[str, list[float]] = {name: [] for name in engines}
    for round_ in range(ROUNDS + 1):  # the first is a warm-up
        for name, engine in engines.items():
            started = time.perf_counter()
            engine.predict(noisy, condition, engine.timesteps[-1])
            if round_:
                times[name].append(time.perf_counter() - started)
    kernel = engines["packed"].description
    for engine in engines.values():
        engine.close()
    memory = {name: int(subprocess.run(
        [sys.executable, "-c", _MEMORY, str(bundle), str(threads), backend, str(height),
         str(width)], check=True, capture_output=True, text=True).stdout)
        for name, backend in BACKENDS.items()}
    ratios = [slow / fast for fast, slow in zip(*times.values())]
    return {"size": [height, width], "threads": threads, "engine": kernel, "rounds": ROUNDS,
            "seconds": times, "ratio": {"median": statistics.median(ratios), "min": min(ratios),
                                        "max": max(ratios)}, "peak_memory": memory}


def report(results: list[dict], timing: dict) -> str:
    lines = ["", f"{'photo':<16}{'':<16}{'PSNR-Y':>9}{'SSIM-Y':>9}"]
    for result in results:
        for name, figures in result["quality"].items():
            lines.append(f"{result['photo']:<16}{name:<16}{figures['psnr_y']:>6.2f} dB"
                         f"{figures['ssim_y']:>9.4f}")
    height, width = timing["size"]
    lines += ["", f"one step at {width}x{height}, {timing['engine']}:"]
    for name, seconds in timing["seconds"].items():
        lines.append(f"  {name:<16}{statistics.median(seconds) * 1e3:>8.1f} ms"
                     f"   ({min(seconds) * 1e3:.1f} to {max(seconds) * 1e3:.1f}, "
                     f"{timing['rounds']} rounds)"
                     f"{timing['peak_memory'][name] / 2 ** 20:>9.0f} MiB peak memory")
    ratio = timing["ratio"]
    lines.append(f"  packed is {ratio['median']:.2f} times as fast "
                 f"({ratio['min']:.2f} to {ratio['max']:.2f})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = []
    with load_bundle(arguments.bundle, threads=arguments.threads) as engine:
        print(f"{arguments.bundle}: x{engine.scale}, time steps "
              f"{', '.join(map(str, engine.timesteps))}, {engine.description}")
        for photo in arguments.photos:
            results.append(upscale_photo(engine, photo, arguments.output))
            print(f"{photo.name}: {results[-1]['width']}x{results[-1]['height']} in "
                  f"{results[-1]['seconds']:.1f} s", flush=True)
    timing = time_steps(arguments.bundle, arguments.threads, 256, 256)
    print(report(results, timing))
    (arguments.output / "figures.json").write_text(
        json.dumps({"photos": results, "timing": timing}, indent=1) + "\n")
    print(f"\npictures: {', '.join(str(p) for p in sorted(arguments.output.glob('*_compared.png')))}")


if __name__ == "__main__":
    main()
