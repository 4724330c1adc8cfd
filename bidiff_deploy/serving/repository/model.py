"""The adaptor between Triton and bidiff_deploy: tensors in, tensors out, an error for each request.

Runs in the Python backend of NVIDIA Triton Inference Server, in an interpreter with bidiff_deploy
and onnxruntime. Its options are the parameters in config.pbtxt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from bidiff_deploy import BidiffError, EngineError, load_bundle, machine
from bidiff_deploy.engines.noise_predictor import NoisePredictor
from bidiff_deploy.engines.tile_choice import Tile
from bidiff_deploy.serving.requests import Cancelled, Work, read_request
from bidiff_deploy.serving.upscaler import Upscaler


class TritonPythonModel:
    """One instance: a process with its own engine."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle next to this file. Raises TritonModelException for a wrong configuration.
        """
        config = json.loads(args["model_config"])
        try:
            self._open(config, {key: entry["string_value"] for key, entry
                                in config.get("parameters", {}).items()})
        except (BidiffError, ValueError) as error:
            raise pb_utils.TritonModelException(f"{args['model_name']}: {error}") from None

    def _open(self, config: dict[str, Any], parameters: dict[str, str]) -> None:
        instances = sum(int(group.get("count", 1)) for group in config["instance_group"])
        self.max_pixels = int(parameters["max_pixels"])
        self.max_batch = int(config["max_batch_size"])
        self.engine = load_bundle(Path(__file__).parent / "bundle",
                                  threads=_threads(parameters["threads"], instances),
                                  backend=parameters["backend"])
        assert isinstance(self.engine, NoisePredictor)  # export-triton refuses other bundles
        self.upscaler = Upscaler(self.engine, max_batch=self.max_batch,
                                 tile=_tile(parameters["tile"]),
                                 memory=_memory(parameters["memory"], instances))
        pb_utils.Logger.log_info(f"{config.get('name')}: {self.engine.description}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in the same order."""
        works = [self._read(request) for request in requests]
        return [self._response(answer) for answer in self.upscaler.run(works)]

    def _read(self, request: Any) -> Work | Exception:
        try:
            return read_request(*(_array(request, name) for name in ("image", "seed", "steps")),
                                max_pixels=self.max_pixels, max_batch=self.max_batch,
                                cancelled=request.is_cancelled)
        except Exception as error:  # answers this request only
            return error

    def _response(self, answer: np.ndarray | Exception) -> Any:
        if not isinstance(answer, Exception):
            return pb_utils.InferenceResponse([pb_utils.Tensor("image", answer)])
        if isinstance(answer, Cancelled):
            code = pb_utils.TritonError.CANCELLED
        elif isinstance(answer, EngineError) or not isinstance(answer, BidiffError):
            code = pb_utils.TritonError.INTERNAL
            pb_utils.Logger.log_error(f"{type(answer).__name__}: {answer}")
        else:
            code = pb_utils.TritonError.INVALID_ARG
        shown = isinstance(answer, (BidiffError, Cancelled))
        text = str(answer) if shown else f"the server failed ({type(answer).__name__}); see its log"
        return pb_utils.InferenceResponse([], pb_utils.TritonError(text, code))

    def finalize(self) -> None:
        """Release the engine."""
        if hasattr(self, "engine"):
            self.engine.close()


def _array(request: Any, name: str) -> np.ndarray | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def _threads(text: str, instances: int) -> int:
    if text != "auto":
        return int(text)
    # Instances share the cores; with more threads than cores they would wait for each other.
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
