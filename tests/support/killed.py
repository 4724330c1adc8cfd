"""Kills a writer after any number of the calls that change names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from bidiff_deploy.files import renames


class Killed(BaseException):
    """Stands for a kill: after it, no call that changes a file does anything."""


def killed_after(count: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Of the calls that change names, ``count`` are made and the next is a kill; returns what
    tells whether it came so far."""
    calls = {"made": 0}

    def limited(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if calls["made"] == count:
                raise Killed
            calls["made"] += 1
            return original(*arguments, **options)
        return call

    for module, name in ((os, "rename"), (os, "replace"), (os, "unlink"), (os, "rmdir"),
                         (os, "mkdir"), (os, "link"), (renames, "_renameat2"), (shutil, "rmtree")):
        monkeypatch.setattr(module, name, limited(getattr(module, name)))

    def reached() -> bool:
        return calls["made"] == count
    return reached
