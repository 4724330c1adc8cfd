"""The demo: upscales reduced photos that the model was not trained on, compares and times it.

    python tools/demo.py EXACT_BUNDLE FAST_BUNDLE PHOTO... -o FOLDER

For each photo: the low-resolution image (Pillow's BICUBIC, antialiased, 8 bits), the result of the
exact and of the fast engine, and an image with nearest, bicubic, ours and the original side by
side. Then PSNR-Y and SSIM-Y of each, and time and peak memory of a step by both engines and by
stock ONNX Runtime on the same network in float32 with folded binary weights, interleaved in one
process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bidiff_deploy import load_bundle
from bidiff_deploy.images.metrics import psnr_y, ssim_y
from bidiff_deploy.images.read import read_image
from bidiff_deploy.images.write import write_image
from bidiff_deploy.proof.bench import candidates

ROUNDS = 10
EXACT, FAST, STOCK = "bidiff_deploy", "bidiff_deploy fast", "onnxruntime float32"


def shrink(photo: np.ndarray, scale: int) -> np.ndarray:
    """uint8 (H, W, 3) reduced ``scale`` times; H and W are multiples of it."""
    height, width = photo.shape[:2]
    small = Image.fromarray(photo).resize((width // scale, height // scale),
                                          Image.Resampling.BICUBIC)
    return np.asarray(small)


def enlarge(small: np.ndarray, scale: int, how: Image.Resampling) -> np.ndarray:
    size = small.shape[1] * scale, small.shape[0] * scale
    return np.asarray(Image.fromarray(small).resize(size, how))


def detail(photo: np.ndarray, size: int) -> tuple[int, int]:
    """Top left of the square of ``size`` with the most edges, which a comparison should show.

    Edges, not noise: a gradient is weighted by how well its direction agrees with those around it
    (the difference of the structure tensor's eigenvalues).
    """
    dy, dx = (gradient[1:-1, 1:-1] for gradient in np.gradient(photo.mean(-1)))
    xx, yy, xy = (_box(product, 9) for product in (dx * dx, dy * dy, dx * dy))
    sums = _box(np.hypot(xx - yy, 2 * xy), size - 12)
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    return int(top), int(left)


def _box(values: np.ndarray, size: int) -> np.ndarray:
    """The sum over each square of ``size``."""
    total = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return (total[size:, size:] - total[:-size, size:] - total[size:, :-size]
            + total[:-size, :-size])


def side_by_side(panels: dict[str, np.ndarray], scores: dict[str, str], size: int,
                 zoom: int) -> Image.Image:
    """One square of every panel, enlarged without smoothing, with its name and score."""
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


def sampling(engine) -> str:
    """The engine's default sampling, in words."""
    count = len(engine.timesteps)
    steps = f"{count} step{'s' if count > 1 else ''} ({', '.join(map(str, engine.timesteps))})"
    if engine.default_start is None:
        return f"{steps} from pure noise"
    return f"{steps} from the input noised to timestep {engine.default_start}"


def upscale_photo(engines: dict, path: Path, folder: Path) -> dict:
    """Reduce one photo, upscale it, write the images, and return the figures."""
    scale = engines[EXACT].scale
    photo = read_image(path).pixels[..., :3]
    height, width = (side // scale * scale for side in photo.shape[:2])
    photo = photo[:height, :width]
    small = shrink(photo, scale)
    panels = {"nearest": enlarge(small, scale, Image.Resampling.NEAREST),
              "bicubic": enlarge(small, scale, Image.Resampling.BICUBIC)}
    seconds = {}
    for name, engine in engines.items():
        started = time.perf_counter()
        panels[name] = engine.upscale(small)
        seconds[name] = time.perf_counter() - started
    # By convention ``scale`` border pixels are cropped before measuring.
    figures = {name: {"psnr_y": psnr_y(image, photo, scale), "ssim_y": ssim_y(image, photo, scale)}
               for name, image in panels.items()}
    between = psnr_y(panels[FAST], panels[EXACT])
    scores = {name: f"{f['psnr_y']:.2f} dB  {f['ssim_y']:.4f}" for name, f in figures.items()}
    write_image(folder / f"{path.stem}_small.png", small, overwrite=True)
    write_image(folder / f"{path.stem}_x{scale}.png", panels[EXACT], overwrite=True)
    shown = {name: panels[name] for name in ("nearest", "bicubic", EXACT)}
    sheet = side_by_side({**shown, "original": photo}, scores, size=128, zoom=3)
    write_image(folder / f"{path.stem}_compared.png", np.asarray(sheet), overwrite=True)
    return {"photo": path.name, "height": height, "width": width, "seconds": seconds,
            "quality": figures, "fast_against_exact_psnr_y": between}


def time_steps(bundles: dict[str, Path], threads: int, side: int) -> dict:
    """Seconds of one step by each candidate, interleaved, and peak memory in separate processes.
    """
    rng = np.random.default_rng(0)
    noisy, condition = rng.random((2, 1, 3, side, side), np.float32)
    with tempfile.TemporaryDirectory() as scratch, load_bundle(bundles[EXACT]) as engine:
        folder, timestep = Path(scratch), engine.timesteps[-1]
        candidates.prepare(["onnxruntime"], engine.bundle, timestep, folder)
        chosen = {EXACT: ("packed", bundles[EXACT]), FAST: ("packed", bundles[FAST]),
                  STOCK: ("onnxruntime", bundles[EXACT])}
        loaded = {name: candidates.load(kind, bundle, timestep, threads, folder)
                  for name, (kind, bundle) in chosen.items()}
        times: dict[str, list[float]] = {name: [] for name in loaded}
        for round_ in range(ROUNDS + 2):  # two to warm up
            for name, step in loaded.items():
                # The threads of the previous candidate spin for a while after their last task.
                time.sleep(0.02)
                started = time.perf_counter()
                step(noisy, condition)
                if round_ >= 2:
                    times[name].append(time.perf_counter() - started)
        described = {name: step.description for name, step in loaded.items()}
        memory = {name: _peak_memory(kind, bundle, timestep, threads, folder, side)
                  for name, (kind, bundle) in chosen.items()}
    ratios = {name: [slow / fast for fast, slow in zip(times[name], times[STOCK])]
              for name in (EXACT, FAST)}
    return {"side": side, "threads": threads, "rounds": ROUNDS, "described": described,
            "seconds": times, "peak_memory": memory,
            "ratio": {name: {"median": statistics.median(r), "min": min(r), "max": max(r)}
                      for name, r in ratios.items()}}


def _peak_memory(kind: str, bundle: Path, timestep: int, threads: int, folder: Path,
                 side: int) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "bidiff_deploy.proof.bench.candidates", kind, str(bundle),
         str(timestep), str(side), str(side), str(threads), str(folder)],
        check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout)["peak_memory"])


def report(results: list[dict], timing: dict) -> str:
    lines = ["", f"{'photo':<16}{'':<20}{'PSNR-Y':>9}{'SSIM-Y':>9}"]
    for result in results:
        for name, figures in result["quality"].items():
            lines.append(f"{result['photo']:<16}{name:<20}{figures['psnr_y']:>6.2f} dB"
                         f"{figures['ssim_y']:>9.4f}")
        lines.append(f"{'':<16}fast and exact agree to "
                     f"{result['fast_against_exact_psnr_y']:.1f} dB PSNR-Y")
    side = timing["side"]
    lines += ["", f"one step at {side}x{side}, {timing['rounds']} interleaved rounds; "
                  f"{timing['described'][EXACT]}; {timing['described'][FAST]}:"]
    for name, seconds in timing["seconds"].items():
        line = (f"  {name:<20}{statistics.median(seconds) * 1e3:>8.1f} ms"
                f"   ({min(seconds) * 1e3:.1f} to {max(seconds) * 1e3:.1f})"
                f"{timing['peak_memory'][name] / 2 ** 20:>8.0f} MiB peak memory")
        if name in timing["ratio"]:
            ratio = timing["ratio"][name]
            line += (f"   {ratio['median']:.2f} times as fast as {STOCK} "
                     f"({ratio['min']:.2f} to {ratio['max']:.2f})")
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exact", type=Path)
    parser.add_argument("fast", type=Path)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    bundles = {EXACT: arguments.exact, FAST: arguments.fast}
    results = []
    with (load_bundle(arguments.exact, threads=arguments.threads) as exact,
          load_bundle(arguments.fast, threads=arguments.threads) as fast):
        print(f"{arguments.exact}: x{exact.scale}, {sampling(exact)}, {exact.description}")
        print("(sampled as the checkpoint advises, the best row of the table in "
              "training/README.md)")
        for photo in arguments.photos:
            results.append(upscale_photo({EXACT: exact, FAST: fast}, photo, arguments.output))
            print(f"{photo.name}: {results[-1]['width']}x{results[-1]['height']} in "
                  f"{results[-1]['seconds'][EXACT]:.1f} s", flush=True)
    timing = time_steps(bundles, arguments.threads, 256)
    print(report(results, timing))
    (arguments.output / "figures.json").write_text(
        json.dumps({"photos": results, "timing": timing}, indent=1) + "\n")
    compared = sorted(arguments.output.glob("*_compared.png"))
    print(f"\nimages: {', '.join(map(str, compared))}")


if __name__ == "__main__":
    main()
