"""A binding of the CUDA driver that notes what it is asked for, and does nothing."""

from __future__ import annotations

from types import SimpleNamespace

__all__ = ["GRAPHS", "Codes"]


class Codes(SimpleNamespace):
    """Functions of a driver binding that note their calls; names of ``failing`` give 2."""

    def __init__(self, *names: str, failing: tuple[str, ...] = ()) -> None:
        super().__init__(CUstream=int, calls=[], CUstreamCaptureMode=SimpleNamespace(
            CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1))
        for name in names:
            setattr(self, name, lambda *arguments, name=name: (
                self.calls.append((name, *arguments)) or 2 * (name in failing), f"{name}()"))


GRAPHS = ("cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphDestroy", "cuGraphLaunch",
          "cuGraphExecDestroy")
