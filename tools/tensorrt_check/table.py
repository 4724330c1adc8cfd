"""The results of a check as a short table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .building import MAX_TIMES
from .parts import PROOFS
from .speed import AIM, BASELINE, KINDS, OURS


def to_text(report: dict[str, Any]) -> str:
    """The whole report, without a trailing newline; the JSON file contains all figures."""
    parts = report["parts"]
    lines = []
    if (machine := parts.get("machine", {})).get("ok"):
        device, plugin = machine["device"], parts.get("plugin", {})
        ours = (f"; plugin of {plugin['interface']}, built for {plugin['built_for']}"
                if plugin.get("ok") else "")
        lines.append(f"TensorRT {machine['tensorrt']}, {device['name']}, sm_"
                     f"{device['architecture']}, driver for CUDA {device['driver']}{ours}")
    for name, part in parts.items():
        for prefix, write in _WRITERS.items():
            if name.startswith(prefix):
                lines += write(part)
    lines.append("")
    for name, part in parts.items():
        state = "ok" if part["ok"] else "FAILED" if name in PROOFS else "NOT DONE"
        lines.append(f"{state:9}{name}: {verdict(name, part)}")
    return "\n".join(lines)


def failed(report: dict[str, Any]) -> list[str]:
    """Names of the parts in PROOFS that failed or could not run."""
    return [name for name, part in report["parts"].items() if name in PROOFS and not part["ok"]]


def verdict(name: str, part: dict[str, Any]) -> str:
    """The result of a part in one line."""
    if not part["ok"]:
        return str(part["reason"])
    if name.startswith("parity"):
        return ", ".join(f"{entry['case']} {entry['precision']} {entry['snr_db']:.1f} dB"
                         for entry in part["cases"])
    if name == "images":
        worst = max((entry for entry in part["images"] if entry["bound_db"] is not None),
                    key=lambda entry: abs(entry["difference_db"]))
        return (f"with the plugin PSNR-Y differs from the CPU's by at most "
                f"{abs(worst['difference_db']):.3f} dB ({worst['photo']}, {worst['precision']})")
    if name == "build" and "times_one_step" in part:
        times = part["times_one_step"]
        return (f"many steps take {times:.2f}x the time of one, "
                f"{'within' if times <= MAX_TIMES else 'MORE THAN'} {MAX_TIMES:.0f}x")
    if name == "trtexec":
        return f"a step at {part['size']}x{part['size']} takes {part['median_ms']:.3f} ms"
    if name.startswith("speed"):
        ratios = [entry["ratios"].get(BASELINE, {}).get("loop")
                  for entry in part["batches"].values()]
        return "; ".join(
            f"batch {batch}: the plugin's loop is {found['median']:.2f}x as fast as {BASELINE} "
            f"({found['min']:.2f} to {found['max']:.2f}; the aim is {AIM}x)"
            for batch, found in zip(part["batches"], ratios) if found) or "done"
    return "done"


def _parity(part: dict[str, Any]) -> list[str]:
    return [f"  {entry['case']} {entry['precision']}: {entry['reason']}"
            for entry in part.get("cases", []) if "reason" in entry]


def _images(part: dict[str, Any]) -> list[str]:
    if not part.get("images"):
        return []
    lines = ["", f"{'image':<16}{'variant':<12}{'precision':<10}{'PSNR-Y':>8}{'CPU':>8}"
                 f"{'change':>8}{'to CPU':>8}  dB"]
    for entry in part["images"]:
        head = f"{entry['photo']:<16}{entry['variant']:<12}{entry['precision']:<10}"
        lines.append(head + (
            f"{entry['psnr_y']:>8.2f}{entry['cpu_psnr_y']:>8.2f}{entry['difference_db']:>+8.3f}"
            f"{entry['against_cpu_db']:>8.1f}" if "psnr_y" in entry else f"  {entry['reason']}"))
    return lines


def _build(part: dict[str, Any]) -> list[str]:
    return _costs(part, "plans", f"{'build s':>9}{'plan MB':>9}",
                  lambda entry: f"{entry['seconds']:>9.1f}{entry['bytes'] / 1e6:>9.1f}")


def _memory(part: dict[str, Any]) -> list[str]:
    return _costs(part, "engines", f"{'open MB':>9}{'peak MB':>9}",
                  lambda entry: (f"{entry['opened_bytes'] / 1e6:>9.1f}"
                                 f"{entry['peak_bytes'] / 1e6:>9.1f}"))


def _costs(part: dict[str, Any], key: str, columns: str,
           figures: Callable[[dict[str, Any]], str]) -> list[str]:
    if not part.get(key):
        return []
    side = f"{part['size']}x{part['size']}"
    lines = ["", f"{part['network'] + ' at ' + side:<22}{'steps':>6}{columns}"]
    return lines + [f"{entry['variant'] + ' ' + entry['precision']:<22}{entry['steps']:>6}"
                    + (figures(entry) if entry["ok"] else f"  {entry['reason']}")
                    for entry in part[key]]


def _speed(part: dict[str, Any]) -> list[str]:
    lines = []
    for batch, entry in part.get("batches", {}).items():
        side = f"{part['size']}x{part['size']}"
        lines += ["", f"{part['network']}, batch {batch}, {side}, loop of {part['steps']} steps, "
                      f"ms; x: as long as {OURS}",
                  f"{'':<26}{'step':>9}{'x':>6}{'loop':>11}{'x':>6}{'stepwise':>11}{'x':>6}"
                  f"{'spread':>9}"]
        for name, found in entry.get("candidates", {}).items():
            if not found["ok"]:
                lines.append(f"{name:<26}  {found['reason']}")
                continue
            ratios = entry["ratios"].get(name, {})
            cells = ""
            for kind, width in zip(KINDS, (9, 11, 11)):
                times = f"{ratios[kind]['median']:>6.2f}" if kind in ratios else f"{'':>6}"
                cells += f"{found[kind]['ms']:>{width}.3f}{times}"
            spread = max(found[kind]["spread"] for kind in KINDS)
            lines.append(f"{name:<26}{cells}{100 * spread:>7.0f} %")
    return lines


_WRITERS = {"parity": _parity, "images": _images, "build": _build, "memory": _memory,
            "speed": _speed}
