"""Compares TensorRT's engines on the reference cases with the published implementation, and on
photos with this project's CPU engine."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bidiff_deploy import load_bundle
from bidiff_deploy.errors import EngineError
from bidiff_deploy.images.metrics import psnr_y
from bidiff_deploy.images.read import read_image
from tools.checks.processes import Options, Result, guarded
from tools.checks.reference import CASES, hold_reference

from .engines import BACKENDS, PHOTOS, load, network_bundle

# In float32, TensorRT's order of summation may flip any sign that is near 0: see CASES.
EXACT_DB = 40.0
# Largest allowed difference of PSNR-Y, against the original, from the CPU engine.
IMAGE_DB = 0.2


def bound_of(case: str, variant: str, precision: str) -> float | None:
    """The SNR in dB that a step must reach. None: float16 convolutions of +-1 by +-alpha are
    reported without a bound, because TensorRT chooses the type of their sums."""
    if precision == "exact":
        return EXACT_DB
    return CASES[case][1]["half"] if variant == "plugin" else None


def steps(variant: str, options: Options) -> Result:
    """Run every reference case with one variant, in float32 and in float16."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in options["reference_cases"]:
            for precision in ("exact", "half"):
                entry = guarded(functools.partial(_hold, case, variant, precision, folder),
                                options)
                found.append({"case": case, "precision": precision, **entry})
    wrong = [f"{entry['case']} {entry['precision']}: " + entry.get("reason", (
        f"{entry.get('snr_db', 0):.1f} dB of {entry.get('bound_db') or 0:.0f}"))
        for entry in found if not entry["ok"]]
    return {"cases": found, **({"ok": False, "reason": "; ".join(wrong)} if wrong else {})}


def _hold(case: str, variant: str, precision: str, folder: Path, options: Options) -> Result:
    def opened(bundle: Path, shape: tuple[int, ...]) -> Any:
        batch, _, height, width = shape
        return load(bundle, variant, (batch, height, width), options["device"])
    return hold_reference(case, precision, bound_of(case, variant, precision), folder, opened)


def images(options: Options) -> Result:
    """Run the demo model's whole loop on crops of photos: how much PSNR-Y, against the original,
    each variant loses compared with the CPU engine in float32."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for photo in sorted(PHOTOS.glob("*.*")):
            truth = centre(read_image(photo).pixels[..., :3], options["size"])
            found += [{"photo": photo.name, **entry}
                      for entry in _image(truth, folder, options["device"])]
    if not found:
        raise EngineError(f"{PHOTOS} contains no photos; run this in a checkout of the repository")
    wrong = [f"{entry['photo']} {entry['variant']} {entry['precision']}: " + entry.get(
        "reason", f"{entry.get('difference_db', 0):+.2f} dB") for entry in found
        if not entry["ok"]]
    return {"images": found, **({"ok": False, "reason": "; ".join(wrong)} if wrong else {})}


def _image(truth: np.ndarray, folder: Path, device: int) -> list[dict[str, Any]]:
    from PIL import Image
    exact = network_bundle("demo", None, folder, "exact")
    with load_bundle(exact) as engine:
        scale = engine.scale
        size = truth.shape[1] // scale, truth.shape[0] // scale
        small = np.asarray(Image.fromarray(truth).resize(size, Image.Resampling.BICUBIC))
        of_cpu = np.asarray(engine.upscale(small, tile=None))
    reference = psnr_y(of_cpu, truth, scale)
    found = []
    for variant in BACKENDS:
        for precision in ("exact", "half"):
            def score(_: Options, variant: str = variant, precision: str = precision) -> Result:
                bundle = network_bundle("demo", None, folder, precision)
                with load(bundle, variant, (1, *truth.shape[:2]), device) as engine:
                    made = np.asarray(engine.upscale(small, tile=None))
                value = psnr_y(made, truth, scale)
                bound = IMAGE_DB if variant == "plugin" else None
                return {"psnr_y": value, "cpu_psnr_y": reference,
                        "difference_db": value - reference, "bound_db": bound,
                        "against_cpu_db": psnr_y(made, of_cpu),
                        "ok": bound is None or abs(value - reference) <= bound}
            found.append({"variant": variant, "precision": precision, **guarded(score, {})})
    return found


def centre(photo: np.ndarray, size: int) -> np.ndarray:
    """The central square, uint8 (size, size, 3); for a smaller photo the largest multiple of 32."""
    side = min(size, *(length // 32 * 32 for length in photo.shape[:2]))
    top, left = ((length - side) // 2 for length in photo.shape[:2])
    return np.ascontiguousarray(photo[top:top + side, left:left + side])
