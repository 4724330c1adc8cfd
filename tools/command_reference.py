"""Writes docs/commands.md from the commands themselves: every argument and option, help, default.

    python tools/command_reference.py            # writes docs/commands.md
    python tools/command_reference.py --check    # exit code 1 if it is not up to date

A test compares the file, so run this after every change to a command.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "docs" / "commands.md"
_INTRODUCTION = """\
# Commands

Written by `tools/command_reference.py` from the commands' own help; change it there.

`bidiff-deploy` and `python -m bidiff_deploy` are the same. Every command has `-h` and `--help`. A
mistake is one line on stderr that starts with `error:`, and exit code 1; an option that does not
exist or has a value of the wrong kind is exit code 2. With `--json`, stdout holds JSON alone.
"""


def reference() -> str:
    """The whole page."""
    from bidiff_deploy.cli import COMMANDS, GROUPS, group

    lines = [_INTRODUCTION, "| command | |", "|---|---|"]
    for title, names in GROUPS.items():
        lines.append(f"| **{title}** | |")
        lines += [f"| [`{name}`](#{name}) | {COMMANDS[name][1]} |" for name in names
                  if name in COMMANDS]
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        lines += ["", *_section(name, command)]
    return "\n".join(lines) + "\n"


def _section(name: str, command: click.Command) -> Iterator[str]:
    from bidiff_deploy.cli import DEFAULT

    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    options = [param for param in command.params if isinstance(param, click.Option)]
    usage = " ".join(["bidiff-deploy", name, *(["[OPTIONS]"] if options else []),
                      *map(_argument, arguments)])
    yield f"## {name}"
    yield ""
    yield f"    {usage}"
    yield ""
    # \b and \f control click's layout.
    yield inspect.cleandoc((command.help or "").partition("\f")[0]).replace("\b\n", "")
    if options:
        yield ""
        yield "| option | default | |"
        yield "|---|---|---|"
    for option in options:
        names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
        value = "" if option.is_flag else f" `{_value(option)}`"
        text, _, in_words = (option.help or "").partition(DEFAULT)
        default = _default(option) or in_words.removesuffix(".")
        yield "| " + " | ".join(map(_cell, (names + value, default, text))) + " |"


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or argument.name.upper()
    if argument.nargs != 1 and not name.endswith("..."):
        name += "..."
    return name if argument.required else f"[{name}]"


def _value(option: click.Option) -> str:
    """What follows the option: its metavar, its choices, or the kind of value."""
    kind = option.type
    if option.metavar:
        return str(option.metavar)
    if hasattr(kind, "choices"):
        return "|".join(map(str, kind.choices))
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    name = {"integer range": "INTEGER", "float range": "FLOAT"}.get(kind.name, kind.name.upper())
    if low is not None and high is not None:
        return f"{name} {low}..{high}"
    return f"{name} >={low}" if low is not None else f"{name} <={high}" if high is not None \
        else name


def _default(option: click.Option) -> str:
    if option.required:
        return "required"
    value = option.default
    # Click's value for "no default" depends on its version.
    if isinstance(value, bool):
        return "on" if value else ""
    return f"`{value}`" if isinstance(value, (int, float, str)) and value != "" else ""


def _cell(text: str) -> str:
    """The text of a table cell: on one line, bars escaped."""
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write docs/commands.md from the commands.")
    parser.add_argument("--check", action="store_true",
                        help="write nothing, and fail if the file is not up to date")
    options = parser.parse_args(arguments)
    text = reference()
    if options.check:
        if not OUTPUT.is_file() or OUTPUT.read_text(encoding="utf-8") != text:
            print(f"error: {OUTPUT.relative_to(ROOT)} is not up to date; run "
                  "python tools/command_reference.py", file=sys.stderr)
            return 1
        return 0
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
