"""The parameters of config.pbtxt, as Triton hands them to a model -> an open Upscaler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import load_bundle, machine
from ..engines.tile_choice import Tile
from .upscaler import Upscaler

__all__ = ["open_upscaler"]


def open_upscaler(bundle: Path, config: Mapping[str, Any]) -> Upscaler:
    """The Upscaler of one instance.

    ``config``: Triton's model configuration, as its JSON. Instances share cores and memory. Raises
    BidiffError or ValueError for a damaged bundle and for parameters that are out of range.
    """
    instances = sum(int(group.get("count", 1)) for group in config["instance_group"])
    parameters = {key: entry["string_value"] for key, entry in config["parameters"].items()}
    engine = load_bundle(bundle, threads=_threads(parameters["threads"], instances),
                         backend=parameters["backend"])
    return Upscaler(engine, max_batch=int(config["max_batch_size"]),
                    max_pixels=int(parameters["max_pixels"]), tile=_tile(parameters["tile"]),
                    memory=_memory(parameters["memory"], instances))


def _threads(text: str, instances: int) -> int:
    if text != "auto":
        return int(text)
    # With more threads than cores the instances would wait for each other.
    return max(1, int(machine.usable_cores()) // instances)


def _memory(text: str, instances: int) -> int | None:
    if text != "auto":
        return int(text)
    # One engine uses half of what is free; several instances share that.
    available = machine.memory()["available"]
    return None if available is None or instances == 1 else available // (2 * instances)


def _tile(text: str) -> Tile:
    if text == "auto":
        return "auto"
    return None if text == "none" else int(text)
