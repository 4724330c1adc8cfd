"""The progress of a build, from the phases that TensorRT reports.

Phases nest: a step of one may be a phase itself. TensorRT reports them from several threads.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

__all__ = ["BuildProgress", "monitor_of"]


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """The running phases, the share of the build that is done, and whether to end the build."""

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()
        self._share = 0.0
        self._cancelled = False

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of ``steps`` steps begins, inside a step of ``parent``."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(int(steps), 1))

    def step(self, name: str, step: int) -> bool:
        """A step, counted from 0, is done; False asks the build to end."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1
            return not self._cancelled

    def finish(self, name: str) -> None:
        """A phase has ended, whether or not all its steps are done."""
        with self._lock:
            self._phases.pop(name, None)

    def cancel(self) -> None:
        """Make the next step the last one."""
        with self._lock:
            self._cancelled = True

    @property
    def cancelled(self) -> bool:
        """Whether the build was asked to end."""
        with self._lock:
            return self._cancelled

    def state(self) -> tuple[float, str]:
        """The share of the build that is done, which never decreases, and the innermost phase's
        name."""
        with self._lock:
            outer = [name for name, phase in self._phases.items()
                     if phase.parent not in self._phases]
            if outer:
                self._share = max(self._share, min(self._part(outer[-1], 0), 1.0))
            return self._share, next(reversed(self._phases), "")

    def _part(self, name: str, depth: int) -> float:
        phase = self._phases[name]
        inner = 0.0
        if depth < 16:  # a phase that is its own parent must not end in endless recursion
            inner = sum(self._part(child, depth + 1) for child, other in self._phases.items()
                        if other.parent == name)
        return min(phase.done + min(inner, 1.0), phase.steps) / phase.steps


def monitor_of(trt: Any, progress: BuildProgress) -> Any:
    """A TensorRT progress monitor that reports to ``progress``; None before 8.6."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base is known at run time only
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()
