"""The report of ``doctor`` as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

WIDTH = 100
_INDENT = 16


def to_text(report: dict[str, Any]) -> str:
    """The whole report, without a trailing newline."""
    cpu, memory = report["cpu"], report["memory"]
    lines = [
        _line("bidiff-deploy", f"{report['tool']}, Python {report['python']['version']}, "
                               f"{report['system']}"),
        _line("processor", f"{cpu['model']}, {cpu['cores']} cores, {cpu['usable_cores']:g} usable"),
        _line("instructions", _isa(cpu["isa"])),
        _line("memory", f"{_size(memory['total'])}, {_size(memory['available'])} available"),
        _line("kernels", "; ".join(_kernels(report["library"]))),
        _line("NVIDIA", _cuda(report["cuda"])),
        _line("GPU kernels", "; ".join(_gpu(report["gpu"]))),
        *([_line("plugin", _plugin(report["plugin"]))] if report["modules"]["tensorrt"]["ok"]
          else []),
        "",
        *(_line(name, _module(module)) for name, module in report["modules"].items()),
        "",
        *(_line(f"{'runs' if backend['ok'] else 'does not run'}",
                f"backend {name}: {backend['description'] if backend['ok'] else backend['reason']}")
          for name, backend in report["backends"].items()),
    ]
    if report["warnings"]:
        lines += ["", *(_line("warning", entry) for entry in report["warnings"])]
    if report["missing"]:
        lines.append("")
        for entry in report["missing"]:
            broken = report["modules"].get(entry["what"], {}).get("installed")
            # A command stays on one line, so that it can be copied.
            lines += [_line("broken" if broken else "missing",
                            f"{entry['what']}, for {entry['for']}; install it with"),
                      f"{'':<{_INDENT}}{entry['command']}"]
    return "\n".join(lines)


def _line(name: str, value: str) -> str:
    return textwrap.fill(value, WIDTH, initial_indent=f"{name:<{_INDENT - 1}} ",
                         subsequent_indent=" " * _INDENT, break_long_words=False,
                         break_on_hyphens=False)


def _isa(flags: dict[str, bool | None]) -> str:
    if not flags:
        return "unknown processor type"
    groups = (("", True), ("not ", False), ("unknown: ", None))
    parts = []
    for prefix, value in groups:
        if names := [name for name, flag in flags.items() if flag is value]:
            parts.append(prefix + ", ".join(names))
    return "; ".join(parts)


def _kernels(library: dict[str, Any]) -> Iterable[str]:
    if not library["ok"] or not library["kernels"]:
        yield library["reason"]
        return
    for kernel in library["kernels"]:
        state = "selected" if kernel["name"] == library["selected"] else "supported" \
            if kernel["supported"] else kernel["reason"]
        yield f"{kernel['name']}: {state}"


def _cuda(cuda: dict[str, Any]) -> str:
    if not cuda["ok"]:
        return str(cuda["reason"])
    devices = [f"{device['name']} (compute capability {device['compute_capability']}, "
               f"{_size(device['memory'])})" for device in cuda["devices"]]
    return f"up to CUDA {cuda['version']}: {'; '.join(devices) or 'no device'}"


def _gpu(gpu: dict[str, Any]) -> Iterable[str]:
    if not gpu["ok"]:
        yield str(gpu["reason"])
        return
    if gpu["embedded"]:
        yield (f"compiled by nvcc {gpu['toolkit']} for sm_"
               + " ".join(str(architecture) for architecture in gpu["embedded"]))
    else:
        yield ("compiled at first use by NVRTC"
               + ("" if gpu["nvrtc"] else ", which is not installed by pip"))
    for device in gpu["devices"]:
        name = f"GPU {device['ordinal']} (sm_{device['architecture']})"
        yield (f"{name}: {device['kernels']}, path {device['path']} of {', '.join(device['paths'])}"
               if device["ok"] else f"{name}: {device['reason']}")


def _plugin(plugin: dict[str, Any]) -> str:
    if not plugin["ok"]:
        return str(plugin["reason"])
    kernels = (f"kernels for sm_{' '.join(plugin['embedded'])}" if plugin.get("embedded")
               else "kernels compiled at first use by NVRTC")
    return (f"{plugin.get('path')}, built for TensorRT {plugin.get('built_for')}, "
            f"{plugin.get('interface')}, {kernels}")


def _module(module: dict[str, Any]) -> str:
    if not module["ok"]:
        return str(module["reason"])
    details = [str(module["version"] or "unknown version")]
    details += [", ".join(module[key]) for key in ("providers", "devices") if module.get(key)]
    if "cuda_available" in module:
        details.append(f"CUDA {module['cuda']}{'' if module['cuda_available'] else ', no device'}"
                       if module["cuda"] else "built for CPUs")
    return "; ".join(details)


def _size(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"
