"""The module itself, for one version: what of it exists is what the version's bindings have."""

from __future__ import annotations

import types
from typing import Any

from support import tensorrt_names

from . import building, configuration, context, network, objects, parsing, running
from .filtered import enumeration, restricted

_BASES = {"IHostMemory": bytearray}
TEMPLATES = {**objects.TEMPLATES, **configuration.TEMPLATES, **building.TEMPLATES,
             **network.TEMPLATES, **parsing.TEMPLATES, **running.TEMPLATES, **context.TEMPLATES}


class Dims(tuple):
    """A shape."""

    MAX_DIMS = 8


class StandIn(types.ModuleType):
    """Says of a name that it lacks whether TensorRT has it."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__") and name in self._names:
            raise NotImplementedError(f"the stand-in for TensorRT has no {name} yet")
        raise AttributeError(f"module 'tensorrt' has no attribute {name!r}")


def make(version: str) -> types.ModuleType:
    """``tensorrt`` of a version that tests/tensorrt_names has a table of."""
    table = tensorrt_names.table(version)
    module = StandIn("tensorrt", f"A stand-in for TensorRT {version}.")
    module._names = frozenset(table["module"])
    module.__version__ = table["version"]
    module.__file__ = __file__
    module._rtx = version == tensorrt_names.RTX
    # TensorRT-RTX 1.7 is as TensorRT of that time.
    module._version = (10, 16, 1) if module._rtx else tuple(
        int(part) for part in table["version"].split(".")[:3])
    for path, names in table["classes"].items():
        if "." in path:
            continue
        if isinstance(names, dict):
            setattr(module, path, enumeration(path, names))
        elif path in TEMPLATES:
            setattr(module, path, restricted(path, TEMPLATES[path], names,
                                             _BASES.get(path, object), module))
    severity = enumeration("Severity", table["classes"]["ILogger.Severity"])
    for name in ("Severity", *severity.__members__):
        setattr(module.ILogger, name, getattr(severity, name, severity))
    functions = {
        "Dims": Dims,
        "init_libnvinfer_plugins": lambda logger, namespace: bool(
            objects.checked(logger, module.ILogger)),
    }
    functions.update(float32=module.DataType.FLOAT, float16=module.DataType.HALF)
    for name, function in functions.items():
        if name in module._names:
            setattr(module, name, function)
    return module
