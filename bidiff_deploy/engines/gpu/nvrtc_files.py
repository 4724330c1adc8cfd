"""NVIDIA's run-time compiler (NVRTC) as pip installs it, in a folder that no loader searches."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

# Folders of the namespace package ``nvidia``. Cubins of CUDA 12 run with every driver for CUDA 12
# or 13, so CUDA 12 comes first.
_FOLDERS = ("cuda_nvrtc/lib", "cu12/lib", "cu13/lib")
_NAME = re.compile(r"libnvrtc\.so\.(\d+)")


def nvrtc_files() -> list[Path]:
    """libnvrtc files of the wheels nvidia-cuda-nvrtc-cu12 and nvidia-cuda-nvrtc, best first."""
    try:
        spec = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        return []
    found = []
    for root in (spec.submodule_search_locations or []) if spec else []:
        for folder in _FOLDERS:
            files = Path(root, folder).glob("libnvrtc.so.*")
            found += sorted(file for file in files if _NAME.fullmatch(file.name))
    return found
