"""Finds or builds the plugin, and runs it with trtexec, without Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bidiff_deploy.errors import EngineError
from tools.checks.processes import Options, Result

from .engines import network_bundle

_SECONDS = 1800
_PLACES = ("/usr/src/tensorrt/bin", "/opt/tensorrt/bin", "/usr/local/tensorrt/bin")


def plugin(options: Options) -> Result:
    """The plugin library for the installed TensorRT, built into the folder ``work`` if missing."""
    from bidiff_deploy.engines.tensorrt.api import open_tensorrt, plugin_digest
    from bidiff_deploy.engines.tensorrt.plugin.compile import build_plugin
    from bidiff_deploy.engines.tensorrt.plugin.library import LIBRARIES, PluginLibrary, find_plugin
    api = open_tensorrt()
    built = Path(options["work"], f"plugin-{api.version[0]}.{api.version[1]}")
    try:
        file = find_plugin(api.name)
    except EngineError:
        file = built / LIBRARIES[0]
        if options["again"] or not file.is_file():
            root = options["tensorrt_root"]
            if root is None and not _headers("/usr"):
                raise
            built.parent.mkdir(parents=True, exist_ok=True)
            build_plugin(root or "/usr", built, overwrite=True)
    library = PluginLibrary(file)
    return {"file": str(file.resolve()), "sha256": plugin_digest(library),
            "built_for": library.tensorrt, "interface": library.interface,
            "architectures": list(library.architectures)}


def trtexec(options: Options) -> Result:
    """Build and run the float16 graph of ``build --graph`` by trtexec with the plugin: its median
    time on the GPU."""
    from bidiff_deploy.engines.tensorrt.api import open_tensorrt
    from bidiff_deploy.engines.tensorrt.plugin.library import find_plugin
    tool = find_trtexec(options["tensorrt_root"])
    api, size = open_tensorrt(), options["size"]
    library = find_plugin(api.name)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = network_bundle(options["network"], 1, folder, "half")
        graph = folder / "step.onnx"
        _run([sys.executable, "-m", "bidiff_deploy", "build", str(bundle), "--graph", str(graph),
              "--size", f"{size}x{size}"], "build --graph failed")
        command = trtexec_command(tool, graph, library, api.version, options["device"])
        text = _run(command, "trtexec failed")
    return {"command": " ".join(command).replace(str(folder), "."), "size": size,
            "median_ms": median_of(text)}


def find_trtexec(root: str | None) -> str:
    """The path of trtexec: on PATH, in the TensorRT at ``root``, or where JetPack installs it."""
    places = [f"{root}/bin"] if root else []
    found = shutil.which("trtexec") or shutil.which(
        "trtexec", path=os.pathsep.join([*places, *_PLACES]))
    if found is None:
        raise EngineError("trtexec was not found; TensorRT's archive, Debian packages and JetPack "
                          "contain it, wheels do not")
    return found


def trtexec_command(tool: str, graph: Path, library: Path, version: tuple[int, ...],
                    device: int) -> list[str]:
    """The command that builds and times a float16 graph with trtexec of that version."""
    option = "staticPlugins" if version[:2] >= (8, 6) else "plugins"
    typed = {8: ["--fp16"], 9: ["--fp16"], 10: ["--stronglyTyped"]}.get(version[0], [])
    return [tool, f"--onnx={graph}", f"--{option}={library}", *typed, "--noTF32",
            f"--device={device}", "--useCudaGraph", "--noDataTransfers", "--warmUp=500"]


def median_of(text: str) -> float:
    """The milliseconds that trtexec printed. Raises EngineError if it printed none."""
    found = re.search(r"GPU Compute Time:.*?median = ([0-9.]+) ms", text)
    if found is None:
        raise EngineError("trtexec printed no GPU Compute Time")
    return float(found[1])


def _headers(root: str) -> bool:
    from bidiff_deploy.engines.tensorrt.plugin.sources import find_tensorrt
    try:
        find_tensorrt(root)
    except EngineError:
        return False
    return True


def _run(command: list[str], failure: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace",
                              stdin=subprocess.DEVNULL, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise EngineError(f"{failure}: it did not end within {_SECONDS} seconds") from None
    except OSError as error:
        raise EngineError(f"{failure}: {command[0]} could not be started "
                          f"({error.strerror})") from None
    text = done.stdout + done.stderr
    if done.returncode:
        errors = [line for line in text.splitlines() if "[E]" in line or "error" in line.lower()]
        lines = errors or text.strip().splitlines() or ["no reason given"]
        raise EngineError(f"{failure}: {' '.join(lines[0].split())[:300]}")
    return text
