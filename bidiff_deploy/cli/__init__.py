"""The command ``bidiff-deploy``: one module a subcommand, imported only when it is called.

A user's mistake (BidiffError), and a file or stream that cannot be read or written (OSError), is
printed as one line and ends with exit code 1.
"""

from __future__ import annotations

import codecs
import errno
import importlib
import io
import os
import sys
import warnings
from contextlib import suppress
from typing import Any

import click

from ..errors import BidiffError, UsageError, one_line, printable
from ..version import __version__

# name -> (module with a click command called ``command``, its line in the list of commands). The
# line is here so that ``bidiff-deploy --help`` imports no command.
COMMANDS = {
    "export": ("export", "Turn a checkpoint into a bundle of packed per-step graphs."),
    "export-onnx": ("export_onnx", "Write a model as one ONNX file for other programs."),
    "export-triton": ("export_triton", "Write a model repository that serves a bundle in Triton."),
    "build": ("build", "Build a TensorRT plan from a bundle."),
    "build-plugin": ("build_plugin", "Build the plugin library for an installed TensorRT."),
    "pack": ("pack", "Shrink a checkpoint: binary weights become sign bits."),
    "models": ("models", "List the models that are installed with the package."),
    "upscale": ("upscale", "Upscale images: photo.png becomes photo_x2.png."),
    "app": ("app", "Show a page in the browser that upscales photos."),
    "train": ("train", "Train a network as a recipe describes."),
    "evaluate": ("evaluate", "Score a model on data sets: PSNR, SSIM and LPIPS."),
    "check": ("check", "Compare a bundle with its checkpoint, which torch runs."),
    "bench": ("bench", "Measure a bundle's speed and memory against float32."),
    "report": ("report", "Write one HTML page of evidence about a bundle."),
    "inspect": ("inspect", "Show the kind, cost and size of each layer of a bundle."),
    "doctor": ("doctor", "Show what this machine can run, and how to add what is missing."),
}

# What --help lists together: title -> names of commands.
GROUPS = {
    "Use": ("upscale", "app", "models", "doctor"),
    "Make": ("export", "export-onnx", "pack", "build", "build-plugin", "export-triton", "train"),
    "Prove": ("check", "bench", "evaluate", "inspect", "report"),
}

DEFAULT = " Default: "  # the last sentence of an option's help begins with it

# Errors of writing to a stream, which have no file name.
_OF_STREAMS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in GROUPS.values() for name in names if name in COMMANDS]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(
            f"{__name__}.{COMMANDS[name][0]}").command
        _state_defaults(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, COMMANDS[name][1]) for name in names
                                    if name in COMMANDS], col_max=15)

    def invoke(self, ctx: click.Context) -> object:
        try:
            # Refused here, because libraries such as torch end the process.
            if not _has_current_folder():
                raise UsageError("the current folder was removed; change to one that exists")
            return super().invoke(ctx)
        except BidiffError as error:
            click.echo(f"error: {printable(error)}", err=True)
            ctx.exit(1)

    def main(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().main(*arguments, **options)
        except OSError as error:
            click.echo(f"error: {printable(_sentence(error))}", err=True)
            sys.exit(1)


def _state_defaults(command: click.Command) -> None:
    """Let the help of every option end with its default, also where that is a value. Where it is
    none, the help itself says in the same way what happens."""
    for option in command.params:
        if isinstance(option, click.Option):
            option.show_default = False
            value, text = option.default, option.help or ""
            if isinstance(value, (int, float, str)) and not isinstance(value, bool) \
                    and not option.is_flag and DEFAULT not in text:
                option.help = f"{text}{DEFAULT}{value}."


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _sentence(error: OSError) -> str:
    reason = error.strerror or one_line(error)
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {reason}"
    if error.errno not in _OF_STREAMS:
        return reason
    try:
        click.echo()
    except OSError:
        # What was not written may still be in the buffer, and Python would try again at its end.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return f"cannot write to standard output: {reason}; send it to another place"
    return reason


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bidiff-deploy")
def group() -> None:
    """Packed 1-bit engines for binarised super-resolution networks."""


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"warning: {printable(message)}", err=True)


def main() -> None:
    """Entry point of the console script."""
    if sys.argv[1:2] == ["upscale"]:
        # numpy starts a thread for each core to multiply matrices, which upscaling never does.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    warnings.showwarning = _show_warning
    _open_standard_streams()
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


def _open_standard_streams() -> None:
    """Open those that the process was started without: the next file that is opened would get their
    numbers, and messages would be written to it. Writing to such a standard output fails."""
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flags)  # the lowest free number: this one
            if number == 1:
                sys.stdout = os.fdopen(opened, "w", closefd=False)
            elif number == 2:
                sys.stderr = os.fdopen(opened, "w", closefd=False)


if __name__ == "__main__":
    main()
