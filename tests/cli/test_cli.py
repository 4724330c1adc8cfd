"""The command line: every mistake is one line and exit code 1, and leaves no file."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from bidiff_deploy.bundle.manifest import SCHEMA_VERSION
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.cli import COMMANDS, group
from bidiff_deploy.engines import library
from support import forked
from support.native import ROOT

packed = pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason())


def run(*arguments) -> tuple[int, str, str]:
    result = CliRunner().invoke(group, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def refused(folder, *arguments) -> str:
    """Run a command that must fail; returns its one line. ``folder`` may not change."""
    before = sorted(p for p in folder.rglob("*"))
    code, out, err = run(*arguments)
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 1 and out == "", (code, out, err)
    assert lines[-1].startswith("error: ") and "Traceback" not in err
    assert sum(line.startswith("error: ") for line in lines) == 1, err
    assert sorted(p for p in folder.rglob("*")) == before, "something was left behind"
    return lines[-1]


@pytest.fixture
def bundle(reference, tmp_path):
    copy = tmp_path / "model.bundle"
    shutil.copytree(reference.bundle("tiny", [900, 400, 0]), copy)
    return copy


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "in.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)).save(path)
    return path


def test_words_of_files_do_not_control_the_terminal(bundle, tmp_path, edit_manifest):
    """Line ends and escapes of a name, in a manifest or on disk, are printed as text."""
    edit_manifest(bundle, lambda manifest: manifest.update(model="\x1b[2J\nerror: fake"))
    assert r"\x1b[2J\nerror: fake" in refused(tmp_path, "inspect", bundle)
    odd = tmp_path / "\x1b[2J\nerror: fake"
    assert r"\x1b[2J\nerror: fake does not exist" in refused(tmp_path, "inspect", odd)


def test_warnings_are_one_line():
    """As errors are, without the place in the source that Python prints."""
    code = ("import sys, warnings\nfrom bidiff_deploy import cli\n"
            "cli.group = lambda **_: warnings.warn('slow\\x1b[2J\\nerror: fake', RuntimeWarning)\n"
            "cli.main()")
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert (done.stdout, done.stderr) == ("", "warning: slow\\x1b[2J\\nerror: fake\n")


def test_every_help_prints_without_heavy_imports():
    code = ("import sys\nfrom bidiff_deploy.cli import group\n"
            "for words in ([], *([name] for name in sys.argv[1:])):\n"
            "    try:\n        group([*words, '--help'])\n"
            "    except SystemExit as e:\n"
            "        heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'PIL'} & set(sys.modules)\n"
            "        assert not heavy and not e.code, (words, heavy, e.code)\n")
    done = subprocess.run([sys.executable, "-c", code, *COMMANDS], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage") == 1 + len(COMMANDS)


def test_export_prints_assumptions_and_json(reference, tmp_path):
    checkpoint, options = reference.checkpoint("tiny"), reference.options("tiny")
    out = tmp_path / "b"
    code, text, err = run("export", checkpoint, "-o", out, "--options", options, "--timesteps",
                          "900,0", "--json")
    assert code == 0
    summary = json.loads(text)
    assert summary["steps"] == [900, 0] and summary["scale"] == 4
    assert {p.name for p in out.iterdir()} == {"manifest.json", "weights.bin", "step_0900.onnx",
                                               "step_0000.onnx"}
    code, text, err = run("export", reference.checkpoint("small"), "-o", tmp_path / "small",
                          "--scale", 4, "--steps", 1)
    assert code == 0 and "assumed: norm_groups = 16" in err
    manifest = json.loads((tmp_path / "small" / "manifest.json").read_text())
    assert any("norm_groups" in line for line in manifest["assumptions"])


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("owned",))


def test_export_refuses_in_one_sentence(reference, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good, options = reference.checkpoint("tiny"), reference.options("tiny")
    out = tmp_path / "b"
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:5000])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "photo.png").touch()
    (tmp_path / "bad.yml").write_text("network_g: [1")
    for match, *arguments in (
            ("absent.pth", tmp_path / "absent.pth", "-o", out),
            ("cut.safetensors", tmp_path / "cut.safetensors", "-o", out),
            ("empty.pth", tmp_path / "empty.pth", "-o", out),
            ("evil.pth", tmp_path / "evil.pth", "-o", out),
            ("--scale", reference.checkpoint("small"), "-o", out, "--steps", 1),
            ("scale is 0", good, "-o", out, "--options", options, "--scale", 0),
            ("bad.yml", good, "-o", out, "--options", tmp_path / "bad.yml"),
            ("absent.yml", good, "-o", out, "--options", tmp_path / "absent.yml"),
            ("already exists", good, "-o", tmp_path / "taken", "--options", options),
            ("not replaced", good, "-o", tmp_path / "taken", "--options", options, "--overwrite"),
            ("no/such", good, "-o", tmp_path / "no" / "such" / "b", "--options", options),
            ("exclude each other", good, "-o", out, "--options", options, "--steps", 2,
             "--timesteps", "1"),
            ("whole numbers", good, "-o", out, "--options", options, "--timesteps", "1,x"),
            ("descending", good, "-o", out, "--options", options, "--timesteps", "1,2"),
            ("1000", good, "-o", out, "--options", options, "--timesteps", "1000")):
        assert match in refused(tmp_path, "export", *arguments)
    assert not (tmp_path / "owned").exists()


def test_export_where_nothing_can_be_written(reference, tmp_path):
    arguments = (reference.checkpoint("tiny"), "--options", reference.options("tiny"), "-o")
    (tmp_path / "file").touch()
    assert "not a folder" in refused(tmp_path, "export", *arguments, tmp_path / "file" / "b")
    if sys.platform == "linux":  # refuses even root
        assert "/proc/b" in refused(tmp_path, "export", *arguments, "/proc/b")
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        assert "permission" in refused(tmp_path, "export", *arguments, tmp_path / "locked" / "b")


def test_pack_then_export(reference, tmp_path):
    out = tmp_path / "p.safetensors"
    code, text, _ = run("pack", reference.checkpoint("tiny"), "-o", out, "--options",
                        reference.options("tiny"), "--timesteps", "300,100", "--start", 300)
    assert code == 0 and "times smaller" in text
    assert read_checkpoint(out).sampling == {"timesteps": [300, 100], "start": 300}
    code, _, _ = run("export", out, "-o", tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert [s["timestep"] for s in manifest["steps"]] == [300, 100]
    assert manifest["sampling"] == {"start": 300}
    assert "already exists" in refused(tmp_path, "pack", out, "-o", out)
    assert ".safetensors" in refused(tmp_path, "pack", out, "-o", tmp_path / "p.bin")


@packed
def test_upscale_a_file_and_a_folder(bundle, image, tmp_path):
    out = tmp_path / "out.png"
    code, text, err = run("upscale", bundle, image, "-o", out, "--seed", 3)
    assert code == 0, err
    assert Image.open(out).size == (20, 24)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        Image.open(image).save(folder / name)
    code, text, err = run("upscale", bundle, folder, "-o", tmp_path / "many", "--json", "--quiet")
    assert code == 0 and err == ""
    assert len(json.loads(text)) == 2
    assert len([p for p in (tmp_path / "many").iterdir() if not p.name.startswith(".")]) == 2


@packed
def test_upscale_refuses_in_one_sentence(bundle, image, tmp_path, edit_manifest):
    out = tmp_path / "out.png"
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(image.read_bytes()[:60])
    taken = tmp_path / "taken.png"
    taken.write_bytes(b"precious")
    for match, *arguments in (
            ("text.png", bundle, tmp_path / "text.png", "-o", out),
            ("empty.png", bundle, tmp_path / "empty.png", "-o", out),
            ("cut.png", bundle, tmp_path / "cut.png", "-o", out),
            ("absent.png", bundle, tmp_path / "absent.png", "-o", out),
            ("taken.png", bundle, image, "-o", taken),
            ("absent.bundle", tmp_path / "absent.bundle", image, "-o", out),
            ("steps", bundle, image, "-o", out, "--steps", 99),
            ("start", bundle, image, "-o", out, "--start", "soon"),
            ("backend 'tpu'", bundle, image, "-o", out, "--backend", "tpu")):
        assert match in refused(tmp_path, "upscale", *arguments), match
    assert taken.read_bytes() == b"precious"
    code, _, err = run("upscale", bundle, image, "-o", out, "--threads", 0)
    assert code == 2 and "'--threads'" in err
    (bundle / "step_0400.onnx").unlink()
    assert "step_0400.onnx is missing" in refused(tmp_path, "upscale", bundle, image, "-o", out)
    edit_manifest(bundle, lambda m: m.update(schema_version=SCHEMA_VERSION + 1))
    assert "newer" in refused(tmp_path, "upscale", bundle, image, "-o", out)


@packed
def test_a_forced_kernel_that_cannot_run_is_refused(bundle, image, tmp_path):
    for name in ("quantum", *(k.name for k in library.kernels() if not k.supported)):
        done = forked.command("upscale", bundle, image, "-o", tmp_path / "o.png",
                              environment={"BIDIFF_KERNEL": name})
        assert done.returncode == 1 and done.stderr.count("error: ") == 1, done.stderr
        assert name in done.stderr and "Traceback" not in done.stderr
        assert not (tmp_path / "o.png").exists()


# Streams and folders that are gone.

def in_a_process(*arguments: str, shell: str, folder: Path | None = None, **variables: str
                 ) -> subprocess.CompletedProcess[str]:
    """``bidiff-deploy arguments`` with redirections of a shell."""
    command = shlex.join([sys.executable, "-m", "bidiff_deploy", *arguments])
    return subprocess.run(["sh", "-c", shell.replace("COMMAND", command)], cwd=folder, text=True,
                          capture_output=True, env={**os.environ, **variables,
                                                    "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("upscale", "--help")])
@pytest.mark.parametrize(("shell", "words"), [
    ("COMMAND >/dev/full", "No space left on device"), ("COMMAND >&-", "Bad file descriptor")])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_standard_output_that_takes_nothing(arguments: tuple[str, ...], shell: str, words: str,
                                              unbuffered: str) -> None:
    done = in_a_process(*arguments, shell=shell, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (
        1, f"error: cannot write to standard output: {words}; send it to another place\n")


def test_streams_that_are_closed(tmp_path: Path) -> None:
    for shell in ("COMMAND <&-", "COMMAND 2>&-", "COMMAND <&- 2>&-"):
        done = in_a_process("--version", shell=shell)
        assert done.returncode == 0 and "version" in done.stdout, shell
    done = in_a_process("inspect", str(tmp_path), shell="COMMAND <&- >&- 2>&-")
    assert done.returncode == 1 and list(tmp_path.iterdir()) == []


def test_a_current_folder_that_was_removed(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    for arguments in (("upscale", "x", "y", "-o", "z"), ("train", "r", "-o", "out")):
        done = in_a_process(*arguments, shell=f"cd {tmp_path}/gone && rmdir ../gone && COMMAND;"
                            "code=$?; mkdir -p ../gone; exit $code", folder=tmp_path)
        (tmp_path / "gone").mkdir(exist_ok=True)
        assert (done.returncode, done.stderr) == (
            1, "error: the current folder was removed; change to one that exists\n")
    assert "version" in in_a_process("--version", folder=tmp_path, shell=(
        f"cd {tmp_path}/gone && rmdir ../gone && COMMAND")).stdout


@pytest.mark.parametrize(("error", "words"), [
    (PermissionError(13, "Permission denied", "/x/a"), "error: /x/a: Permission denied\n"),
    (FileNotFoundError(2, "No such file or directory", b"/x/a"),
     "error: /x/a: No such file or directory\n"),
    (OSError(28, "No space left on device"), "error: No space left on device\n"),
    (OSError("half\nof a sentence"), "error: half of a sentence\n")])
def test_any_error_of_a_file_is_a_sentence(monkeypatch: pytest.MonkeyPatch, error: OSError,
                                           words: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("bidiff_deploy.doctor.examine.examine", fail)
    result = CliRunner().invoke(group, ["doctor"])
    assert (result.exit_code, result.stderr) == (1, words)
