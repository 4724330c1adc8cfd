"""The report of ``doctor`` as text: this machine, what runs on it, what would with a GPU, the rest.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from ..engines import ON_GPU
from .examine import GPU, OTHERS, RUNNING, Report, group_of

WIDTH = 100
_INDENT = 17


def to_text(report: Report) -> str:
    """The whole report, in groups, without a trailing newline."""
    groups = [("This machine", _machine(report)), ("Runs here", _running(report)),
              ("With an NVIDIA GPU" + ("" if report["gpu_found"] else " (none found)"),
               _on_gpu(report)),
              ("For training and proof (upscaling needs none of these)", _modules(report, OTHERS))]
    if report["warnings"]:
        groups.insert(0, ("Warnings", [_line("warning", entry) for entry in report["warnings"]]))
    return "\n\n".join("\n".join([f"{title}:", *lines]) for title, lines in groups)


def _machine(report: Report) -> list[str]:
    cpu, memory = report["cpu"], report["memory"]
    return [
        _line("bidiff-deploy", f"{report['tool']}, Python {report['python']['version']}, "
                               f"{report['system']}"),
        _line("processor", f"{cpu['model']}, {cpu['cores']} cores, {cpu['usable_cores']:g} usable"),
        _line("instructions", _isa(cpu["isa"])),
        _line("memory", f"{_size(memory['total'])}, {_size(memory['available'])} available")]


def _running(report: Report) -> list[str]:
    return [*(_backend(name, backend) for name, backend in report["backends"].items()
              if name not in ON_GPU),
            _line("kernels", "; ".join(_kernels(report["library"]))),
            *_modules(report, RUNNING), *_missing(report, RUNNING)]


def _on_gpu(report: Report) -> list[str]:
    lines = [_line("driver", _cuda(report["cuda"]))]
    if report["gpu_found"] or report["gpu"]["ok"]:
        lines.append(_line("GPU kernels", "; ".join(_gpu(report["gpu"]))))
    if report["modules"]["tensorrt"]["ok"]:
        lines.append(_line("plugin", _plugin(report["plugin"])))
    backends = {name: backend for name, backend in report["backends"].items() if name in ON_GPU}
    if report["gpu_found"]:
        lines += [_backend(name, backend) for name, backend in backends.items()]
        lines += _modules(report, GPU)
    else:
        lines.append(_line("backends", f"{', '.join(backends)} need one"))
        lines += [_line(name, "runs") for name, backend in backends.items() if backend["ok"]]
    return [*lines, *_missing(report, GPU)]


def _backend(name: str, backend: dict[str, Any]) -> str:
    return _line("runs" if backend["ok"] else "does not run", f"backend {name}: " + (
        backend["description"] if backend["ok"] else backend["reason"]))


def _modules(report: Report, group: str) -> list[str]:
    """The modules of a group, each that is missing with its command on a line of its own, to be
    copied."""
    missing = {entry["what"]: entry for entry in report["missing"]}
    lines = []
    for name, module in report["modules"].items():
        if group_of(name) != group:
            continue
        if (entry := missing.get(name)) is None:
            lines.append(_line(name, _module(module)))
        else:
            state = f"broken ({module['reason']})" if module["installed"] else module["reason"]
            lines += _remedy(name, f"{state}; for {entry['for']}", entry["command"])
    return lines


def _missing(report: Report, group: str) -> list[str]:
    """What a group lacks that is no module."""
    return [line for entry in report["missing"]
            if entry["group"] == group and entry["what"] not in report["modules"]
            for line in _remedy("missing", f"{entry['what']}, for {entry['for']}",
                                entry["command"])]


def _remedy(name: str, text: str, command: str) -> list[str]:
    return [_line(name, f"{text}; install it with"), f"{'':<{_INDENT}}{command}"]


def _line(name: str, value: str) -> str:
    return textwrap.fill(value, WIDTH, initial_indent=f"  {name:<{_INDENT - 3}} ",
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
