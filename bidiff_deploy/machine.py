"""The machine's processor, instruction sets, cores and memory. Standard library only."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

# Name -> flag as Linux spells it in /proc/cpuinfo.
X86_FLAGS = {
    "AVX2": "avx2", "AVX-512 F": "avx512f", "AVX-512 BW": "avx512bw",
    "AVX-512 VNNI": "avx512_vnni", "AVX-512 VPOPCNTDQ": "avx512_vpopcntdq",
    "AVX-512 BF16": "avx512_bf16", "AMX": "amx_tile", "AMX INT8": "amx_int8",
    "AMX BF16": "amx_bf16",
}
ARM_FLAGS = {"NEON": "asimd", "dot product": "asimddp", "I8MM": "i8mm", "BF16": "bf16",
             "SVE": "sve"}
_CPUINFO = "/proc/cpuinfo"
_CGROUP = Path("/sys/fs/cgroup")


def cpu(cpuinfo: str | None = None, machine: str | None = None) -> dict[str, Any]:
    """``model``, ``machine``, ``cores``, ``usable_cores`` and ``isa``: {name: bool, or None if
    unknown}. Tests pass ``cpuinfo`` (its text) and ``machine`` in place of this machine's."""
    machine = (machine or platform.machine()).lower()
    text = _read(_CPUINFO) if cpuinfo is None else cpuinfo
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    arm = machine.startswith(("arm", "aarch64"))
    listed = fields.get("features" if arm else "flags")
    flags = None if listed is None else set(listed.split())
    known = ARM_FLAGS if arm else X86_FLAGS if machine in ("x86_64", "amd64", "i686") else {}
    isa = {name: None if flags is None else flag in flags for name, flag in known.items()}
    if arm and machine in ("arm64", "aarch64"):
        isa["NEON"] = True  # part of the architecture
    elif arm and flags is not None:
        isa["NEON"] = bool(flags & {"asimd", "neon"})
    return {"model": fields.get("model name") or platform.processor() or machine,
            "machine": machine, "cores": os.cpu_count(), "usable_cores": usable_cores(),
            "isa": isa}


def usable_cores() -> float:
    """Cores that this process may use, by its affinity and its container's quota."""
    try:
        cores: float = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit() and int(period):
        cores = min(cores, round(int(quota) / int(period), 2))
    return cores


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16, or it is unknown."""
    isa = cpu()["isa"]
    known = [isa[name] for name in ("AVX-512 BF16", "AMX BF16", "BF16") if name in isa]
    return any(has is not False for has in known) if known else True


def default_threads() -> int:
    """Threads of an operator where nobody gives a number: the cores that this process may use. More
    would wait for each other, in a container of few cores on a large machine for most of the time.
    """
    return max(int(usable_cores()), 1)


def memory() -> dict[str, int | None]:
    """``total`` and ``available`` bytes, within the container's limit; None if unknown."""
    fields = {}
    for line in _read("/proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        if value.split()[:1] and value.split()[0].isdigit():
            fields[key] = int(value.split()[0]) * 1024
    total, available = fields.get("MemTotal"), fields.get("MemAvailable")
    if total is None:
        try:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return {"total": None, "available": None}
    limit, used = (_read(_CGROUP / f"memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and int(limit) < total:
        total = int(limit)
        if used.isdigit() and available is not None:
            available = min(available, max(0, total - int(used)))
    return {"total": total, "available": available}


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes.

    On Linux from ``VmHWM``, which starts at zero with the program; getrusage's figure, used
    elsewhere, can include the process that started this one.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
