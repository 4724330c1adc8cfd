"""Crops of a photo side by side: bicubic, a model's enlargement of the reduced photo, the original.

    python tools/side_by_side.py MODEL PHOTO -o PICTURE

MODEL is the name of an installed model, a bundle or a checkpoint. The photo is reduced by Matlab's
bicubic, as `bidiff-deploy evaluate` does. The crop is the square with the most edges. Below each is
PSNR-Y and SSIM-Y of the whole photo.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bidiff_deploy import load
from bidiff_deploy.images.matlab_bicubic import imresize, make_low
from bidiff_deploy.images.metrics import psnr_y, ssim_y
from bidiff_deploy.images.read import read_image
from bidiff_deploy.images.write import write_image

SIZE, ZOOM = 128, 3  # of a crop, in pixels of the original and of the picture for each


def detail(photo: np.ndarray, size: int) -> tuple[int, int]:
    """Top left of the square of ``size`` with the most edges.

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


def side_by_side(panels: dict[str, np.ndarray], captions: dict[str, str]) -> Image.Image:
    """The same square of every panel, uint8 (H, W, 3) each, enlarged without smoothing, with its
    name and caption; the last panel is the original, which chooses the square."""
    original = list(panels.values())[-1]
    size = min(SIZE, *original.shape[:2])
    top, left = detail(original, size)
    side, gap, text = size * ZOOM, 12, 34
    sheet = Image.new("RGB", (gap + len(panels) * (side + gap), side + gap + text), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for i, (name, image) in enumerate(panels.items()):
        crop = Image.fromarray(image[top:top + size, left:left + size])
        x = gap + i * (side + gap)
        sheet.paste(crop.resize((side, side), Image.Resampling.NEAREST), (x, gap))
        draw.text((x, side + gap + 4), f"{name}  {captions.get(name, '')}", "black", font)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("photo", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    with load(arguments.model) as engine:
        photo = read_image(arguments.photo).pixels[..., :3]
        height, width = (side // engine.scale * engine.scale for side in photo.shape[:2])
        photo = photo[:height, :width]
        low = make_low(photo, engine.scale)
        panels = {"bicubic": imresize(low, height, width), "ours": engine.upscale(low),
                  "original": photo}
        scale = engine.scale  # as many border pixels are cropped before measuring
    captions = {name: f"{psnr_y(image, photo, scale):.2f} dB  {ssim_y(image, photo, scale):.4f}"
                for name, image in panels.items() if name != "original"}
    write_image(arguments.output, np.asarray(side_by_side(panels, captions)), overwrite=True)


if __name__ == "__main__":
    main()
