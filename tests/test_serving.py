"""The model repository for Triton: its text, its files, and model.py against a stand-in of Triton.

What is not tested here: Triton itself. ``triton_stand_in`` is made from its documentation.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import triton_stand_in as stand_in
from click.testing import CliRunner
from fake_engine import FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from hypothesis.extra.numpy import arrays as numpy_arrays
from PIL import Image

from bidiff_deploy import (
    BidiffError,
    BundleError,
    EngineError,
    OutputError,
    UsageError,
    load_bundle,
)
from bidiff_deploy.cli import group
from bidiff_deploy.serving import text_format, triton
from bidiff_deploy.serving.requests import Cancelled, Work, read_request
from bidiff_deploy.serving.triton import Serving, config_text, export_repository
from bidiff_deploy.serving.upscaler import BATCHED_PIXELS, Upscaler

DEMO = Path(__file__).parent.parent / "training" / "demo_x2.safetensors"


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
        for label, (field, number, kind, repeated) in enumerate(fields):
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


def test_the_configuration_is_what_triton_reads():
    config = parse(config_text(Serving("photos", instances=2, max_batch=6, queue_delay_us=700,
                                       threads=3, memory=1 << 30)))
    assert (config.name, config.backend, config.max_batch_size) == ("photos", "python", 6)
    image, seed, steps = config.input
    assert (image.name, image.data_type, list(image.dims)) == ("image", 2, [-1, -1, 3])
    assert not image.optional
    for one, name in ((seed, "seed"), (steps, "steps")):
        assert (one.name, one.data_type, list(one.dims), one.optional) == (name, 9, [1], True)
    [output] = config.output
    assert (output.name, output.data_type, list(output.dims)) == ("image", 2, [-1, -1, 3])
    [instances] = config.instance_group
    assert (instances.kind, instances.count) == (2, 2)
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 700
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "threads": "3", "backend": "onnxruntime", "tile": "auto", "memory": str(1 << 30),
        "max_pixels": str(1 << 20)}


def test_a_batch_of_one_is_not_waited_for():
    config = parse(config_text(Serving("one", max_batch=1)))
    assert config.max_batch_size == 1 and not config.HasField("dynamic_batching")


def test_text_is_escaped():
    text = 'a"b\\c\n\t\x01é'
    fields = [("name", text), ("input", [("optional", True), ("dims", (1, -2))])]
    config = parse(text_format.to_text(fields))
    assert config.name == text and list(config.input[0].dims) == [1, -2]
    assert text_format.to_text(fields).isascii()
    with pytest.raises(TypeError, match="float"):
        text_format.to_text([("name", 1.5)])


@pytest.mark.parametrize(("options", "match"), [
    ({"name": "../up"}, "can not name a model"), ({"name": ""}, "can not name a model"),
    ({"instances": 0}, "--instances is 0; it must be from 1 to 1024"),
    ({"max_batch": 0}, "--max-batch is 0"), ({"queue_delay_us": -1}, "--queue-delay-us is -1"),
    ({"threads": 0}, "--threads is 0"), ({"max_pixels": 0}, "--max-pixels is 0"),
    ({"memory": 0}, "--memory is 0"), ({"tile": "big"}, "--tile 'big'"),
    ({"tile": "²"}, "--tile"), ({"backend": "abacus"}, "--backend 'abacus' is not known")])
def test_options_out_of_range(options, match):
    with pytest.raises(UsageError, match=match):
        Serving(**{"name": "good", **options})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The shipped model's bundle: a trained one, so that results may be compared."""
    path = tmp_path_factory.mktemp("serving") / "demo.bundle"
    done = CliRunner().invoke(group, ["export", str(DEMO), "-o", str(path), "--timesteps",
                                      "40,20", "--quiet"])
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture(scope="module")
def repository(bundle):
    path = bundle.parent / "repository"
    export_repository(bundle, path, max_pixels=8192, threads=2, tile="none")
    return path


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


@pytest.fixture
def server(repository, monkeypatch):
    with Server(repository, monkeypatch) as running:
        yield running


def picture(height, width, seed=0, count=1):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(2, 9) + y / rng.uniform(2, 9)
                    + rng.uniform(0, 6, (count, 1, 1))) for _ in range(3)]
    return (127.5 + 120 * np.stack(waves, -1)).astype(np.uint8)


@pytest.fixture(scope="module")
def alone(bundle):
    """What the engine itself makes of one image."""
    with load_bundle(bundle, threads=2) as engine:
        yield lambda image, seed=0, **options: engine.upscale(image, seed, tile=None, **options)


def test_one_request(server, alone):
    image = picture(20, 33)
    [found] = server.ask({"image": image})
    assert found.shape == (1, 40, 66, 3)
    np.testing.assert_array_equal(found[0], alone(image[0]))
    assert ("info", ) == stand_in.Logger.lines[0][:1]
    assert "bidiff_x2: onnxruntime" in stand_in.Logger.lines[0][1]


def test_requests_of_equal_and_other_sizes_seeds_and_steps(server, alone):
    small, wide, large = picture(24, 24, 1), picture(13, 40, 2), picture(72, 64, 3)
    several = picture(24, 24, 4, count=3)
    answers = server.ask(
        {"image": small}, {"image": wide, "seed": [[7]]}, {"image": small, "seed": [[7]]},
        {"image": large}, {"image": several, "seed": [[1], [2], [3]]},
        {"image": small, "steps": [[1]]}, {"image": large, "seed": [7], "steps": [[2]]},
        {"image": several, "seed": np.array([[5]], np.uint8)})
    expected = [
        [alone(small[0])], [alone(wide[0], 7)], [alone(small[0], 7)], [alone(large[0])],
        [alone(image, seed) for image, seed in zip(several, (1, 2, 3))],
        [alone(small[0], steps=1)], [alone(large[0], 7, steps=2)],
        [alone(image, 5) for image in several]]
    for found, images in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(found, np.stack(images))
    assert (answers[0] != answers[2]).any() and (answers[0] != answers[5]).any()


@pytest.mark.parametrize(("inputs", "words"), [
    ({}, "no input `image`"),
    ({"image": picture(8, 8).astype(np.float32)}, "type float32; give uint8"),
    ({"image": picture(8, 8)[0]}, r"shape [8, 8, 3]"),
    ({"image": np.zeros((1, 8, 8, 4), np.uint8)}, "shape [1, 8, 8, 4]"),
    ({"image": np.zeros((1, 0, 8, 3), np.uint8)}, "shape [1, 0, 8, 3]"),
    ({"image": np.zeros((5, 8, 8, 3), np.uint8)}, "5 images; this model takes 4"),
    ({"image": np.zeros((1, 65, 128, 3), np.uint8)}, "128x65 pixels; this model takes 8192"),
    ({"image": picture(8, 8), "seed": [[-1]]}, "`seed` is -1; it must be from 0"),
    ({"image": picture(8, 8), "seed": [[1.5]]}, "`seed` has type float64"),
    ({"image": picture(8, 8), "seed": [[1], [2]]}, "2 values for 1 images"),
    ({"image": picture(8, 8), "steps": [[0]]}, "`steps` is 0; it must be from 1"),
    ({"image": picture(8, 8), "steps": [[9]]}, "steps is 9, but there are 2 timesteps"),
    ({"image": picture(8, 8, count=2), "steps": [[1], [2]]}, "`steps` differs"),
])
def test_a_bad_request_fails_alone(server, alone, inputs, words):
    good = picture(8, 8, 5)
    first, bad, last = server.ask({"image": good}, inputs, {"image": good, "seed": [[3]]})
    np.testing.assert_array_equal(first[0], alone(good[0]))
    np.testing.assert_array_equal(last[0], alone(good[0], 3))
    assert bad[0] == stand_in.TritonError.INVALID_ARG and words in bad[1]
    assert "\n" not in bad[1] and not any(kind == "error" for kind, _ in stand_in.Logger.lines)


ARRAYS = numpy_arrays(
    st.sampled_from([np.uint8, np.int8, np.int64, np.uint64, np.float32, np.bool_, object]),
    array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4), fill=st.nothing())


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.none() | ARRAYS, st.none() | ARRAYS, st.none() | ARRAYS)
def test_any_tensors_are_work_or_a_sentence(image, seed, steps):
    try:
        work = read_request(image, seed, steps, max_pixels=9, max_batch=2)
    except BidiffError as error:
        assert "\n" not in str(error)
        return
    assert work.images.shape[0] == len(work.seeds) <= 2 and work.images.shape[3] == 3
    assert all(type(value) is int for value in (*work.seeds, work.steps or 1))


def test_cancelled_requests_cost_nothing(server, alone):
    image = picture(16, 16)
    gone, kept = server.ask(request(image=image, cancelled=(True,)), {"image": image})
    assert gone[0] == stand_in.TritonError.CANCELLED
    np.testing.assert_array_equal(kept[0], alone(image[0]))
    large = picture(72, 64, count=2)  # one by one, and asked before each
    [late] = server.ask(request(image=large, cancelled=(False, True)))
    assert late[0] == stand_in.TritonError.CANCELLED


def test_a_failing_engine_fails_one_request(server, monkeypatch):
    """The image at fault is found although it was in a batch."""
    good, bad = picture(16, 16), np.zeros((1, 16, 16, 3), np.uint8)
    predict = server.model.engine.predict

    def failing(noisy, condition, timestep):
        if (condition == 0).all(axis=(1, 2, 3)).any():
            raise EngineError("onnxruntime could not run a step")
        return predict(noisy, condition, timestep)

    monkeypatch.setattr(server.model.engine, "predict", failing)
    first, failed, last = server.ask({"image": good}, {"image": bad}, {"image": good})
    np.testing.assert_array_equal(first, last)
    assert failed == (stand_in.TritonError.INTERNAL, "onnxruntime could not run a step")
    assert ("error", "EngineError: onnxruntime could not run a step") in stand_in.Logger.lines

    monkeypatch.setattr(server.model.engine, "predict", lambda *_: 1 / 0)
    [crashed] = server.ask({"image": good})
    assert crashed == (stand_in.TritonError.INTERNAL,
                       "the server failed (ZeroDivisionError); see its log")

    def starved(*_):
        raise MemoryError

    monkeypatch.setattr(server.model.engine, "predict", starved)
    [hungry] = server.ask({"image": good})
    assert hungry[0] == stand_in.TritonError.INTERNAL and "not enough memory" in hungry[1]


def test_finalize_closes_the_engine(repository, monkeypatch):
    running = Server(repository, monkeypatch)
    running.model.finalize()  # a model that never opened
    with running:
        pass
    assert running.model.engine.closed
    running.model.finalize()
    [answer] = running.ask({"image": picture(8, 8)})
    assert answer[0] == stand_in.TritonError.INTERNAL and "closed" in answer[1]


@pytest.mark.parametrize(("parameters", "match"), [
    ({"backend": "abacus"}, "backend 'abacus' is not known"), ({"threads": "many"}, "many"),
    ({"tile": "7"}, "tile is 7"), ({"memory": "5"}, "memory")])
def test_a_bad_parameter_is_told_at_loading(repository, monkeypatch, parameters, match):
    with pytest.raises(stand_in.TritonModelException, match=f"bidiff_x2: .*{match}"):
        Server(repository, monkeypatch, **parameters).__enter__()


def test_a_damaged_bundle_is_told_at_loading(bundle, tmp_path, monkeypatch):
    export_repository(bundle, tmp_path / "repo", name="broken")
    with open(tmp_path / "repo" / "broken" / "1" / "bundle" / "weights.bin", "r+b") as file:
        file.write(b"\xff")
    with pytest.raises(stand_in.TritonModelException, match="is not the file that was exported"):
        Server(tmp_path / "repo", monkeypatch).__enter__()


def test_instances_share_cores_and_memory(bundle, tmp_path, monkeypatch):
    export_repository(bundle, tmp_path / "repo", instances=64)
    with Server(tmp_path / "repo", monkeypatch) as running:
        assert running.model.engine.threads == 1
        assert 0 < running.model.upscaler.memory
    export_repository(bundle, tmp_path / "repo", instances=1, overwrite=True)
    with Server(tmp_path / "repo", monkeypatch) as running:
        assert running.model.upscaler.memory is None and running.model.upscaler.tile == "auto"


def test_small_images_run_as_a_batch_and_large_ones_do_not():
    engine = FakeEngine(default_start=60)
    side = int(BATCHED_PIXELS ** 0.5) // engine.scale
    run = Upscaler(engine, max_batch=3).run
    small = [Work(picture(side, side, n), (n,), 1) for n in range(4)]
    found = run(small)
    assert [shape[0] for _, shape in engine.calls] == [3, 1]
    large = Work(picture(side + 8, side, count=2), (0, 1), 1)
    engine.calls.clear()
    assert run([large])[0].shape == (2, 2 * side + 16, 2 * side, 3)
    assert [shape[0] for _, shape in engine.calls] == [1, 1]
    for work, image in zip(small, found, strict=True):
        np.testing.assert_array_equal(image, run([work])[0])
    engine.calls.clear()
    tiled = Upscaler(engine, max_batch=3, tile=64).run(small[:2])
    assert [shape[0] for _, shape in engine.calls] == [1] * len(engine.calls) and len(tiled) == 2


def test_an_answer_for_every_work():
    assert Upscaler(FakeEngine()).run([]) == []
    refusal = UsageError("no")
    gone = read_request(picture(8, 8), max_pixels=64, max_batch=1, cancelled=lambda: True)
    first, second = Upscaler(FakeEngine()).run([refusal, gone])
    assert first is refusal and isinstance(second, Cancelled)


def test_the_repository_is_whole_or_absent(bundle, repository, tmp_path, edit_manifest):
    served = repository / "bidiff_x2" / "1" / "bundle"
    assert {path.name: path.read_bytes() for path in served.iterdir()} == {
        path.name: path.read_bytes() for path in bundle.iterdir()}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"a")
    with pytest.raises(OutputError, match="is not replaced"):
        export_repository(bundle, tmp_path / "photos", overwrite=True)
    export_repository(bundle, tmp_path / "repo")
    with pytest.raises(OutputError, match="already exists"):
        export_repository(bundle, tmp_path / "repo")
    export_repository(bundle, tmp_path / "repo", overwrite=True, name="other")
    assert not (tmp_path / "repo" / "bidiff_x2").exists()
    edit_manifest(tmp_path / "repo" / "other" / "1" / "bundle",
                  lambda manifest: manifest["files"]["weights.bin"].update(sha256="0" * 64))
    with pytest.raises(BundleError, match="is not the file that was exported"):
        export_repository(tmp_path / "repo" / "other" / "1" / "bundle", tmp_path / "again")
    with pytest.raises(UsageError, match="tile is 63"):
        export_repository(bundle, tmp_path / "again", tile="63")
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "repo"}


def test_a_file_changed_while_it_is_copied_is_noticed(bundle, tmp_path, monkeypatch):
    def spoiling(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:-1] + b"?")

    monkeypatch.setattr(triton.shutil, "copyfile", spoiling)
    with pytest.raises(BundleError):
        export_repository(bundle, tmp_path / "repo")
    assert not list(tmp_path.iterdir())


def test_the_command(bundle, tmp_path):
    run = CliRunner().invoke
    target = tmp_path / "repo"
    done = run(group, ["export-triton", str(bundle), "-o", str(target), "--name", "night",
                       "--instances", "3", "--memory", "1GiB", "--tile", "NONE"])
    assert done.exit_code == 0 and "model night" in done.output
    for path in target.rglob("*"):
        if path.is_file() and path.suffix != ".bin" and path.suffix != ".onnx":
            assert "@" not in path.read_text().replace("@dataclass", ""), path
    assert "# Model `night`" in (target / "README.md").read_text()
    failed = run(group, ["export-triton", str(bundle), "-o", str(target)])
    assert failed.exit_code == 1 and "already exists" in failed.output
    done = run(group, ["export-triton", str(bundle), "-o", str(target), "--overwrite", "--json"])
    assert json.loads(done.output) == {
        "repository": str(target), "name": "bidiff_x2", "instances": 1, "max_batch": 4,
        "queue_delay_us": 500, "threads": None, "backend": "onnxruntime", "tile": "auto",
        "memory": None, "max_pixels": 1 << 20}


@pytest.fixture
def client(repository, server, monkeypatch):
    """client.py, asking the stand-in of a server."""
    stand_in.client_modules(server.model.execute, "bidiff_x2", monkeypatch)
    spec = importlib.util.spec_from_file_location("served_client", repository / "client.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_client_upscales_a_file(client, tmp_path, alone, capsys):
    pixels = picture(20, 30)[0]
    Image.fromarray(pixels).save(tmp_path / "in.png")
    for name, more, options in (("a.png", [], {}), ("b.png", ["--seed", "4"], {"seed": 4}),
                                ("c.png", ["--steps", "1"], {"steps": 1})):
        assert client.main([str(tmp_path / "in.png"), str(tmp_path / name), *more]) == 0
        found = np.asarray(Image.open(tmp_path / name))
        np.testing.assert_array_equal(found, alone(pixels, **options))
    assert "60x40" in capsys.readouterr().out


def test_the_clients_errors_are_one_line(client, tmp_path, capsys, monkeypatch):
    source, target = str(tmp_path / "in.png"), str(tmp_path / "out.png")
    Image.fromarray(picture(100, 100)[0]).save(source)
    (tmp_path / "notes.txt").write_text("no image")
    small = str(tmp_path / "small.png")
    Image.fromarray(picture(8, 8)[0]).save(small)
    cases = [([source, target], "refuses: input `image` has 100x100 pixels"),
             ([small, target, "--steps", "99"], "refuses: steps is 99"),
             ([small, target, "--url", "nowhere:1"], "nowhere:1 can not be reached"),
             ([small, target, "--url", "http://localhost:8000"], "without http://"),
             ([small, target, "--model", "other"], "no model 'other' that is ready"),
             ([small, small], "already exists"),
             ([str(tmp_path / "missing.png"), target], "No such file"),
             ([str(tmp_path / "notes.txt"), target], "no image that Pillow knows"),
             ([small, str(tmp_path / "no" / "out.png")], "can not be written"),
             ([small, str(tmp_path / "out.abc")], "can not be written")]
    for arguments, words in cases:
        assert client.main(arguments) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    monkeypatch.setitem(sys.modules, "tritonclient.http", None)
    assert client.main([small, target]) == 1
    assert "pip install 'tritonclient[http]'" in capsys.readouterr().err
