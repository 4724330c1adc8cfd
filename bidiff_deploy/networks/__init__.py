"""The networks that a checkpoint may hold: BI-DiffSR, a diffusion model, and BBCU-M, feed-forward.

What is asked of either without asking which it is stands here.
"""

from __future__ import annotations

from typing import Any, Mapping

from .bi_diffsr import architecture
from .bi_diffsr.architecture import NetworkConfig, Parameter
from ..errors import CheckpointError
from .bbcu import architecture as bbcu
from .bbcu.architecture import BbcuConfig

__all__ = ["Config", "DIFFUSION", "FEED_FORWARD", "config_from_dict", "model_of", "parameters"]

Config = NetworkConfig | BbcuConfig
DIFFUSION, FEED_FORWARD = "bi-diffsr", bbcu.MODEL
_CONFIGS: dict[str, Any] = {DIFFUSION: NetworkConfig, FEED_FORWARD: BbcuConfig}


def model_of(config: Config) -> str:
    """The name by which recipes and packed checkpoints call a network."""
    return FEED_FORWARD if isinstance(config, BbcuConfig) else DIFFUSION


def config_from_dict(model: Any, options: Mapping[str, Any], origin: str) -> Config:
    """The options of the network called ``model``. Raises CheckpointError, also for an unknown
    name."""
    if not isinstance(model, str) or model not in _CONFIGS:
        raise CheckpointError(f"{origin}: model {str(model)[:60]!r} is not known; known are "
                              f"{', '.join(_CONFIGS)}")
    return _CONFIGS[model].from_dict(options, origin)


def parameters(config: Config) -> dict[str, Parameter]:
    """``{name: Parameter}`` of every parameter of either network, in order of execution."""
    if isinstance(config, BbcuConfig):
        return bbcu.parameters(config)
    return architecture.parameters(config)
