"""The YAML loader of the whole package, for option files and recipes.

Aliases, merges and numbers of base 60 are not supported: with them a few bytes stand for gigabytes,
and ``1:30`` is 90. Memory and time are in proportion to the size of the text.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.resolver import BaseResolver, Resolver

__all__ = ["load_yaml", "read_text"]

MAX_YAML_BYTES = 1 << 17  # the authors' option files have 4 KiB
_TOO_LARGE = f"it has more than {MAX_YAML_BYTES >> 10} KiB"
# PyYAML writes an alias where a list or mapping is used twice.
_IN_PYTHON = "in Python, set yaml.Dumper.ignore_aliases = lambda *_: True before yaml.dump"
_SUPPORTED = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq",
                                                       "map")}
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*|0[xX][0-9a-fA-F_]+|0[0-7_]+|0b[01_]+)\Z")
_MAX_DIGITS = 400  # of a number


class _Loader(yaml.SafeLoader):
    """yaml.SafeLoader without aliases, merges, base 60, dates and tags of other types."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ConstructorError(None, None, "aliases (*name) are not supported: write the value "
                                   f"out where it is used; {_IN_PYTHON}")
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise ConstructorError(None, None, "merges (<<) are not supported: write the keys "
                                       "out", key.start_mark)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _SUPPORTED:
            raise ConstructorError(None, None, "tags (!name) are not supported: leave them out",
                                   node.start_mark)
        return super().construct_object(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        if not _INT.match(text) or len(text) > _MAX_DIGITS:
            raise ConstructorError(None, None, "this is not a whole number", node.start_mark)
        return super().construct_yaml_int(node)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        text = self.construct_scalar(node)
        if ":" in text or len(text) > _MAX_DIGITS:
            raise ConstructorError(None, None, "this is not a number", node.start_mark)
        return super().construct_yaml_float(node)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """PyYAML's, but for base 60 and dates, which become text. ``<<`` stays, to be refused."""
    numbers = {"tag:yaml.org,2002:int": _INT,
               "tag:yaml.org,2002:float": re.compile(
                   r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]"
                   r"[0-9]+)?|\.(?:inf|Inf|INF))\Z|\.(?:nan|NaN|NAN)\Z")}
    return {first: [(tag, numbers.get(tag, pattern)) for tag, pattern in rules
                    if tag != "tag:yaml.org,2002:timestamp"]
            for first, rules in Resolver.yaml_implicit_resolvers.items()}


_Loader.yaml_implicit_resolvers = _resolvers()
for _kind in ("int", "float"):
    _Loader.add_constructor(f"{BaseResolver.DEFAULT_SCALAR_TAG[:-3]}{_kind}",
                            getattr(_Loader, f"construct_yaml_{_kind}"))


def read_text(path: Path) -> str:
    """The text of a YAML file. Raises OSError for one that cannot be read, ValueError for what is
    not text in UTF-8 and for more than MAX_YAML_BYTES."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "it is not a regular file")
    with open(path, "rb") as file:
        data = file.read(MAX_YAML_BYTES + 1)
    if len(data) > MAX_YAML_BYTES:
        raise ValueError(_TOO_LARGE)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None


def load_yaml(text: str) -> Any:
    """The value that a YAML text describes: mappings, lists, strings, numbers, booleans and None.
    Raises ValueError, one line, for everything else and for more than MAX_YAML_BYTES."""
    if len(text) > MAX_YAML_BYTES:
        raise ValueError(_TOO_LARGE)
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        text = str(error).replace('in "<unicode string>", ', "")
        raise ValueError(" ".join(text.split())) from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
