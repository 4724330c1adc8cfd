"""State of the GPU, and versions of installed packages. Clocks are read, never set."""

from __future__ import annotations

import ctypes
import os
import subprocess
from importlib.metadata import PackageNotFoundError, version


def package_versions(*names: str) -> dict[str, str]:
    """{package: version} of the given packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def gpu_state(device: int) -> dict[str, str] | None:
    """Clocks, temperature and power as nvidia-smi reports them; they are read, never set.

    None if nvidia-smi fails or the driver does not report the GPU's bus address: nvidia-smi counts
    GPUs by bus address, CUDA by speed and only those in CUDA_VISIBLE_DEVICES.
    """
    place = pci_bus_id(device)
    if place is None:
        return None
    fields = ("clocks.sm", "clocks.mem", "clocks.max.sm", "temperature.gpu", "power.draw",
              "power.limit", "persistence_mode", "driver_version")
    try:
        done = subprocess.run(["nvidia-smi", f"--id={place}", "--format=csv,noheader",
                               f"--query-gpu={','.join(fields)}"], text=True, capture_output=True,
                              timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    values = done.stdout.strip().split(", ")
    if done.returncode or len(values) != len(fields):
        return None
    return {"pci_bus_id": place, **dict(zip(fields, values))}


def pci_bus_id(device: int) -> str | None:
    """Bus address of CUDA's GPU of that number, such as 0000:3b:00.0; None if it is unknown."""
    place, handle = ctypes.create_string_buffer(32), ctypes.c_int()
    try:
        driver = ctypes.CDLL(os.environ.get("BIDIFF_LIBCUDA") or "libcuda.so.1")
        failed = (driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(handle), device)
                  or driver.cuDeviceGetPCIBusId(place, len(place), handle))
    except (OSError, AttributeError):
        return None
    return None if failed else place.value.decode()
