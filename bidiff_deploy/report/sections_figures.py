"""Bytes, what is packed and why, what the bundle is, and the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..proof.inspect.text import human
from .charts import Bar, bars, stack
from .collect import Report
from .markup import details, element, facts, note, table
from .sections_speed import name_of


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


_KINDS = {"packed": "packed, 1 bit", "float": "float32", "bf16": "bfloat16", "fp16": "float16",
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


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _plain_value(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
