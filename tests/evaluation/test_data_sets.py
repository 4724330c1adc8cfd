"""Data sets on disk, and what scores are of."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from bidiff_deploy.errors import EngineError, ImageError, UsageError
from bidiff_deploy.evaluation.benchmark import open_benchmark
from bidiff_deploy.evaluation.perceptual import open_lpips
from bidiff_deploy.images.matlab_bicubic import imresize
from bidiff_deploy.images.metrics import luma
from bidiff_deploy.images.scores import bicubic, mean_scores, score
from support.data_sets import picture, save


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
