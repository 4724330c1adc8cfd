"""TensorRT plans on disk: which plan runs a shape, what a folder of them may hold, and what refuses
a plan, with the command that builds it again."""

from __future__ import annotations

import errno
import math
import os
import shlex
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.cli import build as build_cli
from bidiff_deploy.engines.tensorrt import sidecar as tensorrt_sidecar
from bidiff_deploy.engines.tensorrt.plans import (
    Plan,
    build_command,
    check,
    choose,
    default_folder,
    read_plans,
    reserve,
    write_plan,
)
from bidiff_deploy.engines.tensorrt.profiles import Profile
from bidiff_deploy.errors import EngineError, OutputError
from support.killed import Killed, killed_after
from support.tensorrt_building import (
    CONTENT,
    RANGE,
    REPEATABLE,
    SHAPES,
    STATIC,
    info,
    profiles,
    target,
)

MODEL = Path("my model.bundle")


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


@given(st.lists(st.tuples(profiles(), st.sampled_from(["plugin", "dense"]),
                          st.sampled_from(["float32", "float16"])), max_size=8), SHAPES)
@REPEATABLE
def test_the_smallest_plan_that_fits_is_chosen(made, shape):
    plans = [Plan(Path(f"{i}.plan"), info(profile, variant=variant, precision=precision))
             for i, (profile, variant, precision) in enumerate(made)]
    fitting = {plan.path: math.prod(profile.maximum) for plan, (profile, *kind) in zip(plans, made)
               if kind == ["plugin", "float16"] and all(
                   low <= size <= high for low, size, high in zip(
                       profile.minimum, shape, profile.maximum))}
    if fitting:
        assert fitting[choose(plans, "plugin", "float16", shape).path] == min(fitting.values())
        return
    with pytest.raises(EngineError, match="bidiff-deploy build") as error:
        choose(plans, "plugin", "float16", shape, bundle="x.bundle")
    assert profile_of(str(error.value).split("`")[1]) == Profile(shape, shape, shape)


def test_a_static_plan_goes_before_one_of_the_same_size_and_the_sentence_where_none_fits():
    wide = Profile((1, 64, 64), (1, 64, 64), (1, 256, 256))
    plans = [Plan(Path("a.plan"), info(wide)), Plan(Path("b.plan"), info(STATIC))]
    assert [choose(plans, "plugin", "float16", (1, side, 256)).path.name for side in (256, 64)] == [
        "b.plan", "a.plan"]
    plans, odd = [Plan(Path("a.plan"), info(RANGE))], ["it is odd", "this too"]
    for there, variant, shape, refused, match in (
            (plans, "plugin", (1, 520, 64), [], "1x64x64-1x256x256-4x512x512; build one with"),
            (plans, "dense", (1, 64, 64), [], "no dense plan in float16 .*--no-plugin --size 64x"),
            ([], "plugin", (1, 64, 64), odd, r"\(it is odd\)"),
            (plans, "plugin", (1, 520, 64), odd, r"\(it is odd\); build one .* --overwrite`")):
        with pytest.raises(EngineError, match=match):
            choose(there, variant, "float16", shape, refused=refused)


@given(profiles(), st.sampled_from(tensorrt_sidecar.VARIANTS),
       st.one_of(st.none(), st.integers(0, 5)), st.one_of(st.none(), st.integers(1, 1 << 36)),
       st.integers(0, 3), st.sampled_from([None, Path("/a folder"), Path("p")]), st.booleans())
@REPEATABLE
def test_the_command_builds_exactly_this_plan(profile, variant, level, workspace, device, folder,
                                              overwrite):
    command = build_command("a '.bundle", variant, profile, level=level, workspace=workspace,
                            device=device, folder=folder, overwrite=overwrite,
                            capabilities=(89, 86))
    found, rtx = options_of(command), variant in tensorrt_sidecar.RTX_VARIANTS
    expected = {
        "bundle": "a '.bundle", "backend": "tensorrt-rtx" if rtx else "tensorrt",
        "no_plugin": variant.startswith("dense"), "int8": variant.endswith("int8"),
        "level": level, "device": None if rtx else device or None, "overwrite": overwrite,
        "capabilities": "86,89" if rtx else None,
        "workspace": None if workspace is None else str(workspace),
        "output": None if folder is None else str(folder)}
    assert {name: found[name] for name in expected} == expected and profile_of(command) == profile


# -- the folder ---------------------------------------------------------------------------------


def test_plans_are_written_and_found(tmp_path):
    first = write_plan(tmp_path, CONTENT, info())
    second = write_plan(tmp_path, memoryview(CONTENT), info(RANGE, variant="dense"))
    assert [plan.path.name for plan in (first, second)] == [
        "plugin-float16-1x256x256.plan", "dense-float16-1x64x64-1x256x256-4x512x512.plan"]
    assert read_plans(tmp_path) == [second, first]
    for write in (lambda: reserve(tmp_path, info().stem, overwrite=False),
                  lambda: write_plan(tmp_path, b"other", info())):
        with pytest.raises(OutputError, match="--overwrite"):
            write()
    assert check(first, target(), MODEL) == CONTENT
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json"] * 2 + [".plan"] * 2
    assert read_plans(tmp_path / "none") == []
    with pytest.raises(EngineError, match="Not a directory; choose another with BIDIFF"):
        read_plans(first.path)


def test_what_has_no_whole_sidecar_is_left_out(tmp_path):
    good = write_plan(tmp_path, CONTENT, info())
    text = good.path.with_suffix(".json").read_text()
    (tmp_path / "alone.plan").write_bytes(CONTENT)
    for name, content in (("foreign", text), ("large", " " * (1 << 17) + text), ("broken", "{")):
        (tmp_path / f"{name}.plan").write_bytes(CONTENT)
        (tmp_path / f"{name}.json").write_text(content)
    (tmp_path / ".half.plan").write_bytes(CONTENT)  # still being written
    (tmp_path / "link.plan").symlink_to("/etc/passwd")
    refused: list[str] = []
    assert read_plans(tmp_path, refused) == [good] == read_plans(tmp_path)
    assert len(refused) == 5 and all("--overwrite, or remove " in text for text in refused)
    for name, reason in (("alone", "has no sidecar alone.json"), ("large", "is too large"),
                         ("foreign", "describes plugin-float16-1x256x256.plan, not foreign.plan"),
                         ("broken", "broken.json "), ("link", "symbolic link")):
        assert any(f"/{name}." in text and reason in text for text in refused), name


@pytest.mark.parametrize("suffix", [".plan", ".json"])
def test_what_another_user_could_have_written_is_left_out(tmp_path, suffix):
    mask = os.umask(0o002)
    try:
        plan = write_plan(tmp_path, CONTENT, info())
    finally:
        os.umask(mask)
    assert read_plans(tmp_path) == [plan] and check(plan, target(), MODEL) == CONTENT
    (file := plan.path.with_suffix(suffix)).chmod(0o664)
    refused: list[str] = []
    assert read_plans(tmp_path, refused) == []
    assert f"{file} cannot be read: other users may write it" in refused[0]
    if suffix == ".plan":  # changed after it was listed
        with pytest.raises(EngineError, match="other users may write it"):
            check(plan, target(), MODEL)


@pytest.mark.parametrize("before", [b"", CONTENT])
def test_a_build_that_is_killed_leaves_the_old_pair_or_the_new_one(tmp_path, monkeypatch, before):
    """After any of its renames and removals, on a new folder and over a plan that exists."""
    new, states = b"A PLAN", set()
    for count in range(20):
        folder = tmp_path / f"{count}"
        if before:
            write_plan(folder, before, info(content=before))
        with monkeypatch.context() as patch:
            reached = killed_after(count, patch)
            with suppress(Killed):
                write_plan(folder, new, info(content=new), overwrite=bool(before))
            complete = not reached()
        plans = read_plans(folder)
        states.add(check(plans[0], target(), MODEL) if plans else b"")
        if complete:
            break
        write_plan(folder, CONTENT, info(), overwrite=True)
        assert check(read_plans(folder)[0], target(), MODEL) == CONTENT
        assert len(list(folder.iterdir())) == 2  # nothing is left over
    assert states == {before, new} and count >= 4


def test_a_full_disk_leaves_the_old_pair(tmp_path, monkeypatch):
    old = write_plan(tmp_path, CONTENT, info())
    monkeypatch.setattr(Path, "write_bytes", Mock(side_effect=OSError(errno.ENOSPC, "full")))
    with pytest.raises(OutputError, match="the disk is full"):
        write_plan(tmp_path, b"A PLAN", info(content=b"A PLAN"), overwrite=True)
    assert check(read_plans(tmp_path)[0], target(), MODEL) == CONTENT
    assert sorted(tmp_path.iterdir()) == [old.path.with_suffix(".json"), old.path]


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

MISMATCHES = [
    ({"bundle": "c" * 64}, "another bundle"),
    ({"precision": "float32"}, "float16, the bundle in float32"),
    ({"tensorrt": "11.0.0"}, "TensorRT 10.3.0, but 11.0.0 is inst"),
    ({"tensorrt": "10.3.0.26"}, "TensorRT 10.3.0, but 10.3.0.26 is"),
    ({"gpu": "Orin NX"}, r"on Orin \(sm_87\), but this GPU is Orin NX \(sm_87\)"),
    ({"architectures": (110,)}, r"this GPU is Orin \(sm_110\)"),
    ({"driver": "11.8"}, "driver for CUDA 12.6, but .* for CUDA 11.8"),
    *((changed, "another build of the plugin") for changed in (
        {"plugin": "d" * 64}, {"layout": 8}, {"plugin": None, "layout": None}))]


@pytest.mark.parametrize("profile, folder", [(STATIC, None), (RANGE, "mine")])
def test_a_plan_of_something_else_is_refused_with_the_command_that_builds_it(
        profile, folder, tmp_path, monkeypatch):
    """Where it is: in the folder of the bundle's plans or in one of its own."""
    monkeypatch.setenv("BIDIFF_TENSORRT_PLANS", str(tmp_path))
    place = tmp_path / (folder or "")
    plan = write_plan(place, CONTENT, info(profile, level=4, workspace=1 << 30))
    plan.path.unlink()  # refused before anybody reads it
    for changed, reason in MISMATCHES:
        with pytest.raises(EngineError, match=reason) as error:
            check(plan, target(**changed), MODEL, device=2)
        command = str(error.value).split("`")[1]
        assert profile_of(command) == profile
        expected = {"bundle": "my model.bundle", "overwrite": True, "no_plugin": False,
                    "output": folder and str(place), "level": 4, "device": 2,
                    "workspace": str(1 << 30)}
        assert expected.items() <= options_of(command).items()


def test_what_a_plan_does_not_ask_for(tmp_path):
    """A driver of the same major version or a newer one will do, and no plugin without one."""
    for variant, changed in (("plugin", {"driver": "12.0"}), ("plugin", {"driver": "13.0"}),
                             ("dense-int8", {"plugin": None, "layout": None})):
        plan = write_plan(tmp_path, CONTENT, info(variant=variant), overwrite=True)
        assert check(plan, target(**changed), MODEL) == CONTENT


def test_a_plan_that_differs_from_its_sidecar_is_refused(tmp_path):
    plan = write_plan(tmp_path, CONTENT, info())
    for content, reason in ((b"", "damaged"), (b"a pla", "damaged"), (b"a plan!", "damaged"),
                            (b"A plan", "damaged"), (None, "cannot be read")):
        plan.path.unlink() if content is None else plan.path.write_bytes(content)
        with pytest.raises(EngineError, match=reason):
            check(plan, target(), MODEL)
