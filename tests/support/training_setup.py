"""What tests of training share: a small recipe, its photos, and a comparison of states."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from bidiff_deploy.training.loop import train
from bidiff_deploy.training.recipe import Recipe

TREE: dict[str, Any] = {
    "scale": 2,
    "network": {"inner_channel": 8, "norm_groups": 2, "channel_mults": [1], "res_blocks": 1,
                "dropout": 0.1, "image_size": 64, "fp_res": [64], "total_step": 80,
                "dynamic_group": 2},
    "data": {"crop": 16, "candidates": 2, "shuffle_colors": True, "train": ["photos"],
             "validate": [{"path": "photos/a.png", "box": [0, 0, 21, 30]}]},
    "steps": [{"timestep": 44, "origin": "condition", "share": 2},
              {"timestep": 36, "origin": "sample"}],
    "optimizer": {"learning_rate": "2e-3", "warmup": 2, "ema": 0.9},
    "run": {"iterations": 6, "batch": 2, "threads": 1, "device": "cpu", "report_every": 2,
            "validate_every": 3},
}

TWO_LEVELS = {"channel_mults": [1, 2]}  # with CP-Down and CP-Up, and twice as many layers


def changed(**groups) -> dict:
    """TREE with keys of its groups replaced, e.g. ``run={"batch": 1}``."""
    return {**TREE, **{key: {**TREE[key], **value} if isinstance(value, dict) else value
                       for key, value in groups.items()}}


def one_step_tree(one_step: dict[str, Any], **groups) -> dict:
    """A recipe of one step, without dropout, of five crops without colour changes."""
    found = changed(**{"network": {"dropout": 0.0}, **groups,
                       "data": {"candidates": 1, "crops": 5, "shuffle_colors": False,
                                **groups.get("data", {})}})
    del found["steps"]
    return {**found, "one_step": one_step}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (H, W, 3) with edges and gradients, so that bicubic loses something."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x * (0.2 + 0.1 * c) + seed) + np.cos(y * (0.3 + 0.05 * c)) for c in range(3)]
    edges = ((x // 5 + y // 7) % 2)[..., None] * 60
    return (90 + 40 * np.stack(waves, -1) + edges).clip(0, 255).astype(np.uint8)


def write_recipe(folder: Path) -> Path:
    """``folder``, with a recipe and its photos."""
    (folder / "photos").mkdir()
    Image.fromarray(picture(40, 50)).save(folder / "photos" / "a.png")
    Image.fromarray(picture(33, 34, seed=2)[..., 0]).save(folder / "photos" / "grey.png")
    (folder / "photos" / "notes.txt").write_text("no photo")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(TREE))
    return folder


def states_equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(states_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(states_equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def train_until(iteration: int, recipe: Recipe, folder: Path, out: Path) -> None:
    """A run that is stopped after ``iteration`` iterations, by the signal of Ctrl-C."""
    def stop(line: str) -> None:
        if line.startswith(f"iteration {iteration} "):
            signal.raise_signal(signal.SIGINT)

    train(recipe, folder, out, report=stop)


def silent(line: str) -> None:
    """A report that goes nowhere."""
