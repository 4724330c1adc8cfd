"""Triton's side of a bundle: tensors in, tensors out, every request with its own error.

Runs in the Python backend of NVIDIA Triton Inference Server, in an interpreter that has
bidiff_deploy and onnxruntime. Its options are the parameters of config.pbtxt.
"""

import json
from pathlib import Path

import triton_python_backend_utils as pb_utils

from bidiff_deploy import BidiffError, EngineError, load_bundle, machine
from bidiff_deploy.serving.requests import Cancelled, read_request
from bidiff_deploy.serving.upscaler import Upscaler


class TritonPythonModel:
    """One instance: a process of its own with an engine of its own."""

    def initialize(self, args):
        """Open the bundle beside this file; a mistake in the configuration is told at loading."""
        config = json.loads(args["model_config"])
        try:
            self._open(config, {key: entry["string_value"] for key, entry
                                in config.get("parameters", {}).items()})
        except (BidiffError, ValueError) as error:
            raise pb_utils.TritonModelException(f"{args['model_name']}: {error}") from None

    def _open(self, config, parameters):
        instances = sum(int(group.get("count", 1)) for group in config["instance_group"])
        self.max_pixels = int(parameters["max_pixels"])
        self.max_batch = int(config["max_batch_size"])
        self.engine = load_bundle(Path(__file__).parent / "bundle",
                                  threads=_threads(parameters["threads"], instances),
                                  backend=parameters["backend"])
        self.upscaler = Upscaler(self.engine, max_batch=self.max_batch,
                                 tile=_tile(parameters["tile"]),
                                 memory=_memory(parameters["memory"], instances))
        pb_utils.Logger.log_info(f"{config.get('name')}: {self.engine.description}")

    def execute(self, requests):
        """One response for each request, in their order."""
        works = [self._read(request) for request in requests]
        return [self._response(answer) for answer in self.upscaler.run(works)]

    def _read(self, request):
        try:
            return read_request(*(_array(request, name) for name in ("image", "seed", "steps")),
                                max_pixels=self.max_pixels, max_batch=self.max_batch,
                                cancelled=request.is_cancelled)
        except Exception as error:  # of this request alone
            return error

    def _response(self, answer):
        if not isinstance(answer, Exception):
            return pb_utils.InferenceResponse([pb_utils.Tensor("image", answer)])
        if isinstance(answer, Cancelled):
            code = pb_utils.TritonError.CANCELLED
        elif isinstance(answer, EngineError) or not isinstance(answer, BidiffError):
            code = pb_utils.TritonError.INTERNAL
            pb_utils.Logger.log_error(f"{type(answer).__name__}: {answer}")
        else:
            code = pb_utils.TritonError.INVALID_ARG
        told = isinstance(answer, (BidiffError, Cancelled))
        text = str(answer) if told else f"the server failed ({type(answer).__name__}); see its log"
        return pb_utils.InferenceResponse([], pb_utils.TritonError(text, code))

    def finalize(self):
        """Give the engine's memory back."""
        if hasattr(self, "engine"):
            self.engine.close()


def _array(request, name):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def _threads(text, instances):
    if text != "auto":
        return int(text)
    # Instances share the cores; more threads than cores wait for each other.
    return max(1, int(machine.usable_cores()) // instances)


def _memory(text, instances):
    if text != "auto":
        return int(text)
    # Half of what is left is what an engine allows itself; instances share that.
    available = machine.memory()["available"]
    return None if available is None or instances == 1 else available // (2 * instances)


def _tile(text):
    return {"auto": "auto", "none": None}[text] if text in ("auto", "none") else int(text)
