"""The module itself, for one version: what of it exists is what the version's bindings have."""

from __future__ import annotations

import types
from typing import Any

import numpy as np

from support import tensorrt_names

from . import building, configuration, context, network, nodes, objects, parsing, running
from .filtered import Absent, enumeration, new, restricted

_BASES = {"Logger": "ILogger", "IHostMemory": bytearray}
TEMPLATES = {**objects.TEMPLATES, **configuration.TEMPLATES, **building.TEMPLATES,
             **network.TEMPLATES, **parsing.TEMPLATES, **running.TEMPLATES, **context.TEMPLATES}


class Dims(tuple):
    """A shape."""

    MAX_DIMS = 8


class IPluginRegistry:
    """Plugins by name."""

    def _create(self) -> None:
        pass

    @property
    def _creators(self) -> list[Any]:
        there = nodes.registered(self._trt._version[0]) is not None
        return [types.SimpleNamespace(name=name, plugin_version=nodes.VERSION,
                                      plugin_namespace=nodes.NAMESPACE)
                for name in nodes.OPERATORS if there]

    all_creators = property(lambda self: self._creators)
    plugin_creator_list = property(lambda self: self._creators)

    def get_creator(self, type: str, version: str, plugin_namespace: str = "") -> Any:
        return next((creator for creator in self._creators if (type, version, plugin_namespace) == (
            creator.name, creator.plugin_version, creator.plugin_namespace)), None)

    get_plugin_creator = get_creator


TEMPLATES["IPluginRegistry"] = IPluginRegistry


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
    module._version = tuple(int(part) for part in table["version"].split(".")[:3])
    for path, names in table["classes"].items():
        if "." in path:
            continue
        if isinstance(names, dict):
            setattr(module, path, enumeration(path, names))
        elif path in TEMPLATES:
            base = _BASES.get(path, object)
            if isinstance(base, str):
                base = getattr(module, base)
            setattr(module, path, restricted(path, TEMPLATES[path], names, base, module))
    severity = enumeration("Severity", table["classes"]["ILogger.Severity"])
    for name in ("Severity", *severity.__members__):
        setattr(module.ILogger, name, getattr(severity, name, severity))
        if isinstance(vars(module.Logger).get(name), Absent):
            delattr(module.Logger, name)
    functions = {
        "Dims": Dims,
        "get_plugin_registry": lambda: new(module.IPluginRegistry),
        "init_libnvinfer_plugins": lambda logger, namespace: bool(
            objects.checked(logger, module.ILogger)),
        "nptype": lambda kind: _nptype(kind.name),
        "volume": lambda shape: int(np.prod(tuple(shape))),
    }
    kinds = {"float32": "FLOAT", "float16": "HALF", "int8": "INT8", "int32": "INT32",
             "int64": "INT64", "bool": "BOOL", "uint8": "UINT8"}
    functions.update({name: getattr(module.DataType, kind) for name, kind in kinds.items()
                      if hasattr(module.DataType, kind)})
    for name, function in functions.items():
        if name in module._names:
            setattr(module, name, function)
    return module


def _nptype(name: str) -> Any:
    try:
        return {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32,
                "BOOL": np.bool_, "UINT8": np.uint8, "INT64": np.int64}[name]
    except KeyError:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype."
                        ) from None
