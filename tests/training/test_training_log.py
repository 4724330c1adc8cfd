"""Records of a run: log.csv, TensorBoard events, and the part that a resume drops."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from bidiff_deploy.errors import OutputError
from bidiff_deploy.training.log import COLUMNS, CSV, Log

pytest.importorskip("torch")


def rows(folder: Path) -> list[str]:
    return (folder / CSV).read_text().splitlines()


def test_events_are_what_was_logged(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    said: list[str] = []
    log = Log(tmp_path, 0, said.append)
    photo = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    for iteration in (5, 10):
        log.scalars(iteration, {"train/loss": 1 / iteration, "train/learning_rate": 1e-3})
        log.row(iteration, 0.5, 0.25, 1e-3, 30.0 + iteration, float("inf"), 0.5)
        log.images(iteration, "validation/a.png", [photo, photo])
    log.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (5, pytest.approx(0.2)), (10, pytest.approx(0.1))]
    assert [event.value for event in events.Scalars("validation/psnr_y")] == [35, 40]
    assert [event.value for event in events.Scalars("validation/ssim_y")] == [0.5, 0.5]
    shown = events.Images("validation/a.png")
    assert [(image.step, image.width, image.height) for image in shown] == [(5, 20, 8),
                                                                            (10, 20, 8)]
    assert "validation/gain_over_bicubic" not in events.Tags()["scalars"]  # infinite
    assert not said


def test_without_the_package_there_is_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    said: list[str] = []
    log = Log(tmp_path, 0, said.append)
    log.scalars(1, {"train/loss": 1.0})
    log.row(3, 0.5, 0.25, 1e-3, 30.0, 1.5, 0.87654)
    log.close()
    assert len(said) == 1 and "pip install 'bidiff-deploy[tensorboard]'" in said[0]
    assert rows(tmp_path) == [",".join(COLUMNS), "3,0.50,0.25000,1.000e-03,30.000,1.500,0.8765"]
    assert [path.name for path in tmp_path.iterdir()] == [CSV]


def test_a_resume_drops_what_came_after_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = Log(tmp_path, 0, lambda line: None)
    for iteration in (3, 6, 9):
        log.row(iteration, 0, 0, 0, 0, 0, 0)
    with (tmp_path / CSV).open("a") as file:
        file.write("12,0.5")  # cut off by a crash
    Log(tmp_path, 9, lambda line: None)
    assert [line.split(",")[0] for line in rows(tmp_path)] == ["iteration", "3", "6", "9"]
    Log(tmp_path, 6, lambda line: None).row(7, 0, 0, 0, 0, 0, 0)
    assert [line.split(",")[0] for line in rows(tmp_path)] == ["iteration", "3", "6", "7"]
    Log(tmp_path, 0, lambda line: None)
    assert not (tmp_path / CSV).exists()


def test_a_table_of_an_older_version_gets_its_columns(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    older = "iteration,minutes,loss,learning_rate,psnr_y,gain_over_bicubic\n"
    rest = ["3,0.50,0.25000,1.000e-03,30.000,1.500", "6,1.00,0.20000,1.000e-03,31.000,2.500"]
    for iteration, kept in ((6, rest), (3, rest[:1])):
        (tmp_path / CSV).write_text(older + "\n".join(rest) + "\n")
        Log(tmp_path, iteration, lambda line: None).row(9, 2, 0.1, 1e-3, 32, 3.5, 0.9)
        assert rows(tmp_path) == [",".join(COLUMNS), *(f"{row}," for row in kept),
                                  "9,2.00,0.10000,1.000e-03,32.000,3.500,0.9000"]
    (tmp_path / CSV).write_text("iteration,other\n3,4\n")  # not ours to complete
    Log(tmp_path, 3, lambda line: None)
    assert rows(tmp_path) == ["iteration,other", "3,4"]


def test_a_log_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = Log(tmp_path, 0, lambda line: None)
    (tmp_path / CSV).mkdir()
    with pytest.raises(OutputError, match="cannot write .*log.csv"):
        log.row(1, 0, 0, 0, 0, 0, 0)
