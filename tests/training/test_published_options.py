"""The authors' option files as recipes: options that are used, ignored and refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from bidiff_deploy.cli import group as cli
from bidiff_deploy.errors import UsageError
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from bidiff_deploy.training.photos import find_sources
from bidiff_deploy.training.recipe import Recipe, read_recipe, recipe_from_dict

pytest.importorskip("torch")

NETWORK = {"in_channel": 6, "out_channel": 3, "inner_channel": 8, "norm_groups": 2,
           "channel_mults": [1, 2], "attn_res": [], "res_blocks": 1, "dropout": 0.2,
           "image_size": 64, "fp_res": [64], "total_step": 100, "dynamic_group": 5}
DATASET = {"task": "SR", "type": "MultiPairedImageDataset", "io_backend": {"type": "disk"},
           "filename_tmpl": "{}x2"}
OPTIONS: dict[str, Any] = {
    "name": "a_run", "model_type": "BIDiffSRModel", "scale": 2, "num_gpu": 2, "manual_seed": 10,
    "datasets": {
        "train": {**DATASET, "name": "DF2K", "dataroot_gt": "datasets/DF2K/HR",
                  "dataroot_lq": "datasets/DF2K/LR_bicubic/X2", "gt_size": 16, "use_hflip": True,
                  "use_rot": True, "use_shuffle": True, "num_worker_per_gpu": 3,
                  "batch_size_per_gpu": 4, "dataset_enlarge_ratio": 100, "prefetch_mode": None},
        "val": {**DATASET, "name": "Set5", "dataroot_gt": "datasets/Set5/HR",
                "dataroot_lq": "datasets/Set5/LR_bicubic/X2"}},
    "network_g": {"type": "BIDiffSRUNet", **NETWORK},
    "beta_schedule": {"scheduler_type": "DDIM", "schedule": "linear", "n_timestep": 100,
                      "linear_start": 1e-6, "linear_end": 1e-2, "prediction_type": "epsilon",
                      "num_inference_steps": 5, "guidance_scale": 7.5, "is_guidance": False},
    "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
    "train": {"optim_g": {"type": "Adam", "lr": 1e-4, "weight_decay": 0, "betas": [0.9, 0.99]},
              "scheduler": {"type": "MultiStepLR", "milestones": [500], "gamma": 1},
              "total_iter": 1000, "warmup_iter": -1,
              "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"}},
    "val": {"val_freq": 2e4, "save_img": False, "metrics": {
        "psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}}},
    "logger": {"print_freq": 50, "use_tb_logger": True, "wandb": {"project": None}},
}


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Path:
    """The working directory, with data sets in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    random = np.random.default_rng(0)
    for name, size in (("DF2K", 24), ("Flickr", 24), ("Set5", 20)):
        photo = random.integers(0, 256, (size, size, 3), np.uint8)
        save(tmp_path / f"datasets/{name}/HR/a.png", photo)
        save(tmp_path / f"datasets/{name}/LR_bicubic/X2/ax2.png", photo[::2, ::2])
    return tmp_path


def changed(settings: dict) -> dict:
    """OPTIONS with values replaced by their dotted keys; a value of ... removes the key."""
    tree = copy.deepcopy(OPTIONS)
    for key, value in settings.items():
        *groups, leaf = key.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        if value is ...:
            del branch[leaf]
        else:
            branch[leaf] = value
    return tree


class WithoutAliases(yaml.SafeDumper):
    """As the authors' files are: what several entries share is written out in each."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def read(settings: dict | None = None, path: str = "options/train/x2.yml",
         sets: tuple[str, ...] = ()) -> tuple[Recipe, list[str]]:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.dump(changed(settings or {}), Dumper=WithoutAliases))
    notes: list[str] = []
    return read_recipe(file, sets, notes.append), notes


def test_what_an_option_file_says_is_the_recipe(folder):
    recipe, notes = read()
    assert notes == []
    photo, = recipe.data.train
    assert (photo.path, photo.low, photo.template) == (
        str(folder / "datasets/DF2K/HR"), str(folder / "datasets/DF2K/LR_bicubic/X2"), "{}x2")
    assert recipe == recipe_from_dict({
        "scale": 2, "network": NETWORK, "betas": [1e-6, 1e-2], "steps": 5, "uniform": 1.0,
        "data": {"train": [vars(photo)], "validate": [vars(recipe.data.validate[0])],
                 "crop": 16, "aligned": False, "flip": True, "rotate": True},
        "optimizer": {"learning_rate": 1e-4, "betas": [0.9, 0.99], "schedule": "constant",
                      "warmup": 0, "ema": 0.0, "clip_norm": 0.0},
        "loading": {"workers": 3},
        "run": {"batch": 8, "iterations": 1000, "seed": 10, "validate_every": 20000,
                "report_every": 50}})
    assert recipe.timesteps == (80, 60, 40, 20, 0) and recipe.start is None
    assert recipe.network == NetworkConfig.from_dict(NETWORK, "")
    assert [source.files.low.name for source in find_sources(recipe.data.train, folder, 2, 16)] \
        == ["ax2.png"]


@pytest.mark.parametrize("scale, crop", [(2, 128), (4, 256)])
def test_the_published_options_are_our_recipe_of_them(scale, crop):
    """Except for data paths, the batch of four GPUs, and the checkpoints that a run keeps."""
    theirs, _ = read({"scale": scale, "datasets.train.gt_size": crop, "num_gpu": 4,
                      "datasets.train.num_worker_per_gpu": 8, "train.total_iter": 1_000_000,
                      "train.scheduler.milestones": [500_000], "logger.print_freq": 500,
                      "beta_schedule.n_timestep": 2000, "beta_schedule.num_inference_steps": 50,
                      "network_g": {"type": "BIDiffSRUNet", **NetworkConfig().to_dict()},
                      "val.metrics.psnr.crop_border": scale})
    ours = read_recipe(Path(__file__).parents[2] / f"training/bidiff_x{scale}.yaml")
    trees = [recipe.to_dict() for recipe in (theirs, ours)]
    for tree in trees:
        del tree["data"]["train"], tree["data"]["validate"], tree["loading"]["cache"]
        for key in ("checkpoint_minutes", "keep", "keep_best"):
            del tree["run"][key]
    assert trees[0] == trees[1]


@pytest.mark.parametrize("settings, expected", [
    ({"train.scheduler.gamma": 0.5}, {"optimizer.schedule": "multistep", "optimizer.gamma": 0.5,
                                      "optimizer.milestones": (500,)}),
    ({"train.scheduler": {"type": "CosineAnnealingRestartLR", "periods": [1000],
                          "restart_weights": [1], "eta_min": 1e-6}},
     {"optimizer.schedule": "cosine", "optimizer.final_share": pytest.approx(0.01)}),
    ({"train.scheduler": ...}, {"optimizer.schedule": "constant"}),
    ({"train.warmup_iter": 30, "train.ema_decay": 0.999}, {"optimizer.warmup": 30,
                                                           "optimizer.ema": 0.999}),
    ({"train.total_iter": "1e6", "val.val_freq": "2e3"}, {"run.iterations": 1_000_000,
                                                          "run.validate_every": 2000}),
    ({"datasets.train.use_rot": False}, {"data.rotate": False, "data.flip": True}),
    ({"datasets.train.use_rot": False, "datasets.train.use_hflip": False}, {"data.flip": False}),
    ({"datasets.train.dataroot_lq": ..., "datasets.train.filename_tmpl": ...}, {}),
    ({"num_gpu": "auto"}, {"run.batch": 4}), ({"num_gpu": 0}, {"run.batch": 4}),
    ({"datasets.val": ...}, {"data.validate": ()}),
    ({"beta_schedule": {}}, {"betas": (1e-6, 1e-2)}),
    ({"beta_schedule": {"train": OPTIONS["beta_schedule"], "val": OPTIONS["beta_schedule"]}}, {}),
])
def test_variants(settings, expected):
    recipe, notes = read(settings)
    for key, value in expected.items():
        found = recipe
        for part in key.split("."):
            found = getattr(found, part)
        assert found == value, key
    assert [note for note in notes if "without a counterpart" in note] == []


def test_many_folders(folder):
    recipe, _ = read({"datasets.train.dataroot_gt": ["datasets/DF2K/HR", "datasets/Flickr/HR"],
                      "datasets.train.dataroot_lq": ["datasets/DF2K/LR_bicubic/X2",
                                                     "datasets/Flickr/LR_bicubic/X2"],
                      "datasets.val_2": {**OPTIONS["datasets"]["val"],
                                         "dataroot_gt": "datasets/Flickr/HR",
                                         "dataroot_lq": "datasets/Flickr/LR_bicubic/X2"}})
    assert [Path(photo.path).parent.name for photo in recipe.data.train] == ["DF2K", "Flickr"]
    assert [Path(photo.low).parent.parent.name for photo in recipe.data.validate] == [
        "Set5", "Flickr"]
    assert len(find_sources(recipe.data.train, folder, 2, 16)) == 2


def test_the_batch_is_that_of_all_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    recipe, notes = read({"num_gpu": "auto"})
    assert recipe.run.batch == 16 and not notes
    monkeypatch.delenv("WORLD_SIZE")
    recipe, (note,) = read({"num_gpu": "auto"}, sets=("run.batch=6",))
    assert recipe.run.batch == 6 and "--set run.batch=16" in note  # settings are a recipe's


def test_folders_beside_the_file_are_found_from_elsewhere(folder, monkeypatch):
    (folder / "elsewhere").mkdir()
    path = str(folder / "options/train/x2.yml")
    monkeypatch.chdir(folder / "elsewhere")
    recipe, _ = read(path=path)
    assert recipe.data.train[0].path == str(folder / "datasets/DF2K/HR")


def test_a_checkpoint_to_start_from(folder):
    (folder / "net.pth").touch()
    assert read({"path.pretrain_network_g": "net.pth"})[0].initial == str(folder / "net.pth")


def test_what_has_no_counterpart_is_named_in_one_line():
    _, notes = read({"logger.save_checkpoint_freq": 5000, "logger.wandb.project": "p",
                     "dist_params.backend": "nccl", "train.novelty": 3,
                     "val.metrics.lpips": {"type": "calculate_lpips", "better": "lower"},
                     "val.metrics.psnr.crop_border": 4,
                     "datasets.train.pin_memory": True, "datasets.test_1.dataroot_gt": "x"})
    note, = notes
    assert "ignored, without a counterpart:" in note and "\n" not in note
    named = note.partition("without a counterpart: ")[2].split(", ")
    assert set(named) == {
        "logger.save_checkpoint_freq", "logger.wandb.project", "dist_params.backend",
        "train.novelty", "val.metrics.lpips (bidiff-deploy evaluate has it)",
        "val.metrics.psnr.type", "val.metrics.psnr.crop_border",
        "val.metrics.psnr.test_y_channel", "datasets.train.pin_memory",
        "datasets.test_1.dataroot_gt"}


@pytest.mark.parametrize("settings, says", [
    ({"datasets.train": ...}, "option file without datasets.train, so it has no photos"),
    ({"model_type": "SwinIRModel"}, "model_type: 'SwinIRModel' is not supported, only 'BIDiffSR"),
    ({"network_g.type": "UNet"}, "network_g.type: 'UNet' is not supported"),
    ({"network_g.width": 3}, "unknown network option width"),
    ({"datasets.train.task": "CAR"}, "datasets.train.task: 'CAR' is not supported, only 'SR' is"),
    ({"datasets.train.io_backend.type": "lmdb"}, "unpack the images into folders"),
    ({"datasets.train.meta_info_file": "m.txt"}, "meta_info_file: 'm.txt' is not supported; put"),
    ({"datasets.train.use_shuffle": False}, "use_shuffle: False is not supported, only True is"),
    ({"datasets.train.use_hflip": False}, "use_rot without use_hflip has no counterpart"),
    ({"datasets.train.mean": [0.5, 0.5, 0.5]}, r"images are in \[0, 1\]"),
    ({"datasets.train.dataroot_gt": 3}, "datasets.train must name a folder of originals"),
    ({"datasets.train.dataroot_gt": ["a", "b"]}, "or equally long lists of both"),
    ({"datasets.train.batch_size_per_gpu": "many"}, "batch_size_per_gpu must be a number"),
    ({"datasets.train.filename_tmpl": "x2"}, "template 'x2' must be a file name with one {}"),
    ({"beta_schedule.n_timestep": 2000}, "n_timestep is 2000, but network_g.total_step is 100"),
    ({"beta_schedule.schedule": "cosine"}, "beta_schedule.schedule 'cosine' is not supported"),
    ({"beta_schedule.prediction_type": "sample"}, "prediction_type 'sample' is not supported"),
    ({"beta_schedule.is_guidance": True}, "is_guidance: True is not supported"),
    ({"path.resume_state": "x.state"}, "continue a run with --resume"),
    ({"path.pretrain_network_g": 3}, "3 is not a path"),
    ({"train.optim_g.type": "AdamW"}, "optim_g.type: 'AdamW' is not supported, only 'Adam' is"),
    ({"train.optim_g.weight_decay": 0.1}, "there is no weight decay"),
    ({"train.pixel_opt.type": "CharbonnierLoss"}, "the loss is L1 or, by MSELoss, L2"),
    ({"train.perceptual_opt": {"type": "PerceptualLoss"}}, "perceptual_opt.type: .* L1"),
    ({"train.scheduler": {"type": "CosineAnnealingRestartLR", "periods": [400, 600]}},
     "has no counterpart; use MultiStepLR"),
    ({"train.scheduler.type": "OneCycle"}, "train.scheduler 'OneCycle'"),
    ({"train.total_iter": 10.5}, "train.total_iter must be a whole number, not 10.5"),
    ({"train.total_iter": ".inf"}, "train.total_iter must be a number"),
    ({"scale": "two"}, "scale is 'two'; it must be a whole number"),
    ({"scale": ...}, "lacks scale"),
])
def test_options_that_are_refused(settings, says):
    with pytest.raises(UsageError, match=says) as caught:
        read(settings)
    assert str(caught.value).startswith("options/train/x2.yml") and "\n" not in str(caught.value)


def test_the_command_trains_from_an_option_file(folder):
    read({"logger.save_checkpoint_freq": 5000})
    result = CliRunner().invoke(cli, [
        "train", "options/train/x2.yml", "-o", "run", "--pack", "net.safetensors",
        "--set", "run.iterations=2", "--set", "run.batch=2", "--set", "run.threads=1",
        "--set", "loading.workers=0"])
    assert result.exit_code == 0, result.output
    assert "without a counterpart: logger.save_checkpoint_freq" in result.output
    assert (folder / "net.safetensors").is_file() and (folder / "run/checkpoint.pt").is_file()


def test_the_loss_is_l1_or_l2(folder):
    assert read({})[0].loss == "l1"
    assert read({"train.pixel_opt.type": "MSELoss"})[0].loss == "l2"
