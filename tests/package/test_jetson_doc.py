"""docs/jetson.md: the commands that it tells exist, with their options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from bidiff_deploy.cli import COMMANDS, group
from tools.tensorrt_check.__main__ import parser

ROOT = Path(__file__).parents[2]

TEXT = (ROOT / "docs" / "jetson.md").read_text(encoding="utf-8")
BLOCKS = "\n".join(line[4:] for line in TEXT.splitlines() if line.startswith("    "))
LINES = [line for line in BLOCKS.replace("\\\n", " ").splitlines() if line.strip()]
COMMAND = {name: group.get_command(click.Context(group), name) for name in COMMANDS}
OURS = [shlex.split(line, comments=True) for line in LINES if line.startswith("bidiff-deploy ")]


def context_of(words: list[str]) -> click.Context:
    """The command parsed, and not run; raises click's errors."""
    return COMMAND[words[1]].make_context(words[1], words[2:])


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_commands_can_be_parsed(words):
    context_of(words)


def test_what_is_parsed_is_what_stands_there():
    assert {words[1] for words in OURS} == {"export", "doctor", "build-plugin", "build", "upscale",
                                            "bench", "check"}
    with pytest.raises(click.NoSuchOption):
        context_of(["bidiff-deploy", "build", "model.bundle", "--warp"])


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(--[a-z0-9-]+)", TEXT))))
def test_options_in_the_text_exist(name):
    known = {option for command in COMMAND.values() for parameter in command.params
             for option in parameter.opts}
    known |= set(parser()._option_string_actions)
    known |= {"--fp16"}  # trtexec's
    assert name in known


def test_the_tool_takes_its_options():
    line, = (line for line in LINES if line.startswith("python tools/tensorrt_check"))
    given = parser().parse_args(shlex.split(line)[2:])
    assert given.batches == "1" and given.tensorrt_root == "/usr"


def test_cmake_variables_exist():
    text = (ROOT / "engines" / "tensorrt" / "CMakeLists.txt").read_text(encoding="utf-8")
    names = set(re.findall(r"-D(BIDIFF_\w+)=", TEXT))
    assert names and all(f"set({name} " in text for name in names)


def test_it_says_what_it_is_worth():
    assert "None of this has been run on a Jetson yet." in TEXT
