"""What tests of the shipped models share: a photo made small, and what is won back of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from bidiff_deploy.engines.image_engine import ImageEngine
from bidiff_deploy.images.metrics import psnr_y, ssim_y
from bidiff_deploy.images.read import read_image

TRAINING = Path(__file__).parents[2] / "training"
MODELS = TRAINING.parent / "bidiff_deploy" / "models"


def gains(engine: ImageEngine, photo: str, box: tuple[slice, slice] = (slice(None), slice(None))
          ) -> tuple[float, float, float]:
    """PSNR-Y in dB and SSIM-Y above bicubic's, and how far a mean colour moves, of a photo, or its
    part ``box``, that was halved."""
    original = read_image(TRAINING / "photos" / photo).pixels[box]
    height, width = (side // 2 * 2 for side in original.shape[:2])
    original = original[:height, :width]
    small = Image.fromarray(original).resize((width // 2, height // 2), Image.Resampling.BICUBIC)
    bicubic = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    ours = engine.upscale(np.asarray(small))
    return (psnr_y(ours, original, 2) - psnr_y(bicubic, original, 2),
            ssim_y(ours, original, 2) - ssim_y(bicubic, original, 2),
            float(np.abs(ours.mean((0, 1)) - original.mean((0, 1))).max()))
