"""ColorVideoVDP (Mantiuk et al., "ColorVideoVDP: A Visual Difference Predictor for Image, Video and
Display Distortions", SIGGRAPH 2024, arXiv 2401.11485) by its authors' package, on whole images."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

import numpy as np

from ..errors import EngineError, one_line

__all__ = ["DISPLAY", "open_video_vdp"]

DISPLAY = "standard_4k"  # the package's default: a 4K monitor of 30 inches, seen from 0.75 m

# Operators of torchvision's C++ library for which its Python files register functions.
_OPERATORS = ("nms", "qnms", "qroi_align", "deform_conv2d", "_deform_conv2d_backward",
              *(f"{before}{name}{after}" for name in ("roi_align", "ps_roi_align", "roi_pool",
                                                      "ps_roi_pool")
                for before, after in (("", ""), ("_", "_backward"))))


def open_video_vdp() -> Callable[[np.ndarray, np.ndarray], float]:
    """A function that returns the quality of an image next to its original, uint8 (H, W, 3) each,
    in just-objectionable differences: 10 means equal, lower is worse.

    The package's parameters are in its wheel. Raises EngineError if it is not installed or cannot
    be imported.
    """
    try:
        import torch

        _import_torchvision()
        # The package adds its folder to sys.path and prints.
        with contextlib.redirect_stdout(io.StringIO()):
            from pycvvdp import cvvdp
    except ImportError as error:
        raise EngineError(f"ColorVideoVDP needs {error.name or 'cvvdp'}, which is not installed; "
                          "pip install cvvdp") from None
    except Exception as error:  # of torchvision, or of the package on other versions of torch
        raise EngineError(f"ColorVideoVDP cannot be imported ({one_line(error, 200)}); install "
                          "versions of torch and torchvision that fit, or leave cvvdp out of "
                          "--metrics") from None
    metric = cvvdp(display_name=DISPLAY, quiet=True, device=torch.device("cpu"))

    def quality(image: np.ndarray, truth: np.ndarray) -> float:
        with torch.inference_mode():
            value, _ = metric.predict(np.ascontiguousarray(image), np.ascontiguousarray(truth),
                                      dim_order="HWC")
        return float(value)

    return quality


def _import_torchvision() -> None:
    """Import torchvision, whose wheels from PyPI are built against torch for CUDA: next to torch
    for CPUs their library does not load, so that its operators do not exist, and the import fails
    at the first function that is registered for one. ColorVideoVDP uses none of them, only a blur
    in Python; hence they are declared by name, without an implementation."""
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        import torch.library

        library = cast(Any, torch.library.Library)("torchvision", "FRAGMENT")  # it has no types
        for name in _OPERATORS:
            with contextlib.suppress(RuntimeError):  # it exists
                library.define(f"{name}(Tensor x) -> Tensor")
        _declared.append(library)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import_module("torchvision")


_declared: list[object] = []  # a Library's operators live as long as it
