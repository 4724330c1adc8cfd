"""LPIPS (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
CVPR 2018, arXiv 1801.03924) by its authors' package, with AlexNet, on whole RGB images."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable

import numpy as np

from ..errors import EngineError, one_line

__all__ = ["open_lpips"]


def open_lpips() -> Callable[[np.ndarray, np.ndarray], float]:
    """A function that returns the distance of an image to its original, uint8 (H, W, 3) each; 0
    means equal.

    No border is cropped, as in the published evaluation. The package downloads AlexNet's weights at
    first use. Raises EngineError if the package or the weights are not available.
    """
    try:
        import torch
        from lpips import LPIPS
    except ImportError as error:
        raise EngineError(f"LPIPS needs {error.name or 'lpips'}, which is not installed; pip "
                          "install lpips torchvision") from None
    try:
        # stdout is for the table; the package's warnings about torchvision do not concern users.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = LPIPS(net="alex", verbose=False).eval()
    except Exception as error:  # of a download, a file or torchvision
        raise EngineError(f"LPIPS cannot load AlexNet's weights ({one_line(error, 200)}); download "
                          "them with torchvision while online, or leave --lpips out") from None

    def distance(image: np.ndarray, truth: np.ndarray) -> float:
        with torch.inference_mode():
            tensors = [torch.from_numpy(np.ascontiguousarray(one)).permute(2, 0, 1)[None] / 255
                       for one in (image, truth)]
            return float(network(*tensors, normalize=True))  # maps [0, 1] to [-1, 1]

    return distance
