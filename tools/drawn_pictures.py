"""Text pages and line art to train on, drawn by seeded code: each is a function of its number.

Edges are drawn at four times the size and reduced, so that they are antialiased as a renderer's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

__all__ = ["line_art", "text_page"]

_SIDE, _FINE = 512, 4  # pixels of a picture; how many times larger line art is drawn
_LETTERS = "aaabcdeeeeffghiijklmnnooppqrrsstttuuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789äöüéèñß"
_SIGNS = ("", "", "", "", ",", ".", ";", "!", "?", ":", "-")

Colour = tuple[int, int, int]


def text_page(number: int, fonts: Sequence[Path]) -> Image.Image:
    """Lines of random words in random fonts and sizes, dark on light or the reverse; every third
    page looks scanned: turned a little, blurred, with uneven paper and noise of a few levels."""
    random = np.random.default_rng([0, number])
    paper, ink = _colours(random)
    page = Image.new("RGB", (_SIDE, _SIDE), paper)
    draw = ImageDraw.Draw(page)
    top = float(random.integers(0, 20))
    while top < _SIDE:
        size = int(random.choice([10, 12, 14, 16, 20, 24, 28, 36, 56]))
        font = ImageFont.truetype(str(fonts[int(random.integers(len(fonts)))]), size)
        left = float(random.uniform(-8, 30))
        draw.text((left, top), _words(random, _SIDE * 2 // size), ink, font)
        top += size * random.uniform(1.15, 1.8)
        if random.random() < 0.1:
            draw.line((0, top - 2, _SIDE, top - 2), ink, int(random.integers(1, 3)))
    if number % 3 == 0:
        page = _scanned(page, random, paper)
    return page


def line_art(number: int) -> Image.Image:
    """Curves, polygons, discs and hatching in few colours."""
    random = np.random.default_rng([1, number])
    side = _SIDE * _FINE
    paper, ink = _colours(random)
    page = Image.new("RGB", (side, side), paper)
    draw = ImageDraw.Draw(page)
    for _ in range(int(random.integers(8, 28))):
        width = int(round(_FINE * random.uniform(0.7, 5)))
        fill = ink if random.random() < 0.5 else _colour(random, 0, 255)
        x, y = random.uniform(0, side, 2)
        reach = random.uniform(0.03, 0.3) * side
        kind = int(random.integers(5))
        if kind == 0:
            draw.line(_curve(random, side), fill, width, joint="curve")
        elif kind == 1:
            angles = np.sort(random.uniform(0, 2 * math.pi, int(random.integers(3, 8))))
            corners = [(x + reach * math.cos(a), y + reach * math.sin(a)) for a in angles]
            draw.polygon(corners, fill if random.random() < 0.6 else None, ink, width)
        elif kind == 2:
            box = (x - reach, y - reach * 0.7, x + reach, y + reach * 0.7)
            draw.ellipse(box, fill if random.random() < 0.5 else None, ink, width)
        elif kind == 3:
            step = width * int(random.integers(2, 5))
            for offset in range(0, int(reach), step):
                draw.line((x, y + offset, x + reach, y + offset * random.uniform(0.98, 1.02)),
                          fill, width)
        else:
            for angle in np.linspace(0, math.pi, int(random.integers(6, 30))):
                turn = reach * math.cos(angle), reach * math.sin(angle)
                draw.line((x - turn[0], y - turn[1], x + turn[0], y + turn[1]), fill, width)
    return page.reduce(_FINE)


def _colours(random: np.random.Generator) -> tuple[Colour, Colour]:
    """Paper and ink, black on white half of the time."""
    kind = random.random()
    if kind < 0.5:
        return (255, 255, 255), (0, 0, 0)
    if kind < 0.75:
        return _colour(random, 200, 256), _colour(random, 0, 90)
    return _colour(random, 0, 70), _colour(random, 170, 256)


def _colour(random: np.random.Generator, low: int, high: int) -> Colour:
    red, green, blue = (int(value) for value in random.integers(low, high, 3))
    return red, green, blue


def _words(random: np.random.Generator, letters: int) -> str:
    found: list[str] = []
    while sum(map(len, found)) < letters:
        word = "".join(random.choice(list(_LETTERS), int(random.integers(1, 11))))
        found.append(word + str(random.choice(_SIGNS)))
    return " ".join(found)


def _curve(random: np.random.Generator, side: int) -> list[tuple[float, float]]:
    """A cubic Bezier curve as a line of 40 parts."""
    ends = random.uniform(-0.1 * side, 1.1 * side, (4, 2))
    t = np.linspace(0, 1, 41)[:, None]
    points = ((1 - t) ** 3 * ends[0] + 3 * t * (1 - t) ** 2 * ends[1]
              + 3 * t ** 2 * (1 - t) * ends[2] + t ** 3 * ends[3])
    return [(float(x), float(y)) for x, y in points]


def _scanned(page: Image.Image, random: np.random.Generator, paper: Colour) -> Image.Image:
    page = page.rotate(float(random.uniform(-4, 4)), Image.Resampling.BICUBIC, fillcolor=paper)
    page = page.filter(ImageFilter.GaussianBlur(float(random.uniform(0.5, 1.1))))
    coarse = random.normal(0, 10, (6, 6)).astype(np.float32)
    uneven = np.asarray(Image.fromarray(coarse).resize(page.size, Image.Resampling.BICUBIC))
    grain = random.normal(0, 1.5, (_SIDE, _SIDE)).astype(np.float32)
    values = np.asarray(page, np.float32) + (uneven + grain)[:, :, None]
    return Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8))
