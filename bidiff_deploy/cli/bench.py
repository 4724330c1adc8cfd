"""``bidiff-deploy bench``: speed and memory of a bundle and of float32 baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from ._shared import (
    BUNDLE,
    check_quiet,
    json_option,
    parse_names,
    parse_size,
    print_note,
    quiet_option,
    scale_option,
    threads_option,
)

if TYPE_CHECKING:
    from ..bundle.record import LatentBundle
    from ..proof.bench.latent import LatentBench
    from ..proof.bench.measure import BenchResult


@click.command()
@click.argument("bundle", type=BUNDLE)
@scale_option
@click.option("--size", metavar="HxW",
              help="Height and width of the network's input, which is the output's size; for a "
                   "feed-forward or latent network, the low-resolution image's. Default: 256x256, "
                   "for a latent network 64x64.")
@threads_option
@click.option("--device", type=click.IntRange(min=0), metavar="N",
              help="Number of the GPU, for baselines that run on one. Default: 0.")
@click.option("--against", metavar="NAME,...",
              help="Baselines: torch, onnxruntime, onnxruntime-minus-sign, openvino, "
                   "openvino-bf16; or the bundle itself on an NVIDIA GPU: onnxruntime-cuda, "
                   "tensorrt, tensorrt-dense, tensorrt-dense-int8, tensorrt-rtx, "
                   "tensorrt-rtx-int8. Of a latent network onnxruntime alone. Default: "
                   "onnxruntime,onnxruntime-minus-sign.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N",
              help="Steps to count for an image. Default: all that the bundle visits.")
@click.option("--rounds", type=click.IntRange(min=1), default=10, metavar="N",
              help="Rounds of one step, or run of a feed-forward network, of each candidate, after "
                   "three that are not measured.")
@click.option("--profile", is_flag=True,
              help="Also print the time of each kind of operator, and the least time that this "
                   "machine's arithmetic and memory allow.")
@quiet_option
@json_option("every figure")
def command(bundle: str, size: str | None, threads: int | None, device: int | None,
            against: str | None, steps: int | None, rounds: int, profile: bool, quiet: bool,
            as_json: bool) -> None:
    """Measure speed and memory of BUNDLE against float32 baselines.

    BUNDLE may also be a checkpoint, or the name of an installed model.

    A baseline is the same network with its binary weights folded to float32 convolutions, in torch
    (channels_last), ONNX Runtime or OpenVINO (float32, and bf16 where the CPU has it).
    onnxruntime-minus-sign leaves out the Sign operator, whose slowness there would favour the
    packed engine. All take turns in one process. Baselines that are not installed are left out.
    Images per CPU second count the processor time of all threads.

    Of a latent network (DiT-SR) encoder, step and decoder are measured, and their shares of an
    image; the baseline is the same graphs without the op library.
    """
    import json

    from ..bundle.manifest import open_bundle
    from ..bundle.record import LatentBundle
    from ..machine import default_threads
    from ..progress import Progress
    from ..proof.bench.measure import bench_bundle

    check_quiet(quiet, as_json)
    opened = open_bundle(bundle)
    if isinstance(opened, LatentBundle):
        _latent(opened, size, threads, device, against, steps, rounds, profile, quiet, as_json)
        return
    shape = parse_size(size or "256x256")
    names = parse_names(against or "onnxruntime,onnxruntime-minus-sign")
    with Progress("bench", 1, quiet=quiet) as progress:
        result = bench_bundle(opened, size=shape, threads=threads or default_threads(),
                              against=names, steps=steps, rounds=rounds, bounds=profile,
                              device=device, on_progress=progress.update)
    for warning in result.warnings:
        print_note(f"warning: {warning}")
    click.echo(json.dumps(result.to_dict(), indent=1) if as_json else table(result, profile))


def _latent(bundle: LatentBundle, size: str | None, threads: int | None, device: int | None,
            against: str | None, steps: int | None, rounds: int, profile: bool, quiet: bool,
            as_json: bool) -> None:
    """The command for a latent network."""
    import json

    from ..machine import default_threads
    from ..progress import Progress
    from ..proof.bench.latent import BASELINES, bench_latent

    if device is not None or profile:
        raise UsageError(f"{bundle.path} is a bundle of a latent network, of which --device and "
                         "--profile are not supported; leave them out")
    shape = parse_size(size) if size else bundle.network.usual_size(bundle.config)
    with Progress("bench", 1, quiet=quiet) as progress:
        result = bench_latent(
            bundle, size=shape, threads=threads or default_threads(), steps=steps, rounds=rounds,
            against=BASELINES if against is None else parse_names(against),
            on_progress=progress.update)
    click.echo(json.dumps(result.to_dict(), indent=1) if as_json else latent_table(result))


def latent_table(result: LatentBench) -> str:
    """The figures of a latent network as text."""
    from ..proof.bench.latent import PARTS
    from ..proof.check.statistics import decibel

    (height, width), mark = result.size, BUSY if result.busy else ""
    lines = [f"{result.bundle}, a low-resolution image of {height}x{width}, {result.threads} thread"
             f"{'s' if result.threads > 1 else ''}, {result.rounds} rounds, load average "
             f"{result.load_average[0]:.2f} to {result.load_average[1]:.2f}", ""]
    if mark:
        lines.insert(1, f"{mark}: measured while the machine was busy, so it may be wrong")
    for name, described in result.descriptions.items():
        whole, parts = result.image_seconds(name), result.parts(name)
        lines += [f"{name} ({described}): an image {mark}{whole:.2f} s",
                  f"  {'':<10}{'one run':>12}  {'min to max':<24}{'of an image':>12}"]
        for part in PARTS:
            times = [value * 1e3 for value in result.seconds[name][part]]
            one = f"{mark}{result.median(name, part) * 1e3:.1f} ms"
            spread = f"{mark}{min(times):.1f} to {mark}{max(times):.1f}"
            share = f"{mark}{100 * parts[part] / whole:.1f} %"
            plural = "s" if result.steps > 1 else ""
            runs = f"  ({result.steps} run{plural})" if part == "step" else ""
            lines.append(f"  {part:<10}{one:>12}  {spread:<24}{share:>12}{runs}")
        lines.append("")
    for name, agreement in result.agreement.items():
        median, lowest, highest = result.ratio(name, "step")
        lines.append(f"a step of {name} takes {mark}{median:.2f} times as long ({mark}{lowest:.2f} "
                     f"to {mark}{highest:.2f}) and agrees to {decibel(agreement)}")
    lines += [f"{name}: not measured: {reason}" for name, reason in result.unavailable.items()]
    return "\n".join(lines)


BUSY = "~"  # before each figure that was measured while other programs were running


def table(result: BenchResult, profile: bool = False) -> str:
    """The figures as text."""
    height, width = result.size
    mark = BUSY if result.busy else ""
    lines = [f"{result.bundle}, {height}x{width}, {result.threads} thread"
             f"{'s' if result.threads > 1 else ''}, {result.rounds} rounds, load average "
             f"{result.load_average[0]:.2f} to {result.load_average[1]:.2f}", "",
             f"{'':<24}{result.what:>10}  {'min to max':<20}{'image':>9}{'load':>9}"
             f"{'first run':>11}{'memory':>10}{'images/CPU s':>14}"]
    if mark:
        lines.insert(1, f"{mark}: measured while the machine was busy, so it may be wrong")
    for one in result.measured:
        spread = f"{mark}{min(one.seconds) * 1e3:.1f} to {mark}{max(one.seconds) * 1e3:.1f}"
        image, loading, first = (f"{mark}{seconds:.2f}" for seconds in (
            result.image_seconds(one), one.load_seconds, one.first_run_seconds))
        lines.append(f"{one.name:<24}{f'{mark}{one.median * 1e3:.1f}':>7} ms  {spread:<20}"
                     f"{image:>7} s{loading:>7} s{first:>9} s{one.peak_memory / 2 ** 20:>6.0f} MiB"
                     f"{f'{mark}{result.images_per_cpu_second(one):.3g}':>14}")
    lines += [f"{name:<24}not measured: {reason}"
              for name, reason in result.unavailable.items()]
    if result.what == "step":
        lines += ["", f"an image: {result.steps} steps at their median, and "
                      f"{mark}{result.overhead_seconds:.2f} s for the rest"]
    lines.append("")
    for one in result.measured[1:]:
        assert one.ratio is not None  # of every candidate but the first
        median, lowest, highest = one.ratio
        agrees = "" if "minus" in one.name else f", agrees to {one.snr:.0f} dB"
        lines.append(f"packed is {mark}{median:.2f} times as fast as {one.name} "
                     f"({mark}{lowest:.2f} to {mark}{highest:.2f}; at most "
                     f"{mark}{result.ceiling(one):.2f} if binary layers took no time{agrees})")
    lines += ["", "of the packed engine's time:"]
    total = sum(result.profile["parts"].values()) or 1.0
    lines += [f"  {part:<30}{f'{mark}{100 * seconds / total:.1f}':>6} %"
              for part, seconds in result.profile["parts"].items()]
    if profile:
        lines += ["", "by operator:"]
        lines += [f"  {name:<30}{f'{mark}{seconds * 1e3:.2f}':>9} ms"
                  f"{f'{mark}{100 * seconds / total:.1f}':>7} %"
                  for name, seconds in result.profile["operators"].items()]
    if result.profile.get("scale", 1.0) < 1.0:
        lines.append(f"(scaled to the {result.what}; profiled, it took "
                     f"{1 / result.profile['scale']:.2f} times as long)")
    if profile and "roofline" in result.profile:
        lines += ["", *_roofline(result, mark)]
    return "\n".join(lines)


def _roofline(result: BenchResult, mark: str) -> list[str]:
    """Times, and the least times that the machine's measured rates allow."""
    from ..proof.bench.roofline import reasons

    found = result.profile["roofline"]
    rates, bound = found["rates"], found["bound"]
    threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
    lines = [f"measured with {threads}: float32 {mark}{rates['float'] / 1e9:.0f} GMAC/s, rounded "
             f"{mark}{rates['bf16'] / 1e9:.0f}, binary (the fastest layer)",
             f"{mark}{rates['packed'] / 1e9:.0f}; memory {mark}{rates['memory'] / 1e9:.0f} GB/s. "
             "In ms:",
             f"{'':<32}{'time':>9}{'arithmetic':>12}{'memory':>9}{'bound':>9}  time / bound"]
    for part, whole in found["parts"].items():
        lines.append(_bounds(f"  {part}", whole, mark))
        lines += [_bounds(f"    {name}", row, mark) for name, row in found["operators"].items()
                  if found["part"][name] == part]
    lines += ["(3x3 convolutions by Winograd's algorithm without its transforms; maps in a cache "
              "are read faster)",
              *reasons(found),
              f"a {result.what} of {mark}{bound * 1e3:.1f} ms would meet all bounds; the packed "
              f"engine takes {mark}{result.measured[0].median * 1e3:.1f} ms"]
    return lines + [f"  and would be {mark}{one.median / bound:.2f} times as fast as {one.name}"
                    for one in result.measured[1:] if bound]


def _bounds(name: str, row: dict[str, float], mark: str) -> str:
    times = f"{mark}{row['seconds'] / row['bound']:.2f}" if row["bound"] else "no bound known"
    values = (f"{mark}{1e3 * row[key]:.2f}" for key in ("seconds", "arithmetic", "memory", "bound"))
    return "{:<32}{:>9}{:>12}{:>9}{:>9}  ".format(name, *values) + times
