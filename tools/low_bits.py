"""Full-precision layers of a model in few bits, simulated in torch: a table of PSNR-Y.

    python tools/low_bits.py MODEL PHOTOS LOW [--bits 8,6,4] [--iterations 200] [--size 256]

MODEL is a checkpoint, PHOTOS a folder of originals, LOW a folder of low-resolution images to
calibrate on. Bounds are searched, then trained; engines compute 8 bits (7 of weights), fewer are
simulated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from bidiff_deploy.bundle.record import NoisePredictorBundle
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.export.write import bundle_in_memory, choose_timesteps
from bidiff_deploy.images.datasets import list_images, read_rgb8
from bidiff_deploy.images.matlab_bicubic import make_low
from bidiff_deploy.images.metrics import psnr_y
from bidiff_deploy.proof.reference import TorchEngine
from bidiff_deploy.quantisation.calibrate import calibrate, crops_of
from bidiff_deploy.training.bounds import quantised_network, train_bounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("photos", type=Path)
    parser.add_argument("low", type=Path)
    parser.add_argument("--bits", default="8,6,4")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--size", type=int, default=256)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = read_checkpoint(given.model)
    timesteps = choose_timesteps(model)
    bundle = bundle_in_memory(model, timesteps=timesteps)
    assert isinstance(bundle, NoisePredictorBundle)
    engine, scale = TorchEngine(bundle, model), bundle.scale
    photos = {}
    for path in list_images(given.photos):
        pixels = read_rgb8(path)
        top, left = (max(0, (side - given.size) // 2) for side in pixels.shape[:2])
        height, width = (min(side, given.size) // scale * scale for side in pixels.shape[:2])
        photos[path.name] = pixels[top:top + height, left:left + width]

    def images() -> dict[str, np.ndarray]:
        return {name: engine.upscale(make_low(photo, scale)) for name, photo in photos.items()}

    def row(label: str) -> None:
        cells = []
        for name, image in images().items():
            whole, photo = exact[name], photos[name]
            change = psnr_y(image, photo, scale) - psnr_y(whole, photo, scale)
            cells.append(f"{change:+.3f} ({psnr_y(image, whole, scale):.1f})")
        print(f"| {label} | " + " | ".join(cells) + " |", flush=True)

    exact = images()
    print("PSNR-Y against the original less that of float32, and PSNR-Y against float32's image")
    print("| bits, bounds | " + " | ".join(photos) + " |")
    for bits in map(int, given.bits.split(",")):
        levels = 2 ** (bits - 1) - 1
        ranges = calibrate(model, timesteps, given.low, threads=1, weight_levels=levels,
                           map_levels=levels).bounds
        engine.network = quantised_network(model, ranges, weight_levels=levels, map_levels=levels)
        row(f"{bits}, searched")
        if given.iterations:
            trained = train_bounds(model, ranges, timesteps, crops_of(given.low)[1],
                                   given.iterations, weight_levels=levels, map_levels=levels)
            engine.network = quantised_network(model, trained, weight_levels=levels,
                                               map_levels=levels)
            row(f"{bits}, trained")


if __name__ == "__main__":
    main()
