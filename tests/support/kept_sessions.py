"""ONNX Runtime's sessions of bundles that many tests of a file open: each is opened once."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

KEPT = 24  # sessions of small networks
_sessions: OrderedDict[bytes, Any] = OrderedDict()


@pytest.fixture(scope="module")
def kept_sessions() -> Iterator[None]:
    """Inside, a graph with the same constants and options is not opened again. A session has no
    state but memory."""
    from bidiff_deploy.engines.onnxruntime import session
    from bidiff_deploy.proof import sessions
    from bidiff_deploy.proof.check import binary_inputs, bundle_layers

    graph, part = session.open_graph, sessions.open_session

    def open_graph(given: Any, *arguments: Any, **options: Any) -> Any:
        return _kept(lambda: graph(given, *arguments, **options), given.serialized(),
                     given.constants, *arguments[1:], sorted(options.items()))

    def open_session(model: bytes, constants: Mapping[str, np.ndarray], **options: Any) -> Any:
        assert not options.get("profile"), "a profile is of one session"
        return _kept(lambda: part(model, constants, **options), model, constants,
                     sorted(options.items()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "open_graph", open_graph)
        for module in (binary_inputs, bundle_layers):
            patch.setattr(module, "open_session", open_session)
        yield


def _kept(opened: Callable[[], Any], model: bytes, constants: Mapping[str, np.ndarray],
          *options: object) -> Any:
    key = hashlib.sha256(model)
    for name, value in constants.items():
        key.update(f"{name} {value.dtype} {value.shape} ".encode())
        key.update(np.ascontiguousarray(value))
    key.update(repr([options, os.environ.get("BIDIFF_KERNEL")]).encode())
    if key.digest() not in _sessions:
        _sessions[key.digest()] = opened()
        if len(_sessions) > KEPT:
            _sessions.popitem(last=False)
    _sessions.move_to_end(key.digest())
    return _sessions[key.digest()]
