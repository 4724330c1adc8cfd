"""Runs the parts of a check in separate processes, and writes their results to a file."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bidiff_deploy.errors import BidiffError, UsageError, one_line
from bidiff_deploy.files import atomic_file

TIMEOUT = 3600.0  # seconds a part
Options = dict[str, Any]
Result = dict[str, Any]


def guarded(work: Callable[[Options], Result], options: Options) -> Result:
    """The result of ``work`` with ``ok``, or ``{"ok": False, "reason": sentence}``."""
    try:
        return {"ok": True, **work(options)}
    except BidiffError as error:
        return {"ok": False, "reason": str(error)}
    except Exception as error:  # torch and onnxruntime raise many classes
        return {"ok": False, "reason": f"{type(error).__name__}: {one_line(error, 400)}"}


def exit_code(given: argparse.Namespace, parts: Mapping[str, Callable[[Options], Result]],
              check: Callable[[argparse.Namespace], int]) -> int:
    """The exit code of a tool: that of ``check``, or, in a process that ``run_apart`` started, 0
    once its part is run and the result written. Errors are a line on stderr and exit code 1."""
    try:
        if given.part:
            result = guarded(parts[given.part], json.loads(given.options))
            given.json.write_text(json.dumps(result))
            return 0
        return check(given)
    except (BidiffError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def chosen(option: str, text: str | None, parts: Mapping[str, object]) -> list[str]:
    """The names of parts in the value of an option; all if it is missing. Raises UsageError."""
    names = text.split(",") if text else list(parts)
    if unknown := sorted(set(names) - set(parts)):
        raise UsageError(f"{option} {','.join(unknown)} is unknown; parts are {', '.join(parts)}")
    return names


def run_apart(program: Path, name: str, options: Options, prefix: tuple[str, ...] = (),
              timeout: float = TIMEOUT) -> Result:
    """Run part ``name`` of a tool, the folder ``program``, in a separate process, started by the
    command ``prefix`` if given. Its stderr, with progress, is not captured. Raises only
    KeyboardInterrupt."""
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
                                            "result; see its output above"}
        return {**found, "exit_code": done.returncode, "output": done.stdout[-4000:]}


def write_json(path: Path, report: Result) -> None:
    """Write the report, whole or not at all. Raises OutputError."""
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(report, indent=1))
