"""``upscale`` without -o: outputs next to inputs; what an earlier run wrote is not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from bidiff_deploy.cli import group
from bidiff_deploy.errors import OutputError, UsageError
from bidiff_deploy.upscale.jobs import plan

pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photo(name: str, size: tuple[int, int] = (6, 5)) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), 128, np.uint8)).save(name)
    return name


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(group, ["upscale", *arguments, "--threads", "1"])
    assert result.exit_code == code, result.output
    return result


def targets(*inputs: str, form: str = "png") -> list[str]:
    return [str(job.target) for job in plan(inputs, None, form, scale=2)]


def test_one_command_from_a_photo_to_a_larger_one():
    run(photo("photo.jpg"))
    with Image.open("photo_x2.png") as image:
        assert image.size == (12, 10)
    again = run("photo.jpg", code=1)
    assert "photo_x2.png already exists" in again.stderr and "--overwrite" in again.stderr
    run("photo.jpg", "--overwrite", "--model", "photo-x2-fast")


def test_places_of_outputs(here):
    photo("in/a.jpg"), photo("in/deep/b.png"), photo("c.tif")
    assert targets("in") == targets("in/") == ["in_x2/a.png", "in_x2/deep/b.png"]
    assert targets("in/deep/..")[0] == f"{here}/in_x2/a.png"
    assert targets("c.tif", "in/a.jpg") == ["c_x2.png", "in/a_x2.png"]
    assert targets("*.tif", form="same") == ["c_x2.tif"]


def test_outputs_of_earlier_runs_are_not_read_again():
    photo("a.jpg"), photo("a_x2.png"), photo("lone_x2.png")
    jobs = plan(["*.*"], None, overwrite=True, scale=2)
    assert [str(job.source) for job in jobs] == ["a.jpg", "lone_x2.png"]
    assert [str(other.path) for other in jobs.passed_over] == ["a_x2.png"]
    with pytest.raises(UsageError, match="a_x2.png is an output of an earlier run.* with -o"):
        plan(["a_x2.png"], None, scale=2)
    assert [str(job.source) for job in plan(["a_x2.png"], "b.png")] == ["a_x2.png"]


def test_a_model_may_be_the_first_word(reference):
    bundle = str(reference.bundle("tiny", [0]))
    run(bundle, photo("a.png"))
    with Image.open("a_x4.png") as image:
        assert image.size == (24, 20)
    run("--model", bundle, "a.png", "-o", "b.png")
    for arguments, says in (((bundle,), "no images are given"),
                            (("absent.bundle", "a.png"), "absent.bundle does not exist"),
                            (("--scale", "3", "a.png"), "no model of scale 3"),
                            (("--model", "absent", "a.png"), "installed are photo-x2"),
                            ((bundle, "--scale", "2", "a.png"), "upscales by 4, not by 2")):
        assert says in run(*arguments, code=1).stderr


def test_a_file_where_a_folder_would_be(here):
    photo("in/a.png")
    Path("in_x2").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        plan(["in"], None, scale=2)


def test_outputs_of_runs_with_other_options_are_not_read_either(here):
    photo("in/a.jpg"), photo("in/deep/b.png"), photo("in_x2/a.png"), photo("in_x2/deep/b.png")
    photo("in_x2/own.png"), photo("in/a_x4.png"), photo("in/a_fit4000.png"), photo("in/a_x2-2.png")
    jobs = plan(["."], None, scale=2)
    assert [str(job.source) for job in jobs] == ["in/a.jpg", "in/deep/b.png", "in_x2/own.png"]
    assert {str(other.path): other.kind for other in jobs.passed_over} == dict.fromkeys(
        ["in/a_fit4000.png", "in/a_x2-2.png", "in/a_x4.png", "in_x2/a.png", "in_x2/deep/b.png"],
        "earlier output")
    assert len(plan(["in_x2"], "out")) == 3  # where the user says what becomes of them
