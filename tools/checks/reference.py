"""The reference cases: bundles of their weights, and how near an engine comes to their outputs."""

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
# Signal to noise in dB that a step must reach against the published implementation. In float32,
# another order of summation leaves 125 where no sign flips, about 45 where a few do. In float16,
# signs flip everywhere, and one is a large part of a sum over few channels: the emulated kernels
# have 16 with 8 to 16 channels, 24 with 32, 36 with the published 32 to 512.
CASES: dict[str, tuple[str, dict[str, float]]] = {
    "forward_tiny": ("tiny", {"exact": 100.0, "half": 12.0}),
    "forward_small": ("small", {"exact": 60.0, "half": 20.0}),
    "forward_full_64": ("full", {"exact": 40.0, "half": 30.0}),
    "forward_full_256": ("full", {"exact": 40.0, "half": 30.0})}


def reference_checkpoint(network: str, folder: Path) -> Checkpoint:
    """The reference cases' weights, by way of files in ``folder``; raises EngineError without the
    cases."""
    from bidiff_deploy.checkpoint.options import read_options
    from bidiff_deploy.checkpoint.read import read_checkpoint
    if not (REFERENCE / f"layout_{network}.json").is_file():
        raise EngineError(f"{REFERENCE} has no layout_{network}.json; run this in a checkout of "
                          "the repository")
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
    """A bundle of the reference cases' weights; raises EngineError without the cases."""
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
    """A reference case through an engine that ``load`` opens of its bundle and its inputs' shape:
    the least SNR of its steps, and whether it reaches ``bound``; None: it is only told."""
    network, data = read_case(case)
    timesteps = [int(timestep) for timestep in data["timesteps"]]
    bundle = reference_bundle(network, timesteps, folder, precision=precision)
    with load(bundle, data["noisy"].shape) as engine:
        least = min(snr(expected, engine.predict(data["noisy"], data["condition"], timestep))
                    for timestep, expected in zip(timesteps, data["prediction"]))
    return {"case": case, "precision": precision, "snr_db": least, "bound_db": bound,
            "ok": bound is None or least >= bound}


def read_case(case: str) -> tuple[str, dict[str, np.ndarray]]:
    """The network's name and the arrays of a case; raises EngineError for another name."""
    if case not in CASES:
        raise EngineError(f"{case} is no reference case; they are {', '.join(CASES)}")
    with np.load(REFERENCE / f"{case}.npz") as file:
        return CASES[case][0], dict(file)


def below_bounds(cases: Sequence[dict[str, Any]]) -> str | None:
    """A sentence on those that do not reach their bound; None if all do."""
    told = [f"{entry['case']} in precision {entry['precision']} reaches {entry['snr_db']:.1f} dB "
            f"of {entry['bound_db']:.0f}" for entry in cases if not entry["ok"]]
    return "; ".join(told) or None
