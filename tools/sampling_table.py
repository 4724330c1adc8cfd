"""PSNR-Y and SSIM-Y of one checkpoint with different numbers of steps and starting points.

    python tools/sampling_table.py CHECKPOINT PHOTO... [--json FILE]

Each photo is reduced (Pillow's BICUBIC, antialiased, 8 bits) and upscaled by the packed engine:
from pure noise in 50, 10 and 5 steps, and from the condition noised to several timesteps in one and
in three steps. Each row contains means over seeds; the table is Markdown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bidiff_deploy import load_bundle
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.engines.noise_predictor import NoisePredictor
from bidiff_deploy.errors import BidiffError
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.images.metrics import psnr_y, ssim_y
from bidiff_deploy.images.read import read_image
from bidiff_deploy.images.resample import pad_reflect, to_condition
from bidiff_deploy.progress import Progress
from bidiff_deploy.sampling.noise import gaussian_noise
from bidiff_deploy.sampling.sampler import sample
from bidiff_deploy.sampling.schedule import Schedule

FROM_NOISE = (50, 10, 5)
# Standard deviations of the noise added to the condition, for photos in [0, 1].
NOISE_LEVELS = (0.015, 0.03, 0.06, 0.12, 0.25)
STEPS_FROM_CONDITION = (1, 3)


@dataclass(frozen=True)
class Row:
    """One way to sample: ``timesteps`` to visit, ``start`` as in ``sampler.sample``."""

    name: str
    timesteps: tuple[int, ...]
    start: int | None


def rows(schedule: Schedule, advised: Sequence[int], start: int | None) -> list[Row]:
    """The ways to try; the checkpoint's advice comes first."""
    found = [Row("as the checkpoint advises", tuple(advised), start)]
    found += [Row("pure noise", schedule.leading_timesteps(steps), None)
              for steps in FROM_NOISE if steps <= schedule.total_steps]
    sigmas = np.sqrt(1 - schedule.alphas_cumprod)
    for level in NOISE_LEVELS:
        first = int(np.abs(sigmas - level).argmin())
        for steps in STEPS_FROM_CONDITION:
            visited = tuple(first * (steps - i) // steps for i in range(steps))
            if len(set(visited)) == steps and (visited, first) != (tuple(advised), start):
                found.append(Row(f"condition + noise of {sigmas[first]:.3f}", visited, first))
    return found


def restore(engine: NoisePredictor, condition: np.ndarray, row: Row, seed: int) -> np.ndarray:
    """float32 (3, H, W), sampled from a condition (3, H, W) as the row describes."""
    padded, (height, width) = pad_reflect(condition[None], engine.unit)
    image = sample(engine.predict, padded, row.timesteps, engine.schedule,
                   gaussian_noise(padded.shape, seed), start=row.start)
    return image[0, :, :height, :width]


def eight_bit(image: np.ndarray) -> np.ndarray:
    """float (3, H, W) in [0, 1] -> uint8 (H, W, 3)."""
    return np.rint(image.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)


def small_and_photo(path: Path, scale: int) -> tuple[np.ndarray, np.ndarray]:
    photo = read_image(path).pixels[..., :3]
    height, width = (side // scale * scale for side in photo.shape[:2])
    photo = photo[:height, :width]
    small = Image.fromarray(photo).resize((width // scale, height // scale),
                                          Image.Resampling.BICUBIC)
    return np.asarray(small), photo


def bicubic(small: np.ndarray, scale: int) -> np.ndarray:
    size = small.shape[1] * scale, small.shape[0] * scale
    return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


def measure(engine: NoisePredictor, photos: Sequence[Path], ways: Sequence[Row], seeds: int,
            quiet: bool = False) -> list[dict]:
    """A dictionary for each row, bicubic first: name, steps, and means over seeds for each photo.
    """
    scale = engine.scale
    pairs = {path.stem: small_and_photo(path, scale) for path in photos}
    result = [{"name": "bicubic", "timesteps": [], "photos": {
        name: _scores([bicubic(small, scale)], photo, scale)
        for name, (small, photo) in pairs.items()}}]
    total = sum(len(row.timesteps) for row in ways) * len(pairs) * seeds
    done = 0
    with Progress("sampling", total, quiet=quiet) as progress:
        for row in ways:
            scores = {}
            for name, (small, photo) in pairs.items():
                condition = to_condition(small, scale)
                images = []
                for seed in range(seeds):
                    images.append(eight_bit(restore(engine, condition, row, seed)))
                    done += len(row.timesteps)
                    progress.update(done)
                scores[name] = _scores(images, photo, scale)
            result.append({"name": row.name, "timesteps": list(row.timesteps), "photos": scores})
    return result


def _scores(images: Sequence[np.ndarray], photo: np.ndarray, scale: int) -> dict[str, float]:
    return {"psnr_y": statistics.mean(psnr_y(image, photo, scale) for image in images),
            "ssim_y": statistics.mean(ssim_y(image, photo, scale) for image in images)}


def markdown(result: Sequence[dict]) -> str:
    names = list(result[0]["photos"])
    lines = ["| sampled from | steps | " + " | ".join(names) + " |",
             "|---" * (len(names) + 2) + "|"]
    for row in result:
        cells = []
        for name in names:
            scores, base = row["photos"][name], result[0]["photos"][name]
            gain = "" if row is result[0] else f" ({scores['psnr_y'] - base['psnr_y']:+.2f})"
            cells.append(f"{scores['psnr_y']:.2f} dB{gain} / {scores['ssim_y']:.4f}")
        steps = len(row["timesteps"]) or ""
        lines.append(f"| {row['name']} | {steps} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all figures to this file as well")
    arguments = parser.parse_args()
    checkpoint = read_checkpoint(arguments.checkpoint)
    schedule = Schedule(**checkpoint.schedule)
    advised = checkpoint.sampling.get("timesteps")
    if not advised:
        sys.exit(f"error: {arguments.checkpoint} advises no timesteps; pack it with bidiff-deploy "
                 "train --pack")
    ways = rows(schedule, advised, checkpoint.sampling.get("start"))
    union = sorted({t for row in ways for t in row.timesteps}, reverse=True)
    with tempfile.TemporaryDirectory() as folder:
        export_bundle(checkpoint, Path(folder) / "all.bundle", timesteps=union)
        with load_bundle(Path(folder) / "all.bundle", threads=arguments.threads) as engine:
            result = measure(engine, arguments.photos, ways, arguments.seeds)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    try:
        main()
    except BidiffError as error:
        sys.exit(f"error: {error}")
