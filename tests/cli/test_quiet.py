"""--quiet: nothing on stdout, and on stderr nothing but warnings and errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from bidiff_deploy.cli import COMMANDS, group
from bidiff_deploy.images.write import write_image

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("kept_sessions")


def has_quiet(name: str) -> bool:
    return any("--quiet" in option.opts for option in group.get_command(None, name).params)


# Arguments for a command that does its work; B a bundle, C its checkpoint, Y its options. The
# command prints something without --quiet.
PRODUCTS = {
    "build": "B --graph graph.onnx --no-plugin --size 16x16",
    "check": "B C --options Y --size 16x16 --timesteps 400 --threads 1",
    "evaluate": "B photos --threads 1 --steps 1 --save out",
    "export": "C -o new.bundle --options Y --timesteps 400",
    "upscale": "B photos -o out --threads 1 --steps 1",
}
ELSEWHERE = {"bench",  # prints and writes nothing else
             "report",  # tests/report
             "app"}


@pytest.fixture
def arguments(reference, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    write_image("photos/a.png", pixels)
    words = {"B": reference.bundle("tiny", [999, 400, 0]), "C": reference.checkpoint("tiny"),
             "Y": reference.options("tiny")}
    return lambda text: [str(words.get(word, word)) for word in text.split()]


def run(*arguments: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(group, list(arguments))
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def test_the_table_names_every_command_that_has_it():
    assert {name for name in COMMANDS if has_quiet(name)} - ELSEWHERE == set(PRODUCTS)


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_work_is_done_and_nothing_is_printed(name, arguments, tmp_path):
    if name == "check":
        pytest.importorskip("torch")
    before = set(tmp_path.rglob("*"))
    given = [name, *arguments(PRODUCTS[name])]
    assert run(*given, "--quiet") == ("", "")
    assert name == "check" or set(tmp_path.rglob("*")) > before
    more = [] if name == "check" else ["--overwrite"]
    out, err = run(*given, *more)
    assert out and not err.startswith(("error", "warning"))
    out, err = run(*given, *more, "--quiet", "--json")
    assert json.loads(out) and err == ""


def test_where_nothing_would_be_left():
    for arguments in (["bench", "absent.bundle"], ["evaluate", "absent", "absent"]):
        out, err = run(*arguments, "--quiet", code=1)
        assert (out, err) == ("", "error: --quiet leaves nothing to print; add --json, or leave "
                                  "--quiet out\n")


def test_errors_and_warnings_are_printed(arguments, tmp_path):
    (tmp_path / "photos" / "b.png").write_text("no image")
    (tmp_path / "photos" / "notes.txt").write_text("text")
    out, err = run("upscale", *arguments(PRODUCTS["upscale"]), "--quiet", code=1)
    assert out == "" and [line.split(":")[0] for line in err.splitlines()] == ["error", "warning"]


def test_a_failed_check_says_so_in_one_line(arguments, reference, tmp_path):
    pytest.importorskip("torch")
    from safetensors.numpy import save_file

    save_file(reference.state("tiny", seed=1), tmp_path / "other.safetensors")
    given = arguments(PRODUCTS["check"].replace(" C ", " other.safetensors "))
    out, err = run("check", *given, "--quiet", code=1)
    assert out == "" and err.startswith("error: ") and " checks fail, such as " in err
    assert err.count("\n") == 1
