"""What compare_peers writes: a table, a plot, and a picture of crops."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from peers_enlarge import BASELINES, PEERS
from PIL import Image, ImageDraw

CROP = 72  # pixels of the parts in the picture
_FIGURES = {"psnr_y": ("PSNR-Y", "{:.2f}"), "ssim_y": ("SSIM-Y", "{:.4f}"),
            "niqe": ("NIQE", "{:.2f}"), "cvvdp": ("cvvdp", "{:.3f}"),
            "cpu_seconds": ("CPU s", "{:.2f}"), "wall_seconds": ("wall s", "{:.2f}"),
            "peak_mb": ("peak MB", "{:.0f}"), "model_mb": ("model MB", "{:.2f}")}


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
    """Markdown: every figure of the first condition, then PSNR-Y / SSIM-Y of all conditions, if
    there are several. Figures that no row has are left out."""
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    first = [row for row in rows if row["condition"] == conditions[0]]
    figures = [name for name in _FIGURES if any(row.get(name) is not None for row in first)]
    lines = _lines([conditions[0], *(_FIGURES[name][0] for name in figures)], (
        [row["name"], *("" if row.get(name) is None else _FIGURES[name][1].format(row[name])
                        for name in figures)] for row in first))
    if len(conditions) > 1:
        scores = {(row["name"], row["condition"]): f"{row['psnr_y']:.2f} / {row['ssim_y']:.4f}"
                  for row in rows}
        lines += ["", *_lines(["", *conditions], (
            [row["name"], *(scores[row["name"], condition] for condition in conditions)]
            for row in first))]
    return "\n".join(lines)


def _lines(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|",
            *(f"| {' | '.join(row)} |" for row in rows)]


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
    dots = list(map(place, seconds, scores))
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in dots]
    for row, (x, y) in sorted(zip(rows, dots), key=lambda item: item[1][1]):
        ours = row["name"] not in PEERS and row["name"] not in BASELINES
        left_end, line, box = _label(x, y, 6.4 * len(row["name"]), taken, wide)
        taken.append(box)
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{"#c33" if ours else "#557"}"/>',
                  f'<text x="{left_end:.1f}" y="{line:.1f}">{row["name"]}</text>']
    parts += [f'<text x="{wide / 2}" y="{high - 10}" text-anchor="middle">CPU seconds for all '
              'photos, start-up included</text>',
              f'<text x="16" y="{high / 2}" text-anchor="middle" transform="rotate(-90 16 '
              f'{high / 2})">PSNR-Y, dB</text>', "</svg>"]
    return "\n".join(parts) + "\n"


def _label(x: float, y: float, length: float, taken: Sequence[tuple[float, ...]],
           wide: float) -> tuple[float, float, tuple[float, ...]]:
    """Where the text of a dot at (x, y) begins, its baseline, and its box: the nearest place on the
    right or left, else above or below, that hides nothing of ``taken``."""
    places = [(x + side, y + 4 + shift) for shift in (0, 9, -9, 18, -18, 27, -27)
              for side in (9, -9 - length)]
    boxes = [(left, line - 10, left + length, line + 3) for left, line in places]
    for (left, line), box in zip(places, boxes):
        if box[0] > 40 and box[2] < wide and not any(
                box[0] < other[2] and other[0] < box[2] and box[1] < other[3]
                and other[1] < box[3] for other in taken):
            return left, line, box
    return (*places[0], boxes[0])
