"""docs/commands.md contains the help of every command, and every option has help."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bidiff_deploy.cli import COMMANDS, DEFAULT, GROUPS, group

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "command_reference.py"


def load_tool():
    spec = importlib.util.spec_from_file_location("command_reference", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands() -> dict[str, click.Command]:
    return {name: group.get_command(click.Context(group), name) for name in COMMANDS}


def test_the_reference_is_up_to_date():
    written = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == load_tool().reference(), \
        "a command changed; run python tools/command_reference.py"
    done = subprocess.run([sys.executable, str(TOOL), "--check"], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_a_stale_reference_is_refused(tmp_path, monkeypatch, capsys):
    tool = load_tool()
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "OUTPUT", tmp_path / "docs" / "commands.md")
    assert tool.main(["--check"]) == 1
    assert "docs/commands.md is not up to date" in capsys.readouterr().err
    assert tool.main([]) == 0 and tool.main(["--check"]) == 0
    with open(tool.OUTPUT, "a", encoding="utf-8") as stream:
        stream.write("more\n")
    assert tool.main(["--check"]) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_there_with_help(name):
    command = commands()[name]
    text = load_tool().reference()
    section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert command.help and command.help.split(".")[0].split("\n")[0] in section
    assert COMMANDS[name][1] in text and COMMANDS[name][1].endswith(".")
    for param in command.params:
        if isinstance(param, click.Option):
            assert param.help, f"{name} {param.opts[-1]} has no help"
            for spelling in (*param.opts, *param.secondary_opts):
                assert f"`{spelling}`" in section
        else:
            assert (param.metavar or param.name.upper()) in section


def test_every_command_is_in_one_group():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(COMMANDS)
    shown = CliRunner().invoke(group, ["--help"]).output
    for title, names in GROUPS.items():
        part = shown.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in part.splitlines()] == list(names)


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_are_shown_in_one_way(name):
    """In the last sentence of the help, a value or words; an option that has none says none."""
    command = commands()[name]
    shown = " ".join(CliRunner().invoke(group, [name, "--help"]).output.split())
    assert "[default" not in shown
    for option in command.params:
        if not isinstance(option, click.Option) or option.is_flag:
            continue
        text, _, default = option.help.partition(DEFAULT)
        assert "efault" not in text and (default.endswith(".") or not default), option.help
        if isinstance(option.default, (int, float, str)):
            assert default == f"{option.default}."
    again = commands()[name]  # the same objects
    assert not any(option.help.count(DEFAULT) > 1 for option in again.params
                   if isinstance(option, click.Option))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_reference_agree_on_usage(name):
    """Click's own words for the arguments; ours do not depend on click's version."""
    shown = CliRunner().invoke(group, [name, "--help"]).output.splitlines()[0]
    section = load_tool().reference().split(f"\n## {name}\n")[1]
    usage = next(line for line in section.splitlines() if line.startswith("    bidiff-deploy"))
    assert shown.split("[OPTIONS]")[1].split() == usage.split("[OPTIONS]")[1].split()


def test_values_and_defaults_of_options():
    @click.command()
    @click.argument("files", nargs=-1)
    @click.option("-n", "--number", type=click.IntRange(1, 9), default=3, help="How many.")
    @click.option("--from", "start", type=click.IntRange(min=0), help="First | last.")
    @click.option("--form", type=click.Choice(["png", "jpg"]), required=True, help="Of\nit.")
    @click.option("--ratio", type=float, default=0.5, help="A share.")
    @click.option("--key", metavar="K=V", multiple=True, help="A pair.")
    @click.option("--fast/--slow", default=True, help="Speed.")
    @click.option("--quiet", is_flag=True, help="No words.")
    def example() -> None:
        """What it does."""

    assert list(load_tool()._section("example", example)) == [
        "## example", "", "    bidiff-deploy example [OPTIONS] [FILES...]", "", "What it does.", "",
        "| option | default | |", "|---|---|---|",
        "| `-n`, `--number` `INTEGER 1..9` | `3` | How many. |",
        "| `--from` `INTEGER >=0` |  | First \\| last. |",
        "| `--form` `png\\|jpg` | required | Of it. |",
        "| `--ratio` `FLOAT` | `0.5` | A share. |",
        "| `--key` `K=V` |  | A pair. |",
        "| `--fast`, `--slow` | on | Speed. |",
        "| `--quiet` |  | No words. |"]
