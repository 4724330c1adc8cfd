"""``bidiff-deploy build``: a bundle as an engine of TensorRT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..engines import TENSORRT

if TYPE_CHECKING:
    from ..bundle.manifest import Bundle
    from ..engines.tensorrt.profiles import Profile

PATH = click.Path(readable=False)


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--backend", default="tensorrt", show_default=True,
              help="Only tensorrt has something to build.")
@click.option("--size", metavar="HxW",
              help="Build for this height and width of the network's input, which is the output's "
                   "size, alone.")
@click.option("--batch", type=click.IntRange(min=1, max=4096), metavar="N",
              help="How many images at once. Default: 1.")
@click.option("--min", "minimum", metavar="[Nx]HxW",
              help="Smallest shape of a plan for many shapes. Default: 64x64.")
@click.option("--opt", "optimum", metavar="[Nx]HxW",
              help="The shape that it is to be fastest at. Default: 256x256.")
@click.option("--max", "maximum", metavar="[Nx]HxW", help="The largest one. Default: 512x512.")
@click.option("--no-plugin", is_flag=True,
              help="Standard operators only: the binary convolutions of +-1 by +-alpha.")
@click.option("--int8", is_flag=True, help="With --no-plugin: these convolutions in int8.")
@click.option("--device", type=click.IntRange(min=0), metavar="N",
              help="Number of the GPU. Default: 0.")
@click.option("--workspace", metavar="SIZE",
              help="What kernels may take of the GPU's memory, such as 2GB or 512MiB. Default: "
                   "all.")
@click.option("--optimization-level", "level", type=click.IntRange(min=0, max=10), metavar="N",
              help="How long TensorRT searches for faster kernels: 0 to 5. Default: its own, 3.")
@click.option("-o", "--output", type=PATH, metavar="FOLDER",
              help="Folder of plans; by default the one where the bundle looks for them. Another "
                   "is named to it with BIDIFF_TENSORRT_PLANS.")
@click.option("--graph", type=PATH, metavar="FILE",
              help="Write the ONNX graph that TensorRT would parse, for trtexec or C++, and build "
                   "nothing: needs no GPU, and no TensorRT.")
@click.option("--overwrite", is_flag=True, help="Replace a plan, or a graph, that is there.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--verbose", is_flag=True, help="Print what TensorRT logs on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print what was built as JSON on stdout.")
def command(bundle: str, backend: str, size: str | None, batch: int | None, minimum: str | None,
            optimum: str | None, maximum: str | None, no_plugin: bool, int8: bool,
            device: int | None, workspace: str | None, level: int | None, output: str | None,
            graph: str | None, overwrite: bool, quiet: bool, verbose: bool, as_json: bool) -> None:
    """Build a plan of BUNDLE, for --backend tensorrt of the other commands.

    A plan runs on this machine's model of GPU, with its version of TensorRT to the last number, and
    with the plugin library that is here; a file beside it says so, and it is refused elsewhere. It
    has the shapes of --size, or all from --min to --max; without either, from 64x64 to 512x512.
    Plans for several shapes may lie side by side: the one that fits best is taken.

    The first build takes minutes, mostly to time kernels; later ones know these times. With
    --no-plugin the plan is of --backend tensorrt-dense, with --int8 too of tensorrt-dense-int8.
    """
    from ..bundle.manifest import open_bundle
    from ..bundle.record import NoisePredictorBundle
    from ..engines.tensorrt.profiles import check_profile
    from ..errors import EngineError, UsageError
    from ._shared import parse_bytes

    if backend not in TENSORRT:
        raise EngineError(f"backend {backend!r} has nothing to build; choose tensorrt")
    variant = TENSORRT[backend]
    if no_plugin and variant == "plugin":
        variant = "dense"
    if int8 and variant == "plugin":
        raise UsageError("--int8 is of the network without plugin; add --no-plugin")
    variant = "dense-int8" if int8 else variant
    room = None if workspace is None else parse_bytes(workspace, "--workspace")
    opened = open_bundle(bundle)
    if not isinstance(opened, NoisePredictorBundle):
        raise EngineError(f"{bundle} is a feed-forward bundle, which backend {backend} does not "
                          "run; it needs no build with onnxruntime")
    profile, given = _profile(opened, size, batch, minimum, optimum, maximum)
    check_profile(profile, opened)
    if graph is not None:
        others = {"--output": output, "--device": device, "--workspace": workspace,
                  "--optimization-level": level}
        if used := [name for name, value in others.items() if value is not None]:
            raise UsageError(f"--graph builds nothing, so {used[0]} has no meaning")
        result = _write_graph(opened, variant, profile if given else None, graph, overwrite)
    else:
        result = _build(opened, profile, variant, output, quiet, device=device or 0,
                        workspace=room, level=level, overwrite=overwrite, verbose=verbose)
    _tell(result, as_json)


def _build(bundle: Bundle, profile: Profile, variant: str, output: str | None, quiet: bool,
           **options: Any) -> dict[str, Any]:
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
            # TensorRT works on in its thread, and must not be taken down piece by piece.
            sys.stdout.flush()
            os._exit(130)
        raise SystemExit(130) from None
    return {"plan": str(plan.path), "notes": notes, **plan.info.to_dict()}


def _write_graph(bundle: Bundle, variant: str, profile: Profile | None, path: str,
                 overwrite: bool) -> dict[str, Any]:
    """The derived graph as a file, of one shape if the profile has but one."""
    from ..bundle.step_graphs import StepGraphs
    from ..engines.tensorrt.api import open_tensorrt
    from ..engines.gpu.noise_predictor import precision_of
    from ..errors import EngineError
    from ..files import atomic_file, check_target
    from ..graphs.lowering import lower_for_tensorrt

    check_target(path, overwrite)
    notes, plugin = [], None
    if variant == "plugin":
        try:
            plugin = open_tensorrt().plugin()
        except EngineError:
            notes.append("no plugin library can be loaded here, so the graph's words are the "
                         "contract's, which the plugin prepares in every run")
    shape = profile.optimum if profile is not None and profile.static else None
    precision = precision_of(bundle)
    derived = lower_for_tensorrt(StepGraphs(bundle), variant=variant,
                                 float16=precision == "float16", plugin=plugin, shape=shape)
    if variant == "dense-int8" and precision == "float16":
        notes.append(f"opset {derived.opset} is what every TensorRT reads; from TensorRT 10 on a "
                     "build takes one in which int8 becomes float16 without float32 between")
    with atomic_file(path, overwrite) as temporary:
        temporary.write_bytes(derived.model)
    return {"graph": path, "notes": notes, "variant": variant, "precision": precision,
            "opset": derived.opset, "bytes": len(derived.model),
            "prepared": plugin is not None, "outputs": list(derived.outputs),
            "inputs": {name: list(dims) for name, dims in derived.inputs.items()}}


def _tell(result: dict[str, Any], as_json: bool) -> None:
    import json

    for note in result["notes"]:
        click.echo(f"note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(result, indent=1))
    elif "graph" in result:
        click.echo(f"{result['graph']}: {result['bytes']} bytes, {len(result['inputs'])} inputs, "
                   f"opset {result['opset']}")
    else:
        click.echo(f"{result['plan']}: {result['bytes']} bytes, {result['seconds']:.1f} s")


def _profile(bundle: Bundle, size: str | None, batch: int | None, minimum: str | None,
             optimum: str | None, maximum: str | None) -> tuple[Profile, bool]:
    """The shapes that the options mean, and whether they mean any."""
    from ..engines.tensorrt.profiles import default_profile
    from ..engines.tensorrt.profiles import Profile
    from ..errors import UsageError
    from .check import parse_size

    ranged = {"--min": minimum, "--opt": optimum, "--max": maximum}
    left_out = [name for name, text in ranged.items() if text is None]
    if size is not None:
        if len(left_out) < 3:
            raise UsageError("--size is one shape and --min, --opt, --max are many; give either")
        height, width = parse_size(size) or (0, 0)
        shape = (batch or 1, height, width)
        return Profile(shape, shape, shape), True
    if len(left_out) == 3:
        return default_profile(bundle, batch or 1), False
    if left_out:
        raise UsageError(f"--min, --opt and --max belong together; add {left_out[0]}")
    low, middle, high = (_shape(name, text or "", batch) for name, text in ranged.items())
    return Profile(low, middle, high), True


def _shape(option: str, text: str, batch: int | None) -> tuple[int, int, int]:
    """``"4x256x192"`` or ``"256x192"`` as batch, height and width. Raises UsageError."""
    from ..errors import UsageError

    try:
        sizes = [int(part) for part in text.lower().split("x")]
        if len(sizes) == 3 and batch is not None:
            raise UsageError(f"{option} {text!r} has a batch of its own; leave out --batch")
        first, height, width = sizes if len(sizes) == 3 else (batch or 1, *sizes)
        if not (0 < first <= 4096 and 0 < height <= 1 << 16 and 0 < width <= 1 << 16):
            raise ValueError
    except UsageError:
        raise
    except ValueError:
        raise UsageError(f"{option} {text!r} must be height and width, such as 256x256, or batch, "
                         "height and width, such as 4x256x256") from None
    return first, height, width
