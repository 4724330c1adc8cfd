"""tools/one_step_proof.py: its recipes, and what it makes of scores."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import one_step_proof as tool

from bidiff_deploy.training.recipe import read_recipe


def recipe(name: str, out: Path):
    return read_recipe(tool.STUDENT, tool.settings_of(name, out)[1::2])


@pytest.mark.parametrize("name", tool.METHODS)
def test_each_method_is_a_recipe_of_the_same_student(tmp_path, name):
    found, control = recipe(name, tmp_path), recipe(tool.CONTROL, tmp_path)
    assert found.network == control.network and found.run == control.run
    assert found.optimizer == control.optimizer and found.data.train == control.data.train
    used = bool(found.one_step.needs_teacher)
    assert bool(found.one_step.teacher) == used
    assert found.one_step.teacher in ("", str(tmp_path / "teacher.safetensors"))
    assert found.one_step.noise == (name == "tad-sr")
    assert found.one_step.trajectory.cache in ("", str(tmp_path / "trajectories"))


def test_the_control_sees_photos_alone(tmp_path):
    found = recipe(tool.CONTROL, tmp_path)
    assert found.one_step.image and not found.one_step.needs_teacher and not found.initial
    teacher = read_recipe(tool.TEACHER)
    assert teacher.data.train == found.data.train and len(teacher.steps) == 50
    assert teacher.start is None and teacher.uniform == 1


def test_a_run_continues_from_its_checkpoint_or_its_state(tmp_path):
    folder = tmp_path / "control"
    assert not tool.begun(tool.STUDENT, folder, [])
    state = tmp_path / "control.safetensors"
    given = ["--set", f"run.state={state}"]
    assert not tool.begun(tool.STUDENT, folder, given)
    state.touch()
    assert tool.begun(tool.STUDENT, folder, given)
    folder.mkdir()
    (folder / "checkpoint.pt").touch()
    assert tool.begun(tool.STUDENT, folder, [])


def row(name: str, psnr: float, niqe: float, cvvdp: float | None, seconds: float = 0.0):
    return tool.Row(name, {"psnr_y": psnr, "ssim_y": 0.9, "niqe": niqe, "cvvdp": cvvdp},
                    [seconds] * 3 if seconds else [], [2 * seconds] * 3, 123_000_000)


def test_the_table_and_what_is_reached():
    rows = [row("bicubic", 25, 8, 7.0), row("teacher, 50 steps", 26, 5, 8.0, 60),
            row("teacher, 10 steps", 26, 5, 8.0, 12), row("control", 27, 6, 8.1, 1),
            row("tad-sr", 26.5, 5.1, 8.2, 1), row("dfosd", 25.9, 5.2, 7.9, 3)]
    lines = tool.table(rows).splitlines()
    assert lines[0] == ("| | PSNR-Y | SSIM-Y | NIQE | cvvdp, JOD | upscale to 512x512, s | CPU s | "
                        "peak memory, MB |")
    assert lines[2] == "| bicubic | 25.00 | 0.9000 | 8.00 | 7.000 |  |  |  |"
    assert lines[6] == ("| tad-sr | 26.50 | 0.9000 | 5.10 | 8.200 | 1.00 (1.00 to 1.00) | 2.00 | "
                        "123 |")
    found = tool.verdicts(rows)
    assert found[0].startswith("- The teacher counts: its 50 steps beat")
    assert found[1].startswith("- tad-sr is better than the control") and "all that" in found[1]
    assert found[2].startswith("- dfosd does not help") and len(found) == 3
    for words in ("PSNR-Y not below", "cvvdp at most 0.05", "NIQE at most 3 %", "a thirtieth"):
        assert words in found[2]
    worse = tool.verdicts([row("bicubic", 25, 8, 7.0), row("teacher, 50 steps", 26, 5, 6.9)])
    assert worse == ["- The teacher does not count: its 50 steps do not beat bicubic in NIQE and "
                     "cvvdp."]


def test_without_cvvdp_nothing_is_said_to_help():
    rows = [row("bicubic", 25, 8, None), row("teacher, 50 steps", 26, 5, None),
            row("control", 27, 6, None), row("gpd", 26.5, 5.1, None)]
    assert "cvvdp" not in tool.table(rows)
    found = tool.verdicts(rows)
    assert "does not count" in found[0] and "gpd does not help" in found[1]


def test_rows_are_of_what_is_there(tmp_path):
    (tmp_path / "gpd.bundle").mkdir()
    assert [name for name, _, _ in tool.models(tmp_path)] == [
        "teacher, 50 steps", "teacher, 10 steps", "gpd"]


def test_a_setting_that_makes_no_sense_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["one_step_proof.py", "train", "teacher", "-o", str(tmp_path),
                                      "--set", "run.validate_every=0"])
    with pytest.raises(SystemExit, match=r"^error: .*run.validate_every is 0; it must be a whole"):
        tool.main()
