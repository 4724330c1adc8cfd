"""What tests of the repository for Triton share: one of the shipped model, its model.py, a request.

What is not tested with it: Triton itself. ``triton_stand_in`` is made from its documentation.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

from stand_ins import triton as stand_in

DEMO = Path(__file__).parents[2] / "bidiff_deploy" / "models" / "diffusion_x2.safetensors"


def message_class():
    """ModelConfig of Triton's model_config.proto, as far as its fields are used here."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = {"string": 9, "int32": 5, "int64": 3, "uint64": 4, "bool": 8}
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference",
                                              syntax="proto3")

    def enum(parent, name, values):
        parent.enum_type.add(name=name).value.extend(
            descriptor_pb2.EnumValueDescriptorProto(name=key, number=value)
            for key, value in values.items())

    def message(name, fields):
        made = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            added = made.field.add(name=field, number=number, label=3 if repeated else 1)
            if kind in kinds:
                added.type = kinds[kind]
            else:
                added.type = 14 if kind in ("DataType", "ModelInstanceGroup.Kind") else 11
                added.type_name = f".inference.{kind}"
        return made

    enum(file, "DataType", {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_INT64": 9})
    for name, dims in (("ModelInput", 4), ("ModelOutput", 3)):
        fields = [("name", 1, "string", False), ("data_type", 2, "DataType", False),
                  ("dims", dims, "int64", True)]
        message(name, fields + [("optional", 8, "bool", False)] * (name == "ModelInput"))
    instance = message("ModelInstanceGroup", [("kind", 4, "ModelInstanceGroup.Kind", False),
                                              ("count", 2, "int32", False)])
    enum(instance, "Kind", {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2, "KIND_MODEL": 3})
    message("ModelDynamicBatching", [("preferred_batch_size", 1, "int32", True),
                                     ("max_queue_delay_microseconds", 2, "uint64", False)])
    message("ModelParameter", [("string_value", 1, "string", False)])
    config = message("ModelConfig", [
        ("name", 1, "string", False), ("backend", 17, "string", False),
        ("max_batch_size", 4, "int32", False), ("input", 5, "ModelInput", True),
        ("output", 6, "ModelOutput", True), ("instance_group", 7, "ModelInstanceGroup", True),
        ("dynamic_batching", 11, "ModelDynamicBatching", False),
        ("parameters", 14, "ModelConfig.ParametersEntry", True)])
    entry = config.nested_type.add(name="ParametersEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=9)
    entry.field.add(name="value", number=2, label=1, type=11, type_name=".inference.ModelParameter")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def parse(text):
    from google.protobuf import text_format as protobuf

    return protobuf.Parse(text, message_class()())


class Server:
    """model.py, loaded and initialized as Triton's stub does it."""

    def __init__(self, repository, monkeypatch, **parameters) -> None:
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stand_in.backend_module())
        monkeypatch.setattr(stand_in.Logger, "lines", [])
        [folder] = [path.parent for path in repository.glob("*/config.pbtxt")]
        config = parse((folder / "config.pbtxt").read_text())
        for key, value in parameters.items():
            config.parameters[key].string_value = value
        spec = importlib.util.spec_from_file_location("served_model", folder / "1" / "model.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.model = module.TritonPythonModel()
        self.args = {"model_name": config.name, "model_config": json.dumps({
            "name": config.name, "max_batch_size": config.max_batch_size,
            "instance_group": [{"count": group.count} for group in config.instance_group],
            "parameters": {key: {"string_value": value.string_value}
                           for key, value in config.parameters.items()}})}

    def __enter__(self):
        self.model.initialize(self.args)
        return self

    def __exit__(self, *_):
        self.model.finalize()

    def ask(self, *requests):
        """Of each request: its image, or (code, message)."""
        responses = self.model.execute([one if isinstance(one, stand_in.InferenceRequest)
                                        else request(**one) for one in requests])
        assert len(responses) == len(requests)
        found = []
        for response in responses:
            if response.has_error():
                assert not response.output_tensors()
                found.append((response.error().code(), response.error().message()))
            else:
                [tensor] = response.output_tensors()
                assert tensor.name() == "image" and tensor.as_numpy().dtype == np.uint8
                found.append(tensor.as_numpy())
        return found


def request(cancelled=(False,), **inputs):
    return stand_in.InferenceRequest([stand_in.Tensor(name, np.ascontiguousarray(value))
                                      for name, value in inputs.items()], cancelled)


def picture(height, width, seed=0, count=1):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(2, 9) + y / rng.uniform(2, 9)
                    + rng.uniform(0, 6, (count, 1, 1))) for _ in range(3)]
    return (127.5 + 120 * np.stack(waves, -1)).astype(np.uint8)
