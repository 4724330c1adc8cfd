"""An inspection as text that fits 100 columns: a summary, then details and a table of layers."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

from ...bundle.record import Bundle, LatentBundle, NoisePredictorBundle
from ...errors import printable
from ...operators.names import DOMAIN
from ...operators.value_names import short
from .inspection import InspectedLayer, Inspection

WIDTH = 100
_NAME_WIDTH = 28
_HEADINGS = ("layer", "kind", "bits", "weights", "map", "MACs", "disk B", "memory B", "float32 B",
             "why")
_LEFT = (0, 1, 9)  # columns of words; the others are numbers


def to_text(found: Inspection) -> str:
    """The whole report, lines without a trailing newline."""
    return "\n".join([*_summary(found), "", *_details(found), "", *_table(found)])


def human(number: float) -> str:
    """A count with a metric prefix: 2.42 G, 147.7 k, 132."""
    if number >= 1e18:  # at a size that no machine can hold
        return "huge"
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            scaled = number / factor
            return f"{scaled:.{2 if scaled < 100 else 1}f} {prefix}"
    return f"{number:.0f}"


def _details(found: Inspection) -> list[str]:
    bundle, manifest = found.bundle, found.bundle.manifest
    source, tool = manifest.get("source", {}), manifest.get("tool", {})
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    lines = [
        ("made from", f"{source.get('name')}, SHA-256 {str(source.get('sha256'))[:16]}..., "
                      f"by {tool.get('name')} {tool.get('version')}"),
        ("files", f"{len(manifest['files'])}, size and SHA-256 of each verified"),
        ("versions", f"schema {manifest['schema_version']}, packing {manifest['packing_version']}, "
                     f"opsets {opsets}"),
        *_steps(bundle),
        ("operators", ", ".join(f"{number} {name}" for name, number in sorted(
            found.operators.items(), key=lambda item: (-item[1], item[0])))),
        ("defined inside", ", ".join(found.functions) or (
            "nothing, so the op library is required"
            if any(name.startswith(f"{DOMAIN}.") for name in found.operators)
            else "nothing, as all are standard")),
        *(("assumed", line) for line in manifest.get("assumptions", ())),
    ]
    if zeros := manifest.get("zero_weights"):
        lines.append(("zero weights", f"{zeros} binary weights were exactly 0 and became +1"))
    return _lines(lines)


def _steps(bundle: Bundle) -> list[tuple[str, str]]:
    if isinstance(bundle, LatentBundle):
        return [("steps", f"{_range(list(bundle.timesteps))}, {bundle.sampler} sampler, between "
                          "encoder and decoder")]
    if not isinstance(bundle, NoisePredictorBundle):
        return [("steps", "none: feed-forward, one run of one graph per image")]
    start = bundle.default_start
    if bundle.noiseless:
        beginning = f"the input at {start}, without noise: a function of the image alone"
    else:
        beginning = "pure noise" if start is None else f"the noised condition at {start}"
    groups = [f"group {group}: {_range([step.timestep for step in steps])}"
              for group, steps in groupby(bundle.steps, key=lambda step: step.group)]
    return [("steps", f"{len(bundle.steps)}, starting from {beginning}"),
            *(("", group) for group in groups)]


def _range(timesteps: list[int]) -> str:
    if len(timesteps) <= 6:
        return ", ".join(map(str, timesteps))
    return f"{timesteps[0]}, {timesteps[1]}, ... {timesteps[-1]} ({len(timesteps)} steps)"


def _fit(line: str) -> str:
    """The line broken at spaces, continuation lines indented to the value."""
    lines = []
    while len(line) > WIDTH and (cut := line.rfind(" ", 16, WIDTH)) > 0:
        lines.append(line[:cut])
        line = " " * 15 + line[cut + 1:]
    return "\n".join([*lines, line])


def _table(found: Inspection) -> list[str]:
    letters: dict[str, str] = {}
    rows: list[tuple[str, ...]] = [_HEADINGS]
    for layer in found.layers:
        letters.setdefault(layer.why, _letter(len(letters)))
        rows.append(_row(layer, letters[layer.why]))
    rows += [(name, "", "", "", "", "", *map(human, (weight.disk, weight.memory,
                                                     weight.checkpoint)), "")
             for name, weight in found.parts.items()]
    rows.append(("alignment", "", "", "", "", "", human(found.unused_bytes), "", "", ""))
    rows.append(("graphs, manifest", "", "", "", "", "",
                 human(found.graph_bytes + found.manifest_bytes), "", "", ""))
    total = found.total
    rows.append(("total", "", "", "", "", human(sum(found.macs.values())),
                 *map(human, (total.disk, total.memory, total.checkpoint)), ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [" ".join(cell.ljust(width) if column in _LEFT else cell.rjust(width)
                      for column, (cell, width) in enumerate(zip(row, widths))).rstrip()
             for row in rows]
    return [*lines, "", *(_fit(f"why {letter:<11}{why}") for why, letter in letters.items())]


def _row(layer: InspectedLayer, letter: str) -> tuple[str, ...]:
    found, weight = layer.found, layer.weight
    size = "" if found.height is None else f"{found.height}x{found.width}"
    return (_brief(layer.name), found.kind, "" if found.bits is None else str(found.bits),
            "x".join(map(str, found.shape)), size,
            human(found.macs), human(weight.disk), human(weight.memory), human(weight.checkpoint),
            letter)


def _brief(name: str) -> str:
    """A layer's name, shortened where the table would be too wide."""
    if len(name) <= _NAME_WIDTH:
        return name
    return short(name).replace("blocks.", "b").replace("block.", "b")


def _run_of(found: Inspection) -> str:
    """The run that multiply-accumulates are counted for."""
    size = f"{found.count.height}x{found.count.width}"
    if isinstance(found.bundle, NoisePredictorBundle):
        return f"one step at {size}, {_runs(found.bundle)} per image"
    if isinstance(found.bundle, LatentBundle):
        return (f"one run of each graph for an image of {size} before it is enlarged, "
                f"{_runs(found.bundle)} per image")
    return f"an image of {size} before it is enlarged"


def _letter(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else str(index)


def _summary(found: Inspection) -> list[str]:
    bundle, counted, total, macs = found.bundle, found.count, found.total, found.macs
    done = ", ".join(f"{human(value)} {kind}" for kind, value in sorted(
        macs.items(), key=lambda item: -item[1]))
    lines = [
        ("bundle", f"{bundle.path}, upscales by {bundle.scale}, network {bundle.network.name}, "
                   f"{_runs(bundle)}"),
        *([("disagreement", line) for line in found.disagreements]
          or [("agreement", "graphs, weights and manifest agree")]),
        ("size", f"{total.disk / 1e6:.2f} MB on disk, tensors {total.memory / 1e6:.2f} MB in "
                 f"memory; as a float32 checkpoint {total.checkpoint / 1e6:.2f} MB, "
                 f"{total.checkpoint / total.disk:.1f} times the bundle"),
        ("parameters", f"{human(counted.parameters)}: {human(counted.binary_parameters)} binary, "
                       f"{human(counted.float_parameters)} full precision"),
        ("MACs", f"{done}; {_run_of(found)}"),
        *_graphs(found),
        ("paper's units", f"{human(counted.paper_parameters)} parameters (binary / 32), "
                        f"{human(found.paper_operations)} operations (binary / 64)"),
        *_reasons(found)]
    return _lines(lines)


def _graphs(found: Inspection) -> list[tuple[str, str]]:
    """What each of several graphs has."""
    if len(found.counts) == 1:
        return []
    return [(part, f"{human(one.parameters)} parameters, "
                   f"{human(sum(layer.macs for layer in one.layers))} MACs a run at an input of "
                   f"{one.height}x{one.width}") for part, one in found.counts.items()]


def _runs(bundle: Bundle) -> str:
    if not isinstance(bundle, (LatentBundle, NoisePredictorBundle)):
        return "feed-forward"
    return f"{len(bundle.steps)} time step{'s' if len(bundle.steps) > 1 else ''}"


def _reasons(found: Inspection) -> list[tuple[str, str]]:
    """What is packed and what is not: the number of layers with each reason."""
    lines = []
    for title, packed in (("packed", True), ("not packed", False)):
        layers = [layer for layer in found.layers if (layer.found.kind == "packed") is packed]
        kinds = ", ".join(f"{number} {kind}" for kind, number in Counter(
            layer.found.kind for layer in layers).most_common())
        lines.append((title, f"{len(layers)} of {len(found.layers)} layers"
                             + ("" if packed or not layers else f": {kinds}")))
        lines += [("", f"{number:>3}  {why}") for why, number in Counter(
            layer.why for layer in layers).most_common()]
    return lines


def _lines(lines: list[tuple[str, str]]) -> list[str]:
    return [_fit(f"{name:<15}{printable(value)}") for name, value in lines]
