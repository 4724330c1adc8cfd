"""Plain words in what users read: --help, errors and README have none of the banned ones."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest

from bidiff_deploy import errors
from bidiff_deploy.cli import COMMANDS, group

ROOT = Path(__file__).parents[2]
ERRORS = {name for name in errors.__all__ if name.endswith("Error")}


def banned() -> list[str]:
    """The list of CONTRIBUTING.md, which is its only place."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paragraph = text.partition("searches for these words:\n")[2].partition("\n\n")[0]
    return re.findall(r"`([a-z ]+)`", paragraph)


BANNED = banned()
# "Stands for" is what a symbol does.
PATTERN = re.compile(rf"\b({'|'.join(map(re.escape, BANNED))})\b(?! for\b)", re.I)


def found_in(text: str) -> list[str]:
    """Banned words with what is around them, code in backquotes left out."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    prose = re.sub(r"\s+", " ", prose)
    return [prose[max(0, match.start() - 40):match.end() + 40] for match in PATTERN.finditer(prose)]


def error_texts(path: Path) -> list[str]:
    """String literals inside calls of our exceptions, formatted values as {}."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and (
                getattr(node.func, "id", None) or getattr(node.func, "attr", "")) in ERRORS:
            parts = [part.value for part in ast.walk(node)
                     if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            found.append(" ".join(parts))
    return found


def test_the_list_is_there():
    assert len(BANNED) >= 10


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help(command):
    context = click.Context(group, info_name="bidiff-deploy")
    found = group.get_command(context, command)
    assert found is not None
    with click.Context(found, info_name=command, parent=context) as inner:
        assert found_in(found.get_help(inner)) == []


def test_errors():
    wrong = [(str(path.relative_to(ROOT)), hit)
             for path in sorted((ROOT / "bidiff_deploy").rglob("*.py"))
             for text in error_texts(path) for hit in found_in(text)]
    assert wrong == []


@pytest.mark.parametrize("page", ["README.md", "training/README.md", "engines/cuda/README.md",
                                  "engines/tensorrt/README.md", "export/bundle_format.md",
                                  "export/op_contract.md", "docs/jetson.md", "docs/commands.md",
                                  "docs/onnx.md", "CHANGELOG.md"])
def test_pages(page):
    assert found_in((ROOT / page).read_text(encoding="utf-8")) == []
