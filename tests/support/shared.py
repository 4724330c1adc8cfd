"""What is made once for all workers of a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.native import locked


class Shared:
    """Files and folders that whichever worker needs them first makes for all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """``folder/name``, made by ``make(path)`` if no worker has; not to be changed."""
        path, made = self.folder / name, self.folder / f"{name}.made"
        if not made.exists():
            with locked(self.folder / f"{name}.locked"):
                if not made.exists():
                    make(path)
                    made.touch()
        return path


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    # With pytest-xdist a worker's own folder is in the one of the whole run.
    own = tmp_path_factory.getbasetemp()
    return Shared((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared")
