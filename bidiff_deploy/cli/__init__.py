"""The command ``bidiff-deploy``: one module a subcommand, imported only when it is called.

A user's mistake (BidiffError) is printed as one line and ends with exit code 1.
"""

from __future__ import annotations

import codecs
import importlib
import io
import sys

import click

from ..errors import BidiffError
from ..version import __version__

# name -> (module with a click command called ``command``, its line in the list of commands). The
# line is here so that ``bidiff-deploy --help`` imports no command.
COMMANDS = {
    "export": ("export", "Turn a checkpoint into a bundle of packed per-step graphs."),
    "export-triton": ("export_triton", "Write a model repository that serves a bundle in Triton."),
    "build": ("build", "Build a TensorRT plan from a bundle."),
    "build-plugin": ("build_plugin", "Build the plugin library for an installed TensorRT."),
    "pack": ("pack", "Shrink a checkpoint: binary weights become sign bits."),
    "models": ("models", "List the models that are installed with the package."),
    "upscale": ("upscale", "Upscale images with a bundle."),
    "train": ("train", "Train a network as a recipe describes."),
    "evaluate": ("evaluate", "Score a model on data sets: PSNR, SSIM and LPIPS."),
    "check": ("check", "Compare a bundle with its checkpoint, which torch runs."),
    "bench": ("bench", "Measure a bundle's speed and memory against float32."),
    "report": ("report", "Write one HTML page of evidence about a bundle."),
    "inspect": ("inspect", "Show the kind, cost and size of each layer of a bundle."),
    "doctor": ("doctor", "Show what this machine can run, and how to add what is missing."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(
            f"{__name__}.{COMMANDS[name][0]}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BidiffError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bidiff-deploy")
def group() -> None:
    """Packed 1-bit engines for binarised super-resolution networks."""


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names of files may have characters that the terminal lacks: they are escaped. Click
            # writes UTF-8 instead of ASCII, and so do we.
            plain = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="utf-8" if plain else None, errors="backslashreplace")
    try:
        group(prog_name="bidiff-deploy")
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main()
