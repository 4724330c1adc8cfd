"""The parts of a check, each in a process of its own, and the file of their results."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bidiff_deploy.errors import BidiffError, UsageError
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


def exit_code(given: argparse.Namespace, parts: Mapping[str, Callable[[Options], Result]],
              check: Callable[[argparse.Namespace], int]) -> int:
    """A tool's exit code: of ``check``, or in a process of ``run_apart``, whose part is run and
    its result written. What is refused is a line on stderr and exit code 1."""
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
    """Names of the parts that an option lists, all if it is not given; raises UsageError."""
    names = text.split(",") if text else list(parts)
    if unknown := sorted(set(names) - set(parts)):
        raise UsageError(f"{option} {','.join(unknown)} is no part; parts are {', '.join(parts)}")
    return names


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
