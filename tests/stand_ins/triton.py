"""A stand-in for Triton's Python API and its HTTP client, for tests without a server.

Made from the documentation of triton-inference-server/python_backend and tritonclient: names,
arguments and what is refused, no more than our model and our client use. It is not Triton: what
only a server does (batching, shared memory, processes) is not tested by it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np


class Tensor:
    def __init__(self, name: str, numpy_array: np.ndarray) -> None:
        assert isinstance(name, str) and isinstance(numpy_array, np.ndarray)
        assert numpy_array.dtype.kind != "U" and numpy_array.flags.c_contiguous
        self._name, self._array = name, numpy_array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, \
        CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        assert isinstance(message, str)
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class TritonModelException(Exception):
    pass


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor] | None = None,
                 error: TritonError | None = None) -> None:
        assert all(isinstance(tensor, Tensor) for tensor in output_tensors or [])
        assert error is None or isinstance(error, TritonError)
        self._tensors, self._error = output_tensors or [], error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


class InferenceRequest:
    """``cancelled``: answers of ``is_cancelled`` in turn, the last one from then on."""

    def __init__(self, inputs: list[Tensor], cancelled: tuple[bool, ...] = (False,)) -> None:
        self._inputs, self._cancelled = inputs, list(cancelled)

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def is_cancelled(self) -> bool:
        return self._cancelled.pop(0) if len(self._cancelled) > 1 else self._cancelled[0]


class Logger:
    lines: list[tuple[str, str]] = []

    @classmethod
    def log_info(cls, message: str) -> None:
        cls.lines.append(("info", message))

    @classmethod
    def log_error(cls, message: str) -> None:
        cls.lines.append(("error", message))


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    return next((tensor for tensor in request.inputs() if tensor.name() == name), None)


def backend_module() -> ModuleType:
    """``triton_python_backend_utils``."""
    module = ModuleType("triton_python_backend_utils")
    for value in (Tensor, TritonError, TritonModelException, InferenceResponse, InferenceRequest,
                  Logger, get_input_tensor_by_name):
        setattr(module, value.__name__, value)
    return module


class InferenceServerException(Exception):
    def message(self) -> str:
        return str(self.args[0])


class InferInput:
    def __init__(self, name: str, shape: list[int], datatype: str) -> None:
        self.name, self.shape, self.datatype = name, shape, datatype
        self.array: np.ndarray | None = None

    def set_data_from_numpy(self, array: np.ndarray) -> None:
        assert list(array.shape) == self.shape
        assert array.dtype == {"UINT8": np.uint8, "INT64": np.int64}[self.datatype]
        self.array = array


def client_modules(execute: Any, model: str, monkeypatch: Any) -> None:
    """Puts ``tritonclient`` in place; its server runs ``execute`` for the model ``model``."""
    class InferenceServerClient:
        def __init__(self, url: str, network_timeout: float = 60.0) -> None:
            if url != "localhost:8000":
                raise ConnectionRefusedError(111, "Connection refused")

        def is_model_ready(self, name: str) -> bool:
            return name == model

        def infer(self, name: str, inputs: list[InferInput]) -> Any:
            request = InferenceRequest([Tensor(one.name, one.array) for one in inputs])
            [response] = execute([request])
            if response.has_error():
                raise InferenceServerException(response.error().message())
            [tensor] = response.output_tensors()
            return type("InferResult", (), {"as_numpy": lambda self, name: tensor.as_numpy()})()

        def close(self) -> None:
            pass

    package, http, utils = (ModuleType(f"tritonclient{name}") for name in ("", ".http", ".utils"))
    http.InferenceServerClient, http.InferInput = InferenceServerClient, InferInput
    utils.InferenceServerException = InferenceServerException
    package.http, package.utils = http, utils
    for module in (package, http, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
