"""The parts of a check, each in a process of its own, and the file of their results."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bidiff_deploy.errors import BidiffError
from bidiff_deploy.files import atomic_file

TIMEOUT = 3600.0  # seconds a part
Options = dict[str, Any]
Result = dict[str, Any]


def guarded(work: Callable[[Options], Result], options: Options) -> Result:
    """The part's result with ``ok``, or ``{"ok": False, "reason": sentence}``."""
    try:
        return {"ok": True, **work(options)}
    except BidiffError as error:
        return {"ok": False, "reason": str(error)}
    except Exception as error:  # torch's and onnxruntime's own, of which there are many
        text = " ".join(str(error).split())[:400]
        return {"ok": False, "reason": f"{type(error).__name__}: {text}"}


def run_apart(program: Path, name: str, options: Options, prefix: tuple[str, ...] = (),
              timeout: float = TIMEOUT) -> Result:
    """Part ``name`` of a tool, the folder ``program``, in a process of its own behind the command
    ``prefix``; raises nothing but KeyboardInterrupt. Its stderr, with progress, is passed on."""
    with tempfile.TemporaryDirectory(prefix="bidiff-check-") as folder:
        result = Path(folder, "result.json")
        command = [*prefix, sys.executable, str(program), "--part", name, "--options",
                   json.dumps(options), "--json", str(result)]
        try:
            done = subprocess.run(command, timeout=timeout, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, text=True, errors="replace")
        except subprocess.TimeoutExpired:
            return {"ok": False, "reason": f"it did not end within {timeout:.0f} seconds"}
        except OSError as error:
            return {"ok": False, "reason": f"{command[0]} could not be started: {error.strerror}"}
        try:
            found: Result = json.loads(result.read_text())
        except (OSError, ValueError):
            found = {"ok": False, "reason": f"its process ended with code {done.returncode} and no "
                                            "result; what it said is above"}
        return {**found, "exit_code": done.returncode, "output": done.stdout[-4000:]}


def write_json(path: Path, report: Result) -> None:
    """The report, whole or not at all; raises OutputError."""
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(report, indent=1))
