"""The packed engine against the reference, through the public Python."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from bidiff_deploy import BundleError, EngineError, UsageError, load_bundle
from bidiff_deploy.engines import library
from bidiff_deploy.sampling.sampler import ddim_update
from support import forked
from support.reference_cases import snr

pytest.importorskip("onnxruntime")

packed = pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason())


# Float32 noise floors of the reference: 124 dB where no sign flips in float32, about 46 dB where a
# few do.
@packed
@pytest.mark.parametrize("name, cases", [
    ("tiny", {"forward_tiny": 100}), ("small", {"forward_small": 60}),
    ("full", {"forward_full_64": 45, "forward_full_256": 42})])
def test_each_step_matches_the_reference(reference, name, cases):
    arrays = {case: reference.arrays(case) for case in cases}
    times = {int(timestep) for data in arrays.values() for timestep in data["timesteps"]}
    with load_bundle(reference.bundle(name, times), threads=2) as engine:
        assert engine.kernel == library.selected_kernel()
        for case, data in arrays.items():
            for timestep, expected in zip(data["timesteps"], data["prediction"]):
                found = engine.predict(data["noisy"], data["condition"], int(timestep))
                assert found.dtype == np.float32 and found.shape == expected.shape
                assert snr(expected, found) >= cases[case], f"{case}, t = {timestep}"


@packed
@pytest.mark.parametrize("case, name, bound", [("ddim_tiny_10", "tiny", 100),
                                               ("ddim_small_50", "small", 60)])
def test_each_kept_step_of_the_loop(reference, case, name, bound):
    """Fed the reference's own latent: prediction, then the update."""
    data = reference.arrays(case)
    times = [int(t) for t in data["timesteps"]]
    with load_bundle(reference.bundle(name, times), threads=2) as engine:
        table = engine.schedule.alphas_cumprod
        assert engine.timesteps == tuple(times)
        for i, index in enumerate(data["kept_steps"]):
            found = engine.predict(data["latent_in"][i], data["condition"], times[index])
            assert snr(data["prediction"][i], found) >= bound, f"step {index}"
            after = table[times[index + 1]] if index + 1 < len(times) else np.float32(1)
            updated = ddim_update(data["latent_in"][i], data["prediction"][i],
                                  table[times[index]], after)
            assert np.abs(updated - data["latent_out"][i]).max() <= 1e-5


@packed
def test_packed_and_stock_run_the_same_function(reference):
    path = reference.bundle("tiny", [999, 400, 0])
    rng = np.random.default_rng(0)
    noisy, condition = rng.random((2, 2, 3, 18, 34), np.float32)
    with load_bundle(path) as packed, load_bundle(path, backend="onnxruntime-stock") as stock:
        assert stock.kernel == "stock"
        for t in packed.timesteps:
            assert snr(stock.predict(noisy, condition, t), packed.predict(noisy, condition, t)) > 60


@packed
def test_threads_do_not_change_the_binary_result(reference):
    """Steps may be predicted from several Python threads on one engine."""
    path = reference.bundle("tiny", [999, 400, 0])
    rng = np.random.default_rng(1)
    noisy, condition = rng.random((2, 1, 3, 32, 32), np.float32)
    with load_bundle(path, threads=1) as one, load_bundle(path, threads=2) as two:
        alone = {t: one.predict(noisy, condition, t) for t in one.timesteps}
        found: dict[int, np.ndarray] = {}
        workers = [threading.Thread(target=lambda t=t: found.update(
            {t: two.predict(noisy, condition, t)})) for t in two.timesteps]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        for t in one.timesteps:
            assert snr(alone[t], found[t]) > 60


def test_a_whole_upscale_is_seeded_and_bounded(reference):
    with load_bundle(reference.bundle("tiny", [999, 400, 0])) as engine:
        image = np.random.default_rng(2).integers(0, 256, (5, 7, 3), np.uint8)
        first = engine.upscale(image, seed=4)
        assert first.shape == (20, 28, 3) and first.dtype == np.uint8
        assert np.array_equal(first, engine.upscale(image, seed=4))
        assert not np.array_equal(first, engine.upscale(image, seed=5))
        one = engine.upscale(np.zeros((1, 1, 3), np.uint8))
        assert one.shape == (4, 4, 3)


def test_mistakes_are_sentences(reference):
    path = reference.bundle("tiny", [999, 400, 0])
    good = np.zeros((1, 3, 8, 8), np.float32)
    with pytest.raises(EngineError, match="backend 'tpu'"):
        load_bundle(path, backend="tpu")
    with pytest.raises(EngineError, match="threads is 0"):
        load_bundle(path, threads=0)
    with pytest.raises(BundleError, match="does not exist"):
        load_bundle(path / "absent")
    engine = load_bundle(path)
    with pytest.raises(UsageError, match="no timestep 1"):
        engine.predict(good, good, 1)
    with pytest.raises(UsageError, match="multiples of 2"):
        engine.predict(good[..., :7], good[..., :7], 0)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.predict(good, good, 0)


def test_onnxruntime_prints_nothing_of_its_own():
    """A run that fails is an exception, not a line of its log as well."""
    code = """if True:
        import numpy as np, onnxruntime
        from onnx import TensorProto, helper
        from bidiff_deploy.engines.onnxruntime.session import session_options
        graph = helper.make_graph([helper.make_node("Reshape", ["x", "shape"], ["y"])], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"]),
             helper.make_tensor_value_info("shape", TensorProto.INT64, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        session = onnxruntime.InferenceSession(model.SerializeToString(), session_options(1),
                                               providers=["CPUExecutionProvider"])
        try:
            session.run(None, {"x": np.zeros(3, "f4"), "shape": np.array([7])})
        except Exception as error:
            print("raised", "Reshape" in str(error))"""
    done = forked.python(code)
    assert (done.stdout, done.stderr) == ("raised True\n", "")


def test_without_the_library_it_says_so_and_runs(reference, monkeypatch):
    monkeypatch.setattr(library, "library_path", lambda: None)
    good = np.zeros((1, 3, 8, 8), np.float32)
    with pytest.warns(RuntimeWarning, match="C\\+\\+17 compiler.*slowly"):
        engine = load_bundle(reference.bundle("tiny", [0]))
    assert engine.predict(good, good, 0).shape == good.shape


def test_without_onnxruntime_it_says_what_to_install(reference, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match=r"bidiff-deploy\[cpu\]"):
        load_bundle(reference.bundle("tiny", [0]))


MEMORY = """
import sys
import numpy as np
from bidiff_deploy import load_bundle
from bidiff_deploy.machine import peak_memory
with load_bundle(sys.argv[1], threads=1) as engine:
    x = np.zeros((1, 3, 32, 32), np.float32)
    for t in engine.timesteps:
        engine.predict(x, x, t)
    print(peak_memory())
"""


def test_memory_does_not_grow_with_the_number_of_steps(reference):
    peaks = [int(subprocess.run([sys.executable, "-c", MEMORY, reference.bundle("full", steps)],
                                capture_output=True, check=True, text=True).stdout)
             for steps in ([1960, 1920, 0], range(0, 2000, 160))]
    assert peaks[1] <= 1.3 * peaks[0], peaks


def test_importing_the_package_is_light():
    code = ("import sys, bidiff_deploy, bidiff_deploy.cli; "
            "print([m for m in ('torch', 'onnx', 'onnxruntime', 'numpy') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True,
                          text=True).stdout.strip() == "[]"




def test_the_op_library_is_there():
    """Where it is missing the tests of it skip; that must not go unnoticed."""
    assert library.library_path() is not None or os.environ.get("BIDIFF_NO_LIBRARY"), \
        library.missing_reason()
