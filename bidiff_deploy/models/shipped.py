"""The table of the models that are installed with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

__all__ = ["DEFAULT_SCALE", "SHIPPED", "Shipped", "choose", "is_name"]

DEFAULT_SCALE = 2


@dataclass(frozen=True)
class Shipped:
    """One model.

    name       what commands call it
    file       name of its packed checkpoint in this folder
    scale      upscaling factor
    purpose    in a few words
    psnr       mean PSNR-Y in dB of the public evaluation set, eight photos that it never saw,
               reduced by Matlab's bicubic (Pillow's bicubic: 33.58 for x2, 29.70 for x4), see
               docs/models.md
    seconds    CPU seconds for these eight photos, start-up included, on two cores of a Zen 5
    precision  that it is run with, as ``export --precision`` has it: ``fast`` where that changes
               the mean PSNR-Y of these photos by less than 0.01 dB
    jpeg       whether it is the default of its scale for JPEG files
    """

    name: str
    file: str
    scale: int
    purpose: str
    psnr: float
    seconds: float
    precision: str = "exact"
    jpeg: bool = False

    @property
    def path(self) -> Path:
        return Path(__file__).with_name(self.file)


# The first of a scale is the default, for JPEG files the first with ``jpeg``, if there is one.
SHIPPED = (
    Shipped("photo-x2", "photo_x2.safetensors", 2, "clean photos, text, drawings", 36.92, 1.8,
            "fast"),
    Shipped("photo-jpeg-x2", "photo_jpeg_x2.safetensors", 2, "photos saved as JPEG", 36.76, 2.1,
            "fast", jpeg=True),
    Shipped("photo-x4", "photo_x4.safetensors", 4, "photos, clean or saved as JPEG", 31.19, 0.9,
            "fast"),
    Shipped("diffusion-x2", "diffusion_x2.safetensors", 2, "the diffusion pipeline, one step",
            36.67, 7.5),
    Shipped("photo-x2-fast", "photo_x2_fast.safetensors", 2, "BBCU-M as published, for comparison",
            36.17, 1.7))


def is_name(model: str) -> bool:
    """Whether an installed model is called so; ./NAME is a file or folder of that name."""
    return any(one.name == model for one in SHIPPED)


def choose(name: str | None = None, scale: int | None = None, *, jpeg: bool = False) -> Shipped:
    """The model called ``name``, else the default of ``scale``, else of scale 2; ``jpeg``: for
    JPEG files.

    Raises UsageError for an unknown name, a scale that no model has, and a name of another scale.
    """
    if name is None:
        wanted = DEFAULT_SCALE if scale is None else scale
        found = [one for one in SHIPPED if one.scale == wanted]
        if not found:
            have = ", ".join(sorted({str(one.scale) for one in SHIPPED}))
            raise UsageError(f"no model of scale {wanted} is installed, only of {have}; name a "
                             "bundle or checkpoint of that scale with --model, or upscale the "
                             "result again, with a name for the new one (-o)")
        return next((one for one in found if one.jpeg and jpeg), found[0])
    found = [one for one in SHIPPED if one.name == name]
    if not found:
        raise UsageError(f"{name} does not exist and is no installed model; installed are "
                         f"{', '.join(one.name for one in SHIPPED)}")
    if scale not in (None, found[0].scale):
        raise UsageError(f"model {name} upscales by {found[0].scale}, not by {scale}; leave the "
                         "scale out")
    return found[0]
