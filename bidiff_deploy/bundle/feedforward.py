"""The bundle of a feed-forward network, ``kind`` "feedforward": one graph and its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping

from .manifest import Bundle, Step, check_versions, file_names, open_with, parse_diffusion
from ..errors import BundleError
from ..networks import FEED_FORWARD
from ..networks.bbcu.architecture import BbcuConfig

KIND = "feedforward"
GRAPH = "network.onnx"


@dataclass(frozen=True)
class FeedForwardBundle:
    """A verified bundle of a feed-forward network.

    path       its directory
    config     the network's options, the upscaling factor among them
    graph      file name of its graph
    precision  what factors of full-precision products may be rounded to
    weights    file name of the tensor bytes
    manifest   the manifest itself
    """

    path: Path
    config: BbcuConfig
    graph: str
    precision: str
    weights: str
    manifest: Mapping[str, Any] = field(repr=False)

    @property
    def scale(self) -> int:
        return self.config.scale

    # What readers of graphs ask of a bundle: one step, without constants of its own.
    @property
    def steps(self) -> tuple[Step, ...]:
        return (Step(0, 0, self.graph),)

    @property
    def step_initializers(self) -> tuple[str, ...]:
        return ()

    @property
    def bytes(self) -> int:
        """Size of all its files but the manifest."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())


def open_any(path: str | Path, *, verify: bool = True) -> Bundle | FeedForwardBundle:
    """Read and verify a bundle of either kind; ``bundle.open_bundle`` says how it fails."""
    return open_with(Path(path), _parse_any, verify)


def _parse_any(path: Path, manifest: Mapping[str, Any]) -> Bundle | FeedForwardBundle:
    if manifest.get("kind") != KIND:
        return parse_diffusion(path, manifest)
    check_versions(manifest)
    if manifest["model"] != FEED_FORWARD:
        raise BundleError(f"its model {str(manifest['model'])[:60]!r} is not known to this "
                          "version; upgrade bidiff-deploy")
    config = BbcuConfig.from_dict(manifest["network"], "network")
    if set(manifest["network"]) != set(config.to_dict()):
        raise BundleError("its network options are not complete; export the bundle again")
    if manifest["scale"] != config.scale:
        raise BundleError(f"its scale {manifest['scale']!r} is not that of its network, "
                          f"{config.scale}; export the bundle again")
    graph, weights = file_names(manifest, manifest["graph"], manifest["weights"])
    return FeedForwardBundle(path, config, graph, str(manifest["precision"]), weights, manifest)
