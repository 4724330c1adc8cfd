"""The torch reference and the engines as Polygraphy runners.

All take the same feed, ``noisy`` and ``condition`` (float32 (N, 3, H, W)) and ``timestep`` (int64
(1,)), and return ``prediction`` (float32 (N, 3, H, W)). With ``layers`` they also return three
values for each binary layer X, named as in the bundle's graph: the input of its BinaryConv node,
``X.x``; whether x + threshold >= 0, ``X.sign``, bool; and the node's output, ``X``, with all that
the node adds (for the published binarizer the shortcut and the step's time vector).

Polygraphy is optional: this module imports without it, and a runner then reports how to install it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...bundle.record import NoisePredictorBundle
from ...checkpoint.record import Checkpoint
from ...engines import open_engine
from ...engines.noise_predictor import NoisePredictor
from ...errors import EngineError
from ...operators.value_names import short
from ..reference import TorchEngine
from .bundle_layers import BundleLayers, EngineValues, layer_outputs
from .statistics import ROUNDING_SNR

INSTALL = ("polygraphy is not installed, and comparing runners needs it; "
           "pip install 'bidiff-deploy[proof]'")

# Backends with intermediate values -> whether they run packed.
CPU_BACKENDS = {"onnxruntime": True, "onnxruntime-stock": False}
REFERENCE, FLOOR = "torch", "torch-channels-last"  # names of the two layouts' runners

try:
    from polygraphy.backend.base import BaseRunner
except ImportError:
    class BaseRunner:  # type: ignore[no-redef]
        """Replaces Polygraphy's class if it is missing, and reports that when created."""

        def __init__(self, *_: object, **__: object) -> None:
            self.is_active = False
            raise EngineError(INSTALL)


class _Runner(BaseRunner):  # type: ignore[misc]  # Polygraphy has no types
    """A runner of an engine, which returns the prediction; subclasses add the layers."""

    engine: NoisePredictor

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

    def layer_outputs(self, noisy: np.ndarray, condition: np.ndarray,
                      timestep: int) -> dict[str, np.ndarray]:
        raise NotImplementedError


class TorchRunner(_Runner):
    """The reference: a checkpoint's network in torch."""

    engine: TorchEngine

    def __init__(self, bundle: NoisePredictorBundle, checkpoint: Checkpoint, *,
                 channels_last: bool = False, layers: bool = False,
                 name: str | None = None) -> None:
        """``channels_last``: torch's other memory layout. Only the timesteps are ``bundle``'s."""
        super().__init__(name=name or (FLOOR if channels_last else REFERENCE))
        self._bundle, self._checkpoint = bundle, checkpoint
        self._channels_last = channels_last
        self._layers = layers

    def activate_impl(self) -> None:
        self.engine = TorchEngine(self._bundle, self._checkpoint,
                                  channels_last=self._channels_last)
        self._records: dict[str, np.ndarray] = {}
        if self._layers:
            self._hook()

    def deactivate_impl(self) -> None:
        self.engine.close()
        del self.engine, self._records

    def layer_outputs(self, noisy: np.ndarray, condition: np.ndarray,
                      timestep: int) -> dict[str, np.ndarray]:
        # Hooks recorded them while the prediction was computed.
        records, self._records = self._records, {}
        return records

    @contextmanager
    def nudged(self, seed: int) -> Iterator[None]:
        """Adds noise of ROUNDING_SNR to the input of each binary layer, which is what another
        implementation's rounding would do."""
        import torch

        generator = torch.Generator().manual_seed(seed)

        def nudge(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            x, *rest = inputs
            noise = torch.randn(x.shape, generator=generator) * x.square().mean().sqrt()
            return x + 10 ** (-ROUNDING_SNR / 20) * noise, *rest

        hooks = [layer.register_forward_pre_hook(nudge, prepend=True)
                 for _, layer, _ in self._network.binary_nodes()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @property
    def _network(self) -> Any:
        """The torch module, which has ``binary_nodes``."""
        return self.engine.network

    def _hook(self) -> None:
        for name, layer, reader in self._network.binary_nodes():
            key = short(name)
            layer.register_forward_pre_hook(self._record_input(key))
            if reader is not None:
                reader.register_forward_pre_hook(
                    lambda _, inputs, key=key: self._record(key, inputs[0]))
            elif layer.fused:
                layer.register_forward_hook(
                    lambda _, __, output, key=key: self._record(key, output))
            else:
                layer.register_forward_pre_hook(self._record_node(key))

    def _record_input(self, key: str) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            x, group = module.node_input(*inputs[:2]), int(inputs[1])
            self._record(f"{key}.x", x)
            threshold = module.constants(group).get("threshold")
            if threshold is not None:
                x = x + threshold.view(1, -1, 1, 1)
            self._record(f"{key}.sign", x >= 0)
        return hook

    def _record_node(self, key: str) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            self._record(key, module.node(module.node_input(*inputs[:2]), *inputs[1:]))
        return hook

    def _record(self, name: str, value: Any) -> None:
        self._records[name] = value.contiguous().numpy()


class EngineRunner(_Runner):
    """A bundle in one of the backends of ``bidiff_deploy.engines``.

    The prediction is the engine's; ``layers`` are those of ``EngineValues``, and exist for
    CPU_BACKENDS only.
    """

    def __init__(self, bundle: NoisePredictorBundle, backend: str = "onnxruntime", *,
                 threads: int | None = None, device: int | None = None, layers: bool = False,
                 name: str | None = None) -> None:
        super().__init__(name=name or backend)
        self.backend = backend
        self._device = device
        self._bundle = bundle
        self._threads = threads
        self._layers = layers

    def activate_impl(self) -> None:
        engine = open_engine(self._bundle.path, threads=self._threads, backend=self.backend,
                             device=self._device)
        assert isinstance(engine, NoisePredictor)
        self.engine = engine
        self._values: EngineValues | None = None
        if self._layers and self.backend in CPU_BACKENDS:
            self._values = EngineValues(BundleLayers(self._bundle), (), threads=self._threads,
                                        packed=CPU_BACKENDS[self.backend])

    def deactivate_impl(self) -> None:
        self.engine.close()
        del self.engine, self._values

    def layer_outputs(self, noisy: np.ndarray, condition: np.ndarray,
                      timestep: int) -> dict[str, np.ndarray]:
        if self._values is None:
            return {}
        run, inside = self._values({"noisy": noisy, "condition": condition}, timestep)
        return layer_outputs(self._values.layers, {**inside, **run}, timestep)
