"""A checkpoint's network in torch behind the interface of every engine, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..networks.bi_diffsr.architecture import NetworkConfig
from ..checkpoint.record import Checkpoint
from ..checkpoint.read import read_checkpoint
from ..engines.one_run import FeedForwardEngine
from ..engines.image_engine import PictureEngine
from ..errors import EngineError, UsageError
from ..networks.bbcu.architecture import BbcuConfig
from ..checkpoint.options import read_options
from .reference import TorchEngine
from ..sampling.schedule import Schedule

__all__ = ["TorchDiffusion", "TorchFeedForward", "open_checkpoint"]


@dataclass(frozen=True)
class _Unbundled:
    """What engines ask of a bundle, for a checkpoint that has none."""

    scale: int
    config: NetworkConfig | BbcuConfig
    schedule: Schedule | None = None
    timesteps: tuple[int, ...] = ()
    default_start: int | None = None
    precision: str = "float32"


def open_checkpoint(path: Path, options: Path | None = None, scale: int | None = None,
                    steps: int | None = None, device: str = "auto") -> PictureEngine:
    """The engine of a checkpoint, published, of a training run, or packed.

    options  option file in the published form
    scale    needed where nothing states it
    steps    of a diffusion model: so many timesteps, spaced evenly over the whole schedule; None:
             what the checkpoint advises, else 50
    device   auto (a GPU if there is one), cpu, cuda, cuda:1

    Raises CheckpointError for a file that is none, UsageError for a scale that is not known and a
    device that is not there, EngineError without torch.
    """
    from ..export.write import choose_timesteps

    found: Checkpoint = read_checkpoint(path, read_options(options) if options else None, scale)
    if found.scale is None:
        raise UsageError(f"{path} does not say what factor it upscales by; give --scale, or the "
                         "options file with --options")
    place = _device(device)
    if isinstance(found.config, BbcuConfig):
        if steps is not None:
            raise UsageError(f"{path} is of a feed-forward network, which has no time steps; leave "
                             "--steps out")
        return TorchFeedForward(_Unbundled(found.scale, found.config), found, place)
    timesteps = choose_timesteps(found, steps=steps)
    start = found.sampling.get("start")
    if start is not None and timesteps[-1] > start:
        start = None
    bundle = _Unbundled(found.scale, found.config, Schedule(**found.schedule), timesteps, start)
    return TorchDiffusion(bundle, found, place)


class TorchDiffusion(TorchEngine):
    """The network of a diffusion model; its memory is counted as for float32 maps."""

    kernel = "stock"

    def __init__(self, bundle: Any, checkpoint: Checkpoint, device: Any) -> None:
        super().__init__(bundle, checkpoint, channels_last=device.type == "cuda")
        self.network.to(device)
        self._device = device

    @property
    def description(self) -> str:
        return f"{super().description}, {self._device}"

    def _predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        if self._device.type == "cpu":
            return super()._predict(noisy, condition, timestep)
        import torch

        with torch.inference_mode():
            inputs = [torch.from_numpy(array).to(self._device, memory_format=torch.channels_last)
                      for array in (noisy, condition)]
            return self.network(*inputs, timestep).contiguous().cpu().numpy()


class TorchFeedForward(FeedForwardEngine):
    """The network of a feed-forward model."""

    def __init__(self, bundle: Any, checkpoint: Checkpoint, device: Any) -> None:
        import torch

        from ..training.networks.bbcu import Bbcu

        PictureEngine.__init__(self, bundle)  # there is no graph to open
        self.network = Bbcu(checkpoint.config).eval().requires_grad_(False)
        latent: Mapping[str, np.ndarray] = checkpoint.latent()
        self.network.load_state_dict({name: torch.from_numpy(np.array(value))
                                      for name, value in latent.items()})
        self.network.to(device)
        self._device = device

    @property
    def description(self) -> str:
        import torch

        return f"torch {torch.__version__}, feed-forward, {self._device}"

    def enlarge(self, picture: np.ndarray) -> np.ndarray:
        """float32 (N, 3, H, W), about [0, 1] -> (N, 3, H * scale, W * scale), not clipped."""
        import torch

        self._check_open()
        picture = self._planes("picture", picture)
        with torch.inference_mode():
            return self.network(torch.from_numpy(picture).to(self._device)).cpu().numpy()

    def _close(self) -> None:
        del self.network


def _device(name: str) -> Any:
    try:
        import torch
    except ImportError:
        raise EngineError("torch is not installed, and checkpoints are run by it; pip install "
                          "'bidiff-deploy[train]', or evaluate a bundle") from None
    found = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if found else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
    except RuntimeError:
        raise UsageError(f"--device {name!r} must be auto, cpu, cuda or such as cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= found:
        raise UsageError(f"--device {name}: torch finds {found} GPUs here; choose another")
    return device
