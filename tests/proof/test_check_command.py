"""The command check: whole loops of pictures, runs that are saved, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.cli import group
from bidiff_deploy.engines import library
from bidiff_deploy.errors import UsageError
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.proof.check import runners
from bidiff_deploy.proof.check.result import CheckResult
from bidiff_deploy.proof.inputs import image_samples
from support import forked
from support.check_setup import TIMES, changed, check, damaged

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("polygraphy")
pytestmark = [
    pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason()),
    pytest.mark.usefixtures("kept_sessions")]

DEMO = Path(__file__).parents[2] / "training"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The shipped trained network, as (checkpoint, bundle)."""
    path = DEMO.parent / "bidiff_deploy" / "models" / "diffusion_x2.safetensors"
    if not path.exists():
        pytest.skip("no trained checkpoint is shipped")
    checkpoint = read_checkpoint(path)
    bundle = tmp_path_factory.mktemp("demo") / "demo.bundle"
    export_bundle(checkpoint, bundle, timesteps=checkpoint.sampling["timesteps"])
    return path, bundle


def photo() -> Path:
    return next(path for path in sorted((DEMO / "photos").iterdir())
                if path.suffix in (".png", ".jpg"))


def test_whole_loops_of_a_trained_network_are_compared(trained):
    path, bundle = trained
    done = CliRunner().invoke(group, ["check", str(bundle), str(path), "--truth", str(photo()),
                                      "--size", "64x48", "--threads", "1", "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    result = CheckResult.from_dict(json.loads(done.output))
    (loop,) = result.loops
    assert loop.judged and loop.trained and loop.psnr >= 35 and loop.truth["reference"] > 15
    assert abs(loop.truth["engine"] - loop.truth["reference"]) < 0.1


def test_whole_loops_of_random_weights_are_not(reference, tmp_path):
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)).save(
        tmp_path / "a_small.png")
    result = check(reference.bundle("tiny", TIMES), reference.read("tiny"),
                   images=[str(tmp_path / "a_small.png")])
    assert result and not result.loops[0].trained and result.loops[0].psnr is None
    assert result.size == (16, 24)


def test_images_find_their_truths(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, size in {"a.png": (40, 32), "a_small.png": (20, 16), "b.png": (40, 32)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / name)
    (sample,) = image_samples(2, [str(tmp_path / "a_small.png")], [str(tmp_path / "a.png")],
                              (16, 256))
    whole = np.asarray(Image.open(tmp_path / "a.png"), np.float32) / 255
    assert sample.condition.shape == (1, 3, 16, 32)
    np.testing.assert_array_equal(sample.truth, whole[12:28])
    with pytest.raises(UsageError, match="not 2 times as large"):
        image_samples(2, [str(tmp_path / "b.png")], [str(tmp_path / "b.png")], (64, 64))
    with pytest.raises(UsageError, match="no file of --truth"):
        image_samples(2, [str(tmp_path / "b.png")], [str(tmp_path / "a.png")], (64, 64))


def test_the_command_passes_and_saves(reference, tmp_path):
    from polygraphy.comparator import RunResults

    saved = tmp_path / "runs.json"
    arguments = ["check", str(reference.bundle("tiny", TIMES)), str(reference.checkpoint("tiny")),
                 "--size", "16x24", "--threads", "1", "--save", str(saved)]
    done = CliRunner().invoke(group, arguments)
    assert done.exit_code == 0 and "28 of 28 pass" in done.output, done.output
    assert done.output.rstrip().endswith("pass")
    runs = RunResults.load(str(saved))
    assert list(runs.keys()) == ["inputs", "torch", "torch-channels-last", "onnxruntime"]
    assert [int(run["timestep"][0]) for run in runs["inputs"]] == TIMES
    assert runs["onnxruntime"][0]["prediction"].shape == (1, 3, 16, 24)
    done = CliRunner().invoke(group, arguments)
    assert done.exit_code == 1 and "--overwrite" in done.stderr


def test_saved_runs_are_compared_later_without_torch(reference, tmp_path):
    bundle, saved = str(reference.bundle("tiny", TIMES)), str(tmp_path / "runs.json")
    done = CliRunner().invoke(group, ["check", bundle, str(reference.checkpoint("tiny")), "--size",
                                      "16x24", "--threads", "1", "--quiet", "--json", "--save",
                                      saved])
    first = CheckResult.from_dict(json.loads(done.stdout))  # and nothing else on stdout
    code = ("import sys\nsys.modules['torch'] = None\nfrom bidiff_deploy.cli import group\n"
            "group(sys.argv[1:])")

    def later(bundle: str, backend: str) -> subprocess.CompletedProcess:
        return forked.python(code, "check", bundle, saved, "--threads", "1", "--backend", backend,
                             "--json")

    for backend in ("onnxruntime", "onnxruntime-stock"):
        done = later(bundle, backend)
        assert done.returncode == 0, done.stderr
        again = CheckResult.from_dict(json.loads(done.stdout))
        assert [step.timestep for step in again.steps] == TIMES and not again.layers
        assert "a check of this bundle, which passed" in again.notes[0]
        sums = [one for one in again.operators if one.operator.startswith("sums of ")]
        assert len(sums) == (28 * len(TIMES) if backend == "onnxruntime" else 0)
        assert len(again.operators) > len(sums)
        assert again.size == (16, 24)
        for old, new in zip(first.steps, again.steps):
            assert new.floor.snr == old.floor.snr and new.engine.snr > 100
    wrong = changed(reference.read("tiny"), "stem.weight", lambda weight: -weight)
    export_bundle(wrong, tmp_path / "wrong", timesteps=TIMES)
    done = later(str(tmp_path / "wrong"), "onnxruntime")
    assert done.returncode == 1 and not json.loads(done.stdout)["passed"]
    assert "a check of another bundle" in json.loads(done.stdout)["notes"][0]


def test_a_sum_that_is_off_by_one_is_found_without_torch(reference, tmp_path, monkeypatch):
    bundle, saved = str(reference.bundle("tiny", TIMES)), str(tmp_path / "runs.json")
    done = CliRunner().invoke(group, ["check", bundle, str(reference.checkpoint("tiny")), "--size",
                                      "16x16", "--timesteps", "400", "--quiet", "--save", saved])
    assert done.exit_code == 0
    right = library.binary_conv_sums

    def wrong(*arguments):
        sums = right(*arguments).copy()
        sums[0, 0, 0, 0] += 1
        return sums

    monkeypatch.setattr(library, "binary_conv_sums", wrong)
    done = CliRunner().invoke(group, ["check", bundle, saved, "--threads", "1"])
    assert done.exit_code == 1 and "FAIL sums of encoder.1.conv1: BinaryConv" in done.output


def test_a_gpus_bundle_is_judged_part_by_part(reference, tmp_path, monkeypatch):
    """Where the backend returns no values inside a step: here the CPU's, under a GPU's name."""
    opened = runners.open_engine
    monkeypatch.setattr(runners, "open_engine", lambda path, *, backend, **_: opened(
        path, threads=1, backend="onnxruntime"))
    result = check(reference.bundle("tiny", TIMES), reference.read("tiny"), backend="tensorrt",
                   timesteps=[400])
    assert result and result.layers and result.segments
    assert result.steps[0].differing is None and result.steps[0].floor
    assert "only CPU backends return them" in result.notes[0]
    assert "an error of less than 1.0e-04 of their energy passes" in result.notes[0]

    def flip(words):
        words[0, 0, 0, 0] ^= 1

    result = check(damaged(reference.bundle("tiny", TIMES), tmp_path / "b", "d8.c2.words", flip),
                   reference.read("tiny"), backend="tensorrt", timesteps=[400])
    assert not result and "a part is wrong" in result.steps[0].reason
    assert {verdict.name for verdict in result.failures} == {"decoder.8.conv2", "400"}
    assert result.steps[0].engine.snr > 40  # which predictions alone do not show


def test_what_is_no_file_of_saved_runs(reference, tmp_path):
    """A pipe would wait for ever, and a sparse file take all memory."""
    os.mkfifo(tmp_path / "pipe.json")
    with open(tmp_path / "large.json", "wb") as stream:
        stream.truncate(1 << 40)
    for name, words in (("pipe", "it is not a file"), ("large", "it has more than 4 GiB")):
        done = CliRunner().invoke(group, ["check", str(reference.bundle("tiny", TIMES)),
                                          str(tmp_path / f"{name}.json")])
        assert done.exit_code == 1 and words in done.stderr


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", '{"lst": [["inputs", []]]}'])
def test_other_files_are_no_saved_runs(reference, tmp_path, text):
    path = tmp_path / "runs.json"
    if text is not None:
        path.write_text(text)
    done = CliRunner().invoke(group, ["check", str(reference.bundle("tiny", TIMES)), str(path)])
    assert done.exit_code == 1 and str(path) in done.stderr and not done.stdout
    assert done.stderr.count("\n") == 1


def test_the_command_fails_with_exit_code_1(reference, tmp_path):
    def flip(words):
        words[0, 0, 0, 0] ^= 1

    bundle = damaged(reference.bundle("tiny", TIMES), tmp_path / "b", "e1.c1.words", flip)
    arguments = ["check", str(bundle), str(reference.checkpoint("tiny")), "--size", "16x16",
                 "--threads", "1", "--timesteps", "400"]
    done = CliRunner().invoke(group, arguments)
    assert done.exit_code == 1 and "FAIL encoder.1.conv1: " in done.stdout
    done = CliRunner().invoke(group, [*arguments, "--json"])
    assert done.exit_code == 1 and json.loads(done.stdout)["passed"] is False


@pytest.mark.parametrize("options, says", [
    (["--size", "16"], "height and width"), (["--size", "0x8"], "height and width"),
    (["--timesteps", "5"], "no timestep 5"), (["--timesteps", "a"], "whole numbers"),
    (["--backend", "cuda"], "not known"),
    (["--device", "1"], "--device 1 is a GPU, which backend onnxruntime does not use"),
    (["--images", "absent.png"], "absent.png")])
def test_the_command_refuses_in_one_sentence(reference, options, says):
    done = CliRunner().invoke(group, [
        "check", str(reference.bundle("tiny", TIMES)), str(reference.checkpoint("tiny")),
        "--threads", "1", "--quiet", *options])
    assert done.exit_code == 1 and says in done.stderr and done.stderr.count("\n") == 1


def test_another_network_or_schedule_is_refused_by_the_command(reference, tmp_path):
    import yaml

    bundle, tiny = str(reference.bundle("tiny", TIMES)), str(reference.checkpoint("tiny"))
    done = CliRunner().invoke(group, ["check", bundle, str(reference.checkpoint("small"))])
    assert done.exit_code == 1 and "different networks" in done.stderr
    options = yaml.safe_load(reference.options("tiny").read_text())
    options["beta_schedule"]["linear_end"] = 0.02
    (tmp_path / "o.yml").write_text(yaml.safe_dump(options))
    done = CliRunner().invoke(group, ["check", bundle, tiny, "--options", str(tmp_path / "o.yml")])
    assert done.exit_code == 1 and "different noise schedules" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_torch_it_says_what_to_install(reference, tmp_path):
    code = ("import sys\nsys.modules['torch'] = None\nfrom bidiff_deploy.cli import group\n"
            "group(sys.argv[1:])")
    done = forked.python(code, "check", reference.bundle("tiny", TIMES),
                         reference.checkpoint("tiny"))
    assert done.returncode == 1 and "bidiff-deploy[train]" in done.stderr
    assert done.stderr.count("\n") == 1
