"""TensorRT plans on disk: where they are, which one runs a shape, and whether it fits the machine.

A plan, such as ``plugin-float16-1x256x256.plan``, has a sidecar of the same name that ends in
``.json`` (``sidecar``). The plans of a bundle share a folder. ``build`` writes them, engines read
them (``plan_pairs``).
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...bundle.manifest import manifest_digest
from ...bundle.record import Bundle
from ...errors import EngineError
from ...files import check_target, make_directory, open_own, user_folder
from ..gpu.engine import precision_of
from ..gpu.library import DeviceInfo
from .api import Api, plugin_digest
from .plan_pairs import SIDECAR_SUFFIX, sidecar_of, write_pair
from .plugin.library import PluginLibrary
from .profiles import Profile, Shape
from .sidecar import MAX_SIDECAR_BYTES, RTX_VARIANTS, PlanInfo, PlanTarget, parse
from .versions import product

__all__ = ["SUFFIX", "Plan", "build_command", "check", "choose", "current_target",
           "default_folder", "read_plans", "reserve", "write_plan"]

SUFFIX = ".plan"
_MAX_PLANS = 1000
_FOLDER_DIGITS = 16


@dataclass(frozen=True)
class Plan:
    """A plan's file and the content of its sidecar."""

    path: Path
    info: PlanInfo


def current_target(api: Api, bundle: Bundle, gpu: DeviceInfo | None, plugin: PluginLibrary | None,
                   capabilities: tuple[int, ...] = ()) -> PlanTarget:
    """The target that plans of a bundle must have to run on ``gpu`` now. ``plugin``: None for a
    variant without plugin. ``gpu``: None for a plan that is to run on any of ``capabilities``."""
    return PlanTarget(api.name, None if gpu is None else gpu.name,
                      capabilities if gpu is None else (gpu.architecture,),
                      None if gpu is None else gpu.driver,
                      None if plugin is None else plugin_digest(plugin),
                      None if plugin is None else plugin.layout, manifest_digest(bundle.manifest),
                      precision_of(bundle))


def default_folder(bundle: Bundle) -> Path:
    """The folder of a bundle's plans: the one that BIDIFF_TENSORRT_PLANS names, else one below
    $XDG_DATA_HOME or ~/.local/share that is named after the bundle's hash."""
    return _default_folder(manifest_digest(bundle.manifest))


def read_plans(folder: str | os.PathLike[str], refused: list[str] | None = None) -> list[Plan]:
    """The plans of a folder, sorted by name; none if there is no folder.

    A plan whose sidecar is missing or damaged is left out, and a sentence about it is added to
    ``refused``.
    """
    folder, plans, remarks = Path(folder), [], [] if refused is None else refused
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix == SUFFIX)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EngineError(f"the folder of plans {folder} cannot be read: {error.strerror}; "
                          "choose another with BIDIFF_TENSORRT_PLANS") from None
    if len(files) > _MAX_PLANS:
        raise EngineError(f"{folder} contains more than {_MAX_PLANS} plans; remove those that are "
                          "not needed")
    for file in files:
        if file.name.startswith("."):
            continue  # still being written
        try:
            plans.append(_read(file))
        except EngineError as error:
            remarks.append(f"{error}; build it again with bidiff-deploy build --overwrite, or "
                           f"remove {file}")
    return plans


def choose(plans: Iterable[Plan], variant: str, precision: str, shape: Shape, *,
           bundle: str | os.PathLike[str] | None = None, device: int = 0,
           refused: Iterable[str] = ()) -> Plan:
    """The plan that runs a shape (N, H, W) with the least memory: the one with the smallest
    maximum, preferably static.

    Args:
        bundle, device: for the command in the error's text.
        refused: the sentences of ``read_plans``, which may explain why no plan is found.

    Raises:
        EngineError: no plan has the shape in its profile.
    """
    same = [plan for plan in plans
            if (plan.info.variant, plan.info.target.precision) == (variant, precision)]
    fitting = [plan for plan in same if plan.info.profile.contains(shape)]
    if fitting:
        return min(fitting, key=lambda plan: (plan.info.profile.area, not plan.info.profile.static,
                                              plan.info.profile.optimum, plan.path.name))
    left_out = list(refused)
    # A plan that was left out may have the same file name.
    command = build_command(bundle, variant, Profile(shape, shape, shape), device=device,
                            overwrite=bool(left_out))
    wanted, reason = "x".join(map(str, shape)), "".join(f" ({text})" for text in left_out[:1])
    if not same:
        raise EngineError(f"there is no {variant} plan in {precision} for this bundle{reason}; "
                          f"build one with `{command}`")
    built = ", ".join(sorted(plan.info.profile.label for plan in same)[:8])
    raise EngineError(f"no {variant} plan in {precision} runs batch x height x width {wanted}, "
                      f"only {built}{reason}; build one with `{command}`")


def check(plan: Plan, target: PlanTarget, bundle: Path, device: int = 0) -> bytes:
    """The bytes of a plan that fits ``target``.

    A plan is tied to TensorRT's exact version, to the GPU model, and to the bundle and plugin that
    it was built from. It runs under another driver, unless that supports only an older major
    version of CUDA.

    Args:
        bundle, device: path and GPU for the command in the error's text.

    Raises:
        EngineError: the plan does not fit, with the first difference and the command that builds
            the plan again; or its file is damaged.
    """
    info = plan.info
    reason = _difference(info, target, bundle)
    content = b""
    if reason is None:
        try:
            with open(open_own(plan.path), "rb") as stream:
                content = stream.read(info.bytes + 1)
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
        else:
            if len(content) != info.bytes or hashlib.sha256(content).hexdigest() != info.sha256:
                reason = "is damaged: its size or SHA-256 differs from its sidecar's"
    if reason is None:
        return content
    folder = plan.path.parent
    wanted = info.target.architectures + target.architectures
    command = build_command(bundle, info.variant, info.profile, level=info.level, device=device,
                            workspace=info.workspace, capabilities=wanted,
                            folder=None if folder == _default_folder(target.bundle) else folder)
    raise EngineError(f"{plan.path} {reason}; build it again with `{command}`")


def build_command(bundle: str | os.PathLike[str] | None, variant: str, profile: Profile, *,
                  level: int | None = None, workspace: int | None = None, device: int = 0,
                  folder: Path | None = None, overwrite: bool = True,
                  capabilities: tuple[int, ...] = ()) -> str:
    """The command line that builds a plan with these options. ``capabilities``: what a plan of
    TensorRT-RTX is compiled for; empty: the default."""
    rtx = variant in RTX_VARIANTS
    words = ["bidiff-deploy", "build", "BUNDLE" if bundle is None else os.fspath(bundle),
             "--backend", "tensorrt-rtx" if rtx else "tensorrt"]
    if variant.startswith("dense"):
        words.append("--no-plugin")
    if variant.endswith("int8"):
        words.append("--int8")
    if rtx and capabilities:
        words += ["--compute-capability", ",".join(map(str, sorted(set(capabilities))))]
    if profile.static:
        batch, height, width = profile.optimum
        words += ["--size", f"{height}x{width}"]
        words += ["--batch", str(batch)] if batch != 1 else []
    else:
        for name, shape in (("--min", profile.minimum), ("--opt", profile.optimum),
                            ("--max", profile.maximum)):
            words += [name, "x".join(map(str, shape))]
    for name, value in (("--device", None if rtx else device or None),
                        ("--optimization-level", level),
                        ("--workspace", workspace), ("--output", folder)):
        if value is not None:
            words += [name, str(value)]
    return shlex.join(words + ["--overwrite"] * overwrite)


def reserve(folder: Path, stem: str, overwrite: bool) -> tuple[Path, Path]:
    """The paths of a plan and its sidecar, checked before the long build.

    Creates the folder. Raises OutputError, as ``files.check_target``, if they cannot be written.
    """
    make_directory(folder)
    plan = folder / f"{stem}{SUFFIX}"
    sidecar = folder / f"{stem}{SIDECAR_SUFFIX}"
    check_target(plan, overwrite)
    check_target(sidecar, True)  # a sidecar without its plan is a left-over
    return plan, sidecar


def write_plan(folder: Path, content: bytes | memoryview, info: PlanInfo,
               overwrite: bool = False) -> Plan:
    """Write a plan and its sidecar: a process that is killed leaves the old pair or the new one.

    Only this user may write them, whatever the umask: others are refused by ``open_own``.
    """
    plan, _ = reserve(folder, info.stem, overwrite)
    write_pair(plan, content, info, overwrite)
    return Plan(plan, info)


def _difference(info: PlanInfo, target: PlanTarget, bundle: Path) -> str | None:
    """The first difference between a plan and ``target``, as the rest of a sentence that begins
    with the plan's file; None: the plan fits."""
    built = info.target
    if built.bundle != target.bundle:
        return f"was built from another bundle than {bundle}"
    if built.precision != target.precision:
        return f"computes in {built.precision}, the bundle in {target.precision}"
    if built.tensorrt != target.tensorrt:
        return (f"was built by {product(info.variant in RTX_VARIANTS)} {built.tensorrt}, but "
                f"{target.tensorrt} is installed")
    here = f"but this GPU is {target.gpu} (sm_{target.architectures[0]})"
    if built.gpu is None or built.driver is None or target.driver is None:
        if not set(target.architectures) <= set(built.architectures):
            names = ", ".join(f"sm_{one}" for one in built.architectures)
            return f"was built for {names}, {here}"
    elif (built.gpu, built.architectures) != (target.gpu, target.architectures):
        return f"was built on {built.gpu} (sm_{built.architectures[0]}), {here}"
    elif _major(built.driver) > _major(target.driver):
        return (f"was built under a driver for CUDA {built.driver}, but this machine's driver is "
                f"for CUDA {target.driver}")
    if info.variant == "plugin" and (built.plugin, built.layout) != (target.plugin, target.layout):
        return "was built with another build of the plugin library"
    return None


def _major(version: str) -> int:
    major = version.partition(".")[0]
    return int(major) if major.isdigit() else 0


def _read(file: Path) -> Plan:
    sidecar = file.with_suffix(SIDECAR_SUFFIX)
    try:
        os.close(open_own(file))
        sidecar = sidecar_of(file)
        if not os.path.lexists(sidecar):
            raise EngineError(f"{file} has no sidecar {sidecar.name}, which says what it was built "
                              "from")
        with open(open_own(sidecar), "rb") as stream:
            text = stream.read(MAX_SIDECAR_BYTES + 1)
    except OSError as error:
        raise EngineError(f"{error.filename} cannot be read: {error.strerror}") from None
    if len(text) > MAX_SIDECAR_BYTES:
        raise EngineError(f"{sidecar} is too large for a sidecar")
    info = parse(text, str(sidecar))
    if info.stem != file.stem:
        raise EngineError(f"{sidecar} describes {info.stem}{SUFFIX}, not {file.name}")
    return Plan(file, info)


def _default_folder(digest: str) -> Path:
    if named := os.environ.get("BIDIFF_TENSORRT_PLANS"):
        return Path(named)
    return user_folder("XDG_DATA_HOME", ".local/share") / "plans" / digest[:_FOLDER_DIGITS]
