"""The graph of each target, made of a bundle's step graphs by the passes of ``passes``."""

from __future__ import annotations

from dataclasses import dataclass

from ..bundle.step_graphs import StepGraphs
from ..errors import UsageError
from .opset import OPSET, OPSET_OF_10
from .passes import CPU, CUDA, TENSORRT, run_passes
from .record import Options, ParameterizedGraph, Words

__all__ = ["VARIANTS", "TensorRtGraph", "first_step", "lower_for_cuda", "lower_for_tensorrt",
           "parameterized_graph"]

VARIANTS = tuple(TENSORRT)


@dataclass(frozen=True)
class TensorRtGraph:
    """A graph for TensorRT's parser.

    model    a serialised ModelProto with all weights inside, for ``parser.parse``
    inputs   dimensions of every input, in order: ``noisy``, ``condition``, the step's constants
             (without plugin as ``step_rows.rows_apart`` has them), the four ``update.FACTORS``;
             of a network without a loop the image alone; a dimension that is free is "N", "H" or
             "W". All float32, as the outputs are
    outputs  ``prediction`` and ``latent``, the image at the next time step; the large image
    opset    of standard operators
    """

    model: bytes
    inputs: dict[str, tuple[int | str, ...]]
    outputs: tuple[str, ...]
    opset: int


def first_step(graphs: StepGraphs) -> ParameterizedGraph:
    """What the passes begin with: the graph of a bundle's first step."""
    return ParameterizedGraph(graphs.model())


def parameterized_graph(graphs: StepGraphs) -> ParameterizedGraph:
    """The graph of a CPU session: a bundle's first step with every step's constants as inputs.

    Raises BundleError for a graph that does not fit its bundle.
    """
    return run_passes(CPU, first_step(graphs), Options(graphs))


def lower_for_cuda(graphs: StepGraphs, *, float16: bool) -> ParameterizedGraph:
    """The graph of a CUDA session of ONNX Runtime, with the loop's update at its end.

    ``float16``: whether maps are float16. Raises BundleError as ``parameterized_graph`` does,
    EngineError for a weight beyond the range of float16.
    """
    return run_passes(CUDA, first_step(graphs), Options(graphs, float16=float16))


def lower_for_tensorrt(graphs: StepGraphs, *, variant: str, float16: bool,
                       plugin: Words | None = None, shape: tuple[int, int, int] | None = None,
                       opset: int = OPSET) -> TensorRtGraph:
    """The graph that TensorRT's parser reads.

    The types of its values are the types that TensorRT computes in: version 11 has no other way to
    set them, and version 10 is configured to follow them.

    Args:
        variant: one of ``VARIANTS``: our plugin's nodes; no plugin, binary convolutions in the
            type of the maps; no plugin, these in int8.
        float16: whether maps between the first layer and the prediction are float16.
        plugin: of variant ``plugin``: what prepares words. None: words stay as in the bundle, and
            the plugin prepares them in every run.
        shape: (N, H, W) of the images; None leaves them free.
        opset: 17, which every TensorRT takes, or 19, which those from 10 on do: with it, variant
            ``dense-int8`` has float16 between its convolutions where maps are.

    Raises:
        UsageError: an unknown variant or opset, or a shape that the network cannot run at.
        BundleError: a graph that does not fit its bundle.
        EngineError: a graph that TensorRT cannot run, with the reason.
    """
    if variant not in VARIANTS:
        raise UsageError(f"{variant!r} is no variant of a TensorRT graph; use one of "
                         f"{', '.join(VARIANTS)}")
    if opset not in (OPSET, OPSET_OF_10):
        raise UsageError(f"graphs for TensorRT are not written in opset {opset}; use "
                         f"{OPSET} or {OPSET_OF_10}")
    bundle = graphs.bundle
    multiple = bundle.network.size_multiple(bundle.config)
    if shape is not None and (len(shape) != 3 or min(shape) < 1 or shape[1] % multiple
                              or shape[2] % multiple):
        raise UsageError(f"the shape {shape} must be a batch, a height and a width, the latter "
                         f"two multiples of {multiple}")
    options = Options(graphs, float16, variant == "dense-int8", plugin, shape, opset)
    graph = run_passes(TENSORRT[variant], first_step(graphs), options)
    model = graph.model.graph
    inputs = {value.name: tuple(dim.dim_value or dim.dim_param
                                for dim in value.type.tensor_type.shape.dim)
              for value in model.input}
    return TensorRtGraph(graph.serialized(), inputs, tuple(value.name for value in model.output),
                         opset)
