"""The op library with the GPU's machine code in it, and `make cuda`: what nvcc compiles ahead."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bidiff_deploy.engines.gpu import library as cuda_library
from support import native

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def cuda_table():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import cuda_table
    finally:
        sys.path.pop(0)
    return cuda_table


def test_make_cuda_without_nvcc(cuda_table, monkeypatch, capsys):
    monkeypatch.setattr(cuda_table, "find_nvcc", lambda: None)
    assert cuda_table.main([]) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert told.err.startswith("error: nvcc was not found; install NVIDIA's CUDA toolkit")
    assert "tools/cuda_table.py" in (ROOT / "Makefile").read_text()


FAKE = """#!{python}
import os
import sys
if sys.argv[1:] == ["--version"]:
    sys.exit(print("Cuda compilation tools, release {release}, V{release}.1"))
if os.environ.get("FAKE_NVCC_REFUSES"):
    sys.exit("host_config.h(1): fatal error: unsupported GNU version")
out, unit = sys.argv[sys.argv.index("-o") + 1], sys.argv[-1]
if "-arch=sm_75" in sys.argv and "int8" in unit:
    sys.exit(f"{{unit}}(12): error: no such instruction")
open(out, "wb").write(bytes(2048))
for name, registers, spilled in (("bidiff_a", 64, 0), ("bidiff_b", 128, 24)):
    print(f"ptxas info    : Compiling entry function '{{name}}' for 'sm_80'", file=sys.stderr)
    print(f"    {{spilled}} bytes stack frame, {{spilled}} bytes spill stores, 8 bytes spill loads"
          if spilled else "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads",
          file=sys.stderr)
    print(f"ptxas info    : Used {{registers}} registers, 424 bytes cmem[0]", file=sys.stderr)
"""


def fake_nvcc(folder: Path, release: str = "13.0") -> Path:
    file = folder / "nvcc"
    file.write_text(FAKE.format(python=sys.executable, release=release))
    file.chmod(0o755)
    return file


def configure(folder: Path, nvcc: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """CMake in ``folder``. What it finds out about the compiler it is given by the tests' own
    build: that takes most of its time."""
    known = native.built(native.HOST, "bidiff_emulated_cuda")
    if not folder.exists():
        for compiler in known.glob("CMakeFiles/*/CMakeCXXCompiler.cmake"):
            shutil.copytree(compiler.parent, folder / compiler.parent.relative_to(known))
        kept = [line for line in (known / "CMakeCache.txt").read_text().splitlines()
                if line.startswith("CMAKE_")]
        (folder / "CMakeCache.txt").write_text("\n".join(kept).replace(str(known), str(folder)))
    command = [str(native.cmake()), "-S", str(ROOT / "engines"), "-B", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, env={
        **os.environ, "CUDACXX": str(nvcc), "BIDIFF_NO_LIBRARY": "", "BIDIFF_CUDA": ""})


def test_the_library_with_machine_code(tmp_path):
    # What is embedded was compiled by hand, docs/verified.md; here, that it is asked for.
    folder = tmp_path / "build"
    done = configure(folder, fake_nvcc(tmp_path), "-DBIDIFF_CUDA=ON",
                     "-DBIDIFF_CUDA_ARCHITECTURES=80;90")
    assert done.returncode == 0, done.stderr
    source = (folder / "cuda_fatbins.cpp").read_text()
    units = cuda_library.units()
    assert f"kFatbinCount = {len(units)};" in source and "kFatbinToolkit = 13000;" in source
    # In the order of the units, which is how a unit finds its code.
    assert re.findall(r"/(\w+)\.fatbin", source) == [unit.removesuffix(".cu") for unit in units]
    assert 'kFatbinArchitectures[] = "80 90"' in source
    rules = "".join(file.read_text() for file in folder.rglob("build.make"))
    assert "arch=compute_80,code=sm_80" in rules and "arch=compute_90,code=compute_90" in rules


def test_machine_code_needs_an_nvcc_that_knows_the_gpus(tmp_path):
    done = configure(tmp_path / "build", fake_nvcc(tmp_path, "12.4"), "-DBIDIFF_CUDA=ON")
    assert done.returncode == 1
    assert "BIDIFF_CUDA=ON, but nvcc of CUDA 12.8 or newer was not found; install" in " ".join(
        done.stderr.split())


def embedded_units(folder: Path) -> int:
    source = (folder / "cuda_fatbins.cpp").read_text()
    return int(re.search(r"kFatbinCount = (\d+);", source)[1])


def test_machine_code_is_embedded_where_nvcc_can(tmp_path):
    folder = tmp_path / "build"
    done = configure(folder, fake_nvcc(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"GPU kernels are compiled ahead by {tmp_path / 'nvcc'}" in done.stdout
    assert embedded_units(folder) == len(cuda_library.units())
    # The same folder, when nvcc was forbidden afterwards.
    done = configure(folder, fake_nvcc(tmp_path), "-DBIDIFF_CUDA=OFF")
    assert done.returncode == 0 and embedded_units(folder) == 0


@pytest.mark.parametrize("release, environment, says", [
    ("12.4", {}, "nvcc of CUDA 12.8 or newer was not found"),
    ("13.0", {"FAKE_NVCC_REFUSES": "1"},
     r"\S+/nvcc does not compile here "
     r"\(host_config.h\(1\): fatal error: unsupported GNU version\)")])
def test_an_nvcc_that_will_not_do_is_no_error(tmp_path, monkeypatch, release, environment, says):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = configure(tmp_path / "build", fake_nvcc(tmp_path, release))
    assert done.returncode == 0, done.stderr
    told, = [line for line in done.stdout.splitlines() if "NVRTC" in line]
    assert re.fullmatch(f"-- bidiff: {says}; NVRTC will compile the GPU kernels at first use", told)
    assert embedded_units(tmp_path / "build") == 0
    done = configure(tmp_path / "other", fake_nvcc(tmp_path, release), "-DBIDIFF_CUDA=ON")
    told = " ".join(done.stderr.split())
    assert done.returncode == 1 and re.search(f"BIDIFF_CUDA=ON, but {says}; install", told)


def test_an_unknown_setting_is_refused(tmp_path):
    done = configure(tmp_path / "build", fake_nvcc(tmp_path), "-DBIDIFF_CUDA=perhaps")
    assert done.returncode == 1
    assert "BIDIFF_CUDA=PERHAPS is unknown; set AUTO, ON or OFF" in " ".join(done.stderr.split())


def test_the_table_of_make_cuda(cuda_table, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDACXX", str(fake_nvcc(tmp_path)))
    report = tmp_path / "report.json"
    assert cuda_table.main(["--architectures", "80,90", "--json", str(report)]) == 0
    lines = capsys.readouterr().out.splitlines()
    units = len(cuda_library.units())
    assert len(lines) == 1 + 2 * units
    assert lines[1].split() == ["sm_80", "conv_and", "2", "64-128", "1", "32", "2", "KiB"]
    entries = json.loads(report.read_text())
    assert {entry["architecture"] for entry in entries} == {"sm_80", "sm_90"}
    assert entries[0]["kernels"][1] == {"name": "bidiff_b", "registers": 128, "spill_stores": 24,
                                        "spill_loads": 8}
    with pytest.raises(SystemExit, match=r"conv_int8.cu does not compile for sm_75: .*\(12\)"):
        cuda_table.main(["--architectures", "75"])


def test_nvcc_compiles_what_plans_launch(cuda_table, tmp_path):
    nvcc = cuda_table.find_nvcc()
    if nvcc is None:
        pytest.skip("needs nvcc on PATH")
    architectures, options = cuda_table.settings()
    assert {"75", "87", "90", "120"} <= set(architectures)
    made = cuda_table.compile_unit(nvcc, cuda_table.DEVICE / "maps.cu", "87", options, tmp_path)
    names = {kernel.name for kernel in made.kernels}
    assert names == {name for name in cuda_library.kernel_names(87)
                     if not re.search("_(xor|and|int8|popc)_", name)}
    assert all(0 < kernel.registers <= 255 for kernel in made.kernels) and made.size > 10_000
