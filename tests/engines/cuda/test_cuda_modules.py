"""Where the kernels' machine code comes from: NVRTC, its cache, nvcc; and `make cuda`."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from bidiff_deploy.engines import library
from bidiff_deploy.engines.gpu import library as cuda_library
from bidiff_deploy.engines.gpu import nvrtc_files
from bidiff_deploy.errors import EngineError
from support import emulated_cuda
from support.shared import Shared

ROOT = Path(__file__).parents[3]
LOAD = """
import sys
from bidiff_deploy.errors import EngineError
from bidiff_deploy.engines.gpu.library import load_kernels
try:
    print(load_kernels(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
except EngineError as error:
    print("error:", error)
"""
COMPILED, CACHED = "compiled by NVRTC 12.9 for sm_80", "cached from NVRTC 12.9 for sm_80"

pytestmark = pytest.mark.usefixtures("on_stand_in")


@pytest.fixture
def load(tmp_path):
    """A function that loads the kernels in a process of its own: where they come from, or a
    sentence. The cache is in tmp_path."""
    def run(**variables: str) -> str:
        done = emulated_cuda.python(LOAD, tmp_path, **{"BIDIFF_EMULATED_GPUS": "80", **variables})
        assert done.returncode == 0 and done.stdout.count("\n") == 1, done.stdout + done.stderr
        return done.stdout.strip()
    return run


def cached_files(folder: Path) -> list[Path]:
    return sorted((folder / "bidiff_deploy" / "cuda").iterdir())


def sections(cubin: bytes) -> tuple[int, set[str]]:
    """Architecture and kernels of a cubin by its ELF headers."""
    assert cubin[:4] == b"\x7fELF" and struct.unpack_from("<H", cubin, 18) == (190,)
    flags, = struct.unpack_from("<I", cubin, 48)
    start, = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<HHH", cubin, 58)
    headers = [struct.unpack_from("<IIQQQQ", cubin, start + index * size) for index in range(count)]
    base = headers[names][4]
    found = {cubin[base + header[0]:cubin.index(b"\0", base + header[0])] for header in headers}
    architecture = flags >> 8 & 0xff if cubin[8] >= 8 else flags & 0xff
    return architecture, {name[6:].decode() for name in found if name.startswith(b".text.")}


def real_nvrtc() -> str:
    """NVIDIA's own compiler, of BIDIFF_TEST_NVRTC or a wheel; skips the test without."""
    found = [os.environ.get("BIDIFF_TEST_NVRTC"), *map(str, nvrtc_files.nvrtc_files())]
    if not any(found):
        pytest.skip("needs NVRTC: pip install nvidia-cuda-nvrtc-cu12")
    return next(file for file in found if file)


def test_compiled_once_then_cached(load, tmp_path):
    assert load() == COMPILED
    files = cached_files(tmp_path)
    # What the default path needs, and no more.
    assert len(files) == 2 and all(
        re.fullmatch(r"[0-9a-f]{16}-sm_80\.cubin", file.name) for file in files)
    before = [(file.stat().st_mtime_ns, file.stat().st_mode & 0o777) for file in files]
    assert {mode for _, mode in before} == {0o600}
    assert load() == CACHED
    assert [(file.stat().st_mtime_ns, file.stat().st_mode & 0o777) for file in files] == before
    # Another GPU, or another version of the compiler, has files of its own.
    assert load(BIDIFF_EMULATED_GPUS="90") == "compiled by NVRTC 12.9 for sm_90"
    assert load(BIDIFF_EMULATED_NVRTC="12080") == "compiled by NVRTC 12.8 for sm_80"
    assert len(cached_files(tmp_path)) == 6 and load() == CACHED


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "magic", "swapped", "writable",
                                    "link", "folder", "huge"])
def test_a_damaged_or_foreign_cache_is_compiled_anew(load, tmp_path, damage):
    load()
    first, second = cached_files(tmp_path)
    content = first.read_bytes()
    match damage:
        case "cut":
            first.write_bytes(content[:-1])
        case "empty":
            first.write_bytes(b"")
        case "flipped":
            first.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
        case "magic":
            first.write_bytes(b"BIDIFF99" + content[8:])
        case "swapped":  # a sound file of another unit
            first.write_bytes(second.read_bytes())
        case "writable":  # by anybody
            first.chmod(0o666)
        case "link":
            first.rename(tmp_path / "elsewhere")
            first.symlink_to(tmp_path / "elsewhere")
        case "folder":
            first.unlink()
            first.mkdir()
        case "huge":
            with open(first, "r+b") as file:
                file.truncate(1 << 30)
    assert load() == COMPILED
    if damage != "folder":  # mended
        assert cached_files(tmp_path) == [first, second]
        assert first.read_bytes() == content and not first.is_symlink()
        assert first.stat().st_mode & 0o777 == 0o600
        assert load() == CACHED


def test_temporaries_of_killed_processes_are_removed(load, tmp_path):
    folder = tmp_path / "bidiff_deploy" / "cuda"
    folder.mkdir(parents=True)
    for name in ("a.1.0.tmp", "b.2.0.tmp", "tmp"):
        (folder / name).write_text("half")
    with open(folder / "b.2.0.tmp") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        assert load() == COMPILED
        left = {file.name for file in cached_files(tmp_path)}
    assert {name for name in left if "tmp" in name} == {"b.2.0.tmp", "tmp"} and len(left) == 4


@pytest.mark.parametrize("variables", [
    {"XDG_CACHE_HOME": "/dev/null"}, {"XDG_CACHE_HOME": "relative"},
    {"XDG_CACHE_HOME": "", "HOME": ""}])
def test_no_cache_is_no_error(load, tmp_path, monkeypatch, variables):
    monkeypatch.chdir(tmp_path)
    variables = {"HOME": "/dev/null", **variables}
    assert load(**variables) == COMPILED and load(**variables) == COMPILED
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("gpu, known, origin", [
    ("89", "75,80,86,90", "compiled by NVRTC 12.9 for sm_86"),  # the same major version
    ("121", "75,80,90,120", "compiled by NVRTC 12.9 for sm_120"),
    ("120", "75,80,90", "compiled by NVRTC 12.9 as PTX for compute_90"),
    ("87", "75,89", "compiled by NVRTC 12.9 as PTX for compute_75")])  # no older code of its major
def test_a_gpu_that_the_compiler_does_not_know(load, tmp_path, gpu, known, origin):
    variables = {"BIDIFF_EMULATED_GPUS": gpu, "BIDIFF_EMULATED_NVRTC_GPUS": known}
    assert load(**variables) == origin
    assert load(**variables) == origin.replace("compiled by", "cached from")
    if "PTX" in origin:
        assert {file.suffix for file in cached_files(tmp_path)} == {".ptx"}


@pytest.mark.parametrize("variables, match", [
    ({"BIDIFF_NVRTC": "/no/libnvrtc.so"},
     r"(built without nvcc|cannot be loaded, .*), and NVRTC, which compiles them, was not found "
     r"\(/no/libnvrtc.so: .*\); "
     r"pip install 'nvidia-cuda-nvrtc-cu12>=12.8,<13', or name a libnvrtc.so by BIDIFF_NVRTC$"),
    ({"BIDIFF_EMULATED_NVRTC": "13000"},
     r"the NVIDIA driver supports CUDA 12.9 and cannot load what NVRTC 13.0 compiles; update the "
     r"driver; or pip install 'nvidia-cuda-nvrtc-cu12"),
    ({"BIDIFF_EMULATED_DRIVER": "11000"},
     "the NVIDIA driver supports CUDA 11.0 and cannot load .* update the driver to 525 or newer$"),
    ({"BIDIFF_EMULATED_GPUS": "75", "BIDIFF_EMULATED_NVRTC_GPUS": "80,90"},
     r"NVRTC 12.9 does not compile for sm_75 any more; or pip install"),
    ({"BIDIFF_EMULATED_NVRTC_GPUS": "75", "BIDIFF_EMULATED_DRIVER": "12040"},
     r"NVRTC 12.9 does not know sm_80, and the driver \(CUDA 12.4\) cannot compile its PTX; or "),
    ({"BIDIFF_EMULATED_FAIL": "nvrtcCompileProgram=6"},
     r"did not compile \w+\.cu for sm_80 \(code 6\): kernels.cu\(7\): error: emulated; pip"),
    ({"BIDIFF_EMULATED_FAIL": "cuModuleLoadData=209"},
     r"loading the kernels that NVRTC compiled failed: CUDA_ERROR_NO_BINARY_FOR_GPU \(209\)")])
def test_no_kernels_is_a_sentence(load, variables, match):
    sentence = load(**variables)
    assert sentence.startswith("error: no kernels for GPU 0 (emulated sm_"), sentence
    assert re.search(match, sentence), sentence


def test_files_of_wheels(tmp_path, monkeypatch):
    for name in ("cu13/lib/libnvrtc.so.13", "cuda_nvrtc/lib/libnvrtc.so.12",
                 "cuda_nvrtc/lib/libnvrtc.so.12.bak", "cuda_nvrtc/lib/libnvrtc-builtins.so.12.9"):
        file = tmp_path / "nvidia" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("nvidia", None)
    sys.path_importer_cache.clear()
    found = [file.relative_to(tmp_path / "nvidia").as_posix() for file in nvrtc_files.nvrtc_files()
             if file.is_relative_to(tmp_path)]
    # CUDA 12's before 13's: older drivers load what it compiles as well.
    assert found == ["cuda_nvrtc/lib/libnvrtc.so.12", "cu13/lib/libnvrtc.so.13"]


# Every unit for one architecture of those that have it; ptxas' effort is what takes the time.
@pytest.mark.parametrize("architecture, unit", [
    (75, "conv_xor.cu"), (80, "conv_and.cu"), (90, "conv_int8.cu"),
    (120, "maps.cu"), (120, "conv_popc.cu")])
def test_nvrtc_compiles_what_plans_launch(monkeypatch, architecture, unit):
    nvrtc = real_nvrtc()
    monkeypatch.setenv("BIDIFF_NVRTC", nvrtc)
    # Once for these sources, which the op library embeds, and this compiler.
    made_of = hashlib.sha256(nvrtc.encode() + b"".join(
        Path(file).read_bytes() for file in (library.library_path(), nvrtc))).hexdigest()[:16]

    def make(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        # In a process of its own: this one has torch and a stand-in for the driver.
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from bidiff_deploy.engines.gpu.library import "
             "compile_unit; print(compile_unit(sys.argv[1], int(sys.argv[2]), 12090, sys.argv[3], "
             "'-Xptxas=-O0'))", unit, str(architecture), str(folder)],
            capture_output=True, text=True, cwd=ROOT)
        assert done.stdout.rstrip().endswith(f"): sm_{architecture}"), done.stderr

    folder = Shared(ROOT / "build" / "nvrtc")(f"{made_of}-{architecture}-{unit}", make)
    cubin, = folder.iterdir()
    made_for, kernels = sections(cubin.read_bytes())
    path = unit.removesuffix(".cu").removeprefix("conv")
    named = {name for name in cuda_library.kernel_names(architecture)
             if (f"{path}_" in name if path.startswith("_") else not
                 re.search("_(xor|and|int8|popc)_", name))}
    assert made_for == architecture and kernels == named and kernels


def test_nvrtc_does_not_take_what_a_driver_cannot_load(tmp_path, monkeypatch):
    monkeypatch.setenv("BIDIFF_NVRTC", real_nvrtc())
    with pytest.raises(EngineError, match=r"supports CUDA 11.8 and cannot load what NVRTC 1\d"):
        cuda_library.compile_unit("maps.cu", 80, 11080, tmp_path)


def test_every_kernel_has_a_unit(load):
    # load_kernels asks for all kernels of a path; other paths are the sums' tests.
    for gpu in (75, 90, 120):
        for path in cuda_library.paths(gpu):
            cuda_library.load_kernels(emulated_cuda.ordinal(gpu), path)
    with pytest.raises(EngineError, match="has no kernel bidiff_of_another_age; rebuild it"):
        cuda_library.kernel_use("bidiff_of_another_age", emulated_cuda.ordinal(80))


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
    cmake = shutil.which("cmake")
    if cmake is None or not shutil.which("c++"):
        pytest.skip("needs cmake and a C++ compiler on PATH")
    return subprocess.run([cmake, "-S", str(ROOT / "engines"), "-B", str(folder), *options],
                          env={**os.environ, "CUDACXX": str(nvcc), "BIDIFF_NO_LIBRARY": "",
                               "BIDIFF_CUDA": ""},
                          capture_output=True, text=True)


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


def test_embedded_kernels_are_loaded_where_the_driver_knows_them(load):
    ahead = cuda_library.embedded()
    if not ahead.architectures:
        pytest.skip("the op library was built without nvcc")
    major, minor = map(int, ahead.toolkit.split("."))
    given = {"BIDIFF_EMULATED_FATBINS": "1", "BIDIFF_NVRTC": "/no/libnvrtc.so",
             "BIDIFF_EMULATED_DRIVER": str(1000 * major + 10 * minor)}
    for gpu in ahead.architectures:
        assert load(**given, BIDIFF_EMULATED_GPUS=str(gpu)) == \
            f"compiled with the library by nvcc {ahead.toolkit}"


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
