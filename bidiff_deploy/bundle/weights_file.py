"""The file of tensor bytes that all step graphs of a bundle share.

Tensors start at multiples of 64 bytes, a cache line, so that kernels may use aligned loads; equal
tensors are stored once. The bytes depend on the order in which tensors are added.
"""

from __future__ import annotations

import hashlib
from typing import BinaryIO

import numpy as np
from onnx import TensorProto

ALIGNMENT = 64
FILE_NAME = "weights.bin"
_TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "int8": TensorProto.INT8}


class WeightsFile:
    """Writes tensors to ``stream`` and returns references to them."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._end = 0
        self._places: dict[tuple[str, bytes], int] = {}

    def add(self, value: np.ndarray, name: str) -> TensorProto:
        """Store ``value`` (float32, int32 or int8) unless an equal tensor is stored; returns a
        tensor called ``name`` that refers to its bytes."""
        data_type = _TYPES[value.dtype.name]
        data = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<")).tobytes()
        key = (value.dtype.name, hashlib.sha256(data).digest())
        offset = self._places.get(key)
        if offset is None:
            self._stream.write(b"\0" * (-self._end % ALIGNMENT))
            offset = self._end + -self._end % ALIGNMENT
            self._stream.write(data)
            self._end = offset + len(data)
            self._places[key] = offset
        tensor = TensorProto(name=name, data_type=data_type, dims=value.shape,
                             data_location=TensorProto.EXTERNAL)
        for entry, place in (("location", FILE_NAME), ("offset", offset), ("length", len(data))):
            tensor.external_data.add(key=entry, value=str(place))
        return tensor
