"""Which names the Python bindings of a TensorRT version have: ``engines/tensorrt/names.json``, and
how it is made.

The bindings themselves are imported, in a process of their own, over libraries that export every
function they link to and return null. No part of TensorRT but its bindings is needed, and no GPU.
A table is written by

    python tests/support/tensorrt_names.py FOLDER NAME VERSION [--python PYTHON]

where FOLDER holds what was unpacked of a wheel, NAME is its module (tensorrt, tensorrt_bindings),
and PYTHON has the version that the wheel was made for.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[1] / "engines" / "tensorrt" / "names.json"


@functools.cache
def tables() -> dict[str, dict[str, Any]]:
    """The committed tables by version: ``version`` in full, ``module`` names, ``classes`` -> names,
    or of an enumeration names -> numbers. Each is a line of the file."""
    return json.loads(TABLE.read_text())


RTX = "1.7.1"  # the version of TensorRT-RTX, which counts its own
VERSIONS = tuple(version for version in tables() if version != RTX)

# Runs in the bindings' process. Enumerations give their numbers, other classes their names.
_DUMP = """
import importlib, json, sys
folder, name, classes = sys.argv[1], sys.argv[2], sys.argv[3].split()
sys.path.insert(0, folder)
module = importlib.import_module(name)
public = lambda of: sorted(entry for entry in dir(of) if not entry.startswith("_"))
table = {"version": module.__version__, "module": public(module), "classes": {}}
for path in classes:
    found = module
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is not None:
        members = getattr(found, "__members__", None)
        table["classes"][path] = (public(found) if members is None else
                                  {key: int(value) for key, value in members.items()})
print(json.dumps(table))
"""


def write_stubs(bindings: Path, folder: Path) -> Path:
    """Libraries for ``bindings`` (its tensorrt.so) in ``folder``: each that it needs of TensorRT is
    there, and every function of them returns null."""
    folder.mkdir(parents=True, exist_ok=True)
    needed, wanted = (re.findall(pattern, subprocess.run(
        [*command, str(bindings)], check=True, text=True, capture_output=True).stdout, re.M)
        for command, pattern in ((("readelf", "-dW"), r"NEEDED.*\[(libnv[^\]]+)\]"),
                                 (("nm", "-D", "--undefined-only"),
                                  r" ((?:create|get|init)[A-Z]\w+|_ZN\d+nv\w+)$")))
    assert needed, f"{bindings} needs no library of TensorRT"
    ours = sorted(set(wanted))
    source = "".join(f'extern "C" void* {name}() {{ return nullptr; }}\n' for name in ours)
    for index, name in enumerate(needed):
        subprocess.run(["c++", "-shared", "-fPIC", "-x", "c++", "-", f"-Wl,-soname,{name}", "-o",
                        str(folder / name)], input=source if index == 0 else "", text=True,
                       check=True)
    return folder


def dump(folder: Path, name: str, stubs: Path, python: str = sys.executable) -> dict[str, Any]:
    """The table of the bindings whose module ``name`` lies in ``folder``, of the classes that the
    newest table of that product has: those that the engines touch."""
    classes = tables()[RTX if "rtx" in name else VERSIONS[-1]]["classes"]
    done = subprocess.run([python, "-c", _DUMP, str(folder), name, " ".join(classes)], text=True,
                          capture_output=True, env={**os.environ, "LD_LIBRARY_PATH": str(stubs)})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def write(made: dict[str, dict[str, Any]]) -> None:
    """Write the tables of all versions."""
    order = sorted(made, key=lambda text: tuple(map(int, text.split("."))))
    TABLE.write_text("{\n" + ",\n".join(f"{json.dumps(version)}: {json.dumps(made[version])}"
                                        for version in order) + "\n}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the table of a version.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("version")
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    stubs = Path("build/tensorrt_stubs") / given.version
    if "rtx" not in given.name:  # those have NVIDIA's own libraries next to them
        write_stubs(given.folder / given.name / "tensorrt.so", stubs)
    write({**tables(), given.version: dump(given.folder, given.name, stubs, given.python)})


if __name__ == "__main__":
    main()
