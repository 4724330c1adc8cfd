"""The import of TensorRT and TensorRT-RTX, with a sentence for each way in which it fails."""

from __future__ import annotations

import importlib
import re
from typing import Any

from ...errors import EngineError, one_line
from .log import MAX_CHARS
from .versions import MIN_RTX, MIN_VERSION, numbers, product

__all__ = ["import_rtx", "import_tensorrt"]

_INSTALL_RTX = "pip install 'bidiff-deploy[rtx]'"


def import_tensorrt() -> Any:
    """The module ``tensorrt``. Raises EngineError as ``open_tensorrt``."""
    try:
        module = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        if error.name == "tensorrt":
            raise EngineError("TensorRT is not installed; pip install tensorrt-cu12, or "
                              "tensorrt-cu13 where the driver is for CUDA 13 (JetPack has it: use "
                              "the system's Python, or a venv with --system-site-packages)"
                              ) from None
        raise _broken(error) from None
    except Exception as error:  # of missing shared libraries, or of its own modules
        raise _broken(error) from None
    version = getattr(module, "__version__", None)
    if not isinstance(version, str) or not hasattr(module, "ILogger"):
        # Python imports any folder of that name, such as engines/tensorrt of the sources.
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "")
        raise EngineError(f"the module tensorrt at {place} is not NVIDIA's; start in another "
                          "folder, or pip install tensorrt-cu12")
    if numbers(version)[:2] < MIN_VERSION:
        oldest = ".".join(map(str, MIN_VERSION))
        raise EngineError(f"TensorRT {version} is older than {oldest}, the oldest supported "
                          "version; pip install --upgrade tensorrt-cu12, or take a newer JetPack")
    return module


def import_rtx() -> Any:
    """The module of TensorRT-RTX. Raises EngineError as ``open_tensorrt``."""
    # Its metapackage has only an alias of the bindings.
    for name in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                continue
            raise _broken(error, rtx=True) from None
        except Exception as error:
            raise _broken(error, rtx=True) from None
        version = str(getattr(module, "__version__", ""))
        if numbers(version)[:2] < MIN_RTX or not hasattr(module, "ILogger"):
            oldest = ".".join(map(str, MIN_RTX))
            raise EngineError(f"the module {name} is TensorRT-RTX {version or 'of no version'}, "
                              f"but {oldest} is the oldest supported version; {_INSTALL_RTX}")
        return module
    raise EngineError(f"TensorRT-RTX is not installed; {_INSTALL_RTX}")


def _broken(error: Exception, rtx: bool = False) -> EngineError:
    text = one_line(error, MAX_CHARS)
    remedy = "install it again with pip install --force-reinstall tensorrt-cu12"
    if match := re.search(r"lib[\w+.-]+\.so[\w.]*", text):
        if not match[0].startswith("libnv"):  # not TensorRT's own: wheels of version 8 need these
            remedy = "pip install nvidia-cudnn-cu11 nvidia-cublas-cu11 for TensorRT 8 from a wheel"
        remedy += f", or add the folder of {match[0]} to LD_LIBRARY_PATH"
    if rtx:
        remedy = f"{_INSTALL_RTX} --force-reinstall"
    return EngineError(f"{product(rtx)} is installed but cannot be loaded ({text}); {remedy}")
