"""The reference cases, checkpoints and bundles made of them, and how alike arrays are."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import yaml
from reference.synth_weights import load_layout, synth_state_dict
from safetensors.numpy import load_file, save_file

from bidiff_deploy.checkpoint.options import read_options
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.checkpoint.record import Checkpoint
from bidiff_deploy.export.write import export_bundle
from support.shared import Shared

TESTS = Path(__file__).parents[1]
REFERENCE = TESTS / "reference"


def snr(reference: np.ndarray, found: np.ndarray) -> float:
    """Signal to noise in dB: 10 log10(sum ref^2 / sum (ref - found)^2)."""
    reference = np.asarray(reference, np.float64)
    error = np.sum((reference - found) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(np.sum(reference ** 2) / error)


def own(found: Checkpoint) -> Checkpoint:
    """A copy whose tensors a test may change."""
    state = {key: value.copy() for key, value in found.state.items()}
    return dataclasses.replace(found, state=state, binary=dict(found.binary))


class Reference:
    """The reference cases, and files made of them once for all workers."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self._once = functools.cache(self._read)
        self._packed_once = functools.cache(self._packed)

    def layout(self, name: str) -> dict:
        return load_layout(name)

    def arrays(self, case: str) -> dict[str, np.ndarray]:
        with np.load(REFERENCE / f"{case}.npz") as data:
            return dict(data)

    def state(self, name: str, seed: int = 0) -> dict[str, np.ndarray]:
        """Published state dict with the reference's weights."""
        if seed == 0:
            return load_file(self.checkpoint(name))
        return synth_state_dict(self.layout(name)["shapes"], seed)

    def options(self, name: str) -> Path:
        """Option file in the published form."""
        network = self.layout(name)["network"]
        text = yaml.safe_dump({
            "name": name, "scale": 4, "network_g": {"type": "BIDiffSRUNet", **network},
            "beta_schedule": {"schedule": "linear", "n_timestep": network["total_step"],
                              "linear_start": 1e-6, "linear_end": 1e-2}})
        return self.shared(f"{name}.yml", lambda path: path.write_text(text))

    def checkpoint(self, name: str) -> Path:
        """The weights as a .safetensors file with published keys."""
        return self.shared(f"{name}.safetensors", lambda path: save_file(
            synth_state_dict(self.layout(name)["shapes"], 0), path))

    def read(self, name: str) -> Checkpoint:
        return own(self._once(name))

    def _read(self, name: str) -> Checkpoint:
        return read_checkpoint(self.checkpoint(name), read_options(self.options(name)))

    def packed(self, name: str) -> Checkpoint:
        """The checkpoint as a packed file has it, which is read in a tenth of the time."""
        return own(self._packed_once(name))

    def _packed(self, name: str) -> Checkpoint:
        return read_checkpoint(self.shared(
            f"{name}_packed.safetensors", lambda path: write_packed(path, self._once(name))))

    def bundle(self, name: str, timesteps: Iterable[int], precision: str = "exact") -> Path:
        """A bundle of the reference's weights for these time steps, descending."""
        timesteps = tuple(sorted((int(t) for t in timesteps), reverse=True))
        steps = hashlib.sha256(str(timesteps).encode()).hexdigest()[:12]
        read = self.packed if name == "full" else self.read  # both export the same
        return self.shared(f"{name}_{precision}_{steps}.bundle", lambda path: export_bundle(
            read(name), path, timesteps=timesteps, precision=precision))


@pytest.fixture(scope="session")
def reference(shared: Shared) -> Reference:
    return Reference(shared)
