"""Which state dict of a checkpoint is taken, and the prefixes of its keys.

Training programs write several state dicts into a file, of raw and of averaged weights, and wrap
networks in modules that prefix every key. Averaged weights are what validation uses, so they come
first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import CheckpointError, quoted
from ..networks import NETWORKS
from ..networks.base import Shapes

__all__ = ["STATE_NAMES", "choose_state", "without_prefixes"]

_AVERAGED = re.compile(r"(^|[._])((?i:ema)\d*|avg|averaged?|swa|shadow|polyak)([._]|$)"
                       r"|(^|[._])ema[A-Z]")
# State dicts of other things than the network.
_OTHERS = re.compile(r"optim|sched|scaler|objective|disc|net_d|netd|loss|vgg|lpips", re.IGNORECASE)
STATE_NAMES = ("params", "state_dict", "model", "model_state_dict", "model_state", "net_g", "netG",
          "generator", "network", "net", "weights", "module")
_COUNTERS = {"n_averaged", "initted", "step", "num_updates", "decay", "global_step", "epoch"}
_MAX_DEPTH = 3
_MAX_PREFIXES = 8
_COMPILED = "_orig_mod."


def choose_state(document: Mapping[Any, Any],
                 is_tensor: Callable[[Any], bool]) -> tuple[str, Mapping[Any, Any], list[str]]:
    """The name ("" of the document itself, else like ``ema.module``) and content of the state dict
    to take, and sentences about the choice: averaged weights, then those of usual names, then the
    one with most tensors. Without any, the document itself."""
    found = dict(_state_dicts(document, is_tensor, "", set()))
    if not found:
        return "", document, []
    counts = {name: sum(map(is_tensor, state.values())) for name, state in found.items()}
    most = max(counts.values())

    def rank(name: str) -> tuple[bool, bool, int, int]:
        known = next((i for i, key in enumerate(STATE_NAMES) if name.partition(".")[0] == key),
                     len(STATE_NAMES))
        # An average of a part, or of something else, has fewer tensors.
        averaged = bool(_AVERAGED.search(name)) and 2 * counts[name] >= most
        return bool(_OTHERS.search(name)), not averaged, known, -counts[name]

    taken, *others = sorted(found, key=rank)
    others = [name for name in others if not _OTHERS.search(name)]
    unread = [key for key, value in document.items()
              if isinstance(key, str) and _AVERAGED.search(key) and isinstance(value, (dict, list))
              and not any(name == key or name.startswith(f"{key}.") for name in found)]
    notes = []
    if others or unread:
        kind = ", the averaged weights," if _AVERAGED.search(taken) else ""
        notes.append(f"{_listed([taken])}{kind} was taken; the file also has "
                     f"{_listed(others + unread)}")
    return taken, found[taken], notes


def _listed(names: list[str]) -> str:
    shown = [name if len(name) <= 60 and name.isprintable() else quoted(name)
             for name in names[:5]]
    return ", ".join(shown) + (", ..." if len(names) > 5 else "")


def _state_dicts(document: Mapping[Any, Any], is_tensor: Callable[[Any], bool], name: str,
                 seen: set[int], depth: int = 0) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """``(name, state dict)`` of the innermost mappings that contain tensors, each once."""
    inside = False
    for key, value in document.items():
        if (isinstance(value, Mapping) and isinstance(key, str) and depth < _MAX_DEPTH
                and id(value) not in seen and not re.match("optim", key)):
            seen.add(id(value))
            for found in _state_dicts(value, is_tensor, f"{name}.{key}" if name else key, seen,
                                      depth + 1):
                inside = True
                yield found
    if not inside and any(map(is_tensor, document.values())):
        yield name, document


def without_prefixes(shapes: Shapes, path: object) -> tuple[dict[str, str], list[str]]:
    """``{key: key in the file}`` without the prefixes that all keys share, without torch.compile's
    marks inside of keys, and without the counters of averages; and sentences about it.

    Prefixes are removed until the keys are those of a known network; if they never are, none is.
    Of two networks under two prefixes, one of them averaged, the averaged is taken; of several
    things under prefixes, the only known network. Raises CheckpointError, which names ``path``, if
    two keys become one.
    """
    notes = []
    keys = [key for key in shapes if key not in _COUNTERS]
    found = {key.replace(_COMPILED, ""): key for key in keys}
    if len(found) != len(keys):
        raise CheckpointError(f"{path} contains keys twice, with and without '{_COMPILED}'; save "
                              "one state dict")
    removed = _COMPILED if set(found) != set(keys) else ""
    for _ in range(_MAX_PREFIXES):
        if _is_known(found, shapes):
            if removed:
                notes.append(f"the prefix {quoted(removed)} was removed from its keys")
            return found, notes
        groups: dict[str, dict[str, str]] = {}
        single = {}
        for key, value in found.items():
            first, dot, rest = key.partition(".")
            if dot:
                groups.setdefault(first, {})[rest] = value
            else:
                single[key] = value
        names = sorted(groups, key=lambda name: not _AVERAGED.search(name))
        if not names:
            break
        taken = groups[names[0]]
        if len(names) > 1:
            kind = ", the averaged weights,"
            if not _AVERAGED.search(names[0]) or all(groups[name].keys() != taken.keys()
                                                     for name in names[1:]):
                networks = [name for name in names if _is_known({**single, **groups[name]}, shapes)]
                if len(networks) != 1:
                    break
                names.sort(key=lambda name: name not in networks)
                taken, kind = groups[names[0]], ""
            notes.append(f"{_listed(names[:1])}{kind} was taken; the file also has "
                         f"{_listed(names[1:])}")
        removed += f"{names[0]}."
        found = {**single, **taken}
    return {key: key for key in shapes}, []


def _is_known(found: Mapping[str, str], shapes: Shapes) -> bool:
    named = {key: shapes[old] for key, old in found.items()}
    return any(network.matches(named) for network in NETWORKS.values())
