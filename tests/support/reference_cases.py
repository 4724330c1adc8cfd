"""The reference cases, checkpoints and bundles made of them, and how alike arrays are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from reference.synth_weights import load_layout, synth_state_dict

from bidiff_deploy.checkpoint.options import read_options
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.export.write import export_bundle

TESTS = Path(__file__).parents[1]
REFERENCE = TESTS / "reference"


def snr(reference: np.ndarray, found: np.ndarray) -> float:
    """Signal to noise in dB: 10 log10(sum ref^2 / sum (ref - found)^2)."""
    reference = np.asarray(reference, np.float64)
    error = np.sum((reference - found) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(np.sum(reference ** 2) / error)


class Reference:
    """The reference cases, and files made of them in one folder for the whole run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bundles: dict[tuple, Path] = {}

    def layout(self, name: str) -> dict:
        return load_layout(name)

    def arrays(self, case: str) -> dict[str, np.ndarray]:
        with np.load(REFERENCE / f"{case}.npz") as data:
            return dict(data)

    def state(self, name: str, seed: int = 0) -> dict[str, np.ndarray]:
        """Published state dict with the reference's weights."""
        return synth_state_dict(self.layout(name)["shapes"], seed)

    def options(self, name: str) -> Path:
        """Option file in the published form."""
        path = self.folder / f"{name}.yml"
        network = self.layout(name)["network"]
        path.write_text(yaml.safe_dump({
            "name": name, "scale": 4, "network_g": {"type": "BIDiffSRUNet", **network},
            "beta_schedule": {"schedule": "linear", "n_timestep": network["total_step"],
                              "linear_start": 1e-6, "linear_end": 1e-2}}))
        return path

    def checkpoint(self, name: str) -> Path:
        """The weights as a .safetensors file with published keys."""
        from safetensors.numpy import save_file

        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            save_file(self.state(name), path)
        return path

    def read(self, name: str):
        return read_checkpoint(self.checkpoint(name), read_options(self.options(name)))

    def bundle(self, name: str, timesteps) -> Path:
        """A bundle of the reference's weights for these time steps, descending."""
        timesteps = tuple(sorted((int(t) for t in timesteps), reverse=True))
        if (name, timesteps) not in self._bundles:
            path = self.folder / f"{name}_{len(self._bundles)}.bundle"
            export_bundle(self.read(name), path, timesteps=timesteps)
            self._bundles[name, timesteps] = path
        return self._bundles[name, timesteps]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(tmp_path_factory.mktemp("reference"))
