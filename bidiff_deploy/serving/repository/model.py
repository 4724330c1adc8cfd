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

from bidiff_deploy import BidiffError, EngineError
from bidiff_deploy.serving.parameters import open_upscaler
from bidiff_deploy.serving.requests import Cancelled, Work, read_request


class TritonPythonModel:
    """One instance: a process with its own engine."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle next to this file. Raises TritonModelException for a wrong configuration.
        """
        try:
            _check_arrays()
            self.upscaler = open_upscaler(Path(__file__).parent / "bundle",
                                          json.loads(args["model_config"]))
        except (BidiffError, ValueError) as error:
            raise pb_utils.TritonModelException(f"{args['model_name']}: {error}") from None
        pb_utils.Logger.log_info(f"{args['model_name']}: {self.upscaler.engine.description}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in the same order."""
        works = [self._read(request) for request in requests]
        return [self._response(answer) for answer in self.upscaler.run(works)]

    def _read(self, request: Any) -> Work | Exception:
        try:
            return read_request(*(_array(request, name) for name in ("image", "seed", "steps")),
                                max_pixels=self.upscaler.max_pixels,
                                max_batch=self.upscaler.max_batch,
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
        if hasattr(self, "upscaler"):
            self.upscaler.engine.close()


def _check_arrays() -> None:
    """Raise EngineError where arrays do not pass through the backend. Compiled for numpy 1, it
    takes an item of numpy 2 for 0 bytes: the model would load, and every array would be empty."""
    sent = np.array([1, 2], np.uint8)
    tensor = pb_utils.Tensor("sent", sent)
    if not np.array_equal(pb_utils.Tensor.from_dlpack("sent", tensor.to_dlpack()).as_numpy(), sent):
        raise EngineError(
            f"this Triton's Python backend was compiled for numpy 1 and loses every array of numpy "
            f"{np.__version__}; run pip install 'numpy<2' 'ml_dtypes<0.6' in the backend's "
            "interpreter, or use Triton 24.11 or newer")


def _array(request: Any, name: str) -> np.ndarray | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()
