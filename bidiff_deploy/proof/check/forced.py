"""The torch reference once more, each part fed the engine's own values.

A sign that rounding decides may differ between two right implementations, and whatever follows it
then differs too. So the reference is run again with the engine's values: the network computes on
``Bounded`` (training.networks.rounding), and wherever an operator of the bundle's graph ends, its
value is compared with the engine's, then replaced by it. Nothing accumulates: every difference is
found at the part that made it, and only rounding, whose bound was computed with the value, is
allowed.

A binary layer's sign may differ from the reference's only where |x + threshold| is within the bound
of x's error. Such a sign is undecidable: either value is right.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from ...operators.names import ATTENTION
from ...operators.value_names import short
from .bundle_layers import Array, BundleLayers
from .statistics import PREDICTION, snr

FLOAT64 = 1e-12  # of a value: above the errors of the reference's own float64


@dataclass(frozen=True)
class SegmentCheck:
    """One part of the network at one time step, computed from the engine's own values.

    end          where it ends: the layer whose input it computes, a block, or ``prediction``
    rounding     largest error in units of its bound (at most 1 is right)
    snr          dB, for information
    signs        number of signs taken of the values, 0 if none are
    flips        number of them that differ from the reference's
    wrong_flips  number of those that rounding cannot explain
    undecidable  number of signs that rounding decides
    """

    end: str
    timestep: int
    rounding: float
    snr: float
    signs: int = 0
    flips: int = 0
    wrong_flips: int = 0
    undecidable: int = 0

    @property
    def passed(self) -> bool:
        return self.rounding <= 1 and not self.wrong_flips

    @property
    def reason(self) -> str:
        """Why it failed; what held if it passed."""
        parts = []
        if not self.rounding <= 1:
            parts.append(f"what leads to {self.end} has an error of {self.rounding:.4g} times its "
                         "rounding bound")
        if self.wrong_flips:
            parts.append(f"{self.wrong_flips} of {self.signs} signs of {self.end} differ where "
                         "rounding cannot explain it")
        held = f", equal up to {self.flips} legitimate flips" if self.flips else ""
        return "; ".join(parts) or f"within its rounding bound{held}"


@dataclass(frozen=True)
class ForcedLayer:
    """A binary layer: its name, torch module, the names of its node's input and output in the
    graph, its threshold in torch and that in the bundle, (Cin,) each.

    whole   whether the module is its node and nothing else
    finish  what the module does to its node's output, or None
    """

    name: str
    module: Any
    input: str
    output: str
    threshold: Array
    engine_threshold: Array
    whole: bool = True
    finish: Callable[[Any], Any] | None = None


class ForcedReference:
    """A checkpoint's torch network in float64, run with an engine's values."""

    def __init__(self, network: Any, *, packed: bool, winograd: bool = False,
                 precision: str = "float32", cudnn: bool = False) -> None:
        """``network``: the float32 network, in either memory layout; it is copied. The rest says
        how the engine computes, see ``training.networks.rounding``."""
        from ...training.networks.arithmetic import CUDNN, PACKED, STOCK, UNITS

        self.network = copy.deepcopy(network).double()
        if cudnn:
            self._inside = self._first = self._usual = CUDNN
            return
        self._inside = STOCK
        self._first = PACKED if packed else STOCK
        self._usual = replace(self._first, winograd=packed and winograd,
                              factor=UNITS.get(precision, 0.0) if packed else 0.0)

    def check(self, run: Callable[..., Any], inputs: Sequence[Array], values: Mapping[str, Array],
              ends: Iterable[tuple[str, Any, bool, bool]], layers: Iterable[ForcedLayer],
              timestep: int, *, definitions: Mapping[str, Array] = MappingProxyType({}),
              times: Mapping[Any, Array] = MappingProxyType({})) -> list[SegmentCheck]:
        """Check every part of one run.

        run, inputs  a method of the network, and the maps that it takes
        values       the engine's, by name in the graph
        ends         the values that are compared and replaced, as ``operator_ends`` of the network
        layers       the binary layers
        definitions  values that are compared in place of ``values`` of the same names: what
                     an operator's definition returns
        times        vectors (C,) that replace the outputs of modules
        """
        import torch

        checks: list[SegmentCheck] = []

        def judge(end: str, name: str, found: Any, layer: ForcedLayer | None = None) -> None:
            # A layer reads what the run has, also where an operator's definition differs a little.
            theirs = values[name] if layer else definitions.get(name, values[name])
            checks.append(_compare(end, theirs, found, layer, timestep))

        with torch.inference_mode(), ExitStack() as stack:
            for end in ends:
                stack.enter_context(self._forced(*end, values, judge))
            for layer in layers:
                stack.enter_context(self._forced_layer(layer, values, judge))
            for module, vector in times.items():
                stack.enter_context(_hooked(module.register_forward_hook(
                    lambda *_, vector=vector: torch.from_numpy(vector.astype(np.float64))[None])))
            last = run(*(_exact(array, self._first) for array in inputs))
            if all(check.end != PREDICTION for check in checks):
                judge(PREDICTION, PREDICTION, last)
        return checks

    @contextmanager
    def _forced(self, name: str, module: Any, is_input: bool, inside: bool,
                values: Mapping[str, Array], judge: Callable[..., None]) -> Iterator[None]:
        """Compares and replaces one input or output of ``module``."""
        def replaced(found: Any) -> Any:
            judge(name, short(name), found)
            return _exact(values[short(name)], self._inside if inside else self._usual)

        if is_input:
            hook = module.register_forward_pre_hook(
                lambda _, inputs: (replaced(inputs[0]), *inputs[1:]))
        else:
            hook = module.register_forward_hook(lambda _, __, output: replaced(output))
        with _hooked(hook):
            yield

    @contextmanager
    def _forced_layer(self, layer: ForcedLayer, values: Mapping[str, Array],
                      judge: Callable[..., None]) -> Iterator[None]:
        """Compares a binary layer's input and its signs, and replaces its node's output."""
        module, method = layer.module, "forward" if layer.whole else "node"

        def replaced(x: Any, *_: Any, **__: Any) -> Any:
            judge(layer.name, layer.input, x, layer)
            output = _exact(values[layer.output], self._usual)
            return layer.finish(output) if layer.finish else output

        setattr(module, method, replaced)
        try:
            yield
        finally:
            delattr(module, method)


def noise_predictor_parts(
        reference: ForcedReference, layers: BundleLayers, run: Mapping[str, Array],
        inside: Mapping[str, Array], feed: Mapping[str, Array], group: int,
        timestep: int) -> tuple[list[SegmentCheck], dict[str, float]]:
    """Checks of every part of one step of a noise predictor, and for each binary layer that adds a
    time vector the error of that vector in units of its bound.

    ``run`` and ``inside``: of ``EngineValues``; ``group``: of the step's parameters.
    """
    import torch

    network, constants = reference.network, layers.constants(timestep)
    nodes = {name: (layer, reader) for name, layer, reader in network.binary_nodes()}
    forced = []
    for layer in layers.layers:
        module = nodes[layer.name][0]
        threshold = module.constants(group).get("threshold", torch.zeros(()))
        forced.append(ForcedLayer(
            layer.name, module, layer.inputs[0], layer.output,
            threshold.numpy() * np.ones(module.weight.shape[1]),
            np.asarray(constants[layer.inputs[3]]), module.fused))
    checks, errors, vectors = [], {}, {}
    for block, bounded in _times(network, timestep).items():
        vector, owner = np.asarray(constants[f"{short(block)}.time"]), f"{block}.conv1"
        check = _compare(f"{block}.time", vector[None], bounded, None, timestep)
        # Such a layer's node adds the vector already.
        if owner in nodes and nodes[owner][1] is not None:
            errors[owner], vector = check.rounding, np.zeros_like(vector)
        else:
            checks.append(check)
        vectors[network.get_submodule(f"{block}.time")] = vector
    definitions = {one.output: inside[one.output] for one in layers.operators
                   if one.kind == ATTENTION}
    step, chosen = torch.tensor([float(timestep)]), torch.tensor([group])
    checks += reference.check(
        lambda noisy, condition: network.predict(noisy, condition, step, chosen),
        (feed["noisy"], feed["condition"]), {**inside, **run}, network.operator_ends(), forced,
        timestep, definitions=definitions, times=vectors)
    return checks, errors


def _times(network: Any, timestep: int) -> dict[str, Any]:
    """The time vector of each residual block by its name, ``Bounded`` (1, C).

    The sinusoid is float32 wherever it is computed. Its frequencies are of 1 ulp in any library,
    so it is torch's here or the correctly rounded one.
    """
    import torch

    from ...training.networks.arithmetic import STOCK, UNIT
    from ...training.networks.rounding import Bounded

    embedding = network.time_embedding

    def bounded(_: Any, inputs: tuple[Any, ...]) -> Any:
        wave = inputs[0]
        right = network.rounded_sinusoid(timestep)
        # 1 ulp of a frequency, of its exponent and of the argument, which no library exceeds.
        most = 6 * UNIT * (1 + timestep)
        error = (wave - right).abs().clamp_max(most) + 2 * UNIT
        return Bounded(wave, error, STOCK)

    with torch.inference_mode(), _hooked(
            embedding.linear1.register_forward_pre_hook(bounded)):
        vector = torch.nn.functional.silu(embedding(torch.tensor([float(timestep)])))
        return {block.name: network.get_submodule(f"{block.name}.time")(vector)
                for block in network.blocks if block.kind == "residual"}


def _exact(values: Array, arithmetic: Any) -> Any:
    from ...training.networks.rounding import Bounded

    return Bounded.without_error(values, arithmetic)


def _compare(end: str, found: Array, bounded: Any, layer: ForcedLayer | None,
             timestep: int) -> SegmentCheck:
    value, bound = (part.contiguous().numpy() for part in (bounded.value, bounded.bound))
    if found.shape != value.shape or not np.isfinite(found).all():
        return SegmentCheck(end, timestep, math.inf, -math.inf)
    ratio = float(np.max(np.abs(found - value) / (bound + FLOAT64 * np.abs(value))))
    counts = {}
    if layer is not None:
        shifted = value + layer.threshold[:, None, None]
        # float32's sum of two numbers has the sign of the exact sum.
        signs = found + layer.engine_threshold[:, None, None] >= 0
        undecidable = np.abs(shifted) <= bound
        flipped = signs != (shifted >= 0)
        counts = {"signs": signs.size, "flips": int(flipped.sum()),
                  "wrong_flips": int((flipped & ~undecidable).sum()),
                  "undecidable": int(undecidable.sum())}
    return SegmentCheck(end, timestep, ratio, snr(value, found), **counts)


@contextmanager
def _hooked(hook: Any) -> Iterator[None]:
    try:
        yield
    finally:
        hook.remove()
