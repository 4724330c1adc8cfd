"""The processes in which a benchmark measures memory, forked instead of started."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from bidiff_deploy.proof.bench import measure
from support import forked

CODE = "import sys\nfrom bidiff_deploy.proof.bench.candidates import main\nmain(sys.argv[1:])"


@contextmanager
def forked_measurements() -> Iterator[None]:
    """Inside, figures are of processes that have imported more than they need."""
    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        module, candidate, *rest = command[2:]
        assert module == measure.candidates.__name__
        return forked.python(CODE, candidate, *rest, torch=candidate == "torch")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "subprocess", SimpleNamespace(run=run))
        yield
