"""What each layer of a bundle's graph is, computes and stores, and why.

Layers and types are read from the graph that engines run, which is built from the network in the
manifest; every step file that is another graph is listed as a disagreement. Needs neither an
inference runtime nor torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from ...bundle.graph_reader import GraphLayer, GraphReader
from ...bundle.manifest import MANIFEST, open_bundle
from ...bundle.record import Bundle, LatentBundle, NoisePredictorBundle
from ...bundle.step_graphs import StepGraphs
from ...bundle.tensors import FLOAT_BYTES, BundleTensors, ByteAccounting, Weight
from ...bundle.weights_file import ALIGNMENT
from ...networks.base import PARTS, STEP
from ...networks.costs import Count, Layer, paper_operations
from ...operators.names import DOMAIN, INT8
from ...operators.value_names import short

# Precisions of the manifest -> kinds of layers.
_PRECISIONS = {"float32": "float", "bfloat16": "bf16", "float16": "fp16", INT8: "int8"}
# The device that multiplies in a type that a fused operator allows.
_MULTIPLIED_BY = {"bf16": "the CPU", "fp16": "the GPU"}


@dataclass(frozen=True)
class InspectedLayer:
    """A node that multiplies: its name in the network, and why it has its type, in a sentence."""

    name: str
    found: GraphLayer
    binary: bool
    why: str
    weight: Weight


@dataclass(frozen=True)
class Inspection:
    """Everything that ``bidiff-deploy inspect`` prints.

    bundle, counts the verified bundle; the costs of each graph of the network in its manifest
    layers, parts  the nodes that multiply, in order of execution; the other tensors by use
    graph_bytes    bytes of the step files; ``manifest_bytes``: of the manifest
    unused_bytes   bytes of the weights file that belong to no tensor (alignment)
    opsets         of the graph, by domain; ``functions``: those defined inside it
    operators      its number of nodes of each operator, fused operators not inlined
    disagreements  sentences: where files and manifest contradict each other
    """

    bundle: Bundle
    counts: dict[str, Count]
    layers: tuple[InspectedLayer, ...]
    parts: dict[str, Weight]
    graph_bytes: int
    manifest_bytes: int
    unused_bytes: int
    opsets: dict[str, int]
    functions: tuple[str, ...]
    operators: dict[str, int]
    disagreements: tuple[str, ...]

    @property
    def count(self) -> Count:
        """The costs of all graphs; the size is that of the step's input."""
        step, every = self.counts[STEP], self.counts.values()
        return Count(step.height, step.width, tuple(layer for one in every for layer in one.layers),
                     sum(one.parameters for one in every),
                     sum(one.binary_parameters for one in every), step.time_macs,
                     step.weight_bits)

    @property
    def total(self) -> Weight:
        """Bytes of all files, of all tensors in memory, and of all parameters as float32."""
        weights = [layer.weight for layer in self.layers] + list(self.parts.values())
        return Weight(sum(w.disk for w in weights) + self.graph_bytes + self.manifest_bytes
                      + self.unused_bytes, sum(w.memory for w in weights),
                      FLOAT_BYTES * self.count.parameters)

    @property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of one run of each graph by kind; ``attention``: products of two
        activations."""
        sums: Counter[str] = Counter()
        for layer in self.layers:
            kind = layer.found.kind if layer.found.shape else "attention"
            sums[kind] += layer.found.macs or 0
        return dict(sums)

    @property
    def paper_operations(self) -> float:
        """The graph's multiply-accumulates, counted as in the paper."""
        macs = self.macs
        packed = macs.get("packed", 0)
        return paper_operations(sum(macs.values()) - packed, packed)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; bytes and multiply-accumulates are whole numbers."""
        bundle, manifest = self.bundle, self.bundle.manifest
        return {
            "bundle": str(bundle.path), "source": manifest.get("source"), "scale": bundle.scale,
            "kind": bundle.network.kind,
            "network": bundle.config.to_dict(), **_sampling(bundle),
            "versions": {"tool": manifest.get("tool"), "schema": manifest["schema_version"],
                         "packing": manifest["packing_version"], "opsets": self.opsets},
            "functions": list(self.functions), "operators": self.operators,
            "precision": bundle.precision,
            "assumptions": manifest.get("assumptions", []),
            "zero_weights": manifest.get("zero_weights"),
            "files_verified": len(manifest["files"]),
            "size": [self.count.height, self.count.width],
            "layers": [_layer_dict(layer) for layer in self.layers],
            "parts": {name: vars(weight) for name, weight in self.parts.items()},
            "graph_bytes": self.graph_bytes, "manifest_bytes": self.manifest_bytes,
            "unused_bytes": self.unused_bytes, "total": vars(self.total), "macs": self.macs,
            "kinds": dict(Counter(layer.found.kind for layer in self.layers)),
            "graphs": {part: {"size": [one.height, one.width], "parameters": one.parameters,
                              "macs": sum(layer.macs for layer in one.layers)}
                       for part, one in self.counts.items()},
            "parameters": {"float": self.count.float_parameters,
                           "binary": self.count.binary_parameters},
            "paper": {"parameters": self.count.paper_parameters,
                      "operations": self.paper_operations},
            "disagreements": list(self.disagreements),
        }


def _sampling(bundle: Bundle) -> dict[str, Any]:
    """Schedule, sampling and steps of a network that has them; empty for others."""
    if isinstance(bundle, LatentBundle):
        sampling: dict[str, Any] = {"sampler": bundle.sampler}
    elif isinstance(bundle, NoisePredictorBundle):
        sampling = {"start": bundle.default_start, "noise": not bundle.noiseless}
    else:
        return {}
    return {"schedule": bundle.schedule.to_dict(), "sampling": sampling,
            "steps": [{"timestep": s.timestep, "group": s.group, "file": s.file}
                      for s in bundle.steps]}


def _layer_dict(layer: InspectedLayer) -> dict[str, Any]:
    found = layer.found
    return {"name": layer.name, "kind": found.kind, "why": layer.why, "op": found.op,
            "inside": found.inside, "bits": found.bits, "shape": list(found.shape),
            "map": [found.height, found.width], "macs": found.macs, **vars(layer.weight)}


def inspect_bundle(path: str | Path, size: tuple[int, int] | None = None) -> Inspection:
    """Verify the bundle at ``path``, build its graph and compare all step files with it.

    ``size``: height and width of the image that multiply-accumulates are counted for; of a network
    that runs once, or of a latent network, before it is enlarged. Default: the record's
    ``usual_size``. Raises BundleError for a bundle that is damaged, has another format or cannot be
    run, UsageError for a size that the network cannot run at.
    """
    bundle = open_bundle(path)
    network, config = bundle.network, bundle.config
    counts = network.counts(config, *(size or network.usual_size(config)))
    graphs = {part: StepGraphs(bundle, part) for part in PARTS[network.kind]}
    model = graphs[STEP].built.model
    tensors = BundleTensors(*graphs.values())
    accounting = ByteAccounting(tensors, bundle.config)
    inspected, wrong = [], []
    operators: Counter[str] = Counter()
    for part, of_part in graphs.items():
        expected = counts[part]
        reader = GraphReader(of_part.built.model, expected.height, expected.width)
        operators.update(reader.operators())
        layers = {short(layer.name): layer for layer in expected.layers}
        for found in reader.layers():
            layer = layers[found.name]
            inspected.append(InspectedLayer(layer.name, found, layer.binary, _why(layer, found),
                                            accounting.layer(layer, found.tensors)))
        wrong += [f"{step.file} is not the graph of its network: {reason}"
                  for step in of_part.bundle.steps if (reason := of_part.difference(step))]
    wrong += _check_precision(bundle.precision, inspected) + _check_versions(bundle, model)
    wrong += _check_steps(bundle) + _check_weights(bundle, tensors) + _check_folder(bundle)
    return Inspection(
        bundle, counts, tuple(inspected), accounting.parts(),
        sum(bundle.manifest["files"][name]["bytes"] for name in bundle.manifest["files"]
            if name != bundle.weights),
        (bundle.path / MANIFEST).stat().st_size, tensors.unused,
        {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        tuple(dict.fromkeys(f"{function.domain}.{function.name}" for one in graphs.values()
                            for function in one.built.model.functions)),
        dict(operators), tuple(wrong))


def _why(layer: Layer, found: GraphLayer) -> str:
    if layer.binary:
        of_what = layer.reason or "signs of weights and inputs"
        return f"binary: {of_what}, multiplied by XNOR and popcount"
    device = _MULTIPLIED_BY.get(found.kind)
    rounded = f"rounded to {found.kind} where {device} multiplies it" if device else ""
    if layer.product:
        why = "attention: product of two activations, neither of which is binarised"
        return f"{why}, {rounded}" if rounded else why
    if found.kind == "int8":
        rounded = "multiplies bytes, as the bundle was calibrated to"
    return f"{rounded or 'full precision'}: {layer.reason}"


def _check_precision(precision: str, layers: Iterable[InspectedLayer]) -> list[str]:
    """A network may have no layer that the manifest's precision concerns."""
    claimed = _PRECISIONS[precision]
    if any(layer.found.kind == claimed for layer in layers):
        return []
    return [f"the manifest states precision {precision!r}, but no layer has it"]


def _check_versions(bundle: Bundle, model: onnx.ModelProto) -> list[str]:
    found = {opset.domain: opset.version for opset in model.opset_import}
    return [f"the manifest states {key} {bundle.manifest.get(key)!r}, but the graph has "
            f"{found.get(domain)}" for key, domain in (("onnx_opset", ""), ("bidiff_opset", DOMAIN))
            if bundle.manifest.get(key) != found.get(domain)]


def _check_weights(bundle: Bundle, tensors: BundleTensors) -> list[str]:
    if tensors.overlap:
        return [f"tensors in {bundle.weights} overlap"]
    if tensors.unused > ALIGNMENT * (len(tensors.ranges) + 1):
        return [f"{bundle.weights} has {tensors.unused} bytes that no tensor uses"]
    return []


def _check_folder(bundle: Bundle) -> list[str]:
    stated = {MANIFEST, *bundle.manifest["files"]}
    return [f"{name!r} is in the folder, but not in the manifest"
            for name in sorted(file.name for file in bundle.path.iterdir()) if name not in stated]


def _check_steps(bundle: Bundle) -> list[str]:
    if not isinstance(bundle, NoisePredictorBundle):
        return []
    network, config = bundle.network, bundle.config
    return [f"step {step.timestep} belongs to group {network.group(config, step.timestep)}, but "
            f"the manifest states {step.group}" for step in bundle.steps
            if step.group != network.group(config, step.timestep)]
