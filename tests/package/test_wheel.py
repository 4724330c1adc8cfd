"""What a release holds: sdist -> wheel, built offline, without compiling the op library.

The library is what takes long to build. That it lands next to ``engines/library.py`` is read from
CMake's own installation script; that it loads is asked by cibuildwheel's test command.
"""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.message import Message
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import pytest

import bidiff_deploy
from bidiff_deploy.cli import COMMANDS
from bidiff_deploy.engines import library
from support.waiting import HANG_SECONDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
INFO = f"bidiff_deploy-{bidiff_deploy.__version__}.dist-info"
PLUGIN = "bidiff_deploy/engines/plugin_source/"
HELP = """
import sys
from bidiff_deploy.cli import group
for name in sys.argv[1:]:
    group([name, "--help"], "bidiff-deploy", standalone_mode=False)
"""


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, text=True, capture_output=True,
                          env={**os.environ, **variables}, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("scikit_build_core") is None:
        pytest.skip("scikit-build-core is not installed; pip install -c constraints.txt '.[dev]'")
    if not (ROOT / "engines" / "CMakeLists.txt").is_file():
        pytest.skip("the tests run without the sources of the package")
    folder = tmp_path_factory.mktemp("sdist")
    build = f"from scikit_build_core.build import build_sdist; build_sdist({str(folder)!r})"
    run(sys.executable, "-c", build, cwd=ROOT)
    [archive] = folder.iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist alone."""
    folder = tmp_path_factory.mktemp("wheel")
    scripts = sysconfig.get_path("scripts")  # of cmake, where it is a Python package
    shutil.unpack_archive(sdist, folder)
    [source] = folder.iterdir()
    build = "from scikit_build_core.build import build_wheel; build_wheel('dist')"  # as pip does
    run(sys.executable, "-c", build, cwd=source, BIDIFF_NO_LIBRARY="1",
        PATH=os.pathsep.join([scripts, os.environ.get("PATH", "")]))
    [archive] = (source / "dist").iterdir()
    return archive


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def read(wheel: Path, name: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name)


def metadata(wheel: Path, name: str) -> Message:
    return email.message_from_bytes(read(wheel, f"{INFO}/{name}"))


def sources() -> set[str]:
    """Files of the package that are to be installed."""
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / "bidiff_deploy").rglob("*")
            if path.is_file() and path.suffix in (
                ".py", ".md", ".css", ".js", ".html", ".safetensors")}


def test_the_sdist_has_what_a_build_and_the_tests_need(sdist: Path):
    with tarfile.open(sdist) as archive:
        found = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in archive.getnames()}
    assert sources() <= found
    assert {"PKG-INFO", "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile",
            "pyproject.toml", "constraints.txt", "engines/CMakeLists.txt", "tests/conftest.py",
            "export/op_contract.md", "bidiff_deploy/models/diffusion_x2.safetensors"} <= found
    assert not [name for name in found
                if name.endswith((".so", ".pyc", ".tmp")) or name.split("/")[0] in
                ("build", "dist", "demo", "runs", ".git", ".venv", ".ci")]


def plugin_sources(names: list[str]) -> set[str]:
    """Files that ``build-plugin`` compiles."""
    return {name for name in names if name.startswith(PLUGIN)}


def test_the_wheel_holds_the_package_and_nothing_else(names: list[str]):
    package = {name for name in names if not name.startswith(f"{INFO}/")}
    assert package == sources() | plugin_sources(names)
    assert {name.removeprefix(f"{INFO}/") for name in set(names) - package} == {
        "METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert "bidiff_deploy/serving/repository/model.py" in package


def test_the_plugin_can_be_built_from_the_wheel(wheel: Path, names: list[str], tmp_path: Path):
    found = plugin_sources(names)
    for name in found:
        source = ROOT / "engines" / name.removeprefix(PLUGIN)
        assert read(wheel, name) == source.read_bytes()
    assert not [name for name in found if "/tests/" in name]
    cmake = shutil.which("cmake") or shutil.which("cmake", path=sysconfig.get_path("scripts"))
    if cmake is None or not shutil.which("c++"):
        pytest.skip("needs cmake and a C++ compiler on PATH")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path, found)
    # cmake misses files that are to be compiled, the compiler what they include.
    run(cmake, "-S", tmp_path / PLUGIN / "tensorrt", "-B", tmp_path / "build", cwd=tmp_path,
        BIDIFF_CUDA="OFF")
    includes = [f"-I{tmp_path / PLUGIN}", "-std=c++17", "-MM"]
    run("c++", *includes, *sorted((tmp_path / PLUGIN / "cuda").glob("*.cpp")),
        *(tmp_path / PLUGIN / "tensorrt" / f"{name}.cpp"
          for name in ("node_problem", "operators", "plugin_core", "prepared_words")),
        cwd=tmp_path)


def test_one_wheel_serves_every_python(wheel: Path):
    assert wheel.name.startswith(f"bidiff_deploy-{bidiff_deploy.__version__}-py3-none-")
    about = metadata(wheel, "WHEEL")
    assert about["Root-Is-Purelib"] == "false"  # it has a library where it is released
    assert all(tag.startswith("py3-none-") for tag in about.get_all("Tag"))


def test_metadata_and_licence(wheel: Path):
    about = metadata(wheel, "METADATA")
    assert (about["Name"], about["Version"]) == ("bidiff-deploy", bidiff_deploy.__version__)
    assert about["License-Expression"] == "Apache-2.0" and about["License-File"] == "LICENSE"
    assert read(wheel, f"{INFO}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert about["Requires-Python"] == PROJECT["project"]["requires-python"]
    assert about["Description-Content-Type"] == "text/markdown"
    extras = set(about.get_all("Provides-Extra"))
    assert {"cpu", "gpu", "tensorrt", "train", "proof", "dev"} <= extras
    for line in about.get_all("Requires-Dist"):
        if "extra ==" not in line:
            assert not line.startswith(("torch", "onnxruntime", "pytest", "scikit")), line
    assert b"bidiff-deploy = bidiff_deploy.cli:main" in read(wheel, f"{INFO}/entry_points.txt")


def test_an_unpacked_wheel_runs(wheel: Path, tmp_path: Path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    # -S: without site no editable installation can put its own bidiff_deploy before this one.
    path = os.pathsep.join([str(tmp_path), sysconfig.get_path("purelib"),
                            sysconfig.get_path("platlib")])
    where = run(sys.executable, "-S", "-c", "import bidiff_deploy; print(bidiff_deploy.__file__)",
                cwd=tmp_path, PYTHONPATH=path)
    assert Path(where.strip()).is_relative_to(tmp_path)
    source = run(sys.executable, "-S", "-c", "from bidiff_deploy.engines.tensorrt."
                 "plugin.sources import plugin_source; print(plugin_source())", cwd=tmp_path,
                 PYTHONPATH=path)
    assert Path(source.strip()) == tmp_path / PLUGIN / "tensorrt"
    shown = run(sys.executable, "-S", "-m", "bidiff_deploy", "--help", cwd=tmp_path,
                PYTHONPATH=path)
    assert all(name in shown for name in COMMANDS)
    run(sys.executable, "-S", "-c", HELP, *COMMANDS, cwd=tmp_path, PYTHONPATH=path)


def test_the_library_is_installed_where_it_is_looked_for(tmp_path: Path):
    cmake = shutil.which("cmake") or shutil.which("cmake", path=sysconfig.get_path("scripts"))
    if cmake is None or not shutil.which("c++"):
        pytest.skip("needs cmake and a C++ compiler on PATH")
    run(cmake, "-S", ROOT / "engines", "-B", tmp_path, cwd=tmp_path, BIDIFF_NO_LIBRARY="",
        BIDIFF_CUDA="OFF")
    script = (tmp_path / "cmake_install.cmake").read_text(encoding="utf-8")
    assert any(f"bidiff_deploy/engines/{name}" in script for name in library._NAMES)


def test_release_wheels_are_tested_on_both_machines():
    settings = PROJECT["tool"]["cibuildwheel"]
    assert settings["linux"]["archs"] == ["x86_64", "aarch64"]
    assert all(settings["linux"][f"manylinux-{machine}-image"].startswith("manylinux_")
               for machine in settings["linux"]["archs"])
    assert PROJECT["tool"]["scikit-build"]["wheel"]["py-api"] == "py3"
    imported, doctor = settings["test-command"]
    assert "import bidiff_deploy" in imported and "bidiff-deploy doctor --json" in doctor
    assert set(settings["test-extras"]) <= set(PROJECT["project"]["optional-dependencies"])
