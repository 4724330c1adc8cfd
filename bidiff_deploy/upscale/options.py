"""How each image of a run is upscaled."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..sampling.noise import gaussian_noise

if TYPE_CHECKING:
    from ..engines.image_engine import ImageEngine, Start
    from ..engines.tile_choice import Tile
    from ..images.image import Image
    from ..images.tiles import TilePlan
    from ..sampling.sampler import OnStep

__all__ = ["UpscaleOptions"]


@dataclass(frozen=True)
class UpscaleOptions:
    """Options of ``ImageEngine.upscale_image``, whose docstring explains each."""

    seed: int = 0
    steps: int | None = None
    start: Start = "default"
    match_color: bool = False
    ensemble: int = 1
    tile: Tile = "auto"
    memory: int | None = None
    overlap: int | None = None

    def check(self, engine: ImageEngine) -> None:
        """Raise UsageError for options that the engine would refuse for every image."""
        engine.check_loop(self.steps, self.start, self.match_color, self.ensemble)
        gaussian_noise((0, 0, 0, 0), self.seed)
        engine.check_tiles(self.tile, self.memory, self.overlap)

    def plan(self, engine: ImageEngine, height: int, width: int) -> TilePlan:
        """How an image of ``height`` x ``width`` pixels (before enlarging) is cut into tiles."""
        return engine.tile_plan(height, width, self.tile, self.memory, self.overlap)

    def upscale(self, engine: ImageEngine, image: Image, plan: TilePlan,
                on_step: OnStep | None = None, on_tile: OnStep | None = None) -> Image:
        """``ImageEngine.upscale_image`` with these options."""
        return engine.upscale_image(image, self.seed, plan=plan, steps=self.steps,
                                    start=self.start, match_color=self.match_color,
                                    ensemble=self.ensemble, on_step=on_step, on_tile=on_tile)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. ``match_color`` and ``ensemble`` are included only where they change
        something: journals written before they existed stay valid."""
        values = asdict(self)
        for name, usual in (("match_color", False), ("ensemble", 1)):
            if values[name] == usual:
                del values[name]
        return values
