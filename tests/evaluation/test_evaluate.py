"""Models and folders of images that are scored, and the command."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from bidiff_deploy.cli import group as cli
from bidiff_deploy.errors import ImageError, OutputError, UsageError
from bidiff_deploy.evaluation.benchmark import open_benchmark
from bidiff_deploy.evaluation.measures import Measure
from bidiff_deploy.evaluation.models import EngineModel, FolderModel
from bidiff_deploy.evaluation.run import evaluate
from bidiff_deploy.evaluation.table import table
from bidiff_deploy.images.matlab_bicubic import make_low
from bidiff_deploy.images.metrics import psnr_y, ssim_y
from bidiff_deploy.images.resample import to_condition
from bidiff_deploy.images.scores import bicubic
from bidiff_deploy.upscale.options import UpscaleOptions
from support.data_sets import SIZES, low_of, picture, save
from support.fake_engine import FakeEngine


def condition_pixels(low: np.ndarray) -> np.ndarray:
    """What FakeEngine returns for an image: the condition itself."""
    return np.rint(to_condition(low, 2).clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)


def largest(ours: np.ndarray, truth: np.ndarray, border: int) -> float:
    assert border == 2
    return float(np.abs(ours.astype(int) - truth).max())


def test_images_of_an_engine_are_scored_and_saved(set5, tmp_path):
    benchmarks = [open_benchmark(set5, 2), open_benchmark(save(
        tmp_path / "B100/x.png", picture(26, 28)).parent, 2)]
    updates, lines = [], []
    with EngineModel(FakeEngine(), UpscaleOptions(seed=3, steps=2, tile=None)) as model:
        result = evaluate("fake", model, benchmarks, options={"seed": 3}, save=tmp_path / "out",
                          measures=[Measure("lpips", "largest difference", largest)],
                          on_progress=lambda share, label: updates.append((share, label)),
                          report=lines.append)
    assert model.engine.closings == 1
    assert [one.name for one in result.sets] == ["Set5", "B100"]
    for one, low in zip(result.sets, (low_of, lambda photo: make_low(photo, 2))):
        for image in one.images:
            source = set5 / "HR" if one.name == "Set5" else tmp_path / "B100"
            truth = np.asarray(Image.open(source / image.name))[:image.height, :image.width]
            small = low(truth)
            ours = np.asarray(Image.open(tmp_path / f"out/{one.name}/{image.name}"))
            assert np.abs(ours.astype(int) - condition_pixels(small)).max() <= 1
            for which, found in (("model", ours), ("bicubic", bicubic(small, 2))):
                # SSIM needs a window of 11 within the border.
                assert image.scores[which] == pytest.approx({
                    "psnr_y": psnr_y(found, truth, 2), "ssim_y": ssim_y(found, truth, 2),
                    "lpips": largest(found, truth, 2)})
    assert lines[1] == "LPIPS: largest difference"
    assert result.to_dict()["measures"] == {"lpips": "largest difference"}
    mean = result.sets[0].mean["model"]
    assert mean["psnr_y"] == pytest.approx(np.mean(
        [image.scores["model"]["psnr_y"] for image in result.sets[0].images]))
    shares = [share for share, _ in updates]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    assert ("Set5/bird.png" in {label for _, label in updates}) and len(set(shares)) > 8
    text = table(result)
    assert text == "\n".join(lines)
    assert "Set5, 3 images, low-resolution images from" in text and "made by bicubic" in text
    assert f"{mean['psnr_y']:9.2f}" in next(
        line for line in text.splitlines() if line.startswith("mean"))
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["datasets"][1]["low"] is None


def test_images_that_exist_are_kept(set5, tmp_path):
    benchmark = open_benchmark(set5, 2)
    save(tmp_path / "out/Set5/woman.png", picture(4, 4))
    with EngineModel(FakeEngine(), UpscaleOptions()) as model:
        with pytest.raises(OutputError, match="woman.png already exists; choose another folder"):
            evaluate("fake", model, [benchmark], save=tmp_path / "out")
        assert not model.engine.calls  # refused before the work
        evaluate("fake", model, [benchmark], save=tmp_path / "out", overwrite=True)
    assert Image.open(tmp_path / "out/Set5/woman.png").size == (32, 48)


@pytest.mark.parametrize("options, says", [
    ({"steps": 9}, "steps is 9, but there are 4"), ({"start": -1}, "start is -1; it must be"),
    ({"tile": 9}, "tile"), ({"tile": None, "memory": 5}, "give more memory")])
def test_options_are_checked_before_the_work(set5, options, says):
    with EngineModel(FakeEngine(), UpscaleOptions(**options)) as model:
        with pytest.raises(UsageError, match=says):
            evaluate("fake", model, [open_benchmark(set5, 2)])
        assert not model.engine.calls


def test_tiles_are_reported(tmp_path):
    save(tmp_path / "Set/a.png", picture(96, 128))
    with EngineModel(FakeEngine(), UpscaleOptions(tile=64, overlap=16)) as model:
        result = evaluate("fake", model, [open_benchmark(tmp_path / "Set", 2)])
    assert result.sets[0].images[0].tiles == 6 and "in 6 tiles" in table(result)


def test_two_sets_of_one_name(set5):
    with EngineModel(FakeEngine(), UpscaleOptions()) as model:
        with pytest.raises(UsageError, match="two data sets are called Set5; rename"):
            evaluate("fake", model, [open_benchmark(set5, 2), open_benchmark(set5 / "HR", 2)])


@pytest.mark.parametrize("name", ["{}.png", "{}x2.png", "{}_test.png", "{}-2.jpg", "Set5/{}.png"])
def test_images_are_found_by_name(set5, tmp_path, name):
    for seed, (stem, (height, width)) in enumerate(SIZES.items()):
        save(tmp_path / "out" / name.format(stem), picture(height, width // 2 * 2, seed))
    # A name that merely begins with the same letters belongs to another image.
    save(tmp_path / "out" / name.format("babysitter"), picture(9, 9))
    result = evaluate("out", FolderModel(tmp_path / "out", 2), [open_benchmark(set5, 2)])
    psnr = [image.scores["model"]["psnr_y"] for image in result.sets[0].images]
    assert all(value is None or value > 30 for value in psnr)


def test_images_that_do_not_fit(set5, tmp_path):
    benchmark, folder = open_benchmark(set5, 2), FolderModel(tmp_path / "out", 2)
    for stem in ("baby", "woman", "bird_1", "bird_2"):
        save(tmp_path / f"out/{stem}.png", picture(32, 40))
    with pytest.raises(UsageError, match="contains no image, or several, for bird.png of Set5"):
        evaluate("out", folder, [benchmark])
    (tmp_path / "out/bird_2.png").unlink()
    with pytest.raises(ImageError, match="bird_1.png has 32x40 pixels, but its original .* has "
                                         "36x24; give images of scale 2"):
        evaluate("out", folder, [benchmark])


def run(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["evaluate", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_bundle_and_checkpoint_give_the_same_figures(reference, set5, tmp_path):
    """Untrained weights, two steps: packed engine and torch differ only by rounding."""
    pytest.importorskip("torch")
    bundle = reference.bundle("tiny", [500, 0])
    pictures, figures = [], []
    for index, (model, more) in enumerate((
            (bundle, []), (reference.checkpoint("tiny"), ["--options", reference.options("tiny"),
                                                          "--steps", 2]))):
        out = tmp_path / f"out{index}"
        code, text = run(model, set5 / "HR", "--limit", 1, "--seed", 5, "--threads", 1, "--json",
                         "--save", out, *more)
        assert code == 0, text
        found = json.loads(text)
        assert found["scale"] == 4 and found["options"]["seed"] == 5
        figures.append(found["datasets"][0]["images"][0])
        pictures.append(np.asarray(Image.open(out / "Set5/baby.png")).astype(int))
    assert figures[0]["scores"]["bicubic"] == figures[1]["scores"]["bicubic"]
    # A flipped sign changes a pixel, but not the image.
    assert np.abs(pictures[0] - pictures[1]).mean() < 1
    assert figures[0]["scores"]["model"]["psnr_y"] == pytest.approx(
        figures[1]["scores"]["model"]["psnr_y"], abs=0.2)
    code, text = run(tmp_path / "out0", set5 / "HR", "--scale", 4, "--limit", 1, "--json")
    again = json.loads(text)["datasets"][0]["images"][0]
    assert again["scores"] == figures[0]["scores"] and math.isfinite(again["seconds"])


def test_a_feed_forward_checkpoint_and_its_bundle(set5, tmp_path):
    """Integers are exact and there is no loop, so the images differ only by rounding."""
    pytest.importorskip("torch")
    from bidiff_deploy.checkpoint.packed import write_packed
    from support.bbcu_networks import SMALL, bundle_of, checkpoint_of, random_network

    network = random_network(SMALL[2])
    write_packed(tmp_path / "net.safetensors", checkpoint_of(network))
    pictures = []
    for index, model in enumerate((tmp_path / "net.safetensors", bundle_of(network, tmp_path))):
        code, text = run(model, set5, "--threads", 1, "--device", "cpu", "--save",
                         tmp_path / f"out{index}")
        assert code == 0 and "feed-forward" in text, text
        pictures.append(np.asarray(Image.open(tmp_path / f"out{index}/Set5/woman.png"), int))
        code, text = run(model, set5, "--steps", 2)
        assert code == 1 and "time steps" in text
    assert pictures[0].shape == (48, 32, 3) and pictures[0].std() > 5
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.1


def test_colours_are_matched_when_asked_for(reference, set5, tmp_path):
    bundle = reference.bundle("tiny", [500, 0])
    for name, more in (("plain", []), ("matched", ["--match-color"])):
        code, text = run(bundle, set5 / "HR", "--limit", 1, "--save", tmp_path / name, *more)
        assert code == 0, text
    truth, plain, matched = (np.asarray(Image.open(folder / "baby.png"), float).mean((0, 1))
                             for folder in (set5 / "HR", tmp_path / "plain/Set5",
                                            tmp_path / "matched/Set5"))
    assert np.abs(matched - truth).max() < 0.3 * np.abs(plain - truth).max()


def test_the_command_refuses_in_a_sentence(reference, set5, tmp_path, monkeypatch):
    bundle = reference.bundle("tiny", [500, 0])
    (tmp_path / "empty").mkdir()
    for name in ("lpips", "flip_evaluator"):
        monkeypatch.setitem(sys.modules, name, None)
    for arguments, says in (
            ([bundle, tmp_path / "nowhere"], "is not a folder; name one that contains images"),
            ([bundle, set5, "--scale", 2], "enlarges 4 times, not 2"),
            ([set5 / "HR", set5], "give --scale"),
            ([tmp_path / "empty", set5], "is neither a bundle (it has no manifest.json)"),
            ([tmp_path / "no.pth", set5], "no.pth"),
            ([reference.checkpoint("tiny"), set5], "give --scale 2 or --scale 4, or"),
            ([bundle, set5, "--options", "x.yml"], "--options describes a checkpoint"),
            (["photo-x2", set5, "--options", "x.yml"], "photo-x2 is an installed model; leave"),
            (["photo-x2-fast", set5, "--scale", 4], "photo-x2-fast enlarges 2 times, not 4"),
            ([bundle, set5, "--backend", "none"], "backend 'none' is not known"),
            ([reference.checkpoint("tiny"), set5, "--scale", 4, "--device", "abacus"],
             "--device 'abacus' must be auto, cpu, cuda"),
            ([reference.checkpoint("tiny"), set5, "--scale", 4, "--device", "cuda:99"],
             "torch finds"),
            ([bundle, set5, "--start", "x"], "--start 'x' must be a timestep or none"),
            ([bundle, set5, "--tile", "x"], "--tile 'x' must be auto"),
            ([bundle, set5, "--steps", 3], "steps is 3, but there are 2"),
            ([bundle, set5, "--lpips"], "LPIPS needs lpips"),
            ([bundle, set5, "--metrics", "ms-ssim,psnr"], "metric 'psnr' is not known; known are"),
            ([bundle, set5, "--metrics", "flip"], "FLIP needs flip_evaluator, which is not"),
            ([bundle, set5, "--niqe-parameters", "x.mat"], "add it to --metrics"),
            ([bundle, set5, "--metrics", "niqe", "--niqe-parameters", "x.mat"],
             "x.mat: contains no statistics for NIQE")):
        code, text = run(*arguments)
        lines = text.strip().splitlines()
        assert code == 1 and len(lines) == 1 and lines[0].startswith("error: "), text
        assert says in lines[0]
