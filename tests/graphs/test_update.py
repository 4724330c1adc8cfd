"""The loop's update as part of a step graph, and a loop whose latent stays on a device."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy import BundleError, load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.engines import library
from bidiff_deploy.engines.gpu.step_rows import StepRows
from bidiff_deploy.engines.onnxruntime.cuda_provider import Target
from bidiff_deploy.engines.onnxruntime.cuda_step import DeviceStep
from bidiff_deploy.engines.onnxruntime.session import session_options
from bidiff_deploy.graphs.lowering import lower_for_cuda
from bidiff_deploy.graphs.update import FACTORS, LATENT, append_update
from bidiff_deploy.sampling import sampler
from support.reference_cases import snr
from support.seeds import examples

packed = pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason())

CPU = Target("cpu", 0, "CPUExecutionProvider", {})
# The stand-in for a network; large enough that the update clips.
GAIN = 1.7


@pytest.fixture(scope="module")
def update():
    """The update at the end of a graph of one product, with ``ddim_update``'s arguments."""
    helper, image = onnx.helper, [*"N", 3, *"HW"]
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, image)
             for name in ("noisy", "prediction")]
    gain = onnx.numpy_helper.from_array(np.float32(GAIN), "gain")
    graph = helper.make_graph([helper.make_node("Mul", ["noisy", "gain"], ["prediction"])], "step",
                              value[:1], value[1:], [gain])
    model = append_update(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)],
                                            ir_version=8))
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), session_options(1),
                                   providers=["CPUExecutionProvider"])

    def run(latent, alpha_t, alpha_prev):
        feeds = {name: np.array([value], np.float32) for name, value
                 in zip(FACTORS, sampler.update_factors(alpha_t, alpha_prev), strict=True)}
        return session.run([LATENT, "prediction"], {"noisy": latent, **feeds})

    return run


@examples(100)
@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 1), st.floats(1e-4, 1))
def test_the_update_gives_the_bits_of_the_sampler(update, seed, alpha_t, alpha_prev):
    latent = np.random.default_rng(seed).standard_normal((2, 3, 5, 7)).astype(np.float32)
    found, prediction = update(latent, alpha_t, alpha_prev)
    expected = sampler.ddim_update(latent, prediction, alpha_t, alpha_prev)
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_what_is_not_finite_stays_so(update):
    latent = np.zeros((1, 3, 2, 2), np.float32)
    latent[0, 0, 0, 0] = np.nan
    latent[0, 1, 0, 0] = np.inf
    for alpha_prev in (0.5, 1.0):  # 1: the last step, where the prediction's factor is 0
        found = update(latent, 0.3, alpha_prev)[0]
        assert not np.isfinite(found[0, :2, 0, 0]).any() and np.isfinite(found[0, 2]).all()


class Loop:
    """The derived graph of the small reference network on the CPU, by the CPU's kernels."""

    def __init__(self, path) -> None:
        bundle = open_bundle(path)
        self.graphs = StepGraphs(bundle)
        self.schedule, self.timesteps = bundle.schedule, bundle.timesteps
        graph = lower_for_cuda(self.graphs, float16=False)
        options = session_options(1)
        options.register_custom_ops_library(str(library.library_path()))
        values = {name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
                  for name, value in graph.constants.items()}
        options.add_external_initializers(list(values), list(values.values()))
        self.session = ort.InferenceSession(
            graph.serialized(), options,
            providers=["CPUExecutionProvider"])
        self.rows = StepRows(self.graphs, self.timesteps[0])

    def step(self, shape) -> DeviceStep:
        return DeviceStep(ort, self.session, CPU, shape, self.rows.places, self.rows.size, (1, 2))

    def predict(self, latent, condition, timestep):
        feeds = {"noisy": latent, "condition": condition, **self.graphs.constants(timestep)}
        feeds.update((name, np.ones(1, np.float32)) for name in FACTORS)
        return self.session.run(["prediction"], feeds)[0]


@pytest.fixture(scope="module")
def loop(reference):
    return Loop(reference.bundle("tiny", range(0, 1000, 100)))


@packed
@pytest.mark.parametrize("start", [None, 500])
def test_a_loop_on_the_device_gives_the_bits_of_the_sampler(loop, start):
    rng = np.random.default_rng(3)
    noise, condition = rng.standard_normal((2, 2, 3, 16, 24)).astype(np.float32)
    visited = sampler.pick_timesteps(loop.timesteps, None, start)
    expected = sampler.sample(loop.predict, condition, visited, loop.schedule, noise, start=start,
                              clamp=False)
    alphas = sampler.visited_alphas(visited, loop.schedule)
    step = loop.step(noise.shape)
    for _ in range(2):  # the second time from whichever buffer the first ended in
        step.load(sampler.first_latent(condition, noise, alphas[0], start), condition)
        for index, timestep in enumerate(visited):
            step.run(loop.rows.row(timestep,
                                   sampler.update_factors(alphas[index], alphas[index + 1])))
        np.testing.assert_array_equal(step.latent(), expected)
    step.release()


@packed
def test_the_graph_for_cuda_computes_what_the_shipped_one_does(loop, reference):
    """Inlined operators are convolutions of ONNX Runtime here: equal up to rounding."""
    rng = np.random.default_rng(4)
    noisy, condition = rng.random((2, 1, 3, 32, 18), np.float32)
    step = loop.step(noisy.shape)
    with load_bundle(reference.bundle("tiny", range(0, 1000, 100)), threads=1) as engine:
        for timestep in engine.timesteps[::3]:
            step.load(noisy, condition)
            step.run(loop.rows.row(timestep, sampler.update_factors(0.5, 0.9)))
            assert snr(engine.predict(noisy, condition, timestep), step.prediction()) > 100


@pytest.mark.parametrize("apart", [False, True])
def test_rows_hold_every_constant_of_a_step(reference, apart):
    graphs = StepGraphs(open_bundle(reference.bundle("tiny", [999, 400, 0])))
    rows = StepRows(graphs, 999, apart=apart)
    factors = sampler.update_factors(0.3, 0.6)
    for timestep in (999, 0, 999):
        row = rows.row(timestep, factors)
        assert row.dtype == np.float32 and row.shape == (rows.size,)
        step = graphs.constants(timestep)
        if apart:
            tables = [name for name, value in step.items() if value.shape[:1] == (3,)]
            assert tables and all(name.endswith("rprelu") for name in tables)
            for name in tables:
                step.update(zip((f"{name}/{row}" for row in range(3)), step.pop(name)))
            step = {name: value.reshape(1, -1, 1, 1) for name, value in step.items()}
        constants = {**step,
                     **{name: np.array([factor]) for name, factor in zip(FACTORS, factors)}}
        assert set(constants) == set(rows.places)
        for name, (offset, shape) in rows.places.items():
            assert offset % 64 == 0
            count = int(np.prod(shape))
            np.testing.assert_array_equal(row[offset:offset + count].reshape(shape),
                                          constants[name])


@pytest.mark.parametrize("later", [np.zeros((2, 3), np.float32), np.zeros(5, np.float32),
                                   np.zeros(6, np.int32)], ids=["rank", "size", "dtype"])
def test_constants_that_are_another_shape_in_a_later_step(later):
    values = {9: {"a": np.ones(6, np.float32)}, 0: {"a": later}}
    rows = StepRows(SimpleNamespace(path="some.bundle", constants=values.get), 9)
    factors = [np.float32(value) for value in (5, 6, 7, 8)]
    assert rows.row(9, factors)[:6].tolist() == [1] * 6
    with pytest.raises(BundleError, match="some.bundle has a as .* in step 0 .*export the bundle"):
        rows.row(0, factors)


@pytest.mark.parametrize("later", [(2, 4), (4, 4), (3, 5), (4,)], ids=str)
def test_tables_that_are_another_shape_in_a_later_step(later):
    values = {9: {"a": np.ones((3, 4), np.float32)}, 0: {"a": np.ones(later, np.float32)}}
    rows = StepRows(SimpleNamespace(path="some.bundle", constants=values.get), 9, apart=True)
    factors = [np.float32(value) for value in (5, 6, 7, 8)]
    rows.row(9, factors)
    with pytest.raises(BundleError, match="export the bundle"):
        rows.row(0, factors)
