"""The torch reference and the engines as runners of Polygraphy's shape.

All take the same feed, ``noisy`` and ``condition`` (float32 (N, 3, H, W)) and ``timestep`` (int64
(1,)), and give ``prediction`` (float32 (N, 3, H, W)). With ``layers`` they also give three outputs
for each binary layer X, named as in the bundle's graph, of what its BinaryConv node reads and
gives: ``X.x``, what goes in; ``X.sign``, bool, whether x + threshold >= 0; ``X``, what comes out,
with all that the node adds (of the published binarizer the shortcut and the step's time vector).
A bundle's layers are seen in its graph with fused operators opened, whose own prediction is
``prediction.opened``; its ``prediction`` is that of the graph as shipped.

Polygraphy is optional: this module imports without it, and a runner says what to install.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...bundle.manifest import Bundle
from ...checkpoint.record import Checkpoint
from ...engines import open_engine
from ...engines.noise_predictor import NoisePredictor
from ...errors import EngineError
from ...networks.bi_diffsr.architecture import blocks
from ...operators.value_names import short
from ..reference import TorchEngine
from ..sessions import open_session
from .bundle_layers import BundleLayers
from .statistics import OPENED, PREDICTION, ROUNDING_SNR

INSTALL = ("polygraphy is not installed, and comparing runners needs it; "
           "pip install 'bidiff-deploy[proof]'")

# Backends whose intermediate values can be had, and whether they run packed.
CPU_BACKENDS = {"onnxruntime": True, "onnxruntime-stock": False}
REFERENCE, FLOOR = "torch", "torch-channels-last"  # names of the two layouts' runners

try:
    from polygraphy.backend.base import BaseRunner
except ImportError:
    class BaseRunner:  # type: ignore[no-redef]
        """Stands in where Polygraphy is missing; it can only say so."""

        def __init__(self, *_: object, **__: object) -> None:
            self.is_active = False
            raise EngineError(INSTALL)


class _Runner(BaseRunner):
    """What both runners share: the feed, the time, and an engine that gives the prediction."""

    def get_input_metadata_impl(self) -> Any:
        from polygraphy.common import TensorMetadata

        metadata = TensorMetadata()
        for name in ("noisy", "condition"):
            metadata.add(name, np.dtype(np.float32), (None, 3, None, None))
        return metadata.add("timestep", np.dtype(np.int64), (1,))

    def infer_impl(self, feed_dict: dict[str, np.ndarray]) -> OrderedDict[str, np.ndarray]:
        noisy, condition = feed_dict["noisy"], feed_dict["condition"]
        timestep = int(np.asarray(feed_dict["timestep"]).item())
        started = time.perf_counter()
        prediction = self.engine.predict(noisy, condition, timestep)
        self.inference_time = time.perf_counter() - started
        outputs = OrderedDict(prediction=prediction)
        outputs.update(self.layer_outputs(noisy, condition, timestep))
        return outputs

    engine: NoisePredictor

    def layer_outputs(self, noisy: np.ndarray, condition: np.ndarray,
                      timestep: int) -> dict[str, np.ndarray]:
        raise NotImplementedError


class TorchRunner(_Runner):
    """The reference: a checkpoint's network in torch."""

    def __init__(self, bundle: Bundle, checkpoint: Checkpoint, *, channels_last: bool = False,
                 layers: bool = False, name: str | None = None) -> None:
        """``channels_last``: torch's other memory layout. ``bundle`` gives the timesteps alone."""
        super().__init__(name=name or (FLOOR if channels_last else REFERENCE))
        self._arguments = bundle, checkpoint
        self._channels_last = channels_last
        self._layers = layers

    def activate_impl(self) -> None:
        self.engine = TorchEngine(*self._arguments, channels_last=self._channels_last)
        self._records: dict[str, np.ndarray] = {}
        if self._layers:
            self._hook()

    def deactivate_impl(self) -> None:
        self.engine.close()
        del self.engine, self._records

    def layer_outputs(self, noisy: np.ndarray, condition: np.ndarray,
                      timestep: int) -> dict[str, np.ndarray]:
        # The hooks filled them while the prediction was computed.
        records, self._records = self._records, {}
        return records

    @contextmanager
    def nudged(self, seed: int) -> Iterator[None]:
        """Inside, what goes into each binary layer has noise of ROUNDING_SNR on it, as another
        implementation's rounding would have it."""
        import torch

        generator = torch.Generator().manual_seed(seed)

        def nudge(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            x, group = inputs
            noise = torch.randn(x.shape, generator=generator) * x.square().mean().sqrt()
            return x + 10 ** (-ROUNDING_SNR / 20) * noise, group

        network, config = self.engine.network, self.engine.bundle.config
        hooks = [network.get_submodule(name).register_forward_pre_hook(nudge, prepend=True)
                 for name in self.engine.bundle.network.binary_layers(config)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self) -> None:
        network = self.engine.network
        for block in blocks(network.config):
            if not block.binary:
                continue
            module = network.get_submodule(block.name)
            for half in (1, 2):
                conv, key = getattr(module, f"conv{half}"), short(f"{block.name}.conv{half}")
                conv.register_forward_pre_hook(self._record_input(key))
                if not conv.fused:
                    conv.register_forward_pre_hook(self._record_node(key))
                elif block.kind == "residual" and half == 1:
                    # Of this one the graph's node adds the time vector as well.
                    module.norm2.register_forward_pre_hook(
                        lambda _, inputs, key=key: self._record(key, inputs[0]))
                else:
                    conv.register_forward_hook(
                        lambda _, __, output, key=key: self._record(key, output))

    def _record_input(self, key: str) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            x, group = module.node_input(*inputs), int(inputs[1])
            self._record(f"{key}.x", x)
            threshold = module.constants(group).get("threshold")
            if threshold is not None:
                x = x + threshold.view(1, -1, 1, 1)
            self._record(f"{key}.sign", x >= 0)
        return hook

    def _record_node(self, key: str) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            self._record(key, module.node(module.node_input(*inputs), inputs[1]))
        return hook

    def _record(self, name: str, value: Any) -> None:
        self._records[name] = value.contiguous().numpy()


class EngineRunner(_Runner):
    """A bundle in one of the backends of ``bidiff_deploy.engines``.

    The prediction is the engine's own; ``layers`` come from a second session on the opened graph,
    whose intermediate values are outputs too, and exist for CPU_BACKENDS alone.
    """

    def __init__(self, bundle: Bundle, backend: str = "onnxruntime", *,
                 threads: int | None = None, device: int | None = None, layers: bool = False,
                 name: str | None = None) -> None:
        super().__init__(name=name or backend)
        self.backend = backend
        self._device = device
        self._bundle = bundle
        self._threads = threads
        self._layers = layers

    def activate_impl(self) -> None:
        self.engine = open_engine(self._bundle.path, threads=self._threads, backend=self.backend,
                                  device=self._device)
        self._taps = (_Taps(self._bundle, self._threads, CPU_BACKENDS[self.backend])
                      if self._layers and self.backend in CPU_BACKENDS else None)

    def deactivate_impl(self) -> None:
        self.engine.close()
        del self.engine, self._taps

    def layer_outputs(self, noisy: np.ndarray, condition: np.ndarray,
                      timestep: int) -> dict[str, np.ndarray]:
        return self._taps(noisy, condition, timestep) if self._taps else {}


class _Taps:
    def __init__(self, bundle: Bundle, threads: int | None, packed: bool) -> None:
        self._layers = layers = BundleLayers(bundle)
        taps = [name for layer in layers.layers for name in (layer.inputs[0], layer.output)]
        self._session = open_session(layers.tapped(taps), layers.graph.constants,
                                     threads=threads, packed=packed)

    def __call__(self, noisy: np.ndarray, condition: np.ndarray,
                 timestep: int) -> dict[str, np.ndarray]:
        step = self._layers.graphs.constants(timestep)
        feeds = {"noisy": noisy, "condition": condition,
                 **{name: np.asarray(value) for name, value in step.items()}}
        names = [output.name for output in self._session.get_outputs()]
        values = dict(zip(names, self._session.run(names, feeds)))
        outputs = {OPENED: values[PREDICTION]}
        constants = {**self._layers.graph.constants, **step}
        for layer in self._layers.layers:
            x = values[layer.inputs[0]]
            outputs[f"{layer.key}.x"] = x
            threshold = np.asarray(constants[layer.inputs[3]])
            outputs[f"{layer.key}.sign"] = x + threshold[:, None, None] >= 0
            outputs[layer.key] = values[layer.output]
        return outputs
