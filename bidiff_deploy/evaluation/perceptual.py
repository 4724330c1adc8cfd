"""LPIPS (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
CVPR 2018, arXiv 1801.03924) by its authors' package, AlexNet, on whole RGB images."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable

import numpy as np

from ..errors import EngineError

__all__ = ["open_lpips"]


def open_lpips() -> Callable[[np.ndarray, np.ndarray], float]:
    """A function of picture and original, uint8 (H, W, 3) each, to their distance; 0: equal.

    No border is cut, as in the published evaluation. The package downloads AlexNet's weights when
    it is used for the first time. Raises EngineError if it or they can not be had.
    """
    try:
        import torch
        from lpips import LPIPS
    except ImportError as error:
        raise EngineError(f"LPIPS needs {error.name or 'lpips'}, which is not installed; pip "
                          "install lpips torchvision") from None
    try:
        # stdout is the table's, and how the package calls torchvision is not the user's affair.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = LPIPS(net="alex", verbose=False).eval()
    except Exception as error:  # whatever a download, a file or torchvision provokes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise EngineError(f"LPIPS can not load AlexNet's weights ({reason}); download them with "
                          "torchvision where there is a network, or leave --lpips out") from None

    def distance(picture: np.ndarray, truth: np.ndarray) -> float:
        with torch.inference_mode():
            tensors = [torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None] / 255
                       for image in (picture, truth)]
            return float(network(*tensors, normalize=True))  # [0, 1] is taken to [-1, 1]

    return distance
