"""Graphs for TensorRT of networks with other binarizers, and with none."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.engines import library
from bidiff_deploy.graphs.lowering import lower_for_tensorrt
from bidiff_deploy.graphs.update import FACTORS
from bidiff_deploy.networks.bi_diffsr.binarizers import BINARIZERS, PUBLISHED
from support.binarizer_setup import bundle, inputs, network, small
from support.lowered_graphs import FakePlugin, check_form, contract, session, step_inputs
from support.reference_cases import snr

pytest.importorskip("onnxruntime")

if library.library_path() is None:
    pytest.skip(library.missing_reason(), allow_module_level=True)

# The graphs of bnn and irnet are those of bbcu with other constants.
NETWORKS = {**{name: small(name) for name in BINARIZERS
               if name not in (PUBLISHED, "bnn", "irnet")},
            "bypass": small("dab", shortcut="cfb"),
            "bits": small("dorefa", weight_bits=2, activation_bits=2)}
CASES = [*((name, variant) for name in NETWORKS for variant in ("plugin", "dense")),
         (next(iter(NETWORKS)), "dense-int8")]
STEP = 70


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function of a binarizer: a bundle, its step graphs, and what its engine predicts."""
    @functools.cache
    def of(name):
        path = bundle(network(NETWORKS[name]), tmp_path_factory.mktemp("made") / "b")
        with load_bundle(path, threads=1) as engine:
            return open_bundle(path), StepGraphs(open_bundle(path)), engine.predict(*inputs(), STEP)

    return of


@pytest.mark.parametrize("name, variant", CASES, ids=map("-".join, CASES))
def test_the_network_is_the_bundles(made, name, variant):
    bundled, graphs, expected = made(name)
    noisy, condition = inputs()
    feeds = {"noisy": noisy, "condition": condition, **step_inputs(variant, graphs.constants(STEP)),
             **dict.fromkeys(FACTORS, np.ones(1, np.float32))}
    plugin = FakePlugin() if variant == "plugin" else None
    # Maps of 11 bits flip signs, but where there are none; sums of planes are rounded one by one.
    half = {"none": 60, "bits": 20}.get(name, 24)
    for float16, shape, least in ((False, None, 110), (False, noisy.shape, 110),
                                  (True, None, half)):
        derived = lower_for_tensorrt(graphs, variant=variant, float16=float16, plugin=plugin,
                                     shape=shape and (shape[0], *shape[2:]))
        model = onnx.load_model_from_string(derived.model)
        check_form(model, static=shape is not None)
        if variant != "plugin":
            onnx.checker.check_model(model, full_check=True)
        found = session(contract(model)).run(["prediction"], feeds)[0]
        assert snr(expected, found) > least
