"""The module itself, for one version: what of it exists is what the version's bindings have."""

from __future__ import annotations

import enum
import types
from typing import Any

from support import tensorrt_names

from . import building, parsing, running
from .objects import Object, lacking

TEMPLATES: dict[str, Any] = {
    "ILogger": Object, "IProgressMonitor": Object,  # which users derive from
    **{name: value for module in (building, parsing, running) for name, value in
       vars(module).items() if isinstance(value, type) and issubclass(value, Object)
       and value is not Object}}


class StandIn(types.ModuleType):
    """Says of a name that it lacks whether TensorRT has it."""

    def __getattr__(self, name: str) -> Any:
        raise lacking(name, frozenset() if name.startswith("__") else self._names)


def make(version: str) -> types.ModuleType:
    """``tensorrt`` of a version that ``tensorrt_names`` has a table of."""
    table = tensorrt_names.tables()[version]
    module: Any = StandIn("tensorrt", f"A stand-in for TensorRT {version}.")
    module._names = frozenset(table["module"])
    module.__version__, module.__file__ = table["version"], __file__
    module._rtx = version == tensorrt_names.RTX
    # TensorRT-RTX 1.7 is as TensorRT of that time.
    module._version = (10, 16, 1) if module._rtx else tuple(
        int(part) for part in table["version"].split(".")[:3])
    for path, names in table["classes"].items():
        if isinstance(names, dict) and "." not in path:
            setattr(module, path, enum.IntEnum(path, names))
        elif template := TEMPLATES.get(path):
            # A property without functions can neither be read nor set.
            gone = {name: property() for name in vars(template)
                    if not name.startswith("_") and name not in names}
            setattr(module, path, type(path, (template,), {
                **gone, "_trt": module, "_names": frozenset(names)}))
    severity = enum.IntEnum("Severity", table["classes"]["ILogger.Severity"])
    for name, value in {"Severity": severity, **severity.__members__}.items():
        setattr(module.ILogger, name, value)
    values = {"init_libnvinfer_plugins": lambda logger, namespace: True,
              "float32": module.DataType.FLOAT, "float16": module.DataType.HALF}
    for name in values.keys() & module._names:
        setattr(module, name, values[name])
    return module
