"""Reference cases of latent networks, and the files made of them: weights by the rule of
``tests/reference/other``."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from reference.synth_weights import synth_state_dict
from safetensors.numpy import save_file

from bidiff_deploy.checkpoint.options import Options
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.checkpoint.record import Checkpoint
from bidiff_deploy.export.write import choose_timesteps, export_bundle
from bidiff_deploy.networks.base import Shapes
from support.reference_cases import own
from support.shared import Shared

OTHER = Path(__file__).parents[1] / "reference" / "other"
VQ = "vq_f4_tiny"


class LatentCases:
    """The reference cases, and files made of them once for all workers."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self._once = functools.cache(self._read)

    def layout(self, name: str) -> dict:
        return json.loads((OTHER / f"layout_{name}.json").read_text())

    def arrays(self, case: str) -> dict[str, np.ndarray]:
        with np.load(OTHER / f"{case}.npz") as data:
            return dict(data)

    def state(self, name: str) -> dict[str, np.ndarray]:
        """A published state dict with the reference's weights; its buffers are empty."""
        layout = self.layout(name)
        buffers = {key: np.zeros(shape, dtype)
                   for key, (shape, dtype) in layout.get("buffers", {}).items()}
        return {**synth_state_dict(layout["parameters"]), **buffers}

    def shapes(self, name: str, autoencoder: str = VQ) -> Shapes:
        """Published shapes of a network and its autoencoder."""
        found = {key: tuple(shape) for key, shape in self.layout(name)["parameters"].items()}
        found.update((key, tuple(shape))
                     for key, (shape, _) in self.layout(name)["buffers"].items())
        found.update((f"autoencoder.{key}", tuple(shape))
                     for key, shape in self.layout(autoencoder)["parameters"].items())
        return found

    def file(self, name: str) -> Path:
        """The weights as a .safetensors file with published keys."""
        return self.shared(f"{name}.safetensors", lambda path: save_file(self.state(name), path))

    def read(self, name: str) -> Checkpoint:
        return own(self._once(name))

    def _read(self, name: str) -> Checkpoint:
        return read_checkpoint(self.file(name), Options(autoencoder=str(self.file(VQ))))

    def packed(self, name: str) -> Path:
        """A packed checkpoint with the autoencoder."""
        return self.shared(f"{name}_packed.safetensors",
                           lambda path: write_packed(path, self.read(name)))

    def bundle(self, name: str) -> Path:
        return self.shared(f"{name}.bundle", lambda path: export_bundle(
            self._once(name), path, timesteps=choose_timesteps(self._once(name))))


@pytest.fixture(scope="session")
def latent(shared: Shared) -> LatentCases:
    return LatentCases(shared)
