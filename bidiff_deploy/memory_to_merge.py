"""How much memory this process has needed."""

from __future__ import annotations

import sys


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes.

    On Linux from ``VmHWM``, which starts anew with the program; getrusage's figure, used
    elsewhere, can carry over from the process that started this one.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
