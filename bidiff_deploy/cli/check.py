"""``bidiff-deploy check``: is a bundle equal to the checkpoint it was made of?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..proof.check.result import CheckResult

PATH = click.Path(readable=False)


@click.command()
@click.argument("bundle", type=PATH)
@click.argument("checkpoint", type=PATH)
@click.option("--options", type=PATH, help="YAML file in the published form; without it, what no "
                                           "tensor shows is taken from the bundle.")
@click.option("--backend", default="onnxruntime", show_default=True,
              help="What runs the graphs: onnxruntime, onnxruntime-stock, onnxruntime-cuda, "
                   "tensorrt, tensorrt-dense or tensorrt-dense-int8.")
@click.option("--device", type=click.IntRange(min=0), metavar="N",
              help="Number of the GPU, with a backend that runs on one. Default: 0.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: all cores.")
@click.option("--images", type=PATH, multiple=True, metavar="FOLDER|FILE",
              help="Low-resolution images, to compare whole loops on; may be repeated.")
@click.option("--truth", type=PATH, multiple=True, metavar="FOLDER|FILE",
              help="Their originals; without --images they are made small first.")
@click.option("--timesteps", metavar="T,T,...",
              help="Default: the first of each TaR/TaA group, and the last.")
@click.option("--size", metavar="HxW", help="Of the network's input: 64x64 of noise, or what "
                                            "images are cropped to, 256x256; feed-forward: 48x48 "
                                            "and 128x128.")
@click.option("--save", type=PATH, help="Write inputs and predictions as Polygraphy's RunResults.")
@click.option("--overwrite", is_flag=True, help="Replace the file of --save if it exists.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print every statistic as JSON on stdout.")
def command(bundle: str, checkpoint: str, options: str | None, backend: str, device: int | None,
            threads: int | None, images: tuple[str, ...], truth: tuple[str, ...],
            timesteps: str | None, size: str | None, save: str | None, overwrite: bool,
            quiet: bool, as_json: bool) -> None:
    """Compare BUNDLE with CHECKPOINT, run by torch on the same inputs.

    Each binary layer is fed the reference's own input: its integers must be exact, its output
    within float32 rounding. What lies between them is fed the outputs of the reference's layers.
    Each fused operator is fed what the layers before it give, and must give what the layers that it
    fuses give: to the bit where it is binary. Each step is fed the reference's own latent: signal
    to noise and sign flips, beside a noise floor: the worst of the reference in another memory
    layout and with rounding's noise on the inputs of all layers. Whole loops are compared on
    images, and on trained weights only. Exit code 1 if anything fails.

    CHECKPOINT may also be a file that --save wrote: its steps are compared without torch, such as
    on another machine.

    Of a feed-forward BUNDLE each binary layer is checked likewise, and whole pictures instead of
    steps: noise, or the --images.
    """
    from ..bundle.manifest import open_bundle
    from ..bundle.record import NoisePredictorBundle
    from ..checkpoint.options import Options, read_options
    from ..checkpoint.read import read_checkpoint
    from ..engines import BACKENDS, CUDA, ON_GPU
    from ..errors import CheckpointError, EngineError, UsageError
    from ..files import check_target
    from ..progress import Progress
    from ..proof.check.noise_predictor import check_bundle
    from ._shared import parse_timesteps

    if backend not in BACKENDS:
        raise EngineError(f"backend {backend!r} is not known; known are {', '.join(BACKENDS)}")
    if device is not None and backend not in ON_GPU:
        raise UsageError(f"--device {device} is a GPU, which backend {backend} does not use; "
                         f"choose {CUDA} or tensorrt, or leave --device out")
    if save is not None:
        check_target(save, overwrite)
    listed = parse_timesteps(timesteps)
    shape = parse_size(size)
    opened = open_bundle(bundle)
    if not isinstance(opened, NoisePredictorBundle):
        if truth or timesteps or save or options:
            raise UsageError(f"{bundle} is a feed-forward bundle; of the options only --backend, "
                             "--threads, --images, --size, --quiet and --json apply")
        from ..proof.check.one_run import check_one_run

        with Progress("check", 1, quiet=quiet) as progress:
            result = check_one_run(
                opened, read_checkpoint(checkpoint), backend=backend, threads=threads, size=shape,
                images=images, on_progress=lambda done, total: progress.update(done / total))
        _report(result, as_json)
        return
    if checkpoint.lower().endswith(".json"):
        if options or images or truth or timesteps or size or save:
            raise UsageError(f"{checkpoint} holds runs that are repeated as they are; of the "
                             "options only --backend, --device, --threads, --quiet and --json apply")
        from ..proof.check.saved import check_saved

        _report(check_saved(opened, checkpoint, backend=backend, threads=threads,
                            device=device), as_json)
        return
    if options:
        found = read_checkpoint(checkpoint, read_options(options))
    else:
        try:
            found = read_checkpoint(checkpoint, Options(opened.config.to_dict()))
        except CheckpointError:
            # If it can be read by itself, it is of another network, and that is told better below.
            found = read_checkpoint(checkpoint)
    with Progress("check", 1, quiet=quiet) as progress:
        result = check_bundle(opened, found, backend=backend, device=device, threads=threads,
                              timesteps=listed, size=shape, images=images, truths=truth, save=save,
                              overwrite=overwrite,
                              on_progress=lambda done, total: progress.update(done / total))
    _report(result, as_json)


def _report(result: CheckResult, as_json: bool) -> None:
    click.echo(result.to_json() if as_json else table(result))
    if not result:
        raise SystemExit(1)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """``"256x192"`` as (height, width). Raises UsageError."""
    from ..errors import UsageError

    if text is None:
        return None
    try:
        height, width = (int(part) for part in text.lower().split("x"))
        if not (0 < height <= 1 << 16 and 0 < width <= 1 << 16):
            raise ValueError
        return height, width
    except ValueError:
        raise UsageError(f"--size {text!r} must be height and width, such as 256x256") from None


def table(result: CheckResult) -> str:
    """The result for a reader; every layer that failed, the others in one line."""
    from ..proof.check.statistics import decibel

    height, width = result.size
    lines = [f"{result.bundle} against {result.checkpoint}, {height}x{width}",
             f"  engine     {result.engine}", f"  reference  {result.reference}"]
    lines += [f"  note       {note}" for note in result.notes]
    lines += _parts(result) if result.layers else []
    lines += ["", f"{'step':>6} {'SNR':>10} {'bound':>10} {'floor':>10} {'flips':>7} "
                  f"{'floor':>7}  first flip"]
    for step in result.steps:
        lines.append(f"{step.timestep:>6} {decibel(step.engine.snr):>10} "
                     f"{decibel(step.bound):>10} {decibel(step.floor.snr):>10} "
                     f"{step.engine.flips if result.layers else '-':>7} "
                     f"{step.floor.flips if result.layers else '-':>7}  "
                     f"{step.engine.first_flip or '-'}{'' if step.passed else '  FAIL: '}"
                     f"{'' if step.passed else step.reason}")
    for loop in result.loops:
        lines += ["", f"{loop.image}: {'' if loop.passed else 'FAIL: '}{loop.reason}"]
        if loop.psnr is not None:
            lines.append(f"  engine {decibel(loop.psnr)} and other layout {decibel(loop.floor)} "
                         "from the reference's image (PSNR-Y)")
        if loop.truth:
            lines.append("  against the ground truth: " + ", ".join(
                f"{name} {decibel(value)}" for name, value in loop.truth.items()))
    return "\n".join([*lines, "", "pass" if result else f"FAIL: {len(result.failures)} of "
                                                        f"{len(result.verdicts)} checks"])


def _parts(result: CheckResult) -> list[str]:
    """Layers, segments and fused operators: how many pass, and each that does not."""
    from ..proof.check.statistics import decibel

    layers = [verdict for verdict in result.verdicts if verdict.what == "layer"]
    wrong = [verdict for verdict in layers if not verdict.passed]
    sums = sum(layer.sums for layer in result.layers)
    rounding = max((layer.rounding for layer in result.layers), default=0.0)
    lines = ["", f"binary layers fed the reference's input: {len(layers) - len(wrong)} of "
              f"{len(layers)} pass; {sums} sums, {sum(x.wrong_sums for x in result.layers)} "
              f"wrong; output at {rounding:.2f} of its rounding bound"]
    lines += [f"  FAIL {verdict.name}: {verdict.reason}" for verdict in wrong[:20]]
    if len(wrong) > 20:
        lines.append(f"  ... and {len(wrong) - 20} more")
    if not result.segments:  # a feed-forward network's
        return lines
    parts = [verdict for verdict in result.verdicts if verdict.what == "segment"]
    wrong = [verdict for verdict in parts if not verdict.passed]
    least = min((part.snr for part in result.segments), default=float("inf"))
    lines.append(f"full-precision parts fed the reference's layers: {len(parts) - len(wrong)} of "
                 f"{len(parts)} pass; the worst has {decibel(least)}")
    lines += [f"  FAIL {verdict.reason}" for verdict in wrong[:20]]
    return lines + (_operators(result) if result.operators else [])


def _operators(result: CheckResult) -> list[str]:
    from ..proof.check.statistics import decibel

    found = [verdict for verdict in result.verdicts if verdict.what == "operator"]
    wrong = [verdict for verdict in found if not verdict.passed]
    exact = {one.operator for one in result.operators if one.exact}
    least = min((one.snr for one in result.operators if not one.exact), default=float("inf"))
    return [f"fused operators fed what their layers are: {len(found) - len(wrong)} of {len(found)} "
            f"pass, {len(exact)} of them held to the bit; the worst other: {decibel(least)}",
            *(f"  FAIL {verdict.name}: {verdict.reason}" for verdict in wrong[:20])]
