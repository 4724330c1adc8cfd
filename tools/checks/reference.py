"""The reference cases: bundles of their weights, and the accuracy of an engine on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bidiff_deploy.errors import EngineError

if TYPE_CHECKING:
    from bidiff_deploy.checkpoint.record import Checkpoint

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "tests" / "reference"
# Signal-to-noise ratio in dB that a step must reach against the published implementation. In
# float32 another order of summation gives 125 if no sign flips and about 45 if a few do. In float16
# signs flip everywhere, and one sign is a large part of a sum over few channels: the emulated
# kernels reach 16 with 8 to 16 channels, 24 with 32, 36 with the published 32 to 512.
CASES: dict[str, tuple[str, dict[str, float]]] = {
    "forward_tiny": ("tiny", {"exact": 100.0, "half": 12.0}),
    "forward_small": ("small", {"exact": 60.0, "half": 20.0}),
    "forward_full_64": ("full", {"exact": 40.0, "half": 30.0}),
    "forward_full_256": ("full", {"exact": 40.0, "half": 30.0})}


def reference_checkpoint(network: str, folder: Path) -> Checkpoint:
    """The weights of the reference cases, read from files that are written to ``folder``. Raises
    EngineError if the cases are missing."""
    from bidiff_deploy.checkpoint.options import read_options
    from bidiff_deploy.checkpoint.read import read_checkpoint
    if not (REFERENCE / f"layout_{network}.json").is_file():
        raise EngineError(f"{REFERENCE} contains no layout_{network}.json; run this in a checkout "
                          "of the repository")
    import yaml
    from safetensors.numpy import save_file

    from tests.reference.synth_weights import load_layout, synth_state_dict
    layout = load_layout(network)
    options, weights = folder / f"{network}.yml", folder / f"{network}.safetensors"
    options.write_text(yaml.safe_dump({
        "name": network, "scale": 4, "network_g": {"type": "BIDiffSRUNet", **layout["network"]},
        "beta_schedule": {"schedule": "linear", "n_timestep": layout["network"]["total_step"],
                          "linear_start": 1e-6, "linear_end": 1e-2}}))
    if not weights.exists():
        save_file(synth_state_dict(layout["shapes"], 0), weights)
    return read_checkpoint(weights, read_options(options))


def reference_bundle(network: str, timesteps: Sequence[int], folder: Path, *,
                     precision: str = "exact") -> Path:
    """A bundle with the weights of the reference cases. Raises EngineError if they are missing."""
    from bidiff_deploy.export.write import export_bundle
    path = folder / f"{network}_{precision}_{'_'.join(map(str, timesteps[:3]))}.bundle"
    checkpoint = reference_checkpoint(network, folder)
    if not path.exists():
        export_bundle(checkpoint, path, timesteps=tuple(sorted(timesteps, reverse=True)),
                      precision=precision)
    return path


def snr(reference: np.ndarray, found: np.ndarray) -> float:
    """10 log10(sum ref^2 / sum (ref - found)^2) in dB."""
    reference = np.asarray(reference, np.float64)
    error = float(np.sum((reference - found) ** 2))
    return 10 * float(np.log10(np.sum(reference ** 2) / error)) if error else float("inf")


def hold_reference(case: str, precision: str, bound: float | None, folder: Path,
                   load: Callable[[Path, tuple[int, ...]], AbstractContextManager[Any]]
                   ) -> dict[str, Any]:
    """Run a reference case with the engine that ``load`` opens for its bundle and input shape.

    Returns the lowest SNR of its steps and whether it reaches ``bound``; None: there is no bound.
    """
    network, data = read_case(case)
    timesteps = [int(timestep) for timestep in data["timesteps"]]
    bundle = reference_bundle(network, timesteps, folder, precision=precision)
    with load(bundle, data["noisy"].shape) as engine:
        lowest = min(snr(expected, engine.predict(data["noisy"], data["condition"], timestep))
                    for timestep, expected in zip(timesteps, data["prediction"]))
    return {"case": case, "precision": precision, "snr_db": lowest, "bound_db": bound,
            "ok": bound is None or lowest >= bound}


def read_case(case: str) -> tuple[str, dict[str, np.ndarray]]:
    """The network's name and the arrays of a case. Raises EngineError for an unknown name."""
    if case not in CASES:
        raise EngineError(f"{case} is not a reference case; known are {', '.join(CASES)}")
    with np.load(REFERENCE / f"{case}.npz") as file:
        return CASES[case][0], dict(file)


def below_bounds(cases: Sequence[dict[str, Any]]) -> str | None:
    """A sentence about the cases that do not reach their bound; None if all do."""
    below = [f"{entry['case']} in precision {entry['precision']} reaches {entry['snr_db']:.1f} dB "
            f"of {entry['bound_db']:.0f}" for entry in cases if not entry["ok"]]
    return "; ".join(below) or None
