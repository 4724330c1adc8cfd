"""``bidiff-deploy build``: bundle -> TensorRT plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..engines import RTX, TENSORRT
from ._shared import (
    BUNDLE,
    PATH,
    json_option,
    parse_bytes,
    parse_size,
    print_note,
    quiet_option,
    scale_option,
)

if TYPE_CHECKING:
    from ..bundle.record import Bundle
    from ..engines.tensorrt.profiles import Profile


@click.command()
@click.argument("bundle", type=BUNDLE)
@scale_option
@click.option("--backend", default="tensorrt",
              help="Backend to build a plan for: tensorrt, or tensorrt-rtx, whose plans any x86-64 "
                   "machine builds, with a GPU or without.")
@click.option("--compute-capability", "capabilities", metavar="LIST",
              help="With tensorrt-rtx: GPUs to compile for, of 75, 80, 86, 89, 120, 121. Default: "
                   "75,86,89,120; without 75 in float32.")
@click.option("--size", metavar="HxW",
              help="Build for one height and width of the network's input, which is the output's "
                   "size; for a feed-forward network, the low-resolution image's.")
@click.option("--batch", type=click.IntRange(min=1, max=4096), metavar="N",
              help="Images at once. Default: 1.")
@click.option("--min", "minimum", metavar="[Nx]HxW",
              help="Smallest shape of a plan for many shapes. Default: 64x64.")
@click.option("--opt", "optimum", metavar="[Nx]HxW",
              help="Shape that such a plan is optimised for. Default: 256x256.")
@click.option("--max", "maximum", metavar="[Nx]HxW",
              help="Largest shape of such a plan. Default: 512x512.")
@click.option("--no-plugin", is_flag=True,
              help="Use standard operators only: binary convolutions multiply +-1 by +-alpha.")
@click.option("--int8", is_flag=True,
              help="With --no-plugin or tensorrt-rtx: run these convolutions in int8.")
@click.option("--device", type=click.IntRange(min=0), metavar="N",
              help="Number of the GPU. Default: 0.")
@click.option("--workspace", metavar="SIZE",
              help="GPU memory that kernels may use, e.g. 2GB or 512MiB. Default: all.")
@click.option("--optimization-level", "level", type=click.IntRange(min=0, max=10), metavar="N",
              help="How long TensorRT searches for faster kernels, from 0 to 5. Default: "
                   "TensorRT's, 3.")
@click.option("-o", "--output", type=PATH, metavar="FOLDER",
              help="Folder of plans. Default: where the bundle is looked up; for another folder "
                   "set BIDIFF_TENSORRT_PLANS when running.")
@click.option("--graph", type=PATH, metavar="FILE",
              help="Only write the ONNX graph that TensorRT would parse, for trtexec or C++; needs "
                   "neither a GPU nor TensorRT.")
@click.option("--overwrite", is_flag=True, help="Replace a plan or a graph that exists.")
@quiet_option
@click.option("--verbose", is_flag=True, help="Print TensorRT's log on stderr.")
@json_option("a summary")
def command(bundle: str, backend: str, capabilities: str | None, size: str | None,
            batch: int | None, minimum: str | None, optimum: str | None, maximum: str | None,
            no_plugin: bool, int8: bool, device: int | None, workspace: str | None,
            level: int | None, output: str | None, graph: str | None, overwrite: bool, quiet: bool,
            verbose: bool, as_json: bool) -> None:
    """Build a plan of BUNDLE, for --backend tensorrt or tensorrt-rtx of the other commands.

    A plan runs only on this model of GPU, with exactly this version of TensorRT, and with this
    plugin library; a file next to the plan records them, and other machines refuse it. A plan of
    tensorrt-rtx is built without a GPU and runs on every RTX GPU that it is compiled for. It covers
    the shape of --size, or all shapes from --min to --max; without these, from 64x64 to 512x512.
    One folder may contain plans for several shapes: the best one for an image is used.

    The first build takes minutes, mostly to time kernels; later builds reuse these times. With
    --no-plugin the plan is for --backend tensorrt-dense, with --int8 as well for
    tensorrt-dense-int8.
    """
    from ..bundle.manifest import open_bundle
    from ..engines.tensorrt.profiles import check_profile
    from ..errors import EngineError, UsageError

    variants = {**TENSORRT, **RTX}
    if backend not in variants:
        raise EngineError(f"backend {backend!r} has no plans; choose tensorrt or tensorrt-rtx")
    variant = variants[backend]
    if no_plugin and variant == "plugin":
        variant = "dense"
    if int8 and variant == "plugin":
        raise UsageError("--int8 requires --no-plugin")
    if int8 and not variant.endswith("int8"):
        variant += "-int8"
    rtx = backend in RTX
    if capabilities is not None and not rtx:
        raise UsageError("--compute-capability is for --backend tensorrt-rtx; a plan of TensorRT "
                         "runs on the GPU that builds it")
    if rtx and device is not None:
        raise UsageError("--backend tensorrt-rtx builds without a GPU; leave out --device, and "
                         "name the GPUs to run on with --compute-capability")
    room = None if workspace is None else parse_bytes(workspace, "--workspace")
    opened = open_bundle(bundle)
    if not opened.network.on_gpu(opened.config):
        raise EngineError(f"{bundle} is a network {opened.network.title}, which backend {backend} "
                          "does not run; use backend onnxruntime, which needs no plan")
    profile, given = _profile(opened, size, batch, minimum, optimum, maximum)
    check_profile(profile, opened)
    if graph is not None:
        others = {"--output": output, "--device": device, "--workspace": workspace,
                  "--compute-capability": capabilities,
                  "--optimization-level": level}
        if used := [name for name, value in others.items() if value is not None]:
            raise UsageError(f"--graph builds no plan; leave out {used[0]}")
        result = _write_graph(opened, variant, profile if given else None, graph, overwrite)
    else:
        result = _build(opened, profile, variant, output, quiet, device=device or 0,
                        workspace=room, level=level, overwrite=overwrite, verbose=verbose,
                        capabilities=_capabilities(capabilities))
    _print(result, as_json, quiet)


def _build(bundle: Bundle, profile: Profile, variant: str, output: str | None,
           quiet: bool, **options: Any) -> dict[str, Any]:
    import os
    import sys
    from pathlib import Path

    from ..engines.tensorrt.build.builder import build_plan

    notes: list[str] = []
    try:
        plan = build_plan(bundle, profile, variant=variant, quiet=quiet, notes=notes,
                          folder=None if output is None else Path(output), **options)
    except KeyboardInterrupt as error:
        click.echo("interrupted: no plan is written", err=True)
        if getattr(error, "running", True):
            # TensorRT is still working in its thread; orderly shutdown would crash it.
            sys.stdout.flush()
            os._exit(130)
        raise SystemExit(130) from None
    return {"plan": str(plan.path), "notes": notes, **plan.info.to_dict()}


def _write_graph(bundle: Bundle, variant: str, profile: Profile | None, path: str,
                 overwrite: bool) -> dict[str, Any]:
    """Write TensorRT's graph to a file, for one shape if the profile has only one."""
    from ..bundle.step_graphs import StepGraphs
    from ..engines.gpu.engine import precision_of
    from ..engines.tensorrt.api import open_tensorrt
    from ..engines.tensorrt.build.builder import GRAPHS
    from ..errors import EngineError
    from ..files import atomic_file, check_target
    from ..graphs.lowering import lower_for_tensorrt
    from ..graphs.opset import OPSET, OPSET_OF_10

    check_target(path, overwrite)
    notes, plugin = [], None
    if variant == "plugin":
        try:
            plugin = open_tensorrt().plugin()
        except EngineError:
            notes.append("the graph has the binary weights in the bundle's form, because the "
                         "plugin, which would convert them for its kernels, is not installed here: "
                         "it gives the same images, but the plugin converts them in every run; to "
                         "have them converted once, build the plugin (`bidiff-deploy build-plugin "
                         "--tensorrt-root DIR`, which needs no GPU) and write the graph again")
    shape = profile.optimum if profile is not None and profile.static else None
    precision = precision_of(bundle)
    derived = lower_for_tensorrt(StepGraphs(bundle), variant=GRAPHS.get(variant, variant),
                                 float16=precision == "float16", plugin=plugin, shape=shape,
                                 opset=OPSET_OF_10 if variant in GRAPHS else OPSET)
    if variant.startswith("dense") and precision == "float16":
        notes.append(f"the graph has opset {derived.opset}, which every TensorRT reads; from "
                     "TensorRT 10 on a build uses a later one, of which TensorRT makes fewer "
                     "kernels")
    with atomic_file(path, overwrite) as temporary:
        temporary.write_bytes(derived.model)
    return {"graph": path, "notes": notes, "variant": variant, "precision": precision,
            "opset": derived.opset, "bytes": len(derived.model),
            "prepared": plugin is not None, "outputs": list(derived.outputs),
            "inputs": {name: list(dims) for name, dims in derived.inputs.items()}}


def _print(result: dict[str, Any], as_json: bool, quiet: bool) -> None:
    import json

    for note in () if quiet else result["notes"]:
        print_note(f"note: {note}")
    if as_json:
        click.echo(json.dumps(result, indent=1))
    elif quiet:
        return
    elif "graph" in result:
        click.echo(f"{result['graph']}: {result['bytes']} bytes, {len(result['inputs'])} inputs, "
                   f"opset {result['opset']}")
    else:
        click.echo(f"{result['plan']}: {result['bytes']} bytes, {result['seconds']:.1f} s")


def _profile(bundle: Bundle, size: str | None, batch: int | None, minimum: str | None,
             optimum: str | None, maximum: str | None) -> tuple[Profile, bool]:
    """The shapes that the options ask for, and whether they ask for any."""
    from ..engines.tensorrt.profiles import Profile, default_profile
    from ..errors import UsageError

    ranged = {"--min": minimum, "--opt": optimum, "--max": maximum}
    left_out = [name for name, text in ranged.items() if text is None]
    if size is not None:
        if len(left_out) < 3:
            raise UsageError("--size is for one shape, --min, --opt and --max are for many; give "
                             "either")
        shape = (batch or 1, *parse_size(size))
        return Profile(shape, shape, shape), True
    if len(left_out) == 3:
        return default_profile(bundle, batch or 1), False
    if left_out:
        raise UsageError(f"--min, --opt and --max belong together; add {left_out[0]}")
    low, middle, high = (_shape(name, text or "", batch) for name, text in ranged.items())
    return Profile(low, middle, high), True


def _capabilities(text: str | None) -> tuple[int, ...] | None:
    """``"86,89"`` as numbers; None for no text. Raises UsageError for a number that TensorRT-RTX
    does not know."""
    from ..engines.tensorrt.versions import CAPABILITIES
    from ..errors import UsageError

    if text is None:
        return None
    found = {part.strip().removeprefix("sm_").replace(".", "") for part in text.split(",")}
    if not found <= set(map(str, CAPABILITIES)):
        raise UsageError(f"--compute-capability {text!r} must be some of "
                         f"{', '.join(map(str, CAPABILITIES))}, such as 86,89")
    return tuple(sorted(map(int, found)))


def _shape(option: str, text: str, batch: int | None) -> tuple[int, int, int]:
    """``"4x256x192"`` or ``"256x192"`` as batch, height and width. Raises UsageError."""
    from ..errors import UsageError

    try:
        sizes = [int(part) for part in text.lower().split("x")]
        if len(sizes) == 3 and batch is not None:
            raise UsageError(f"{option} {text!r} contains a batch; leave out --batch")
        first, height, width = sizes if len(sizes) == 3 else (batch or 1, *sizes)
        if not (0 < first <= 4096 and 0 < height <= 1 << 16 and 0 < width <= 1 << 16):
            raise ValueError
    except UsageError:
        raise
    except ValueError:
        raise UsageError(f"{option} {text!r} must be height and width, such as 256x256, or batch, "
                         "height and width, such as 4x256x256") from None
    return first, height, width
