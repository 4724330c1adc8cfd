"""``bidiff-deploy check``: compares a bundle with the checkpoint it was exported from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ._shared import (
    BUNDLE,
    PATH,
    autoencoder_option,
    backend_option,
    device_option,
    json_option,
    parse_size,
    parse_timesteps,
    quiet_option,
    scale_option,
    threads_option,
)

if TYPE_CHECKING:
    from ..proof.check.result import CheckResult


@click.command()
@click.argument("bundle", type=BUNDLE)
@click.argument("checkpoint", type=PATH)
@scale_option
@click.option("--options", type=PATH, metavar="FILE",
              help="YAML options of the checkpoint, in the published form. Default: the bundle's, "
                   "where the tensors do not show them.")
@autoencoder_option
@backend_option
@device_option
@threads_option
@click.option("--images", type=PATH, multiple=True, metavar="FOLDER|FILE",
              help="Low-resolution images to compare whole loops on; may be repeated.")
@click.option("--truth", type=PATH, multiple=True, metavar="FOLDER|FILE",
              help="Their originals, which are reduced first if --images is missing.")
@click.option("--timesteps", metavar="T,T,...",
              help="Timesteps to compare. Default: the first of each TaR/TaA group, and the last; "
                   "of a latent network the first, the middle and the last.")
@click.option("--size", metavar="HxW",
              help="Size of the network's input. Default: 64x64 for noise, and images are cropped "
                   "to 256x256; for a feed-forward bundle 48x48 and 128x128, for a latent one "
                   "64x64, before the image is enlarged.")
@click.option("--save", type=PATH, metavar="FILE",
              help="Write inputs and predictions as Polygraphy's RunResults.")
@click.option("--overwrite", is_flag=True, help="Replace the file of --save if it exists.")
@quiet_option
@json_option("every statistic")
def command(bundle: str, checkpoint: str, options: str | None, autoencoder: str | None,
            backend: str, device: int | None, threads: int | None, images: tuple[str, ...],
            truth: tuple[str, ...], timesteps: str | None, size: str | None, save: str | None,
            overwrite: bool, quiet: bool, as_json: bool) -> None:
    """Compare BUNDLE with CHECKPOINT, which torch runs on the same inputs.

    Each may be the name of an installed model, and BUNDLE a checkpoint.

    Each part is judged alone, from the engine's own values: the integer sums of a binary layer must
    be exact, floats within a bound of their rounding that is computed along with the reference, and
    a sign may differ only where that rounding decides it, which is a legitimate flip. Each fused
    operator must return what its single layers return, equal to the bit if it is binary. Each step
    gets the engine's latent; its signal-to-noise ratio is for information. TensorRT, and a GPU in
    half precision, return no float32 values inside a step: the bundle's parts are then judged in
    onnxruntime-stock, and the GPU's steps by that ratio and a noise floor: the reference itself in
    another memory layout, and with rounding noise on the inputs of all layers. Images of whole
    loops are compared for trained weights only. Exit code 1 if anything fails.

    CHECKPOINT may also be a file that --save wrote: its steps are compared without torch, for
    example on another machine, by the same ratio and floor; on a CPU also each fused operator with
    its definition, and each layer's sums with those of standard operators. Whether the file is of
    this bundle, and its check passed, is reported.

    For a feed-forward BUNDLE each binary layer is checked likewise, and instead of steps whole
    images: noise, or those of --images. The image of a GPU must have 45 dB PSNR-Y against the
    reference's, 40 in half precision or int8, or 6 less than the reference against itself.
    Of a latent BUNDLE the encoder, the decoder and steps along the engine's own loop must each have
    90 dB.
    """
    from dataclasses import replace

    from ..bundle.manifest import open_bundle
    from ..bundle.record import LatentBundle, NoisePredictorBundle
    from ..checkpoint.options import Options, given_options, read_options
    from ..checkpoint.read import read_checkpoint
    from ..checkpoint.record import at_scale
    from ..engines import BACKENDS, CUDA, ON_GPU
    from ..errors import CheckpointError, EngineError, UsageError
    from ..files import check_target
    from ..models.open import checkpoint_file
    from ..progress import Progress
    from ..proof.check.noise_predictor import check_bundle

    if backend not in BACKENDS:
        raise EngineError(f"backend {backend!r} is not known; known are {', '.join(BACKENDS)}")
    if device is not None and backend not in ON_GPU:
        raise UsageError(f"--device {device} is a GPU, which backend {backend} does not use; "
                         f"choose {CUDA} or tensorrt, or leave --device out")
    if save is not None:
        check_target(save, overwrite)
    checkpoint = str(checkpoint_file(checkpoint))
    listed = parse_timesteps(timesteps)
    shape = None if size is None else parse_size(size)
    opened = open_bundle(bundle)
    if isinstance(opened, LatentBundle):
        if truth or save:
            raise UsageError(f"{bundle} is a bundle of a latent network, of which --truth and "
                             "--save are not supported; leave them out")
        from ..proof.check.latent import check_latent

        given = given_options(options, autoencoder) or Options()
        if not options:  # what no tensor shows
            given = replace(given, network={"image_size": opened.config.image_size})
        with Progress("check", 1, quiet=quiet) as progress:
            result = check_latent(
                opened, read_checkpoint(checkpoint, given), backend=backend, threads=threads,
                timesteps=listed, size=shape, images=images,
                on_progress=lambda done, total: progress.update(done / total))
        _report(result, as_json, quiet)
        return
    if autoencoder:
        raise UsageError(f"{bundle} has no autoencoder; leave --autoencoder out")
    if not isinstance(opened, NoisePredictorBundle):
        if truth or timesteps or save or options:
            raise UsageError(f"{bundle} is a feed-forward bundle; of the options only --backend, "
                             "--device, --threads, --images, --size, --quiet and --json apply")
        from ..proof.check.one_run import check_one_run

        with Progress("check", 1, quiet=quiet) as progress:
            result = check_one_run(
                opened, read_checkpoint(checkpoint), backend=backend, device=device,
                threads=threads, size=shape, images=images,
                on_progress=lambda done, total: progress.update(done / total))
        _report(result, as_json, quiet)
        return
    if checkpoint.lower().endswith(".json"):
        if options or images or truth or timesteps or size or save:
            raise UsageError(f"{checkpoint} contains saved runs; of the options only --backend, "
                             "--device, --threads, --quiet and --json apply")
        from ..proof.check.saved import check_saved

        _report(check_saved(opened, checkpoint, backend=backend, threads=threads,
                            device=device), as_json, quiet)
        return
    if options:
        found = read_checkpoint(checkpoint, read_options(options))
    else:
        try:
            found = read_checkpoint(checkpoint, Options(opened.config.to_dict()))
        except CheckpointError:
            # If it can be read alone, it is another network, which check_bundle reports better.
            found = read_checkpoint(checkpoint)
    found = at_scale(found, opened.scale)
    with Progress("check", 1, quiet=quiet) as progress:
        result = check_bundle(opened, found, backend=backend, device=device, threads=threads,
                              timesteps=listed, size=shape, images=images, truths=truth, save=save,
                              overwrite=overwrite,
                              on_progress=lambda done, total: progress.update(done / total))
    _report(result, as_json, quiet)


def _report(result: CheckResult, as_json: bool, quiet: bool) -> None:
    if as_json or not quiet:
        click.echo(result.to_json() if as_json else table(result))
    elif not result:
        first = result.failures[0]
        click.echo(f"error: {result.bundle}: {len(result.failures)} of {len(result.verdicts)} "
                   f"checks fail, such as {first.what} {first.name}: {first.reason}; run it "
                   "without --quiet for all", err=True)
    if not result:
        raise SystemExit(1)


def table(result: CheckResult) -> str:
    """The result as text: one line for the layers that passed, and each that failed."""
    from ..proof.check.statistics import decibel

    height, width = result.size
    lines = [f"{result.bundle} against {result.checkpoint}, {height}x{width}",
             f"  engine     {result.engine}", f"  reference  {result.reference}"]
    lines += [f"  note       {note}" for note in result.notes]
    lines += _parts(result) if result.layers else [
        "", *_operators(result)] if result.operators else []
    lines += ["", *_steps(result)]
    for loop in result.loops:
        lines += ["", f"{loop.image}: {'' if loop.passed else 'FAIL: '}{loop.reason}"]
        if loop.psnr is not None and loop.floor is not None:
            lines.append(f"  PSNR-Y against the reference's image: engine {decibel(loop.psnr)}, "
                         f"the reference in another layout {decibel(loop.floor)}")
        if loop.truth:
            lines.append("  against the ground truth: " + ", ".join(
                f"{name} {decibel(value)}" for name, value in loop.truth.items()))
    return "\n".join([*lines, "", "pass" if result else f"FAIL: {len(result.failures)} of "
                                                        f"{len(result.verdicts)} checks"])


def _steps(result: CheckResult) -> list[str]:
    from ..proof.check.statistics import decibel

    if all(step.differing is not None for step in result.steps):
        lines = [f"{'step':>6} {'SNR':>10} {'flips':>7} {'undecidable':>12}  verdict"]
        return lines + [
            f"{step.timestep:>6} {decibel(step.engine.snr):>10} {step.engine.flips:>7} "
            f"{sum(layer.undecidable for layer in step.engine.layers):>12}  "
            f"{'' if step.passed else 'FAIL: '}{step.reason}" for step in result.steps]
    lines = [f"{'step':>7} {'SNR':>12} {'bound':>10} {'floor':>12}"]
    for step in result.steps:
        lines.append(f"{step.name:>7} {decibel(step.engine.snr, 3):>12} "
                     f"{decibel(step.bound or 0, 3):>10} "
                     f"{decibel(step.floor.snr, 3) if step.floor else '-':>12}"
                     f"{'' if step.passed else f'  FAIL: {step.reason}'}")
    return lines


def _parts(result: CheckResult) -> list[str]:
    """Layers, segments and fused operators: how many pass, and each that does not."""
    layers = [verdict for verdict in result.verdicts if verdict.what == "layer"]
    wrong = [verdict for verdict in layers if not verdict.passed]
    sums = sum(layer.sums for layer in result.layers)
    rounding = max((layer.rounding for layer in result.layers), default=0.0)
    lines = ["", f"binary layers with the engine's input: {len(layers) - len(wrong)} of "
              f"{len(layers)} pass; {sums} sums, {sum(x.wrong_sums for x in result.layers)} "
              f"wrong; output at {rounding:.4f} of its rounding bound"]
    lines += [f"  FAIL {verdict.name}: {verdict.reason}" for verdict in wrong[:20]]
    if len(wrong) > 20:
        lines.append(f"  ... and {len(wrong) - 20} more")
    parts = [verdict for verdict in result.verdicts if verdict.what == "segment"]
    wrong = [verdict for verdict in parts if not verdict.passed]
    worst = max((part.rounding for part in result.segments), default=0.0)
    flips = sum(part.flips for part in result.segments)
    lines.append("all parts with the engine's inputs: "
                 f"{len(parts) - len(wrong)} of {len(parts)} pass; the worst is at {worst:.4f} of "
                 "its rounding bound")
    lines += [f"  FAIL {verdict.name}: {verdict.reason}" for verdict in wrong[:20]]
    lines.append(f"signs: {result.signs}, of which {flips} differ; rounding decides "
                 f"{result.undecidable} ({result.undecidable / max(result.signs, 1):.1e})")
    return lines + (_operators(result) if result.operators else [])


def _operators(result: CheckResult) -> list[str]:
    from ..proof.check.statistics import decibel

    found = [verdict for verdict in result.verdicts if verdict.what == "operator"]
    wrong = [verdict for verdict in found if not verdict.passed]
    exact = {one.operator for one in result.operators if one.exact}
    worst = min((one.snr for one in result.operators if not one.exact), default=float("inf"))
    return [f"fused operators with their layers' inputs: {len(found) - len(wrong)} of {len(found)} "
            f"pass, {len(exact)} of them must be equal to the bit; the worst other has "
            f"{decibel(worst)}",
            *(f"  FAIL {verdict.name}: {verdict.reason}" for verdict in wrong[:20])]
