"""Options and parsers that several commands share."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from ..engines import BACKENDS
from ..errors import UsageError, printable

if TYPE_CHECKING:
    from ..engines.tile_choice import Tile



class _Path(click.Path):
    """A path; one that cannot be read is reported by the command itself, in a sentence and with
    exit code 1. ``-`` is refused, because no command reads or writes images through pipes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "-":
            raise UsageError("- (standard input or output) is not supported; name a file, or write "
                             "./- for a file of that name")
        return super().convert(value, param, ctx)


_SCALE = "bidiff_deploy.scale"  # in a context's meta: what ``scale_option`` chose


class _Bundle(_Path):
    """The path of a bundle. A checkpoint and the name of an installed model become that of a
    temporary one, of the scale of ``scale_option``, which is removed when the command ends."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        if ctx is None:
            return path
        from ..models.open import bundle_folder

        return str(ctx.with_resource(bundle_folder(path, ctx.meta.get(_SCALE))))


PATH = _Path(readable=False)
BUNDLE = _Bundle(readable=False)

Command = Callable[..., Any]

backend_option = click.option(
    "--backend", default="onnxruntime",
    help=f"Backend that runs the graphs: {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}.")
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), metavar="N",
    help="Threads that an operator may use. Default: all usable cores.")
device_option = click.option(
    "--device", type=click.IntRange(min=0), metavar="N",
    help="Number of the GPU, for backends that run on one. Default: 0.")
# Read before the argument BUNDLE, which depends on it.
scale_option = click.option(
    "--scale", type=click.IntRange(1, 16), metavar="N", is_eager=True, expose_value=False,
    callback=lambda context, _, value: context.meta.update({_SCALE: value}),
    help="Choose the upscaling factor of a checkpoint that has several.")
published_options_option = click.option(
    "--options", type=PATH, metavar="FILE",
    help="YAML options of the checkpoint, in the published form (network_g, beta_schedule, scale; "
         "or model, diffusion, autoencoder).")
autoencoder_option = click.option(
    "--autoencoder", type=PATH, metavar="FILE",
    help="The autoencoder of a latent network (DiT-SR), which is published as a file of its own: "
         "ResShift's autoencoder_vq_f4.pth. A packed checkpoint has it inside.")
sampler_option = click.option(
    "--sampler", type=click.Choice(["ancestral", "deterministic"]),
    help="How a latent network goes from step to step. Default: as it was published.")
quiet_option = click.option(
    "--quiet", is_flag=True, help="Print nothing but warnings, errors and what --json asks for.")

_UPSCALE_OPTIONS = (
    click.option("--seed", type=int, default=0, metavar="N",
                 help="Seed of the noise; the same seed gives the same image. Models without noise "
                      "have one result for an image."),
    click.option("--steps", type=int, metavar="N",
                 help="Visit only this many of the timesteps, evenly spaced. Default: all."),
    click.option("--start", metavar="T|none",
                 help="Begin at the first timestep at or below T, from the noised input; none "
                      "begins from pure noise. Default: what the model was made for."),
    click.option("--match-color", is_flag=True,
                 help="Replace the low frequencies of the result by the input's, which removes "
                      "colour shifts and keeps detail."),
    click.option("--ensemble", type=click.Choice(["1", "2", "4", "8"]), default="1",
                 help="Enlarge this many turned and mirrored copies of each image and take the "
                      "mean: slightly better, as many times slower. Not for diffusion models."),
    click.option("--tile", metavar="auto|N|none", default="auto",
                 help="Side of tiles in output pixels, or none to compute each image whole. auto: "
                      "whole if the memory allows, otherwise in tiles that fit it."),
    click.option("--memory", metavar="SIZE",
                 help="Memory budget for choosing the tile size, e.g. 2GB or 512MiB. Default: half "
                      "of what is free."),
    click.option("--overlap", type=click.IntRange(min=0), metavar="N",
                 help="Overlap of neighbouring tiles in output pixels. Default: enough to leave no "
                      "visible seams."),
)


def upscale_options(command: Command) -> Command:
    """Adds the options of upscaling and passes them on as ``upscale``, an UpscaleOptions."""

    @functools.wraps(command)
    def collected(seed: int, steps: int | None, start: str | None, match_color: bool,
                  ensemble: str, tile: str, memory: str | None, overlap: int | None,
                  **others: Any) -> Any:
        from ..upscale.options import UpscaleOptions

        return command(upscale=UpscaleOptions(
            seed, steps, "default" if start is None else _parse_start(start), match_color,
            int(ensemble), _parse_tile(tile), None if memory is None else parse_bytes(memory),
            overlap), **others)

    for option in reversed(_UPSCALE_OPTIONS):
        collected = option(collected)
    return collected


def json_option(what: str) -> Callable[[Command], Command]:
    """``--json``, which prints ``what`` instead of text."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON on stdout.")


def check_quiet(quiet: bool, as_json: bool) -> None:
    """Raise UsageError if a command whose only product is what it prints would print nothing."""
    if quiet and not as_json:
        raise UsageError("--quiet leaves nothing to print; add --json, or leave --quiet out")


def print_line(text: str) -> None:
    """Prints a line on stdout. If nothing reads it any more (``| head``), this is reported once on
    stderr and further lines go nowhere, so that the command can finish its work."""
    try:
        click.echo(text)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        click.echo("warning: stdout is closed; the work goes on without it", err=True)


def print_note(text: str) -> None:
    """Prints one line on stderr, with what is not printable in it escaped: names of files may steer
    a terminal."""
    click.echo(printable(text), err=True)


def parse_timesteps(text: str | None) -> list[int] | None:
    """``"1960,1920,0"`` as numbers; None stays None. Raises UsageError."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--timesteps {text!r} must be whole numbers separated by commas, such as "
                         "1960,1920,0") from None


def print_assumptions(assumptions: Iterable[str]) -> None:
    """Prints one line on stderr for each."""
    for line in assumptions:
        print_note(f"assumed: {line}")


def parse_bytes(text: str, option: str = "--memory") -> int:
    """``2GB``, ``512MiB``, ``1.5G`` or ``1000000`` as bytes. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?:([kmgt])(i?))?b?", text,
                         re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"{option} {text!r} must be a number of bytes with a unit, such as 2GB, "
                         "512MiB or 800k")
    power = " kmgt".index((match[2] or " ").lower())
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def parse_size(text: str) -> tuple[int, int]:
    """``"256x192"`` as (height, width), each from 1 to 65536. Raises UsageError."""
    match = re.fullmatch("([0-9]{1,5})x([0-9]{1,5})", text.lower())
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(0 < side <= 1 << 16 for side in sides):
        raise UsageError(f"--size {text!r} must be height and width, such as 256x320")
    return sides


def parse_names(text: str) -> list[str]:
    """``"a, b"`` as names."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _parse_start(text: str) -> int | None:
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--start {text!r} must be a timestep or none") from None


def _parse_tile(text: str) -> Tile:
    if text.lower() == "none":
        return None
    if text.lower() == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--tile {text!r} must be auto, none or output pixels a side") from None
