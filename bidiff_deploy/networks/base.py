"""``Network``: the record of one network, which each folder here fills.

A network has a kind, which decides how an engine runs it. Everything else that depends on the
architecture is a method: options, parameters, recognition by keys, graph, costs and memory. Other
packages use this record and never check which network it is.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from ..operators.names import COMPUTE
from ..operators.sign_bits import BinaryWeight
from .costs import Count
from .options import options_from
from .quantised import Bounds

if TYPE_CHECKING:
    import onnx

    from ..sampling.resshift import ResShiftSchedule

__all__ = ["Config", "DECODER", "ENCODER", "LATENT", "MAX_SCALE", "NOISE_PREDICTOR", "Network",
           "ONE_RUN", "PARTS", "Parameter", "STEP", "Shapes", "StepGraph", "Store", "Weights"]

# Kinds, as manifests spell them. A noise predictor runs once per time step of a diffusion loop; a
# one-run network maps a low-resolution image to the large one in one run; a latent network predicts
# the clean latent once per time step, between an encoder and a decoder of images.
NOISE_PREDICTOR = "diffusion"
ONE_RUN = "feedforward"
LATENT = "latent"
# The graphs of a network, by what they compute; only a latent network has other parts than STEP.
ENCODER, STEP, DECODER = "encoder", "step", "decoder"
PARTS = {LATENT: (ENCODER, STEP, DECODER), NOISE_PREDICTOR: (STEP,), ONE_RUN: (STEP,)}
MAX_SCALE = 16  # the largest upscaling factor of any network

Shapes = Mapping[str, tuple[int, ...]]
# ``store(value, name)`` stores an initializer, float32 or int32, and returns its tensor.
Store = Callable[[np.ndarray, str], "onnx.TensorProto"]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a network.

    shape      its shape in this project
    published  its key in published checkpoints; a grouped one has a key per TaR/TaA group
    binary     whether only its signs and the mean magnitude of each output channel are used
    grouped    whether axis 0 is the TaR/TaA group
    indices    whether its values are indices, which float16 would change
    planes     bit planes of a binary one, see ``BinaryWeight``
    """

    shape: tuple[int, ...]
    published: tuple[str, ...]
    binary: bool = False
    grouped: bool = False
    indices: bool = False
    planes: int = 1


class Config(Protocol):
    """Options of one network: a frozen dataclass, comparable."""

    network: ClassVar[str]  # the name of its record

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON-ready values."""


class Weights(Protocol):
    """The attributes of a checkpoint that a graph builder reads; ``Checkpoint`` has them."""

    @property
    def config(self) -> Any:
        """The network's options."""

    @property
    def state(self) -> Mapping[str, np.ndarray]:
        """float32 parameters that are not binary, by name."""

    @property
    def binary(self) -> Mapping[str, BinaryWeight]:
        """Binary weights, by name."""

    @property
    def bounds(self) -> Bounds:
        """Bounds of the layers that are int8, by name; empty for another precision."""


@dataclass(frozen=True)
class StepGraph:
    """A graph and the names of the initializers that differ from step to step."""

    model: onnx.ModelProto
    step_names: tuple[str, ...] = ()


class Network(abc.ABC):
    """One network; its methods take the network's own config.

    name          in manifests, packed checkpoints and recipes
    title         in sentences
    kind          NOISE_PREDICTOR, ONE_RUN or LATENT
    config_class  the dataclass of its options
    computes      values of ``compute`` that ``build_graph`` takes besides INT8; see ``rounds``
    in_one_file   whether ``export.one_file`` writes it in standard operators
    tensor_options  options that no shape shows; a training run stores them next to its weights as
                  scalars of these names, and readers restore them from there
    sampler       of a latent network: of ``sampling.resshift.SAMPLERS``, that it is published with
    """

    name: ClassVar[str]
    title: ClassVar[str]
    kind: ClassVar[str]
    config_class: ClassVar[Any]
    computes: ClassVar[tuple[str, ...]] = COMPUTE
    in_one_file: ClassVar[bool] = True
    tensor_options: ClassVar[tuple[str, ...]] = ()
    sampler: ClassVar[str] = ""

    def config(self, options: Mapping[str, Any], origin: str) -> Any:
        """The config of ``options``. Raises CheckpointError, which names ``origin``."""
        return options_from(self.config_class, options, origin)

    @abc.abstractmethod
    def parameters(self, config: Any) -> dict[str, Parameter]:
        """``{name: Parameter}`` of every parameter, in order of execution."""

    def each_parameter(self, config: Any) -> Iterator[tuple[str, Parameter]]:
        """``parameters`` one by one, for readers that stop at the first that a file lacks: options
        of a file may describe a network far larger than the file."""
        yield from self.parameters(config).items()

    @abc.abstractmethod
    def binary_layers(self, config: Any) -> list[str]:
        """Names of the binary layers, in order of execution, one for each binary convolution of
        the graph."""

    def node_weight(self, config: Any, binary: Mapping[str, BinaryWeight],
                    name: str) -> BinaryWeight:
        """The weights of one of ``binary_layers``, of a checkpoint's binary weights."""
        return binary[f"{name}.weight"]

    def pack(self, config: Any, weight: npt.NDArray[Any], name: str) -> BinaryWeight:
        """Signs and scales of latent weights, float (Cout, Cin, k, k). Raises CheckpointError,
        which names ``name``, for NaN or infinite weights."""
        return BinaryWeight.from_float(weight, name)

    def latent(self, config: Any, packed: BinaryWeight) -> npt.NDArray[Any]:
        """Latent weights, float32 (Cout, Cin, k, k), that ``pack`` maps to ``packed``."""
        return packed.to_float()

    # -- recognition ----------------------------------------------------------------------------
    @abc.abstractmethod
    def matches(self, shapes: Shapes) -> bool:
        """Whether published keys (without ``module.``) are this network's."""

    @abc.abstractmethod
    def recognise(self, shapes: Shapes, given: Mapping[str, Any],
                  origin: str) -> tuple[Any, list[str]]:
        """The config that shapes imply, and the assumptions made, in sentences.

        ``shapes``: published keys without ``module.`` -> shape. ``given``: options that a file
        states. Raises CheckpointError for shapes that are not this network's, and for those that
        contradict ``given``.
        """

    def unused_keys(self, shapes: Shapes) -> dict[str, str]:
        """``{published key: why}`` of tensors that files of this network have, and that nothing
        reads."""
        return {}

    def options_as_tensors(self, config: Any) -> dict[str, float]:
        """The values of ``tensor_options``; one of 0 is left out."""
        values = {name: float(getattr(config, name)) for name in self.tensor_options}
        return {name: value for name, value in values.items() if value}

    def fixed_scale(self, config: Any) -> int | None:
        """The upscaling factor if the architecture fixes it, else None."""
        return None

    def scales(self, config: Any) -> tuple[int, ...]:
        """The upscaling factors that a network of several can be set to; empty for another."""
        return ()

    def at_scale(self, config: Any, state: Mapping[str, np.ndarray],
                 scale: int) -> tuple[Any, dict[str, np.ndarray]]:
        """The config and float parameters of the network that computes one of ``scales``."""
        raise NotImplementedError(f"{self.title} has no scale to choose")

    # -- running --------------------------------------------------------------------------------
    def size_multiple(self, config: Any) -> int:
        """Height and width of every input must be multiples of this."""
        return 1

    def reach(self, config: Any) -> int | None:
        """How many input pixels around its own an output pixel depends on, rounding included; None:
        on all."""
        return None

    def tile_multiple(self, config: Any) -> int:
        """Tiles begin at multiples of this in the input, so that each computes what the whole image
        does."""
        return 1

    @abc.abstractmethod
    def peak_bytes(self, config: Any, height: int, width: int, *, stock: bool = False) -> int:
        """Estimated peak memory of one run whose output is ``height`` x ``width``, including the
        engine's own buffers. ``stock``: with ONNX Runtime's standard operators."""

    def gpu_bytes(self, config: Any, height: int, width: int, *, half: bool) -> int | None:
        """``peak_bytes`` on a GPU; ``half``: with float16 maps. None: no engine runs the network
        on a GPU."""
        return None

    def on_gpu(self, config: Any) -> bool:
        """Whether engines run the network on a GPU."""
        return self.gpu_bytes(config, 0, 0, half=False) is not None

    @abc.abstractmethod
    def work(self, config: Any, height: int, width: int) -> float:
        """Relative time of one run whose output is ``height`` x ``width``, for choosing tiles."""

    # -- export ---------------------------------------------------------------------------------
    @abc.abstractmethod
    def build_graph(self, weights: Weights, store: Store, timestep: int | None = None,
                    compute: str = "float32") -> StepGraph:
        """The network as an ONNX graph with our operators.

        ``timestep``: the step of the graph, unless the network runs once. ``compute``: the type
        that factors of full-precision products may be rounded to, one of
        ``operators.names.COMPUTE``, or INT8: ``int8_layers`` are quantised by ``weights.bounds``.
        """

    def build_part(self, weights: Weights, store: Store, part: str) -> StepGraph:
        """The graph of ENCODER or DECODER of a latent network; ``store`` as in ``build_graph``."""
        raise NotImplementedError(f"{self.title} has no {part}")

    def rounds(self, config: Any) -> bool:
        """Whether a graph with ``compute`` bfloat16 has products whose factors may be rounded."""
        return "bfloat16" in self.computes

    def int8_layers(self, config: Any) -> dict[str, int]:
        """The layers that a graph of precision INT8 quantises: ``{name: output channels}``."""
        return {}

    def timesteps(self, schedule: ResShiftSchedule) -> tuple[int, ...]:
        """The steps of a latent network's export if nothing else is asked for, descending."""
        return schedule.all_timesteps()

    def group(self, config: Any, timestep: int) -> int:
        """Index of the set of step-dependent parameters that is used at ``timestep``."""
        return 0

    # -- counting -------------------------------------------------------------------------------
    @abc.abstractmethod
    def count(self, config: Any, height: int, width: int) -> Count:
        """Costs of one run at an input of ``height`` x ``width``. Raises UsageError for a size that
        the network cannot run at."""

    def counts(self, config: Any, height: int, width: int) -> dict[str, Count]:
        """``count`` of each graph, by its part; an input of the step has ``height`` x ``width``.
        """
        return {STEP: self.count(config, height, width)}

    @abc.abstractmethod
    def usual_size(self, config: Any) -> tuple[int, int]:
        """Height and width of the input that costs are reported for."""
