"""The authors' option files (BasicSR's format) as recipes.

    scale, manual_seed                      scale, run.seed
    datasets.train, datasets.val*           data, loading.workers, run.batch
    network_g, beta_schedule                network, betas, steps; uniform is 1
    path.pretrain_network_g                 initial
    train, val.val_freq, logger.print_freq  optimizer, loss, run

Options that ask for a different training are refused. Options without a counterpart that change no
result are ignored and listed in one line, except names and disabled options.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoint.options import parse_options
from ..errors import CheckpointError, UsageError
from ..sampling.schedule import DEFAULT_STEPS, Schedule
from .flat_options import Flat

__all__ = ["is_published", "recipe_tree"]

# Ignored without a note: names, and options without effect on the result.
_IGNORED = ("name", "datasets.*.name", "datasets.*.phase", "datasets.train.dataset_enlarge_ratio",
           "find_unused_parameters", "beta_schedule.guidance_scale",
           "beta_schedule.*.guidance_scale", "path.strict_load_g",
           "path.param_key_g", "logger.use_tb_logger", "val.metrics.*.better")
# Key, the supported values, and the remedy for others.
_ONLY = (
    ("model_type", ("BIDiffSRModel",), "only BI-DiffSR option files are read; write a recipe"),
    ("datasets.*.type", ("MultiPairedImageDataset", "PairedImageDataset"), "give folders of pairs"),
    ("datasets.*.task", ("SR",), "only super-resolution is trained"),
    ("datasets.*.io_backend.type", ("disk",), "unpack the images into folders"),
    ("datasets.train.use_shuffle", (True,), "crops are always drawn at random"),
    ("datasets.*.meta_info_file", (), "put the listed images into a folder"),
    ("datasets.*.mean", (), "images are in [0, 1]; remove it"),
    ("datasets.*.std", (), "images are in [0, 1]; remove it"),
    ("datasets.*.color", (), "networks use RGB; remove it"),
    ("datasets.val*.gt_size", (), "whole photos are validated; remove it"),
    ("network_g.type", ("BIDiffSRUNet",), "write a recipe for another network"),
    ("beta_schedule.is_guidance", (False,), "guidance is not in the published code either"),
    ("beta_schedule.*.is_guidance", (False,), "guidance is not in the published code either"),
    ("path.resume_state", (), "continue a run with --resume"),
    ("train.optim_g.type", ("Adam",), "use Adam or write a recipe"),
    ("train.optim_g.weight_decay", (0,), "there is no weight decay"),
    ("train.pixel_opt.type", ("L1Loss", "MSELoss"),
     "the loss is L1 or, by MSELoss, L2 on the noise"),
    ("train.pixel_opt.loss_weight", (1,), "scale the learning rate instead"),
    ("train.pixel_opt.reduction", ("mean",), "scale the learning rate instead"),
    ("train.*_opt.type", (), "the loss is L1 or L2 on the noise alone"),
)


def is_published(tree: Mapping[str, Any]) -> bool:
    """Whether the content of a YAML file is an option file of the authors, not a recipe."""
    return "network_g" in tree or "model_type" in tree or "datasets" in tree


def recipe_tree(tree: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], list[str]]:
    """The recipe that corresponds to an option file, as plain values, and notes in sentences.

    Relative folders are looked up in the working directory, as in the authors' programs, then in
    the file's folder and the two above it. Raises UsageError, one sentence that names file and key,
    for options that are not supported.
    """
    flat = Flat(tree, str(path))
    if not any(key.startswith("datasets.train.") for key in flat.keys()):
        raise UsageError(f"{path}: is an option file without datasets.train, so it has no photos "
                         "to train on; give an option file for training, or score a model with "
                         "bidiff-deploy evaluate")
    loss = "l2" if flat.peek("train.pixel_opt.type") == "MSELoss" else "l1"
    for pattern, allowed, remedy in _ONLY:
        flat.only(pattern, allowed, remedy)
    recipe, notes = _recipe(flat, tree, path)
    recipe["loss"] = loss
    for pattern in _IGNORED:
        flat.drop(pattern)
    if left := flat.keys():
        notes.append(f"{path}: ignored, without a counterpart: {', '.join(left)}")
    return recipe, notes


def _recipe(flat: Flat, tree: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], list[str]]:
    notes: list[str] = []
    scale = flat.take("scale")
    network = {key: flat.take(f"network_g.{key}") for key in flat.below("network_g")}
    betas, steps = _schedule(flat, tree, network, path)
    batch, note = _batch(flat)
    notes += [note] if note else []
    data = {
        "train": _photos(flat, "datasets.train", path),
        "validate": [photo for name in _validations(flat)
                     for photo in _photos(flat, f"datasets.{name}", path)],
        "crop": flat.whole("datasets.train.gt_size"), "aligned": False,
        **_orientations(flat)}
    initial = flat.take("path.pretrain_network_g")
    optimizer = _optimizer(flat)  # before total_iter is taken
    run = {"batch": batch, "iterations": flat.whole("train.total_iter"),
           "seed": flat.whole("manual_seed"), "validate_every": flat.whole("val.val_freq"),
           "report_every": flat.whole("logger.print_freq")}
    recipe: dict[str, Any] = {
        "scale": scale, "network": network, "betas": betas, "steps": steps, "uniform": 1.0,
        "data": data, "optimizer": optimizer, "run": run,
        "loading": {"workers": flat.whole("datasets.train.num_worker_per_gpu")},
        "initial": str(_found(initial, path)) if initial else None}
    _same_metrics(flat, scale)
    return _without_none(recipe), notes


def _photos(flat: Flat, group: str, path: Path) -> list[dict[str, Any]]:
    """One folder, or a list of them, with or without low-resolution images."""
    high, low = flat.take(f"{group}.dataroot_gt"), flat.take(f"{group}.dataroot_lq")
    template = flat.take(f"{group}.filename_tmpl")
    highs, lows = (value if isinstance(value, list) else [value] for value in (high, low))
    if not all(isinstance(one, str) for one in highs) or len(highs) != len(lows) or not all(
            one is None or isinstance(one, str) for one in lows):
        raise UsageError(f"{path}: {group} must name a folder of originals as dataroot_gt and "
                         "optionally one of low-resolution images as dataroot_lq, or equally long "
                         "lists of both")
    return [{"path": str(_found(one, path)), **({} if small is None else {
        "low": str(_found(small, path)), **({} if template is None else {"template": template})})}
        for one, small in zip(highs, lows)]


def _found(name: Any, path: Path) -> Path:
    if not isinstance(name, str):
        raise UsageError(f"{path}: {name!r} is not a path; correct it")
    above = list(path.resolve().parents)[:3]
    for folder in (Path.cwd(), *above):
        if (folder / name).exists():
            return folder / name
    return Path.cwd() / name


def _validations(flat: Flat) -> list[str]:
    return [name for name in flat.below("datasets") if name.startswith("val")]


def _orientations(flat: Flat) -> dict[str, bool]:
    """``use_rot`` is a vertical flip and a transposition; with ``use_hflip``, all orientations."""
    flip, turn = (bool(flat.take(f"datasets.train.{key}", True)) for key in ("use_hflip",
                                                                           "use_rot"))
    if turn and not flip:
        raise UsageError(f"{flat.origin}: datasets.train.use_rot without use_hflip has no "
                         "counterpart; use both, or write a recipe")
    return {"flip": flip, "rotate": turn}


def _batch(flat: Flat) -> tuple[int | None, str | None]:
    """Images of an iteration, and a note: ``batch_size_per_gpu`` times the processes that torchrun
    started, or without torchrun times ``num_gpu``."""
    each = flat.whole("datasets.train.batch_size_per_gpu")
    given = flat.take("num_gpu")
    counted = given if isinstance(given, int) and not isinstance(given, bool) and given else None
    ranks = os.environ.get("WORLD_SIZE", "")
    count = int(ranks) if ranks.isdigit() else counted
    if each is None:
        return None, None
    if count is None:
        return each, (f"{flat.origin}: run.batch={each}, batch_size_per_gpu for one process; the "
                      "published training had four processes: start four with torchrun, or "
                      f"--set run.batch={4 * each}")
    return each * count, None


def _schedule(flat: Flat, tree: Mapping[str, Any], network: Mapping[str, Any],
              path: Path) -> tuple[list[float], int]:
    try:
        options = parse_options(tree, path)
    except CheckpointError as error:
        raise UsageError(str(error)) from None
    found = options.schedule
    total, stated = found.get("total_steps"), network.get("total_step")
    if total is not None and stated is not None and total != stated:
        raise UsageError(f"{path}: beta_schedule.n_timestep is {total}, but network_g.total_step "
                         f"is {stated}; make them equal")
    for key in ("scheduler_type", "schedule", "n_timestep", "linear_start", "linear_end",
                "prediction_type", "num_inference_steps"):
        for group in ("beta_schedule", "beta_schedule.train", "beta_schedule.val"):
            flat.drop(f"{group}.{key}")
    published = Schedule()
    betas = [found.get("beta_start", published.beta_start),
             found.get("beta_end", published.beta_end)]
    return betas, options.steps or DEFAULT_STEPS


def _optimizer(flat: Flat) -> dict[str, Any]:
    rate = flat.number("train.optim_g.lr")
    warmup = flat.whole("train.warmup_iter")
    return {"learning_rate": rate, "betas": flat.take("train.optim_g.betas"),
            "warmup": None if warmup is None else max(warmup, 0),
            "ema": flat.number("train.ema_decay", 0.0), "clip_norm": 0.0, **_decay(flat, rate)}


def _decay(flat: Flat, rate: float | None) -> dict[str, Any]:
    kind = flat.take("train.scheduler.type")
    if kind is None:
        return {"schedule": "constant"}
    if kind in ("MultiStepLR", "MultiStepRestartLR"):
        milestones = flat.take("train.scheduler.milestones", [])
        gamma = flat.number("train.scheduler.gamma", 0.1)
        if gamma == 1 or not milestones:
            return {"schedule": "constant"}
        return {"schedule": "multistep", "milestones": milestones, "gamma": gamma}
    if kind in ("CosineAnnealingRestartLR", "CosineAnnealingLR"):
        periods = flat.take("train.scheduler.periods")
        lowest = flat.number("train.scheduler.eta_min", 0.0)
        total = flat.peek("train.total_iter")
        if periods in (None, [total], total) and rate:
            flat.drop("train.scheduler.restart_weights")
            flat.drop("train.scheduler.T_max")
            return {"schedule": "cosine", "final_share": (lowest or 0.0) / rate}
    raise UsageError(f"{flat.origin}: train.scheduler {kind!r} with these options has no "
                     "counterpart; use MultiStepLR, or one CosineAnnealing over all iterations")


def _same_metrics(flat: Flat, scale: Any) -> None:
    """Drop those of val.metrics that validation computes; the others are reported."""
    if flat.peek("val.metrics.psnr.crop_border") == scale and \
            flat.peek("val.metrics.psnr.test_y_channel") is True:
        for key in ("type", "crop_border", "test_y_channel"):
            flat.drop(f"val.metrics.psnr.{key}")
    for name in ("ssim", "lpips"):  # reported once, not for each option
        if any(key.startswith(f"val.metrics.{name}.") for key in flat.keys()):
            flat.drop(f"val.metrics.{name}.*")
            flat.add(f"val.metrics.{name} (bidiff-deploy evaluate has it)")


def _without_none(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: _without_none(value) if isinstance(value, dict) else value
            for key, value in tree.items() if value is not None}
