"""Feed-forward networks with NVIDIA's TensorRT-RTX: plans of the shipped models, int8, layers."""

from __future__ import annotations

import resource

import numpy as np
import pytest
from PIL import Image

from bidiff_deploy import UsageError, load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.checkpoint.record import from_latent
from bidiff_deploy.engines.tensorrt.build.builder import build_plan
from bidiff_deploy.engines.tensorrt.plans import read_plans
from bidiff_deploy.engines.tensorrt.profiles import Profile, default_profile
from bidiff_deploy.errors import EngineError
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.models.open import checkpoint_file
from bidiff_deploy.models.shipped import SHIPPED
from bidiff_deploy.networks import NETWORKS
from bidiff_deploy.networks.base import ONE_RUN
from bidiff_deploy.quantisation.bounded import with_bounds
from support.toy_module import seeded
from support.toy_network import SCALE, Toy, ToyConfig
from tools import tensorrt_layers

pytestmark = pytest.mark.nvidia
ALL = (75, 86, 89, 120)
LIMIT_MB, LIMIT_CPU_SECONDS = 2000, 60
MODELS = {one.name: found for one in SHIPPED
          if (found := read_checkpoint(checkpoint_file(one.name))).network.kind == ONE_RUN}
FLOAT_BODY = {name: layers for name, found in MODELS.items()
              if (layers := found.network.int8_layers(found.config))}


@pytest.fixture(scope="module")
def exported(shared):
    """A function: a model's bundle in a precision."""
    def made(name: str, precision: str):
        return shared(f"{name}-{precision}.bundle", lambda path: export_bundle(
            MODELS[name], path, precision=precision))

    return made


@pytest.mark.parametrize("variant", ["rtx", "rtx-int8"])
@pytest.mark.parametrize("precision", ["exact", "half"])
@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_model_is_built_for_every_generation(exported, tmp_path, name, precision,
                                                       variant):
    bundle, shape = open_bundle(exported(name, precision)), (1, 250, 333)
    before = resource.getrusage(resource.RUSAGE_SELF)
    for profile in (Profile(shape, shape, shape), default_profile(bundle)):
        build_plan(bundle, profile, variant=variant, folder=tmp_path, quiet=True)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - before.ru_utime < LIMIT_CPU_SECONDS
    assert after.ru_maxrss >> 10 < LIMIT_MB
    plans = read_plans(tmp_path)
    assert len(plans) == 2
    for plan in plans:
        # Without attention there are no matrix products, which Turing lacks in float32.
        assert plan.info.target.architectures == ALL and plan.info.bytes > 100_000


def test_a_network_from_outside_the_package_is_built(tmp_path, monkeypatch):
    """Its record alone decides."""
    monkeypatch.setitem(NETWORKS, Toy.name, Toy())
    monkeypatch.setattr(Toy, "gpu_bytes", lambda *_, half: 1 << 20)
    module = seeded(ToyConfig())
    export_bundle(from_latent({name: value.detach().numpy()
                               for name, value in module.named_parameters()}, ToyConfig(),
                              name="toy", scale=SCALE), tmp_path / "b", precision="half")
    bundle = open_bundle(tmp_path / "b")
    plan = build_plan(bundle, default_profile(bundle), variant="rtx", folder=tmp_path / "p",
                      quiet=True)
    assert plan.info.target.architectures == ALL


def test_what_is_refused(exported, tmp_path, monkeypatch):
    name = next(iter(MODELS))
    bundle, shape = open_bundle(exported(name, "exact")), (1, 20_000, 20_000)
    with pytest.raises(UsageError, match="TensorRT's limit for a tensor"):
        build_plan(bundle, Profile(shape, shape, shape), variant="rtx", folder=tmp_path)
    monkeypatch.setenv("BIDIFF_TENSORRT_PLANS", str(tmp_path))
    with pytest.raises(EngineError):  # no GPU
        load_bundle(bundle.path, backend="tensorrt-rtx")


def test_its_layers(exported):
    before, after, (one, two) = tensorrt_layers.compare(
        str(exported(next(iter(MODELS)), "half")), (128, 128), int8=False)
    assert one == two and len(after.layers) <= len(before.layers)
    kinds = [layer.kind for layer in after.layers]
    found = MODELS[next(iter(MODELS))]
    convolutions = len(found.network.count(found.config, 128, 128).layers)
    assert sum(kind.startswith("convolution") for kind in kinds) == convolutions
    # A kernel more for each, of signs, RPReLU and shortcut, and few besides.
    assert len(kinds) <= 2 * convolutions


@pytest.mark.parametrize("name", FLOAT_BODY)
def test_convolutions_of_an_int8_bundle_are_compiled_as_int8(tmp_path, name):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    (tmp_path / "low").mkdir()
    Image.fromarray(pixels).save(tmp_path / "low/a.png")
    found, _ = with_bounds(MODELS[name], (), tmp_path / "low", threads=1)
    export_bundle(found, tmp_path / "b", precision="int8")
    for built in tensorrt_layers.compare(str(tmp_path / "b"), (64, 64), int8=False)[:2]:
        kinds = [layer.kind for layer in built.layers]
        assert sum(kind.startswith("convolution, int8") for kind in kinds) == len(FLOAT_BODY[name])
