"""Where the kernels' machine code comes from: NVRTC, its cache, nvcc; and `make cuda`."""

from __future__ import annotations

import fcntl
import re
import struct
import sys
from pathlib import Path

import pytest

from bidiff_deploy.engines.gpu import library as cuda_library
from bidiff_deploy.engines.gpu import nvrtc_files
from bidiff_deploy.errors import EngineError
from support import emulated_cuda, nvrtc_units

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
    """NVIDIA's own compiler; skips the test without."""
    return nvrtc_units.nvrtc() or pytest.skip("needs NVRTC: pip install nvidia-cuda-nvrtc-cu12")


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


@pytest.mark.parametrize("architecture, unit", nvrtc_units.UNITS)
def test_nvrtc_compiles_what_plans_launch(architecture, unit):
    cubin = nvrtc_units.compiled(architecture, unit, real_nvrtc())
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
