"""Measures seams: compares images run in tiles and whole along the borders of tiles.

    python tools/seams.py BUNDLE [PHOTO...] [--tile 256 512] [--overlap 32 48 64] [--shifts 4]

The images are a flat one, a smooth gradient, a texture and the photos. Each is cropped so that
three by three tiles overlap by exactly the given amount, at several places, so that borders meet
different content. Printed for each tile side and overlap: the excess gradient energy across tile
borders compared with the same places of the whole image (in per cent, minus what tiles change
elsewhere), the largest step in brightness across a border and the root mean square difference, both
in 8-bit levels.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from bidiff_deploy import load_bundle
from bidiff_deploy.engines.noise_predictor import NoisePredictor
from bidiff_deploy.images.image import Image
from bidiff_deploy.images.read import read_image
from tools.checks.seams import Seams, seam_energy

TOP = 65535  # results are compared at 16 bits, so that rounding hides no difference
TILES = 3  # in each direction


def images(size: int, photos: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Low-resolution images, (H, W, 3) in [0, 1], each side at least ``size``."""
    y, x = np.mgrid[:size, :size] / size
    yield "flat", np.broadcast_to([0.5, 0.4, 0.6], (size, size, 3))
    yield "gradient", np.stack([x, y, (x + y) / 2], 2)
    waves = 0.5 + 0.2 * np.sin(300 * x * (1 + y)) + 0.2 * np.sin(170 * y * (2 - x))
    yield "texture", np.repeat(waves[:, :, None], 3, 2)
    for name in photos:
        photo = read_image(name)
        pixels = photo.pixels / np.iinfo(photo.pixels.dtype).max
        more = [(0, max(0, size - side)) for side in pixels.shape[:2]]
        pixels = np.pad(pixels, (*more, (0, 0)), mode="symmetric")
        yield name.rpartition("/")[2], np.repeat(pixels, 3 // pixels.shape[2], 2)


def cuts(pixels: np.ndarray, side: int, count: int) -> Iterator[Image]:
    """Squares of ``side`` along the image's diagonal, 16 bits."""
    for index in range(count):
        top, left = ((length - side) * index // max(count - 1, 1) for length in pixels.shape[:2])
        yield Image(np.rint(pixels[top:top + side, left:left + side] * TOP).astype(np.uint16))


def compare(engine: NoisePredictor, pixels: np.ndarray, tile: int, overlap: int, shifts: int,
            options: dict[str, Any]) -> str:
    """The printed line for one image, tile size and overlap."""
    side = (TILES * (tile - overlap) + overlap) // engine.scale
    total, squares = Seams(), []
    for image in cuts(pixels, side, shifts):
        plan = engine.tile_plan(side, side, tile, overlap=overlap)
        whole = _planes(engine.upscale_image(image, tile=None, **options))
        tiled = _planes(engine.upscale_image(image, tile=tile, overlap=overlap, **options))
        total += seam_energy(tiled, whole, plan)
        squares.append(np.square(tiled - whole).mean())
    return (f"tile {tile:4}, overlap {overlap:3}: borders {100 * total.excess:+6.2f} %, "
            f"step {255 * total.step:.3f}, rms {255 * np.sqrt(np.mean(squares)):.3f}")


def _planes(image: Image) -> np.ndarray:
    return image.pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(TOP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("photos", nargs="*")
    parser.add_argument("--tile", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--overlap", type=int, nargs="+", default=[32, 48, 64])
    parser.add_argument("--shifts", type=int, default=4, help="places that an image is cut at")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    options = {"seed": arguments.seed, "steps": arguments.steps}
    with load_bundle(arguments.bundle, threads=arguments.threads) as engine:
        largest = TILES * max(arguments.tile) // engine.scale
        for name, pixels in images(largest, arguments.photos):
            for tile in arguments.tile:
                for overlap in arguments.overlap:
                    found = compare(engine, pixels, tile, overlap, arguments.shifts, options)
                    print(f"{name:12} {found}", flush=True)


if __name__ == "__main__":
    main()
