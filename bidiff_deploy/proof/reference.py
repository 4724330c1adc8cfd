"""The torch network of a checkpoint as an engine, sampled exactly as a bundle is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from ..bundle.record import NoisePredictorBundle
from ..checkpoint.record import Checkpoint
from ..engines.noise_predictor import NoisePredictor
from ..errors import EngineError

if TYPE_CHECKING:
    from torch import nn

_INSTALL = ("torch is not installed, and the reference network needs it; "
            "pip install 'bidiff-deploy[train]'")


def load_network(checkpoint: Checkpoint, *, channels_last: bool = False) -> nn.Module:
    """The checkpoint's network in torch, float32, for inference. Raises EngineError without torch.

    ``channels_last``: parameters in torch's other memory layout. It computes the same function
    with sums in another order, which measures the noise floor.
    """
    try:
        from ..training.weights import torch_network
    except ImportError:
        raise EngineError(_INSTALL) from None
    network = torch_network(checkpoint).eval().requires_grad_(False)
    if channels_last:
        in_channels_last(network)
    return network


def in_channels_last(network: nn.Module) -> None:
    """Move the network's parameters to torch's channels_last layout."""
    import torch

    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Sets torch's number of threads inside; None leaves it. Does nothing without torch."""
    try:
        import torch
    except ImportError:
        threads = None
    before = torch.get_num_threads() if threads else 0
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads:
            torch.set_num_threads(before)


class TorchEngine(NoisePredictor):
    """The torch network behind the interface of engines."""

    def __init__(self, bundle: NoisePredictorBundle, checkpoint: Checkpoint, *,
                 channels_last: bool = False) -> None:
        """Timesteps, scale and schedule are ``bundle``'s, the network is the checkpoint's."""
        super().__init__(bundle)
        self.channels_last = channels_last
        self.network = load_network(checkpoint, channels_last=channels_last)

    @property
    def description(self) -> str:
        """Version and memory layout."""
        import torch

        layout = "channels_last" if self.channels_last else "contiguous"
        return f"torch {torch.__version__}, {layout}"

    def _predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        import torch

        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        with torch.inference_mode():
            inputs = [torch.from_numpy(array).contiguous(memory_format=layout)
                      for array in (noisy, condition)]
            found: np.ndarray = self.network(*inputs, timestep).contiguous().numpy()
            return found

    def _close(self) -> None:
        del self.network
