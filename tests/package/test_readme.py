"""README's commands and Python run from top to bottom in a fresh checkout."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from bidiff_deploy.cli import group
from support.forked_measurements import forked_measurements
from support.report_pages import one_examination

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Commands that cannot run in a test, by how they begin, each with its reason.
NOT_RUN = {
    "export BI_DiffSR_x4.pth": "the authors' file is not in the checkout",
    "export net.safetensors": "a checkpoint of the reader",
    "app": "serves until it is stopped; tests/app runs it",
    "build-plugin": "needs TensorRT's headers",
    "build half.bundle --backend tensorrt": "needs TensorRT and a GPU",
    "build half.bundle --backend tensorrt-rtx": "make nvidia runs it, with NVIDIA's wheels",
    "build photo-x2 --backend tensorrt-rtx": "likewise",
    "train training/folder_x2.yaml": "needs the reader's photos, for hours",
}


# Options that come on top, to save time, by the command.
SMALLER = {"bench": ["--size", "32x32", "--rounds", "1"], "check": ["--size", "16x16"],
           "report": ["--size", "16x16"]}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def commands() -> list[list[str]]:
    """The words of each line, without its comment."""
    return [shlex.split(line, comments=True) for block in blocks("sh")
            for line in block.splitlines()]


def skipped(words: list[str]) -> list[str]:
    return [start for start in NOT_RUN if words[1:len(start.split()) + 1] == start.split()]


def test_every_line_is_a_command_and_no_reason_is_left_over():
    assert all(words[0] == "bidiff-deploy" for words in commands())
    used = {start for words in commands() for start in skipped(words)}
    assert used == set(NOT_RUN)


def test_commands_and_python_run_in_order(tmp_path, monkeypatch, shared):
    for package in ("onnxruntime", "torch", "polygraphy"):
        pytest.importorskip(package)
    # What the commands read of a checkout, so that nothing is written into this one.
    for folder in ("training", "bidiff_deploy/models"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    for photo in Path("training/photos").iterdir():  # crops of them, to save time
        with Image.open(photo) as image:
            image.crop((160, 90, 224, 138)).save(photo)
    with one_examination(shared), forked_measurements():
        for words in commands():
            if not skipped(words):
                done = CliRunner().invoke(group, words[1:] + SMALLER.get(words[1], []),
                                          catch_exceptions=False)
                assert done.exit_code == 0, (words, done.output)
                for output in (words[i + 1] for i, word in enumerate(words) if word == "-o"):
                    assert Path(output).exists(), words
    assert Path("training/photos/chelsea_x2.png").is_file()
    rng = np.random.default_rng(0)
    names = {"image": rng.integers(0, 256, (24, 32, 3), np.uint8), "timestep": 40,
             "condition": rng.random((1, 3, 64, 64), np.float32),
             "noisy": rng.standard_normal((1, 3, 64, 64), np.float32)}
    with contextlib.redirect_stdout(None):
        for block in blocks("python"):
            exec(compile(block, "README.md", "exec"), names)
    assert names["larger"].shape == (48, 64, 3)
    assert names["sample"].shape == names["eps"].shape == (1, 3, 64, 64)
