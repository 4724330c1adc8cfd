"""TensorRT plans on disk, and opening TensorRT: which plan runs a shape, what a sidecar may say,
what refuses a plan, and a sentence for each way in which TensorRT is not there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shlex
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidiff_deploy.bundle import open_bundle
from bidiff_deploy.cli import build as build_cli
from bidiff_deploy.engines.tensorrt import (api as tensorrt_api, plans as tensorrt_plans,
                                            sidecar as tensorrt_sidecar)
from bidiff_deploy.engines.tensorrt.plans import (Here, Plan, PlanInfo, Profile, build_command,
                                                  check, choose, default_folder, read_plans,
                                                  targets, write_plan)
from bidiff_deploy.errors import EngineError, OutputError

CONTENT = b"a plan"
STATIC = Profile((1, 256, 256), (1, 256, 256), (1, 256, 256))
RANGE = Profile((1, 64, 64), (1, 256, 256), (4, 512, 512))
SIDES = st.integers(1, 64).map(lambda number: 8 * number)
SHAPES = st.tuples(st.integers(1, 8), SIDES, SIDES)
REPEATABLE = settings(derandomize=True, deadline=None, max_examples=60)


@st.composite
def profiles(draw) -> Profile:
    axes = [sorted(draw(st.lists(size, min_size=3, max_size=3)))
            for size in (st.integers(1, 8), SIDES, SIDES)]
    return Profile(*(tuple(axis[i] for axis in axes) for i in range(3)))


def info(profile: Profile = STATIC, **changed) -> PlanInfo:
    made = PlanInfo(
        tensorrt="10.3.0", gpu="Orin", architecture=87, driver="12.6", plugin="a" * 64, layout=7,
        bundle="b" * 64, variant="plugin", precision="float16", profile=profile,
        bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest(), opset=17, level=None,
        workspace=None, seconds=1.5)
    made = dataclasses.replace(made, **changed)
    if made.variant != "plugin":
        made = dataclasses.replace(made, plugin=None, layout=None)
    return made


def here(**changed) -> Here:
    made = Here(tensorrt="10.3.0", gpu="Orin", architecture=87, driver="12.6", plugin="a" * 64,
                layout=7, bundle="b" * 64, precision="float16", path=Path("my model.bundle"))
    return dataclasses.replace(made, **changed)


def options_of(command: str) -> dict:
    """What our own command line makes of a command that a sentence names."""
    words = shlex.split(command)
    assert words[:2] == ["bidiff-deploy", "build"]
    return build_cli.command.make_context("build", words[2:]).params


def profile_of(command: str, bundle=None) -> Profile:
    found = options_of(command)
    return build_cli._profile(bundle, *(found[name] for name in (
        "size", "batch", "minimum", "optimum", "maximum")))[0]


# -- profiles and the choice among plans --------------------------------------------------------


@given(profiles(), SHAPES)
@REPEATABLE
def test_a_profile_contains_what_lies_between_its_ends(profile, shape):
    expected = all(profile.minimum[i] <= shape[i] <= profile.maximum[i] for i in range(3))
    assert profile.contains(shape) == expected
    assert profile.contains(profile.minimum) and profile.contains(profile.maximum)
    assert profile.static == (len({profile.minimum, profile.optimum, profile.maximum}) == 1)


@given(st.lists(st.tuples(profiles(), st.sampled_from(["plugin", "dense"]),
                          st.sampled_from(["float32", "float16"])), max_size=8), SHAPES)
@REPEATABLE
def test_the_smallest_plan_that_fits_is_chosen(made, shape):
    plans = [Plan(Path(f"{i}.plan"), info(profile, variant=variant, precision=precision))
             for i, (profile, variant, precision) in enumerate(made)]
    fitting = [plan for plan in plans if plan.info.profile.contains(shape)
               and plan.info.variant == "plugin" and plan.info.precision == "float16"]
    if not fitting:
        with pytest.raises(EngineError, match="bidiff-deploy build") as error:
            choose(plans, "plugin", "float16", shape, bundle="x.bundle")
        command = str(error.value).split("`")[1]
        assert profile_of(command) == Profile(shape, shape, shape)
        return
    chosen = choose(plans, "plugin", "float16", shape)
    assert chosen in fitting
    assert math.prod(chosen.info.profile.maximum) == min(
        math.prod(plan.info.profile.maximum) for plan in fitting)


def test_a_static_plan_goes_before_one_of_the_same_size():
    wide = Profile((1, 64, 64), (1, 64, 64), (1, 256, 256))
    plans = [Plan(Path("a.plan"), info(wide)), Plan(Path("b.plan"), info(STATIC))]
    assert choose(plans, "plugin", "float16", (1, 256, 256)).path.name == "b.plan"
    assert choose(plans, "plugin", "float16", (1, 64, 256)).path.name == "a.plan"


def test_the_sentence_says_which_shapes_there_are_or_why_a_plan_was_left_out():
    plans = [Plan(Path("a.plan"), info(RANGE))]
    with pytest.raises(EngineError, match="1x64x64-1x256x256-4x512x512; build one with"):
        choose(plans, "plugin", "float16", (1, 520, 64))
    with pytest.raises(EngineError, match=r"no dense plan in float16 .*--no-plugin --size 64x64`"):
        choose(plans, "dense", "float16", (1, 64, 64))
    with pytest.raises(EngineError, match=r"\(it is odd\)"):
        choose([], "plugin", "float16", (1, 64, 64), refused=["it is odd", "this too"])


@given(profiles(), st.sampled_from(tensorrt_sidecar.VARIANTS),
       st.one_of(st.none(), st.integers(0, 5)), st.one_of(st.none(), st.integers(1, 1 << 36)),
       st.integers(0, 3), st.sampled_from([None, Path("/a folder"), Path("p")]), st.booleans())
@REPEATABLE
def test_the_command_builds_exactly_this_plan(profile, variant, level, workspace, device, folder,
                                              overwrite):
    command = build_command("a 'bundle'", variant, profile, level=level, workspace=workspace,
                            device=device, folder=folder, overwrite=overwrite)
    found = options_of(command)
    assert profile_of(command) == profile and found["bundle"] == "a 'bundle'"
    assert (found["no_plugin"], found["int8"]) == (variant != "plugin", variant == "dense-int8")
    assert (found["level"], found["device"] or 0) == (level, device)
    assert found["workspace"] == (None if workspace is None else str(workspace))
    assert found["output"] == (None if folder is None else str(folder))
    assert found["overwrite"] == overwrite


# -- sidecars -----------------------------------------------------------------------------------


@given(profiles(), st.sampled_from(tensorrt_sidecar.VARIANTS),
       st.sampled_from(tensorrt_sidecar.PRECISIONS), st.integers(1, 1 << 40),
       st.floats(0, 1e6), st.one_of(st.none(), st.integers(0, 5)))
@REPEATABLE
def test_a_sidecar_comes_back_as_it_was_written(profile, variant, precision, size, seconds, level):
    made = info(profile, variant=variant, precision=precision, bytes=size, seconds=seconds,
                level=level)
    assert tensorrt_sidecar.parse(json.dumps(made.to_dict()).encode(), "x") == made


DAMAGES = {
    "missing key": lambda found: found.pop("gpu"),
    "missing profile": lambda found: found.pop("profile"),
    "unknown key": lambda found: found.update(path="../../etc/passwd"),
    "another format": lambda found: found.update(format="bidiff-bundle"),
    "newer version": lambda found: found.update(version=2),
    "version as text": lambda found: found.update(version="1"),
    "version true": lambda found: found.update(version=True),
    "GPU a number": lambda found: found.update(gpu=87),
    "GPU with a line break": lambda found: found.update(gpu="a\nb"),
    "GPU of a megabyte": lambda found: found.update(gpu="a" * 60_000),
    "architecture as text": lambda found: found.update(architecture="87"),
    "architecture true": lambda found: found.update(architecture=True),
    "driver no version": lambda found: found.update(driver="twelve"),
    "TensorRT no version": lambda found: found.update(tensorrt="10.3.0; rm -rf ~"),
    "digest too short": lambda found: found.update(bundle="b" * 63),
    "digest upper case": lambda found: found.update(sha256="A" * 64),
    "plugin without layout": lambda found: found.update(layout=None),
    "plugin of a dense plan": lambda found: found.update(variant="dense"),
    "no plugin of a plugin plan": lambda found: found.update(plugin=None, layout=None),
    "variant with a path": lambda found: found.update(variant="../plugin"),
    "precision": lambda found: found.update(precision="float64"),
    "no bytes": lambda found: found.update(bytes=0),
    "more bytes than memory": lambda found: found.update(bytes=1 << 60),
    "bytes a fraction": lambda found: found.update(bytes=1.5),
    "negative seconds": lambda found: found.update(seconds=-1),
    "endless seconds": lambda found: found.update(seconds=1e300),
    "opset": lambda found: found.update(opset=None),
    "profile a list": lambda found: found.update(profile=[1, 2, 3]),
    "profile without optimum": lambda found: found["profile"].pop("optimum"),
    "profile of two numbers": lambda found: found["profile"].update(minimum=[256, 256]),
    "profile of a huge image": lambda found: found["profile"].update(maximum=[1, 1 << 20, 8]),
    "profile of no image": lambda found: found["profile"].update(minimum=[0, 8, 8]),
    "profile out of order": lambda found: found["profile"].update(optimum=[1, 512, 512]),
    "profile of fractions": lambda found: found["profile"].update(maximum=[1, 256.0, 256]),
    "profile with a flag": lambda found: found["profile"].update(minimum=[True, 256, 256]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_sidecar_is_refused_in_one_sentence(damage, tmp_path):
    found = info().to_dict()
    found["profile"] = {key: list(shape) for key, shape in found["profile"].items()}
    DAMAGES[damage](found)
    with pytest.raises(EngineError) as error:
        tensorrt_sidecar.parse(json.dumps(found).encode(), "x.json")
    assert str(error.value).startswith("x.json ") and len(str(error.value)) < 300


@pytest.mark.parametrize("text", [
    b"", b"{", b"[]", b"null", b'"plan"', b"\xff\xfe", b"[" * 60_000,
    json.dumps(info().to_dict()).replace("1.5", "NaN").encode(),
    json.dumps(info().to_dict()).replace("1.5", "-Infinity").encode(),
    json.dumps(info().to_dict()).replace("87", "9" * 5000).encode()])
def test_what_is_no_sidecar_is_refused(text):
    with pytest.raises(EngineError):
        tensorrt_sidecar.parse(text, "x.json")


# -- the folder ---------------------------------------------------------------------------------


def test_plans_are_written_and_found(tmp_path):
    first = write_plan(tmp_path, CONTENT, info())
    second = write_plan(tmp_path, memoryview(CONTENT), info(RANGE, variant="dense"))
    assert first.path.name == "plugin-float16-1x256x256.plan"
    assert second.path.name == "dense-float16-1x64x64-1x256x256-4x512x512.plan"
    assert sorted(read_plans(tmp_path), key=str) == sorted([first, second], key=str)
    assert check(first, here()) == CONTENT
    with pytest.raises(OutputError, match="--overwrite"):
        targets(tmp_path, info().stem, overwrite=False)
    with pytest.raises(OutputError, match="--overwrite"):
        write_plan(tmp_path, b"other", info())
    assert check(first, here()) == CONTENT
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".json", ".plan",
                                                                 ".plan"]


def test_no_folder_has_no_plans_and_no_folder_can_be_a_file(tmp_path):
    assert read_plans(tmp_path / "none") == []
    (tmp_path / "file").write_text("")
    assert read_plans(tmp_path / "file") == []
    with pytest.raises(OutputError):
        targets(tmp_path / "file", "a", False)


def test_what_has_no_whole_sidecar_is_left_out(tmp_path):
    good = write_plan(tmp_path, CONTENT, info())
    text = good.path.with_suffix(".json").read_text()
    (tmp_path / "alone.plan").write_bytes(CONTENT)
    for name, content in (("foreign", text), ("large", " " * (1 << 17) + text), ("broken", "{")):
        (tmp_path / f"{name}.plan").write_bytes(CONTENT)
        (tmp_path / f"{name}.json").write_text(content)
    (tmp_path / ".half.plan.1234.tmp").write_bytes(CONTENT)
    (tmp_path / ".half.plan").write_bytes(CONTENT)
    (tmp_path / "folder.plan").mkdir()
    (tmp_path / "link.plan").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe.plan")
    refused: list[str] = []
    assert read_plans(tmp_path, refused) == [good] == read_plans(tmp_path)
    found = {word: text for text in refused
             for word in ("alone", "foreign", "large", "broken", "folder", "link", "pipe")
             if f"{word}." in text}
    assert len(found) == len(refused) == 7
    assert "no sidecar alone.json" in found["alone"]
    assert "describes plugin-float16-1x256x256.plan, not foreign.plan" in found["foreign"]
    assert all("--overwrite" in text and "remove" in text for text in refused)


def test_a_crash_between_plan_and_sidecar_leaves_no_plan_that_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt_plans.json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_plan(tmp_path, CONTENT, info())
    monkeypatch.undo()
    assert read_plans(tmp_path) == [] and not list(tmp_path.glob(".*"))
    old = write_plan(tmp_path, CONTENT, info(), overwrite=True)
    monkeypatch.setattr(tensorrt_plans.json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # new plan, old sidecar
        write_plan(tmp_path, b"A PLAN", info(), overwrite=True)
    assert read_plans(tmp_path) == [old]
    with pytest.raises(EngineError, match="damaged"):
        check(old, here())


def test_where_plans_are(reference, tmp_path, monkeypatch):
    bundle = open_bundle(reference.bundle("tiny", [900, 400, 0]))
    other = open_bundle(reference.bundle("tiny", [900, 0]))
    monkeypatch.delenv("BIDIFF_TENSORRT_PLANS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_folder(bundle).parent == tmp_path / "bidiff_deploy" / "plans"
    assert len(default_folder(bundle).name) == 16
    assert default_folder(bundle) != default_folder(other)
    monkeypatch.setenv("XDG_DATA_HOME", "relative")  # which the specification says to ignore
    assert default_folder(bundle).is_relative_to(Path.home())
    monkeypatch.setenv("BIDIFF_TENSORRT_PLANS", str(tmp_path / "mine"))
    assert default_folder(bundle) == default_folder(other) == tmp_path / "mine"


# -- what refuses a plan ------------------------------------------------------------------------

MISMATCHES = {
    "another bundle": (dict(bundle="c" * 64), "another bundle"),
    "another precision": (dict(precision="float32"), "float16, the bundle in float32"),
    "another major version": (dict(tensorrt="11.0.0"), "TensorRT 10.3.0, here is 11.0.0"),
    "another patch version": (dict(tensorrt="10.3.0.26"), "TensorRT 10.3.0, here is 10.3.0.26"),
    "another GPU": (dict(gpu="Orin NX"), r"on Orin \(sm_87\), here is Orin NX \(sm_87\)"),
    "another architecture": (dict(architecture=110), r"here is Orin \(sm_110\)"),
    "an older driver": (dict(driver="11.8"), "driver for CUDA 12.6, here is one for CUDA 11.8"),
    "another build of the plugin": (dict(plugin="d" * 64), "another build of the plugin"),
    "another form of words": (dict(layout=8), "another build of the plugin"),
    "no plugin": (dict(plugin=None, layout=None), "another build of the plugin"),
}


@pytest.mark.parametrize("mismatch", MISMATCHES)
@pytest.mark.parametrize("profile", [STATIC, RANGE], ids=["static", "range"])
def test_a_plan_of_something_else_is_refused_with_the_command_that_builds_it(
        mismatch, profile, tmp_path, monkeypatch):
    monkeypatch.setenv("BIDIFF_TENSORRT_PLANS", str(tmp_path))
    changed, reason = MISMATCHES[mismatch]
    plan = write_plan(tmp_path, CONTENT, info(profile, level=4, workspace=1 << 30))
    plan.path.unlink()  # refused before anybody reads it
    with pytest.raises(EngineError, match=reason) as error:
        check(plan, here(device=2, **changed))
    command = str(error.value).split("`")[1]
    found = options_of(command)
    assert profile_of(command) == profile and found["bundle"] == "my model.bundle"
    assert found["overwrite"] and not found["no_plugin"] and found["output"] is None
    assert (found["level"], found["device"], found["workspace"]) == (4, 2, str(1 << 30))


@pytest.mark.parametrize("driver", ["12.0", "12.6", "13.0"])
def test_another_driver_of_the_same_major_version_or_a_newer_one_will_do(driver, tmp_path):
    plan = write_plan(tmp_path, CONTENT, info())
    assert check(plan, here(driver=driver)) == CONTENT


def test_a_plan_without_plugin_does_not_ask_for_one(tmp_path):
    plan = write_plan(tmp_path, CONTENT, info(variant="dense-int8"))
    assert check(plan, here(plugin=None, layout=None)) == CONTENT
    with pytest.raises(EngineError, match="--no-plugin --int8 --size 256x256") as error:
        check(plan, here(plugin=None, layout=None, gpu="T4"))
    # It lies in a folder of its own, where the command puts it again.
    assert options_of(str(error.value).split("`")[1])["output"] == str(tmp_path)


@pytest.mark.parametrize("content", [b"", b"a pla", b"a plan!", b"A plan", None])
def test_a_plan_that_is_not_what_its_sidecar_tells_is_refused(content, tmp_path):
    plan = write_plan(tmp_path, CONTENT, info())
    plan.path.unlink()
    if content is not None:
        plan.path.write_bytes(content)
    with pytest.raises(EngineError, match="damaged" if content is not None else "can not be read"):
        check(plan, here())


# -- opening TensorRT ---------------------------------------------------------------------------


class Severity:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


def fake_tensorrt(version: str = "10.3.0", **names) -> types.ModuleType:
    """A module with the little that opening looks at."""
    class ILogger:
        def __init__(self):
            self.made = True

    ILogger.Severity = Severity
    module = types.ModuleType("tensorrt")
    vars(module).update(__version__=version, ILogger=ILogger, **names)
    return module


@pytest.fixture
def installed(monkeypatch):
    def put(module) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", module)
    return put


def package(tmp_path: Path, monkeypatch, code: str | None) -> None:
    """A folder ``tensorrt`` to import from; without code a bare folder."""
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    (tmp_path / "tensorrt").mkdir()
    if code is not None:
        (tmp_path / "tensorrt" / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)


def test_tensorrt_that_is_not_installed(installed):
    installed(None)  # which Python takes for a module that can not be found
    with pytest.raises(EngineError, match="not installed; pip install tensorrt-cu12"):
        tensorrt_api.open_tensorrt()


@pytest.mark.parametrize("code, told", [
    ("raise ImportError('libcudnn.so.8: cannot open shared object file')",
     r"libcudnn.so.8: cannot open.*pip install nvidia-cudnn-cu11.* the folder of libcudnn.so.8 in"),
    ("raise OSError('libnvinfer.so.10: undefined symbol')",
     "install it again with .*, or name the folder of libnvinfer.so.10 in LD_LIBRARY_PATH"),
    ("import tensorrt_bindings_that_are_missing", "tensorrt_bindings_that_are_missing.*reinstall"),
    ("raise RuntimeError", r"\(RuntimeError\).*force-reinstall"),
    (None, "is not NVIDIA's"),
    ("__version__ = '10.3.0'", "is not NVIDIA's"),
])
def test_tensorrt_that_can_not_be_imported(code, told, tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, code)
    with pytest.raises(EngineError, match=told) as error:
        tensorrt_api.open_tensorrt()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version, supported", [
    ("7.2.3.4", False), ("8.4.3.1", False), ("8.5.3.1", True), ("8.6.1.post1", True),
    ("10.0.1", True), ("11.4.0.106", True)])
def test_versions(version, supported, installed):
    installed(fake_tensorrt(version))
    if not supported:
        with pytest.raises(EngineError, match=f"{version} is older than 8.5"):
            tensorrt_api.open_tensorrt()
        return
    api = tensorrt_api.open_tensorrt()
    assert api.name == version and api.logger.made
    assert api.weakly_typed == version.startswith("8")
    assert tensorrt_api.open_tensorrt() is api  # TensorRT keeps the first logger it is given


@pytest.mark.parametrize("kind", ["builder", "runtime"])
def test_without_a_usable_gpu(kind, installed):
    def refuse(logger):
        logger.log(Severity.ERROR, "CUDA initialization failure with error: 35.\n")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    installed(fake_tensorrt(Builder=refuse, Runtime=refuse))
    api = tensorrt_api.open_tensorrt()
    with pytest.raises(EngineError, match=r"\(CUDA initialization failure with error: 35\); it "
                                          "needs an NVIDIA GPU"):
        getattr(api, kind)()


def test_the_log_keeps_errors_and_prints_only_when_asked_to(installed, capsys):
    installed(fake_tensorrt())
    api = tensorrt_api.open_tensorrt()
    assert api.log.sentence("nothing") == "nothing"
    for number in range(50):
        api.logger.log(Severity.WARNING, f"warning {number}")
    api.logger.log(Severity.INFO, "quiet")
    assert api.log.sentence("nothing") == "warning 49" and "quiet" not in api.log.text()
    assert len(api.log.text().splitlines()) == 20
    for text in ("the first\n  error.", "the first\n  error.", "the second", "x" * 9999):
        api.logger.log(Severity.ERROR, text)
    assert api.log.sentence("nothing") == "the first error.; the second"
    assert len(api.log.text()) < 2000 and not api.log.out_of_memory
    api.logger.log(Severity.INTERNAL_ERROR, "[defaultAllocator.cpp] Cuda Out Of Memory")
    assert api.log.out_of_memory
    assert capsys.readouterr() == ("", "")
    tensorrt_api.open_tensorrt(verbose=True)
    api.logger.log(Severity.INFO, "told")
    api.logger.log(Severity.VERBOSE, "too much")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "TensorRT: told\n")


def test_standard_plugins_are_registered_once_with_our_logger(installed):
    called = []
    installed(fake_tensorrt(init_libnvinfer_plugins=lambda *given: called.append(given)))
    api = tensorrt_api.open_tensorrt()
    tensorrt_api.open_tensorrt()
    assert called == [(api.logger, "")]


def test_the_plugin_library(installed, tmp_path, monkeypatch):
    class Library:
        def __init__(self, file):
            self.file, self.told = Path(file), 0

        def use_nvrtc_of_wheels(self):
            self.told += 1

    monkeypatch.setattr(tensorrt_api, "PluginLibrary", Library)
    monkeypatch.setattr(tensorrt_api, "_plugins", {})
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("BIDIFF_TENSORRT_PLUGIN", raising=False)
    installed(fake_tensorrt())
    api = tensorrt_api.open_tensorrt()
    with pytest.raises(EngineError, match="no plugin for TensorRT 10.3; build it"):
        api.plugin()
    for name in ("a.so", "b.so"):
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.setenv("BIDIFF_TENSORRT_PLUGIN", str(tmp_path / "a.so"))
    library = api.plugin()
    assert api.plugin() is library and library.told == 1
    assert tensorrt_api.plugin_digest(library) == hashlib.sha256(b"a.so").hexdigest()
    monkeypatch.setenv("BIDIFF_TENSORRT_PLUGIN", str(tmp_path / "b.so"))
    with pytest.raises(EngineError, match="one plugin library a process"):
        api.plugin()
    (tmp_path / "a.so").unlink()
    with pytest.raises(EngineError, match="can not be read"):
        tensorrt_api.plugin_digest(library)


@pytest.mark.parametrize("version, flags", [("8.5.3", 1), ("9.2.0", 1), ("10.0.1", 2),
                                            ("10.16.1", 2), ("11.0.0", 0)])
def test_flags_of_a_network(version, flags, installed):
    class Old:
        EXPLICIT_BATCH, STRONGLY_TYPED = 0, 1

    class New:
        STRONGLY_TYPED = 1

    installed(fake_tensorrt(version, NetworkDefinitionCreationFlag=(
        New if version.startswith("11") else Old)))
    assert tensorrt_api.open_tensorrt().network_flags == flags
