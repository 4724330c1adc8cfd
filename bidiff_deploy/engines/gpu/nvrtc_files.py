"""NVIDIA's run-time compiler as pip installs it: in a folder that no loader looks in."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

# Folder of the namespace package ``nvidia`` -> who installs it. Cubins of CUDA 12's run with every
# driver that CUDA 12 or 13 needs, so it comes first.
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
