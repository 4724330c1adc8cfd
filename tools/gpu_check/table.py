"""The results of a check as a short table."""

from __future__ import annotations

from typing import Any

from .layers import best_path

_STEPS = ("step-ours", "step-torch", "step-onnxruntime")


def to_text(report: dict[str, Any]) -> str:
    """The whole report, without a trailing newline; the JSON file contains all figures."""
    parts = report["parts"]
    lines = []
    machine = parts.get("machine", {})
    if machine.get("ok"):
        device = machine["device"]
        lines.append(f"{device['name']}, sm_{device['architecture']}, driver for CUDA "
                     f"{device['driver']}; kernels {machine['kernels']}")
    lines += _layers(parts)
    lines += _steps(parts)
    lines.append("")
    for name, part in parts.items():
        state = "ok" if part["ok"] else "NOT DONE" if _is_absent(name, part) else "FAILED"
        lines.append(f"{state:9}{name}: {_verdict(name, part)}")
    return "\n".join(lines)


def failed(report: dict[str, Any]) -> list[str]:
    """Names of the parts that failed or could not run, except for a missing tool or package."""
    return [name for name, part in report["parts"].items()
            if not part["ok"] and not _is_absent(name, part)]


def _is_absent(name: str, part: dict[str, Any]) -> bool:
    """Whether the part did not run because something optional is missing."""
    if name in ("machine", "parity", "layers"):
        return False
    reason = part.get("reason", "")
    return any(text in reason for text in (
        "not installed", "was not found", "in a checkout of", "is built without CUDA",
        "does not use the GPU", "pip install 'bidiff-deploy[gpu]'", "No module named"))


def _verdict(name: str, part: dict[str, Any]) -> str:
    if not part["ok"]:
        return str(part["reason"])
    if name == "parity":
        return (f"{part['runs']} runs of {part['cases']} cases equal the CPU's, paths "
                f"{', '.join(part['paths'])}")
    if name == "sanitizer":
        return f"no error by {', '.join(part['checks'])}"
    if name == "reference":
        return ", ".join(f"{entry['case']} {entry['precision']} {entry['snr_db']:.1f} dB"
                         for entry in part["cases"])
    if name in _STEPS:
        what = next(entry["what"] for entry in part["batches"].values() if entry["ok"])
        lacking = [f"batch {batch}: {entry['reason']}" for batch, entry in part["batches"].items()
                   if not entry["ok"]]
        return "; ".join([what, *lacking])
    return "done"


def _layers(parts: dict[str, Any]) -> list[str]:
    part = parts.get("layers", {})
    if not part.get("ok"):
        return []
    lines = []
    cudnn = parts.get("cudnn", {})
    for batch, groups in part["batches"].items():
        entries = groups["convolutions"] + groups["operators"]
        paths = list(entries[0]["paths"])
        lines += ["", f"batch {batch}, float16 maps, ms (cold cache)",
                  f"{'layer':<30}{'n':>3}" + "".join(f"{path:>9}" for path in paths)
                  + f"{'floor':>9}{'x floor':>8}{'Top/s':>8}{'launches':>9}{'cuDNN':>9}"]
        for entry in entries:
            best = best_path(entry)
            figures = entry["paths"][best]
            other = cudnn.get("batches", {}).get(batch, {}).get(entry["layer"])
            lines.append(
                f"{entry['layer']:<30}{entry['count']:>3}"
                + "".join(_number(entry["paths"][path]["cold_ms"], 9, 4) for path in paths)
                + _number(entry["floor_ms"], 9, 4) + _number(figures["of_floor"], 8, 1)
                + _number(figures["teraops"], 8, 1) + f"{len(entry['launches'][best]):>9}"
                + _number(other, 9, 4))
        if total := groups.get("step_total_ms"):
            floor = _sum(groups["operators"], "floor_ms")
            lines.append(f"{'binary operators of a step':<33}"
                         + "".join(_number(total[path], 9, 4) for path in paths)
                         + _number(floor, 9, 4) + f"   best of each: {total['best']:.4f}")
            launches = sum(entry["count"] * len(entry["launches"][best_path(entry)])
                           for entry in groups["operators"])
            moved = _sum(groups["operators"], "bytes")
            lines.append(f"{launches} launches, {moved / 1e6:.0f} MB moved at least, "
                         f"{_sum(groups['operators'], 'operations') / 1e9:.0f} G operations")
    return lines


def _steps(parts: dict[str, Any]) -> list[str]:
    listed = {name: parts[name]["batches"] for name in _STEPS
              if name in parts and "batches" in parts[name]}
    if not listed:
        return []
    size = next(parts[name]["size"] for name in listed)
    lines = ["", f"a step at {size}x{size}, ms"]
    ours = listed.get("step-ours", {})
    for name, batches in listed.items():
        for batch, entry in batches.items():
            if not entry["ok"]:
                continue
            base = ours.get(batch, {})
            compared = base.get("ok") and base["ms"] > 0 and name != "step-ours"
            ratio = f"{entry['ms'] / base['ms']:8.2f}x of ours" if compared else ""
            lines.append(f"{name.removeprefix('step-'):<14}batch {batch:<3}{entry['ms']:10.3f} "
                         f"+-{50 * entry['spread']:.0f} %{ratio}{_over_floor(entry)}")
    for batch, entry in ours.items():
        if work := entry.get("work"):
            lines.append(_work(batch, work))
    return lines


def _over_floor(entry: dict[str, Any]) -> str:
    floor = entry.get("work", {}).get("floor_ms")
    return f"{entry['ms'] / floor:8.1f} x floor of {floor:.3f}" if floor else ""


def _work(batch: str, work: dict[str, Any]) -> str:
    operations, launches, weights = work["operations"], work["launches"], work["weights"]
    held = weights["binary"] + weights["others"]
    return (f"  batch {batch}: {work['bytes'] / 1e6:.0f} MB moved at least; G operations: "
            + ", ".join(f"{name} {value / 1e9:.1f}" for name, value in operations.items())
            + f"; launches: ours {launches['ours']}, others about {launches['others']}\n"
            f"  weights on the device {held / 1e6:.2f} MB ({weights['binary'] / 1e6:.2f} of it "
            f"binary), {'within' if weights['ok'] else 'MORE THAN'} 1/9 of float16's "
            f"{weights['float16'] / 1e6:.2f} MB")


def _sum(entries: list[dict[str, Any]], key: str) -> float | None:
    values = [entry[key] for entry in entries]
    if any(value is None for value in values):
        return None
    return sum(entry["count"] * entry[key] for entry in entries)


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width}.{digits}f}"
