"""A checkpoint's network in torch behind the interface of engines, on a CPU or a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.record import Bundle, LatentBundle, NoisePredictorBundle, Step
from ..checkpoint.options import read_options
from ..checkpoint.read import read_checkpoint
from ..checkpoint.record import Checkpoint, known_scale
from ..engines.image_engine import ImageEngine
from ..engines.latent import LatentDiffusion
from ..engines.one_run import OneRun
from ..errors import EngineError, UsageError
from ..networks.base import DECODER, ENCODER, LATENT, ONE_RUN
from ..sampling.noise import NO_NOISE
from ..sampling.resshift import ResShiftSchedule
from ..sampling.schedule import Schedule
from .reference import TorchEngine, load_network

__all__ = ["TorchLatent", "TorchNoisePredictor", "TorchOneRun", "open_checkpoint"]


def open_checkpoint(path: Path, options: Path | None = None, scale: int | None = None,
                    steps: int | None = None, device: str = "auto") -> ImageEngine:
    """The engine of a checkpoint, published, of a training run, or packed.

    options  option file in the published form
    scale    needed if neither file states it
    steps    of a diffusion model: number of timesteps, spaced evenly over the whole schedule; None:
             those that the checkpoint recommends, else 50
    device   auto (a GPU if there is one), cpu, cuda, cuda:1

    Raises CheckpointError for a file that is no checkpoint, UsageError for an unknown scale or a
    missing device, EngineError without torch.
    """
    from ..export.write import choose_timesteps

    found: Checkpoint = read_checkpoint(path, read_options(options) if options else None, scale)
    known = known_scale(found)
    place = _device(device)
    timesteps = choose_timesteps(found, steps=steps)
    steps_of = tuple(Step(timestep, found.network.group(found.config, timestep), "")
                     for timestep in timesteps)
    # The bundle attributes that an engine reads, for a bare checkpoint.
    bundle = Bundle(path, found.config, known, steps_of, (), "float32", "", {}, {})
    if found.network.kind == ONE_RUN:
        return TorchOneRun(bundle, found, place)
    if found.network.kind == LATENT:
        return TorchLatent(LatentBundle(
            **vars(bundle), schedule=ResShiftSchedule(**found.schedule), parts={},
            sampler=found.sampling.get("sampler", found.network.sampler)), found, place)
    start = found.sampling.get("start")
    if start is not None and timesteps[-1] > start:
        start = None
    return TorchNoisePredictor(NoisePredictorBundle(
        **vars(bundle), schedule=Schedule(**found.schedule), default_start=start,
        noiseless=start is not None and found.sampling.get("noise") == NO_NOISE), found, place)


class TorchNoisePredictor(TorchEngine):
    """The network of a diffusion model; memory is estimated as for float32 maps."""

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
            found: np.ndarray = self.network(*inputs, timestep).contiguous().cpu().numpy()
            return found


class TorchLatent(LatentDiffusion):
    """A latent network and its autoencoder."""

    kernel = "stock"

    def __init__(self, bundle: LatentBundle, checkpoint: Checkpoint, device: Any) -> None:
        super().__init__(bundle)
        self.network = load_network(checkpoint).to(device)
        self._device = device

    @property
    def description(self) -> str:
        import torch

        return f"torch {torch.__version__}, latent, {self._device}"

    def _run(self, part: str, inputs: dict[str, np.ndarray], timestep: int = 0) -> np.ndarray:
        import torch

        given = [torch.from_numpy(array).to(self._device) for array in inputs.values()]
        network: Any = self.network
        with torch.inference_mode():
            output = (network.encode(*given) if part == ENCODER else network.decode(*given)
                      if part == DECODER else network(*given, timestep))
            found: np.ndarray = output.cpu().numpy()
            return found

    def _close(self) -> None:
        del self.network


class TorchOneRun(OneRun):
    """A network that runs once."""

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
            found: np.ndarray = self.network(torch.from_numpy(image).to(self._device)).cpu().numpy()
            return found

    def _close(self) -> None:
        del self.network


def _device(name: str) -> Any:
    try:
        import torch
    except ImportError:
        raise EngineError("torch is not installed, and it runs checkpoints; pip install "
                          "'bidiff-deploy[train]', or evaluate a bundle") from None
    found = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if found else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
    except RuntimeError:
        raise UsageError(
            f"--device {name!r} must be auto, cpu, cuda, or cuda:N for GPU number N") from None
    if device.type == "cuda" and (device.index or 0) >= found:
        raise UsageError(f"--device {name}: torch finds {found} GPUs; choose another device")
    return device
