"""Data sets on disk, models, scores, and the command."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from bidiff_deploy.cli import group as cli
from bidiff_deploy.errors import EngineError, ImageError, OutputError, UsageError
from bidiff_deploy.evaluation.benchmark import open_benchmark
from bidiff_deploy.evaluation.measures import Measure
from bidiff_deploy.evaluation.models import EngineModel, FolderModel
from bidiff_deploy.evaluation.perceptual import open_lpips
from bidiff_deploy.evaluation.run import evaluate
from bidiff_deploy.evaluation.table import table
from bidiff_deploy.images.matlab_bicubic import imresize, make_low
from bidiff_deploy.images.metrics import luma, psnr_y, ssim_y
from bidiff_deploy.images.resample import to_condition
from bidiff_deploy.images.scores import bicubic, mean_scores, score
from bidiff_deploy.upscale.options import UpscaleOptions
from support.fake_engine import FakeEngine

SIZES = {"baby": (32, 40), "bird": (36, 24), "woman": (48, 33)}  # the last is not a multiple of 2


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x * (0.2 + 0.1 * c) + seed) + np.cos(y * (0.3 + 0.05 * c)) for c in range(3)]
    edges = ((x // 5 + y // 7) % 2)[..., None] * 60
    return (90 + 40 * np.stack(waves, -1) + edges).clip(0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def low_of(photo: np.ndarray) -> np.ndarray:
    """Differs from imresize, which shows that these files were used."""
    return photo[:photo.shape[0] // 2 * 2:2, :photo.shape[1] // 2 * 2:2]


@pytest.fixture
def set5(tmp_path: Path) -> Path:
    """As the authors lay it out, for x2."""
    for seed, (name, size) in enumerate(SIZES.items()):
        photo = save(tmp_path / f"Set5/HR/{name}.png", picture(*size, seed))
        pixels = np.asarray(Image.open(photo))
        save(tmp_path / f"Set5/LR_bicubic/X2/{name}x2.png", low_of(pixels))
    return tmp_path / "Set5"


# Data sets

@pytest.mark.parametrize("layout, template", [
    ("HR LR_bicubic/X2", "{}x2"), ("HR LR_bicubic/X2", "{}_LRBI_x2"), ("HR LR_bicubic/X2", "{}"),
    ("GTmod12 LRbicx2", "{}")])
def test_layouts_and_names_that_are_known(tmp_path, layout, template):
    high, low = layout.split()
    for name in ("a", "b"):
        save(tmp_path / "Manga109" / high / f"{name}.png", picture(24, 24))
        save(tmp_path / "Manga109" / low / f"{template.format(name)}.png", picture(12, 12))
    found = open_benchmark(tmp_path / "Manga109", 2)
    assert found.name == "Manga109" and found.low == tmp_path / "Manga109" / low
    assert [pair.low.stem for pair in found.pairs] == [template.format("a"), template.format("b")]
    assert open_benchmark(tmp_path / "Manga109", 3).low is None  # there are none for x3
    assert open_benchmark(tmp_path / "Manga109", 2, template).pairs == found.pairs


def test_a_folder_of_data_sets_names_them(set5, tmp_path):
    save(tmp_path / "my photos" / "a.png", picture(24, 24))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as raised:
        open_benchmark(tmp_path, 2)
    assert str(raised.value) == (
        f"{tmp_path} contains no images, but the data sets Set5, my photos; evaluate MODEL "
        f"{tmp_path}/Set5 '{tmp_path}/my photos'")
    save(tmp_path / "a.png", picture(24, 24))
    assert [pair.name for pair in open_benchmark(tmp_path, 2).pairs] == ["a.png"]
    with pytest.raises(UsageError, match="empty contains no images"):
        open_benchmark(tmp_path / "empty", 2)


def test_originals_alone_and_limits(set5):
    found = open_benchmark(set5 / "HR", 2, limit=2)
    assert found.name == "Set5" and found.low is None
    assert [pair.name for pair in found.pairs] == ["baby.png", "bird.png"]


def test_an_original_is_cut_to_its_low_resolution_image(set5):
    pair = open_benchmark(set5, 2).pairs[2]
    assert (pair.height, pair.width) == (48, 32)
    assert pair.read_high().shape == (48, 32, 3) and pair.read_low().shape == (24, 16, 3)


@pytest.mark.parametrize("change, template, says", [
    (lambda root: (root / "LR_bicubic/X2/birdx2.png").unlink(), None,
     "bird.png of .*HR has no partner in .*X2"),
    (lambda root: None, "{}y", "baby.png, bird.png, woman.png of .* have no partner"),
    (lambda root: None, "x2", "must be a file name with one {}"),
    (lambda root: save(root / "LR_bicubic/X2/birdx2.png", picture(9, 9)), None,
     "36x24 pixels, which is not 2 times the 9x9 of .*birdx2.png"),
    (lambda root: (root / "HR/bird.png").write_bytes(b"no image"), None,
     "bird.png cannot be read as an image"),
    (lambda root: [path.unlink() for path in (root / "HR").iterdir()], None,
     "HR contains no images"),
])
def test_data_sets_that_are_refused(set5, change, template, says):
    change(set5)
    with pytest.raises(UsageError, match=says) as caught:
        open_benchmark(set5, 2, template)
    assert "\n" not in str(caught.value)


# Scores

def test_scores_are_those_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    truth = picture(48, 40)
    noisy = (truth + np.random.default_rng(0).normal(0, 9, truth.shape)).clip(0, 255)
    found = score(noisy.astype(np.uint8), truth, 4)
    ours, theirs = (luma(image)[4:-4, 4:-4] for image in (noisy.astype(np.uint8), truth))
    assert found["psnr_y"] == pytest.approx(
        metrics.peak_signal_noise_ratio(theirs, ours, data_range=255), abs=1e-9)
    assert found["ssim_y"] == pytest.approx(metrics.structural_similarity(
        theirs, ours, data_range=255, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False), abs=1e-12)


def test_scores_that_cannot_be_computed():
    equal = picture(12, 14)
    assert score(equal, equal, 0) == {"psnr_y": None, "ssim_y": 1.0}
    assert score(equal, equal + np.uint8(1), 2)["ssim_y"] is None  # less than a window is left
    with pytest.raises(ImageError, match="14x12 pixels cannot be compared .* 12x12"):
        score(equal, equal[:, :12], 0)
    assert mean_scores([{"a": 1.0, "b": None}, {"a": 2.0, "b": None}]) == {"a": 1.5, "b": None}
    assert mean_scores([{"a": 1.0}, {"a": None}]) == {"a": 1.0}


def test_the_baseline_is_matlabs():
    low = picture(8, 9)
    assert np.array_equal(bicubic(low, 3), imresize(low, 24, 27))


# Runs

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


# Images upscaled before

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


# LPIPS

def stand_in(monkeypatch, network) -> None:
    module = ModuleType("lpips")
    module.LPIPS = network
    monkeypatch.setitem(sys.modules, "lpips", module)


def test_lpips_is_given_what_it_expects(monkeypatch):
    torch = pytest.importorskip("torch")
    seen = []

    class Network(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            print("Setting up")  # as the package does; stdout is the table's
            seen.append((net, verbose))

        def forward(self, first, second, normalize):
            assert not self.training and not torch.is_grad_enabled()
            seen.append((first, second, normalize))
            return torch.full((1, 1, 1, 1), 0.25)

    stand_in(monkeypatch, Network)
    distance = open_lpips()
    ours, truth = picture(6, 8), picture(6, 8, 1)
    assert distance(ours, truth) == 0.25
    assert seen[0] == ("alex", False)
    first, second, normalize = seen[1]
    assert normalize is True and first.shape == (1, 3, 6, 8) and first.dtype == torch.float32
    for tensor, image in ((first, ours), (second, truth)):  # RGB in [0, 1]
        np.testing.assert_allclose(tensor[0].permute(1, 2, 0).numpy() * 255, image, atol=1e-4)


def test_lpips_that_is_not_available(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(EngineError, match="LPIPS needs lpips, which is not installed; pip install"):
        open_lpips()

    def without_weights(**_):
        raise OSError("<urlopen error\nno network>")

    stand_in(monkeypatch, without_weights)
    with pytest.raises(EngineError, match=r"weights \(<urlopen error no network>\); download them"):
        open_lpips()


# The command

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
            ([reference.checkpoint("tiny"), set5], "give --scale, or the options file"),
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
