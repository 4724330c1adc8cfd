"""Builds the op library with address and undefined-behaviour sanitizers and runs its tests.

    python tools/sanitize.py [pytest arguments]

Every kernel that this CPU supports is tested, by the same tests as the normal build. Needs g++ or
clang++ with their sanitizer runtimes, and cmake (pip's is enough). Exit code 0 only if the build
succeeds and no sanitizer reports anything.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ["tests/engines/test_kernels.py", "tests/operators/test_op_library.py",
         "tests/operators/test_fused_ops.py"]
# Separate programs, built without sanitizers; and other kernels in separate processes.
LEFT_OUT = "not emulation and not fused_in and not shared_symbols and not every_kernel"


def runtime(name: str) -> str:
    """Path of the compiler's sanitizer runtime, which must be loaded before everything else."""
    compiler = os.environ.get("CXX", "g++")
    path = subprocess.run([compiler, f"-print-file-name={name}"], check=True, text=True,
                          capture_output=True).stdout.strip()
    if not os.path.isabs(path):
        sys.exit(f"error: {compiler} has no {name}; install its sanitizer runtime "
                 "(Debian/Ubuntu: apt-get install libgcc-12-dev)")
    return os.path.realpath(path)


def cmake() -> str:
    found = shutil.which("cmake") or shutil.which("cmake", path=sysconfig.get_path("scripts"))
    if found is None:
        sys.exit("error: cmake was not found; pip install cmake")
    return found


def main() -> int:
    # Preloaded, because RTLD_DEEPBIND or a late load would miss allocations. Leaks are ignored: the
    # Python interpreter has many.
    environment = {**os.environ, "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')}",
                   "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",
                   "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"}
    with tempfile.TemporaryDirectory(prefix="bidiff-sanitize-") as folder:
        configure = [cmake(), "-S", str(ROOT / "engines"), "-B", folder, "-DBIDIFF_SANITIZE=ON",
                     "-DBIDIFF_CUDA=OFF"]
        subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([cmake(), "--build", folder, "-j", "2"], check=True,
                       stdout=subprocess.DEVNULL)
        environment["BIDIFF_OPS_LIBRARY"] = str(next(Path(folder).glob("libbidiff_ops.*")))
        print(f"testing {', '.join(TESTS)} with address and undefined-behaviour sanitizers",
              flush=True)
        return subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                               "-k", LEFT_OUT, *TESTS, *sys.argv[1:]],
                              cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
