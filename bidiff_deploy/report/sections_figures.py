"""Latency, bytes, what is packed and why, what the bundle is, and the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..inspect_text import human
from .charts import Bar, bars, key, stack
from .collect import Report
from .markup import Markup, details, element, facts, note, table

_BASELINES = {
    "packed": "Packed, this project", "torch": "PyTorch", "onnxruntime": "ONNX Runtime",
    "onnxruntime-minus-sign": "ONNX Runtime without Sign", "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO bf16"}


def name_of(baseline: str) -> str:
    return _BASELINES.get(baseline, baseline)


def speed(report: Report) -> list[Any]:
    """Latency beside baselines, and where it goes."""
    bench = report.bench
    assert bench is not None
    packed = bench["measured"][0]
    height, width = bench["size"]
    least = packed["median_seconds"] * (1 - bench["binary_share"])
    rooftop = bench["profile"]["roofline"]["bound"]
    rows = [Bar(name_of(one["name"]), one["median_seconds"], _ms(one["median_seconds"]),
                _spread(one), "ours" if one is packed else "other",
                (min(one["seconds"]), max(one["seconds"]))) for one in bench["measured"]]
    rows[1:1] = [
        Bar("Ceiling", least, _ms(least), "if binary layers took no time", "bound"),
        Bar("Roofline", rooftop, _ms(rooftop), "at this machine's measured rates", "bound")]
    found: list[Any] = [
        element("p", f"One step at {height}\u00d7{width}, {_threads(bench['threads'])}, median of "
                     f"{bench['rounds']} interleaved rounds in one process. Baselines are the same "
                     "network with its binary weights folded to float convolutions.",
                class_="lead"),
        *([note(_sentence("; ".join(bench["warnings"])), bad=True)] if bench["warnings"] else []),
        bars("Time of one step", rows),
        element("p", "Without Sign, an operator that is slow in ONNX Runtime is left out, which "
                     "flatters it.", class_="small")
        if any("minus-sign" in one["name"] for one in bench["measured"]) else None,
        key(("ours", "packed"), ("other", "baselines"), ("bound", "bounds")),
        details("Latency as a table", _latency(bench), facts(
            (name_of(one["name"]), one["description"]) for one in bench["measured"])),
    ]
    if bench["unavailable"]:
        found.append(note("Not measured: " + "; ".join(
            f"{name_of(name)}: {reason}" for name, reason in bench["unavailable"].items())))
    return found + _profile(bench)


def _latency(bench: Mapping[str, Any]) -> Markup:
    rows = []
    for one in bench["measured"]:
        ratio = one["ratio"]
        rows.append((
            name_of(one["name"]), f"{1e3 * one['median_seconds']:.1f}",
            f"{1e3 * min(one['seconds']):.1f}\u2013{1e3 * max(one['seconds']):.1f}",
            "" if ratio is None else f"{ratio[0]:.2f}",
            "" if ratio is None else f"{ratio[1]:.2f}\u2013{ratio[2]:.2f}",
            "" if one["ceiling"] is None else f"{one['ceiling']:.2f}",
            f"{one['image_seconds']:.2f}", f"{one['load_seconds']:.2f}",
            f"{one['first_run_seconds']:.2f}",
            "" if one["snr"] is None else f"{float(one['snr']):.0f}"))
    return table(f"An image takes {bench['steps']} steps; its time is computed from a step's",
                 ("", "step, ms", "least to most", "packed is faster by", "least to most",
                  "at most", "image, s", "load, s", "first run, s", "agrees, dB"), rows)


def _profile(bench: Mapping[str, Any]) -> list[Any]:
    roof, parts = bench["profile"]["roofline"], bench["profile"]["parts"]
    total = sum(parts.values()) or 1.0
    rates = roof["rates"]
    bounds = [(name, *_bounded(row)) for name, row in roof["parts"].items()]
    operators = [(name, roof["part"][name], *_bounded(row))
                 for name, row in roof["operators"].items()]
    return [
        element("h3", "Where the packed engine's time goes"),
        stack("Share of a step's kernel time", [
            (name, seconds / total, f"{100 * seconds / total:.0f} %")
            for name, seconds in parts.items()]),
        bars("Time of each part beside its bound", [
            Bar(name, row["seconds"], _ms(row["seconds"]),
                f"bound {_ms(row['bound'])}" if row["bound"] else "no bound known", "ours",
                mark=row["bound"] or None) for name, row in roof["parts"].items()]),
        key(("ours", "measured, profiled"), ("mark", "the greater of arithmetic and memory")),
        element("p", f"Rates measured here: float32 {rates['float'] / 1e9:.0f} GMAC/s, bfloat16 "
                     f"{rates['bf16'] / 1e9:.0f}, binary {rates['packed'] / 1e9:.0f}, memory "
                     f"{rates['memory'] / 1e9:.0f} GB/s. Winograd's convolutions multiply less "
                     "than is counted, and maps in a cache are read faster.", class_="small"),
        details("Parts and operators as tables", table(
            "Parts of a step, ms", ("part", "time", "arithmetic", "memory", "bound",
                                    "time / bound"), bounds), table(
            "Operators of a step, ms", ("operator", "part", "time", "arithmetic", "memory",
                                        "bound", "time / bound"), operators, words=(0, 1)))]


def _bounded(row: Mapping[str, float]) -> tuple[str, ...]:
    times = f"{row['seconds'] / row['bound']:.2f}" if row["bound"] else "\u2013"
    return (*(f"{1e3 * row[name]:.2f}" for name in ("seconds", "arithmetic", "memory", "bound")),
            times)


def memory(report: Report) -> list[Any]:
    """Bytes of the bundle and, if it was measured, of running it."""
    total = report.inspection["total"]
    parameters = report.inspection["parameters"]
    found: list[Any] = [
        element("h3", "On disk and as tensors"),
        bars("Bytes", [
            Bar("Bundle", total["disk"], size(total["disk"]), "all its files", "ours"),
            Bar("Its tensors", total["memory"], size(total["memory"]), "in one session", "ours"),
            Bar("float32 checkpoint", total["checkpoint"], size(total["checkpoint"]),
                "the same parameters")]),
        details("Bytes as a table", table("Bytes", ("", "bytes", "of the checkpoint"), [
            (name, f"{total[key]:,}", f"{100 * total[key] / max(total['checkpoint'], 1):.1f} %")
            for name, key in (("bundle", "disk"), ("tensors", "memory"),
                              ("float32 checkpoint", "checkpoint"))])),
        element("p", f"{human(parameters['binary'])} binary parameters of one bit, "
                     f"{human(parameters['float'])} in full precision.", class_="small")]
    if report.bench is not None:
        measured = report.bench["measured"]
        found += [
            element("h3", "Peak memory of a fresh process"),
            bars("Peak memory", [Bar(name_of(one["name"]), one["peak_memory"],
                                     _mib(one["peak_memory"]),
                                     kind="other" if index else "ours")
                                 for index, one in enumerate(measured)]),
            element("p", "Interpreter and libraries included, at the size of the latency above.",
                    class_="small"),
            details("Peak memory as a table", table(
                "Peak memory", ("", "bytes", "of the packed engine's"),
                [(name_of(one["name"]), f"{one['peak_memory']:,}",
                  f"{one['peak_memory'] / max(measured[0]['peak_memory'], 1):.2f}")
                 for one in measured]))]
    return found


def packed(report: Report) -> list[Any]:
    """Each layer's kind, and why."""
    inspection = report.inspection
    layers = inspection["layers"]
    macs = inspection["macs"]
    work = sum(macs.values()) or 1
    kinds = Counter(layer["kind"] for layer in layers)
    reasons: dict[str, list[Mapping[str, Any]]] = {}
    for layer in layers:
        reasons.setdefault(layer["why"], []).append(layer)
    height, width = inspection["size"]
    found: list[Any] = [note(line, bad=True) for line in inspection["disagreements"][:20]]
    found += [
        element("p", f"{kinds.get('packed', 0)} of {len(layers)} layers multiply bits. Work of one "
                     f"step at {height}\u00d7{width}, {human(sum(macs.values()))} "
                     "multiply-accumulates:", class_="lead"),
        stack("Multiply-accumulates by kind", [
            (_KINDS.get(kind, kind), value / work, f"{100 * value / work:.0f} %")
            for kind, value in sorted(macs.items(), key=lambda item: -item[1])]),
        table("Why each layer is what it is", ("reason", "layers", "MACs", "bytes on disk",
                                               "as float32"),
              [(why, str(len(some)), human(sum(one["macs"] or 0 for one in some)),
                human(sum(one["disk"] for one in some)),
                human(sum(one["checkpoint"] for one in some)))
               for why, some in list(reasons.items())[:40]]),
        details("Every layer as a table", table(
            "Layers in order of execution; bytes on disk and as float32",
            ("layer", "kind", "bits", "weights", "map", "MACs", "disk", "float32"),
            [(one["name"], one["kind"], "" if one["bits"] is None else str(one["bits"]),
              "\u00d7".join("?" if n is None else str(n) for n in one["shape"]),
              "" if one["map"][0] is None else "\u00d7".join(map(str, one["map"])),
              human(one["macs"]), human(one["disk"]), human(one["checkpoint"]))
             for one in layers], words=(0, 1)))]
    return found


_KINDS = {"packed": "packed, 1 bit", "float": "float32", "bf16": "bfloat16",
          "attention": "products of attention"}


def bundle(report: Report) -> list[Any]:
    """What the manifest and the graphs state."""
    found = report.inspection
    source, tool = _mapping(found["source"]), _mapping(found["versions"]["tool"])
    steps = found["steps"]
    start = found["sampling"]["start"]
    times = [str(step["timestep"]) for step in steps]
    if len(times) > 8:
        times = [*times[:3], "\u2026", times[-1]]
    schedule, network = found["schedule"], found["network"]
    rows = [
        ("path", found["bundle"]), ("scale", f"\u00d7{found['scale']}"),
        ("made from", source.get("name")),
        ("its SHA-256", element("code", source.get("sha256"))),
        ("made by", f"{tool.get('name')} {tool.get('version')}"),
        ("files", f"{found['files_verified']}, size and SHA-256 of each verified"),
        ("precision", found["precision"]),
        ("steps", f"{len(steps)}: {', '.join(times)}"),
        ("starts from", "pure noise" if start is None else f"the noised condition at t = {start}"),
        ("schedule", f"{schedule['kind']}, {schedule['total_steps']} steps, beta "
                     f"{schedule['beta_start']:g} to {schedule['beta_end']:g}"),
        ("versions", f"schema {found['versions']['schema']}, packing "
                     f"{found['versions']['packing']}, opsets " + ", ".join(
                         f"{domain} {version}"
                         for domain, version in found["versions"]["opsets"].items())),
        ("paper's way", f"{human(found['paper']['parameters'])} parameters, "
                        f"{human(found['paper']['operations'])} operations"),
    ]
    if found["zero_weights"]:
        rows.append(("zero weights", f"{found['zero_weights']} became +1"))
    assumed = found["assumptions"]
    rows += [("assumed", line) for line in (assumed if isinstance(assumed, list) else [])[:40]]
    return [facts(rows), details("The network's options", facts(
        (name, _plain_value(value)) for name, value in network.items())),
        details("Operators of a step's graph", table(
            "Fused operators as shipped", ("operator", "nodes"),
            [(name, str(number)) for name, number in sorted(
                found["operators"].items(), key=lambda item: (-item[1], item[0]))]))]


def machine(report: Report) -> list[Any]:
    """Hardware and versions."""
    found, isa = report.doctor, report.doctor["cpu"]["isa"] or {}
    library = found["library"]
    rows = [
        ("processor", f"{found['cpu']['model']}, {found['cpu']['cores']} cores"),
        ("instructions", ", ".join(name for name, flag in isa.items() if flag) or "not known"),
        ("memory", size(found["memory"]["total"])),
        ("system", found["system"]),
        ("kernel", library.get("selected") or library.get("reason")),
        ("NVIDIA", "present" if found["cuda"]["ok"] else found["cuda"].get("reason")),
        ("bidiff_deploy", found["tool"]), ("Python", found["python"]["version"]),
    ]
    if report.engine:
        rows.insert(0, ("engine", report.engine))
    modules = [(name, module.get("version") or "of unknown version" if module["ok"] else
                module.get("reason", "not installed"))
               for name, module in found["modules"].items()]
    return [facts(rows), *(note(line) for line in found["warnings"]),
            details("Installed packages", table("Packages", ("package", "version"), modules,
                                                words=(0, 1)))]


def size(value: float | None) -> str:
    """``0.93 MB``, as disks are sold."""
    if value is None:
        return "unknown"
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor / 2:
            return f"{value / factor:.{2 if value < 10 * factor else 1}f} {unit}"
    return f"{value:.0f} B"


def _mib(value: float) -> str:
    return f"{value / 2 ** 20:.0f} MiB"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _spread(one: Mapping[str, Any]) -> str:
    ratio = one["ratio"]
    low, high = (1e3 * pick(one["seconds"]) for pick in (min, max))
    places = 1 if high < 100 else 0
    spread = f"{low:.{places}f} to {high:.{places}f} ms"
    return spread if ratio is None else f"{ratio[0]:.1f}\u00d7 packed, {spread}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _plain_value(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
