"""Bundles to check, and their engines, whose plans are built if they are missing."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.errors import EngineError
from tools.checks.reference import ROOT, reference_checkpoint

BACKENDS = {"plugin": "tensorrt", "dense": "tensorrt-dense", "dense-int8": "tensorrt-dense-int8"}
DEMO = ROOT / "bidiff_deploy" / "models" / "diffusion_x2.safetensors"
PHOTOS = ROOT / "training" / "photos"
Shape = tuple[int, int, int]


def network_bundle(network: str, steps: int | None, folder: Path, precision: str) -> Path:
    """A bundle in ``folder`` with ``steps`` evenly spaced timesteps, or with those that the
    checkpoint advises if ``steps`` is None.

    ``network``: demo (the shipped model), or full, small or tiny (the published network and two
    small ones, with the weights of the reference cases). ``precision``: exact or half.
    """
    from bidiff_deploy.checkpoint.read import read_checkpoint
    from bidiff_deploy.export.write import choose_timesteps, export_bundle
    path = folder / f"{network}_{precision}_{steps or 'advised'}.bundle"
    if path.exists():
        return path
    if network == "demo":
        if not DEMO.is_file():
            raise EngineError(f"{DEMO} is missing; run this in a checkout of the repository")
        checkpoint = read_checkpoint(DEMO)
    else:
        checkpoint = reference_checkpoint(network, folder)
    export_bundle(checkpoint, path, timesteps=choose_timesteps(checkpoint, steps=steps),
                  precision=precision)
    return path


def ensure_plan(bundle: Path, variant: str, shape: Shape, device: int) -> Any:
    """The plan of a bundle for one shape (N, H, W): an existing one that fits this machine, or a
    new one. Raises EngineError."""
    from bidiff_deploy.engines.gpu.library import device_info
    from bidiff_deploy.engines.tensorrt import plans
    from bidiff_deploy.engines.tensorrt.api import open_tensorrt
    from bidiff_deploy.engines.tensorrt.build.builder import build_plan
    from bidiff_deploy.engines.tensorrt.profiles import Profile
    opened, profile = open_bundle(bundle), Profile(shape, shape, shape)
    api = open_tensorrt()
    plugin = api.plugin() if variant == "plugin" else None
    target = plans.current_target(api, opened, device_info(device), plugin)
    for plan in plans.read_plans(plans.default_folder(opened)):
        info = plan.info
        if (info.variant, info.profile) == (variant, profile):
            with contextlib.suppress(EngineError):
                plans.check(plan, target, opened.path)
                return plan
    return build_plan(opened, profile, variant=variant, device=device, overwrite=True)


def load(bundle: Path, variant: str, shape: Shape, device: int) -> Any:
    """An engine of a bundle; its plan for the shape is built if it is missing."""
    ensure_plan(bundle, variant, shape, device)
    return load_bundle(bundle, backend=BACKENDS[variant], device=device)
