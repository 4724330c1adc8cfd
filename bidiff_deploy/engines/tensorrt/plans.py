"""TensorRT plans on disk: where they are, which one runs a shape, and whether it may.

A plan, ``plugin-float16-1x256x256.plan``, has a sidecar of the same name that ends in ``.json``
(``sidecar``). Plans of a bundle share a folder. ``build`` writes them, the engines read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...bundle.manifest import Bundle, manifest_digest
from ...errors import EngineError
from ...files import atomic_file, check_target, make_directory, user_folder
from ..gpu.library import DeviceInfo
from .api import Api, plugin_digest
from .plugin.library import PluginLibrary
from .sidecar import MAX_SIDECAR_BYTES, PlanInfo, Profile, Shape, parse

__all__ = ["SUFFIX", "Here", "Plan", "PlanInfo", "Profile", "build_command", "check", "choose",
           "default_folder", "here", "read_plans", "targets", "write_plan"]

SUFFIX, SIDECAR_SUFFIX = ".plan", ".json"
_MAX_PLANS = 1000
_FOLDER_DIGITS = 16


@dataclass(frozen=True)
class Plan:
    """A plan's file and what its sidecar tells of it."""

    path: Path
    info: PlanInfo


@dataclass(frozen=True)
class Here:
    """What a plan has to fit: the machine's TensorRT, GPU ``device`` and driver, the plugin (None
    without), and the bundle; the names are those of PlanInfo, ``path`` is the bundle's."""

    tensorrt: str
    gpu: str
    architecture: int
    driver: str
    plugin: str | None
    layout: int | None
    bundle: str
    precision: str
    path: Path
    device: int = 0


def here(api: Api, bundle: Bundle, gpu: DeviceInfo, plugin: PluginLibrary | None,
         precision: str) -> Here:
    """What plans of a bundle have to fit on a GPU; ``plugin``: None for a variant without."""
    return Here(api.name, gpu.name, gpu.architecture, gpu.driver,
                None if plugin is None else plugin_digest(plugin),
                None if plugin is None else plugin.layout, manifest_digest(bundle.manifest),
                precision, bundle.path, gpu.ordinal)


def default_folder(bundle: Bundle) -> Path:
    """Where the plans of a bundle are: the folder that BIDIFF_TENSORRT_PLANS names, else one below
    $XDG_DATA_HOME or ~/.local/share that is called by the bundle's hash."""
    return _default_folder(manifest_digest(bundle.manifest))


def read_plans(folder: str | os.PathLike[str], refused: list[str] | None = None) -> list[Plan]:
    """The plans of a folder, by name; none where there is no folder.

    One whose sidecar is missing or damaged is left out, and ``refused`` gets a sentence about it.
    """
    folder, plans, remarks = Path(folder), [], [] if refused is None else refused
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix == SUFFIX)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EngineError(f"the folder of plans {folder} can not be read: {error.strerror}; "
                          "choose another with BIDIFF_TENSORRT_PLANS") from None
    if len(files) > _MAX_PLANS:
        raise EngineError(f"{folder} holds more than {_MAX_PLANS} plans; remove those that are not "
                          "needed")
    for file in files:
        if file.name.startswith("."):
            continue  # half written
        try:
            plans.append(_read(file))
        except EngineError as error:
            remarks.append(f"{error}; build it again with bidiff-deploy build --overwrite, or "
                           f"remove {file}")
    return plans


def choose(plans: Iterable[Plan], variant: str, precision: str, shape: Shape, *,
           bundle: str | os.PathLike[str] | None = None, device: int = 0,
           refused: Iterable[str] = ()) -> Plan:
    """The plan that runs a shape (N, H, W) with the least memory: the smallest maximum, and a
    static one of several.

    Args:
        bundle, device: for the command that the error names.
        refused: sentences of ``read_plans``, which may say why there is none.

    Raises:
        EngineError: none has the shape in its profile.
    """
    same = [plan for plan in plans
            if (plan.info.variant, plan.info.precision) == (variant, precision)]
    fitting = [plan for plan in same if plan.info.profile.contains(shape)]
    if fitting:
        return min(fitting, key=lambda plan: (plan.info.profile.area, not plan.info.profile.static,
                                              plan.info.profile.optimum, plan.path.name))
    left_out = list(refused)
    # One that was left out may have the very name.
    command = build_command(bundle, variant, Profile(shape, shape, shape), device=device,
                            overwrite=bool(left_out))
    wanted, reason = "x".join(map(str, shape)), "".join(f" ({text})" for text in left_out[:1])
    if not same:
        raise EngineError(f"there is no {variant} plan in {precision} for this bundle{reason}; "
                          f"build one with `{command}`")
    there = ", ".join(sorted(plan.info.profile.label for plan in same)[:8])
    raise EngineError(f"no {variant} plan in {precision} runs batch x height x width {wanted}, "
                      f"only {there}{reason}; build one with `{command}`")


def check(plan: Plan, here: Here) -> bytes:
    """The plan's bytes, if it may be given to TensorRT here.

    A plan is tied to TensorRT's version to the last number, to the model of GPU, and to the bundle
    and plugin that it was built of. It runs under another driver, unless that supports an older
    major version of CUDA, whose machine code the plan may not be.

    Raises:
        EngineError: one sentence on the first thing that differs, with the command that builds the
            plan again; or the file is damaged.
    """
    info = plan.info
    reason = _difference(info, here)
    content = b""
    if reason is None:
        try:
            with open(plan.path, "rb") as stream:
                content = stream.read(info.bytes + 1)
        except OSError as error:
            reason = f"can not be read ({error.strerror})"
        else:
            if len(content) != info.bytes or hashlib.sha256(content).hexdigest() != info.sha256:
                reason = "is damaged: its size or SHA-256 is not what its sidecar tells"
    if reason is None:
        return content
    folder = plan.path.parent
    command = build_command(here.path, info.variant, info.profile, level=info.level,
                            device=here.device, workspace=info.workspace,
                            folder=None if folder == _default_folder(here.bundle) else folder)
    raise EngineError(f"{plan.path} {reason}; build it again with `{command}`")


def build_command(bundle: str | os.PathLike[str] | None, variant: str, profile: Profile, *,
                  level: int | None = None, workspace: int | None = None, device: int = 0,
                  folder: Path | None = None, overwrite: bool = True) -> str:
    """The command line that builds exactly this plan."""
    words = ["bidiff-deploy", "build", "BUNDLE" if bundle is None else os.fspath(bundle),
             "--backend", "tensorrt"]
    if variant != "plugin":
        words.append("--no-plugin")
    if variant == "dense-int8":
        words.append("--int8")
    if profile.static:
        batch, height, width = profile.optimum
        words += ["--size", f"{height}x{width}"]
        words += ["--batch", str(batch)] if batch != 1 else []
    else:
        for name, shape in (("--min", profile.minimum), ("--opt", profile.optimum),
                            ("--max", profile.maximum)):
            words += [name, "x".join(map(str, shape))]
    for name, value in (("--device", device or None), ("--optimization-level", level),
                        ("--workspace", workspace), ("--output", folder)):
        if value is not None:
            words += [name, str(value)]
    return shlex.join(words + ["--overwrite"] * overwrite)


def targets(folder: Path, info_stem: str, overwrite: bool) -> tuple[Path, Path]:
    """Paths of a plan and its sidecar, which may be written: asked before the long build.

    Raises OutputError as ``files.check_target``; the folder is created.
    """
    make_directory(folder)
    plan = folder / f"{info_stem}{SUFFIX}"
    sidecar = folder / f"{info_stem}{SIDECAR_SUFFIX}"
    check_target(plan, overwrite)
    check_target(sidecar, True)  # alone, without its plan, it is a left-over
    return plan, sidecar


def write_plan(folder: Path, content: bytes | memoryview, info: PlanInfo,
               overwrite: bool = False) -> Plan:
    """Write a plan, then its sidecar, so that a crash leaves no plan that passes for whole."""
    plan, sidecar = targets(folder, info.stem, overwrite)
    with atomic_file(plan, overwrite) as temporary:
        temporary.write_bytes(content)
    with atomic_file(sidecar, True) as temporary:
        temporary.write_text(json.dumps(info.to_dict(), indent=1) + "\n", encoding="utf-8")
    return Plan(plan, info)


def _difference(info: PlanInfo, here: Here) -> str | None:
    """What of a plan does not fit, as the rest of a sentence that begins with its file."""
    if info.bundle != here.bundle:
        return f"was built of another bundle than {here.path}"
    if info.precision != here.precision:
        return f"computes in {info.precision}, the bundle in {here.precision}"
    if info.tensorrt != here.tensorrt:
        return f"was built by TensorRT {info.tensorrt}, here is {here.tensorrt}"
    if (info.gpu, info.architecture) != (here.gpu, here.architecture):
        return (f"was built on {info.gpu} (sm_{info.architecture}), here is {here.gpu} "
                f"(sm_{here.architecture})")
    if _major(info.driver) > _major(here.driver):
        return (f"was built under a driver for CUDA {info.driver}, here is one for CUDA "
                f"{here.driver}")
    if info.variant == "plugin" and (info.plugin, info.layout) != (here.plugin, here.layout):
        return "was built with another build of the plugin library than the one here"
    return None


def _major(version: str) -> int:
    major = version.partition(".")[0]
    return int(major) if major.isdigit() else 0


def _read(file: Path) -> Plan:
    sidecar = file.with_suffix(SIDECAR_SUFFIX)
    try:
        if file.is_symlink() or sidecar.is_symlink():
            raise EngineError(f"{file} or its sidecar is a link")
        if not file.is_file():
            raise EngineError(f"{file} is no file")
        if not sidecar.is_file():
            raise EngineError(f"{file} has no sidecar {sidecar.name}, so nobody knows what it was "
                              "built of")
        with open(sidecar, "rb") as stream:
            text = stream.read(MAX_SIDECAR_BYTES + 1)
    except OSError as error:
        raise EngineError(f"{sidecar} can not be read: {error.strerror}") from None
    if len(text) > MAX_SIDECAR_BYTES:
        raise EngineError(f"{sidecar} is larger than a sidecar can be")
    info = parse(text, str(sidecar))
    if info.stem != file.stem:
        raise EngineError(f"{sidecar} describes {info.stem}{SUFFIX}, not {file.name}")
    return Plan(file, info)


def _default_folder(digest: str) -> Path:
    if named := os.environ.get("BIDIFF_TENSORRT_PLANS"):
        return Path(named)
    return user_folder("XDG_DATA_HOME", ".local/share") / "plans" / digest[:_FOLDER_DIGITS]
