"""The listing of the package: few modules at the root, every package named in the data's order."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import bidiff_deploy

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "bidiff_deploy"
MAX_ROOT_MODULES = 8
PACKAGES = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def test_the_root_has_few_modules():
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_ROOT_MODULES


def test_the_packages_docstring_lists_its_packages():
    listed = re.findall(r"^    ([a-z]+)  +\S", bidiff_deploy.__doc__, re.M)
    assert sorted(listed) == sorted(PACKAGES)


def test_contributing_lists_them_in_the_same_order():
    listed = re.findall(r"^    ([a-z]+)  +\S", bidiff_deploy.__doc__, re.M)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z]+)/` \|", text, re.M) == listed


@pytest.mark.parametrize("package", sorted(
    str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("__init__.py")))
def test_every_package_says_what_it_is(package):
    doc = ast.get_docstring(ast.parse((PACKAGE / package).read_text(encoding="utf-8")))
    assert doc and doc.endswith((".", "`")), package


def test_tests_mirror_the_packages():
    mirrored = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert PACKAGES <= mirrored | {"version"}


def test_networks_are_named_by_no_one_above_them():
    """Only their own folder, training and its table say which network it is."""
    allowed = ("networks", "training", "proof", "doctor")
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] in allowed:
            continue
        text = path.read_text(encoding="utf-8")
        found = re.search(r"networks\.(bi_diffsr|bbcu)", text)
        assert not found, f"{path}: {found[0]}"
