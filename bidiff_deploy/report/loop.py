"""Upscale images and watch the loop of one, for a page."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BidiffError, EngineError
from ..images.scores import score
from ..pages.pictures import Encoded
from ..sampling import sampler
from .pictures import Input, detail, encoded, resized
from .request import Request

if TYPE_CHECKING:
    from ..engines.image_engine import ImageEngine

PICTURE_BYTES = 10_500_000  # of all data URIs, which leaves 4 MB of 15 for tables
STRIP_SIDE = 256
_STRIP_FRAMES = 6
_STRIP_BYTES = 600_000


@dataclass(frozen=True)
class Picture:
    """One image. ``scores``: of "bicubic" and "packed" against the original, PSNR-Y in dB and
    SSIM-Y; ``detail``: (top, left, side) of the part that is shown enlarged."""

    name: str
    width: int
    height: int
    low_width: int
    low_height: int
    seconds: float
    made_small: bool
    scores: dict[str, dict[str, float | None]]
    detail: tuple[int, int, int]
    shown: Encoded | None = field(repr=False)
    parts: Encoded | None = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the pixels."""
        values = asdict(self)
        del values["shown"], values["parts"]
        return {**values, "shown": None if self.shown is None else
                {"part": self.shown.part, "quality": self.shown.quality}}


@dataclass(frozen=True)
class Frame:
    """One step of the loop: ``noise``, how much of the latent's variance is noise, and the share of
    the distance to the final image that the estimate still has (root mean square, 0 to 255)."""

    timestep: int
    number: int
    noise: float
    distance: float


@dataclass(frozen=True)
class Strip:
    """The loop of one image: the latents and the images that they imply, at some of its steps."""

    name: str
    width: int
    height: int
    steps: int
    frames: tuple[Frame, ...]
    shown: Encoded = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        del values["shown"]
        return values


def upscaled(request: Request, seconds: Mapping[Input, float], found: list[Picture],
             failed: list[str], report: Callable[[float, str], None]) -> str:
    """Fills ``found``, and ``failed`` with a sentence about each other image; returns the engine's
    description. ``seconds``: the inputs and about how many each takes; ``report``: called with the
    share done and the input's name."""
    budget = (PICTURE_BYTES - _STRIP_BYTES) // len(seconds)
    total, before = sum(seconds.values()), 0.0
    with _engine(request) as engine:
        for one, own in seconds.items():
            name = one.name

            def on_step(done: int, count: int, before: float = before, own: float = own,
                        name: str = name) -> None:
                report((before + own * done / count) / total, name)

            try:
                found.append(_picture(engine, one, request, budget, on_step))
            except (BidiffError, MemoryError) as error:
                failed.append(str(error) or f"there is not enough memory for {name}")
            before += own
        return engine.description


def _engine(request: Request) -> ImageEngine:
    from ..engines import open_engine

    return open_engine(request.bundle.path, threads=request.threads, backend=request.backend)


def _picture(engine: ImageEngine, one: Input, request: Request, budget: int,
             on_step: Callable[[int, int], None]) -> Picture:
    low, truth = one.read(engine.scale)
    height, width = (engine.scale * side for side in low.shape[:2])
    started = time.perf_counter()
    ours = np.asarray(engine.upscale(low, request.seed, steps=request.steps, on_step=on_step))
    seconds = time.perf_counter() - started
    pictures = {"bicubic": resized(low, width, height), "packed": ours}
    scores = {} if truth is None else {name: score(picture, truth, engine.scale)
                                       for name, picture in pictures.items()}
    if truth is not None:
        pictures["original"] = truth
    top, left, side = detail(ours if truth is None else truth)
    parts = {name: np.ascontiguousarray(picture[top:top + side, left:left + side])
             for name, picture in pictures.items()}
    cut = encoded(parts, budget // 4)
    used = 0 if cut is None else cut.characters
    return Picture(one.name, width, height, low.shape[1], low.shape[0], seconds, one.low is None,
                   scores, (top, left, side), encoded(pictures, budget - used), cut)


def watched(request: Request, one: Input, report: Callable[[float], None]) -> Strip:
    """The loop of the image's middle, watched: what the network sees, and what it makes of it."""
    from ..engines.noise_predictor import PADDING_MULTIPLE, NoisePredictor
    from ..images.resample import pad_reflect, to_condition

    low, _ = one.read(request.bundle.scale)
    with _engine(request) as engine:
        assert isinstance(engine, NoisePredictor)
        side = max(1, STRIP_SIDE // engine.scale)
        window = [slice((have - min(have, side)) // 2, (have - min(have, side)) // 2
                        + min(have, side)) for have in low.shape[:2]]
        condition = to_condition(np.ascontiguousarray(low[tuple(window)]), engine.scale)[None]
        visited = sampler.pick_timesteps(engine.timesteps, request.steps, engine.default_start)
        padded, (height, width) = pad_reflect(
            condition, math.lcm(PADDING_MULTIPLE, engine.size_multiple))
        kept = sorted({round(index * (len(visited) - 1) / max(_STRIP_FRAMES - 1, 1))
                       for index in range(_STRIP_FRAMES)})
        seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        alphas = engine.schedule.alphas_cumprod

        def predict(latent: np.ndarray, given: np.ndarray, timestep: int) -> np.ndarray:
            noise = engine.predict(latent, given, timestep)
            index = visited.index(timestep)
            if index in kept:
                seen[index] = latent.copy(), sampler.ddim_update(latent, noise,
                                                                 alphas[timestep], 1.0)
            return noise

        final = sampler.sample(predict, padded, visited, engine.schedule,
                               engine.noise(padded.shape, request.seed),
                               start=engine.default_start,
                               on_step=lambda done, total: report(done / total))
    frames, pictures = [], {}
    for index, (latent, estimate) in sorted(seen.items()):
        timestep = visited[index]
        pictures[f"latent{index}"] = _pixels(latent, height, width)
        pictures[f"estimate{index}"] = _pixels(estimate, height, width)
        difference = (np.clip(estimate, 0, 1) - final)[..., :height, :width]
        frames.append(Frame(timestep, index + 1, float(1 - alphas[timestep]),
                            255 * float(np.sqrt(np.mean(difference ** 2)))))
    shown = encoded(pictures, _STRIP_BYTES)
    if shown is None:
        raise EngineError("its images do not fit the page")
    return Strip(one.name, width, height, len(visited), tuple(frames), shown)


def _pixels(batch: np.ndarray, height: int, width: int) -> np.ndarray:
    image = np.clip(batch[0, :, :height, :width], 0, 1).transpose(1, 2, 0)
    return np.ascontiguousarray(np.rint(255 * image).astype(np.uint8))
