"""One thread a worker, tests that need what is not installed, and fixtures of all tests."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before numpy or torch is imported, here and in the processes that tests start: a thread of each
# worker's own is all that its share of the cores can run.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

# Bytecode is kept, also where that is switched off: else each worker compiles all tests, and each
# process that they start the package.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Imports make objects that stay: to look for garbage among them takes a sixth of their time.
gc.disable()

# A shell's job in the background ignores Ctrl-C, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("support")
pytest_plugins = [
    "support.data_sets", "support.emulated_cuda", "support.kept_sessions", "support.latent_cases",
    "support.reference_cases", "support.report_pages", "support.shared",
    "support.tensorrt_building"]

# Packages that the package itself does without: a file of tests that imports one which is not
# installed is skipped, and says so.
OPTIONAL = {"cuda", "onnxruntime", "polygraphy", "tensorboard", "torch"}


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
        collector: pytest.Collector) -> Iterator[None]:
    report = yield
    if report.failed and isinstance(collector, pytest.Module):
        cause = report.call.excinfo.value.__cause__
        name = str(getattr(cause, "name", "")).partition(".")[0]
        if isinstance(cause, ModuleNotFoundError) and name in OPTIONAL:
            report.outcome = "skipped"
            report.longrepr = str(collector.path), 0, f"Skipped: {name} is not installed"
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("dist", "no") == "no":  # else it only controls the workers
        from support import forked

        forked.start(imports="PYTEST_XDIST_WORKER" in os.environ)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under tools/soak.py: what has random cases, that is Hypothesis's tests and those marked."""
    if "BIDIFF_SOAK_SEED" in os.environ:
        items[:] = [item for item in items if item.get_closest_marker("soak")
                    or getattr(getattr(item, "obj", None), "is_hypothesis_test", False)]


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # what tests leave is small; to look for it takes time
    gc.enable()


def pytest_unconfigure() -> None:
    from support import forked

    forked.end()


@pytest.fixture
def edit_manifest():
    """A function that changes a bundle's manifest in place: ``edit(bundle, change)``."""
    def edit(bundle: Path, change) -> None:
        path = bundle / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))
    return edit
