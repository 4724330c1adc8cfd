"""Backend onnxruntime-cuda: what can be missing, each in one sentence; settings, and which runs
are CUDA graphs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from bidiff_deploy import EngineError, load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.engines import library
from bidiff_deploy.engines.gpu.thread import DeviceThread
from bidiff_deploy.engines.onnxruntime import cuda_provider, cuda_session
from bidiff_deploy.engines.onnxruntime.cuda_step import NO_GRAPH, DeviceStep
from bidiff_deploy.engines.onnxruntime.session import session_options
from bidiff_deploy.graphs.lowering import lower_for_cuda
from support import emulated_cuda, forked
from support.waiting import HANG_SECONDS

if library.library_path() is None:
    pytest.skip(library.missing_reason(), allow_module_level=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def sentence(bundle, cache, **changed):
    """What opening ``bundle`` fails with, on the stand-in's driver but for a provider of ONNX
    Runtime's own."""
    code = ("import sys\nfrom bidiff_deploy import EngineError, load_bundle\ntry:\n"
            "    load_bundle(sys.argv[1], backend='onnxruntime-cuda')\n"
            "except EngineError as error:\n    print(error)\n")
    done = forked.python(code, bundle, environment=emulated_cuda.variables(
        cache, **{"BIDIFF_CUDA_ON_CPU": "", **changed}))
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("changed, says", [
    ({"BIDIFF_LIBCUDA": "/nonexistent/libcuda.so.1"}, "driver cannot be opened.*install it"),
    ({"BIDIFF_EMULATED_GPUS": ""}, "reports no GPU"),
    ({"BIDIFF_EMULATED_GPUS": "61", "BIDIFF_CUDA_ON_CPU": "1"}, "compute capability 6.1.*7.5"),
    ({"BIDIFF_OPS_LIBRARY": "/nonexistent/libbidiff_ops.so"}, "cannot be loaded.*rebuild it"),
], ids=lambda value: "")
def test_gpus_that_are_not_there(reference, cache, changed, says):
    assert re.search(says, sentence(reference.bundle("tiny", [999, 400, 0]), cache, **changed))


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(),
                    reason="this onnxruntime is built with CUDA")
def test_an_onnxruntime_for_cpus(reference, cache):
    told = sentence(reference.bundle("tiny", [999, 400, 0]), cache)
    assert "built without CUDA" in told and "bidiff-deploy[gpu]" in told


def test_libraries_of_the_provider_that_are_missing(tmp_path):
    """A provider linked to a library that is then taken away, another that stays."""
    compiler = shutil.which("cc") or shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C compiler")
    capi = tmp_path / "capi"
    capi.mkdir()
    for name, call in (("cuhere", 1), ("cugone", 2)):
        (tmp_path / f"{name}.c").write_text(f"int {name}(void) {{ return {call}; }}")
        subprocess.run([compiler, "-shared", "-fPIC", f"-Wl,-soname,lib{name}.so.13", "-o",
                        tmp_path / f"lib{name}.so", tmp_path / f"{name}.c"], check=True)
    (tmp_path / "p.c").write_text("int cuhere(void); int cugone(void);"
                                  "int both(void) { return cuhere() + cugone(); }")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wl,--no-as-needed", "-o",
                    capi / "libonnxruntime_providers_cuda.so", tmp_path / "p.c", f"-L{tmp_path}",
                    "-lcuhere", "-lcugone"], check=True)
    fake = SimpleNamespace(__file__=str(tmp_path / "__init__.py"), __version__="9.9",
                           get_available_providers=lambda: [cuda_provider.PROVIDER])
    assert cuda_provider.missing_libraries(fake) == ["libcuhere.so.13", "libcugone.so.13"]
    with pytest.raises(EngineError, match="needs libcuhere.so.13, libcugone.so.13, which cannot "
                                          "be loaded; pip install"):
        cuda_provider.require_provider(fake)
    (capi / "libonnxruntime_providers_cuda.so").write_bytes(b"\x7fELF\x02\x01 no more")
    assert cuda_provider.missing_libraries(fake) == []


@pytest.mark.parametrize("options, says", [
    ({"device": 0}, "backend onnxruntime runs on the CPU"),
    ({"device": -1, "backend": "onnxruntime-cuda"}, "device is -1; it must be a whole number"),
    ({"device": True, "backend": "onnxruntime-cuda"}, "device is True; it must be"),
])
def test_devices_that_are_none(reference, options, says):
    with pytest.raises(EngineError, match=says):
        load_bundle(reference.bundle("tiny", [0]), **options)


def test_kernels_of_the_forced_path_and_a_word_where_they_take_long(monkeypatch, capfd):
    asked, shown = [], threading.Event()

    def slow(device, path):
        asked.append((device, path))
        assert device == 0 or shown.wait(HANG_SECONDS)
        return "somewhere"

    def show(*arguments, **options):
        print(*arguments, **options)
        shown.set()

    monkeypatch.setattr(cuda_session.cuda_library, "load_kernels", slow)
    monkeypatch.setattr(cuda_session.cuda_library, "forced_path", lambda device: "popc")
    monkeypatch.setattr(cuda_session, "print", show, raising=False)
    monkeypatch.setattr(cuda_session, "_NOTICE_SECONDS", HANG_SECONDS)
    assert cuda_session.load_kernels(0, "fast GPU") == "somewhere"
    monkeypatch.setattr(cuda_session, "_NOTICE_SECONDS", 0.05)
    assert cuda_session.load_kernels(1, "slow GPU") == "somewhere"
    assert asked == [(0, "popc"), (1, "popc")]
    told = capfd.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert told.err.startswith("preparing the CUDA kernels for slow GPU; ")


def test_a_thread_of_the_device_hands_back_results_and_errors():
    thread = DeviceThread()
    assert thread.call(threading.get_ident) == thread.call(threading.get_ident)
    assert thread.call(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        thread.call(divmod, 1, 0)
    assert thread.call(divmod, 7, 2) == (3, 1)
    thread.close()


def test_an_interrupt_ends_the_wait_for_the_device():
    """Ctrl-C reaches who waits; what runs is waited for by the next call."""
    code = ("import os, signal, threading\n"
            "from bidiff_deploy.engines.gpu.thread import DeviceThread\n"
            "thread, done, go = DeviceThread(), [], threading.Event()\n"
            "def work():\n    os.kill(os.getpid(), signal.SIGINT)\n    go.wait()\n"
            "    done.append(1)\n"
            "try:\n    thread.call(work)\n"
            "except KeyboardInterrupt:\n    before = len(done)\n    go.set()\n"
            "    print(before, thread.call(len, done))\n"
            "thread.close()\n")
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True,
                          timeout=HANG_SECONDS)
    assert done.stdout == "0 1\n", done.stderr


# -- CUDA graphs -----------------------------------------------------------------------------


class FakeSession:
    """Notes which buffers and which graph number a run has."""

    def __init__(self) -> None:
        self.runs, self.released = [], []

    def io_binding(self):
        bound = {}
        return SimpleNamespace(
            bound=bound, bind_ortvalue_input=lambda name, value: bound.update({name: value}),
            bind_ortvalue_output=lambda name, value: bound.update({f"-> {name}": value}),
            bind_input=lambda name, device, number, kind, shape, pointer: bound.update(
                {name: (device, number, shape, pointer)}))

    def run_with_iobinding(self, binding, options):
        self.runs.append((binding.bound, int(options.get_run_config_entry("gpu_graph_id"))))

    def release_captured_graph(self, number):
        self.released.append(number)


def test_one_graph_for_each_direction_at_fixed_addresses():
    session, target = FakeSession(), cuda_provider.Target("cpu", 0, "CPUExecutionProvider", {})
    step = DeviceStep(ort, session, target, (1, 3, 4, 4), {"a": (0, (2,)), "b": (64, (3, 2))}, 128,
                      (7, 8))
    image = np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4)
    row = np.arange(128, dtype=np.float32)
    step.load(image, image)
    for _ in range(4):
        step.run(row)
    step.load(image, image)
    step.run(row)
    assert [number for _, number in session.runs] == [NO_GRAPH, 8, 7, 8, 7]
    first, second = (bound for bound, _ in session.runs[:2])
    assert [bound for bound, _ in session.runs] == [first, second, first, second, first]
    assert first["noisy"] is second["-> latent"] and second["noisy"] is first["-> latent"]
    assert first["noisy"] is not second["noisy"]
    for name in ("condition", "-> prediction", "a", "b"):
        assert first[name] is second[name] or first[name] == second[name]
    assert first["b"][3] - first["a"][3] == 256 and first["b"][2] == [3, 2]
    np.testing.assert_array_equal(first["noisy"].numpy(), image)
    step.release()
    assert session.released == [7, 8]


def test_settings_of_the_provider(monkeypatch):
    monkeypatch.delenv("BIDIFF_CUDA_ON_CPU", raising=False)
    target = cuda_provider.cuda_target(3, True)
    assert (target.device, target.device_id) == ("cuda", 3)
    assert target.provider == "CUDAExecutionProvider"
    assert target.options["device_id"] == "3" and target.options["enable_cuda_graph"] == "1"
    assert target.options["use_tf32"] == "0"
    assert cuda_provider.cuda_target(0, False).options["enable_cuda_graph"] == "0"


class FakeRuntime:
    """Refuses to capture graphs, as ONNX Runtime does where a node is placed on the CPU."""

    __version__ = "9.9"
    OrtValue = ort.OrtValue

    def __init__(self, refusal: str, providers=(cuda_provider.PROVIDER,)) -> None:
        self.refusal, self.providers, self.tried = refusal, providers, []

    def InferenceSession(self, model, options, providers, enable_fallback):
        settings = providers[0][1]
        self.tried.append(settings["enable_cuda_graph"])
        if self.refusal and settings["enable_cuda_graph"] == "1":
            raise RuntimeError(self.refusal)
        return SimpleNamespace(get_providers=lambda: list(self.providers))


def open_with(runtime, bundle, monkeypatch):
    monkeypatch.delenv("BIDIFF_CUDA_ON_CPU", raising=False)
    opened = open_bundle(bundle)
    graph = lower_for_cuda(StepGraphs(opened), float16=False)
    return cuda_session.open_session(runtime, opened, graph, session_options(1),
                                     cuda_provider.cuda_target(0, True))


def test_a_session_without_graphs_where_none_can_be_captured(reference, monkeypatch):
    bundle = reference.bundle("tiny", [0])
    runtime = FakeRuntime("This session cannot use the graph capture feature as requested by the "
                          "user as all compute graph nodes have not been partitioned")
    with pytest.warns(RuntimeWarning, match="captures no CUDA graph.*slower"):
        open_with(runtime, bundle, monkeypatch)
    assert runtime.tried == ["1", "0"]
    with pytest.raises(EngineError, match="cannot be opened by onnxruntime 9.9 on cuda: broken"):
        open_with(FakeRuntime("broken"), bundle, monkeypatch)
    place = "/src/long/path.cc:63 static Info From() [ONNXRuntimeError] : 1 : FAIL : "
    for said, reason in ((f"{place}x.h:1 Unknown option", "on cuda: x.h:1 Unknown option$"),
                         ("/a.cc:1 CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ;",
                          "on cuda: CUDA failure 100: no CUDA-capable device is detected$")):
        with pytest.raises(EngineError, match=reason):
            open_with(FakeRuntime(said), bundle, monkeypatch)
    with pytest.raises(EngineError, match="CUDA provider of onnxruntime 9.9 did not start"):
        open_with(FakeRuntime("", ("CPUExecutionProvider",)), bundle, monkeypatch)
