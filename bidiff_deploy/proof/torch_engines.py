"""A checkpoint's network in torch behind the interface of every engine, on a CPU or a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.record import Bundle, NoisePredictorBundle, Step
from ..checkpoint.options import read_options
from ..checkpoint.read import read_checkpoint
from ..checkpoint.record import Checkpoint
from ..engines.image_engine import ImageEngine
from ..engines.one_run import OneRun
from ..errors import EngineError, UsageError
from ..networks.base import NOISE_PREDICTOR
from ..sampling.schedule import Schedule
from .reference import TorchEngine, load_network

__all__ = ["TorchNoisePredictor", "TorchOneRun", "open_checkpoint"]


def open_checkpoint(path: Path, options: Path | None = None, scale: int | None = None,
                    steps: int | None = None, device: str = "auto") -> ImageEngine:
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
    timesteps = choose_timesteps(found, steps=steps)
    steps_of = tuple(Step(timestep, found.network.group(found.config, timestep), "")
                     for timestep in timesteps)
    # What engines read of a bundle, for a checkpoint that has none.
    common = (path, found.config, found.scale, steps_of, (), "float32", "", {})
    if found.network.kind != NOISE_PREDICTOR:
        return TorchOneRun(Bundle(*common), found, place)
    start = found.sampling.get("start")
    if start is not None and timesteps[-1] > start:
        start = None
    return TorchNoisePredictor(NoisePredictorBundle(*common, Schedule(**found.schedule), start),
                               found, place)


class TorchNoisePredictor(TorchEngine):
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


class TorchOneRun(OneRun):
    """A network without a loop."""

    def __init__(self, bundle: Bundle, checkpoint: Checkpoint, device: Any) -> None:
        super().__init__(bundle)
        self.network = load_network(checkpoint).to(device)
        self._device = device

    @property
    def description(self) -> str:
        import torch

        return f"torch {torch.__version__}, feed-forward, {self._device}"

    def _enlarge(self, image: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return self.network(torch.from_numpy(image).to(self._device)).cpu().numpy()

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
