"""The exported repository in NVIDIA Triton's own server, on this machine, without a GPU."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from bidiff_deploy import load_bundle, machine
from bidiff_deploy.serving.triton import export_repository
from support.served import export, load_client, picture
from support.waiting import wait_until
from tools.triton_server import TritonServer, client, inputs

pytestmark = pytest.mark.triton
FOREVER_US = 60_000_000  # two requests at once are then one batch, however slow the machine is
DIFFUSION, FEED_FORWARD = "diffusion-x2", "photo-x2"

# Appended to a model.py: images of one value make the engine fail in different ways.
FAILING = '''

class TritonPythonModel(TritonPythonModel):
    def initialize(self, args):
        super().initialize(args)
        engine = self.upscaler.engine
        predict = engine.predict

        def failing(noisy, condition, timestep):
            for kind, error in enumerate((EngineError("onnxruntime could not run a step"),
                                          ZeroDivisionError("of the engine"))):
                if (np.abs(condition - kind / 255) < 1e-6).all(axis=(1, 2, 3)).any():
                    raise error
            return predict(noisy, condition, timestep)

        engine.predict = failing
'''


@pytest.fixture(scope="module")
def bundles(shared) -> dict[str, Path]:
    return {name: shared(f"{name}-served.bundle", lambda path, name=name: export(name, path))
            for name in (DIFFUSION, FEED_FORWARD)}


@pytest.fixture(scope="module")
def alone(bundles):
    """What the engine itself makes of one image."""
    engines = {name: load_bundle(bundle, threads=1) for name, bundle in bundles.items()}
    yield lambda name, image, seed=0, **options: engines[name].upscale(image, seed, **options)
    for engine in engines.values():
        engine.close()


@pytest.fixture(scope="module")
def repositories(bundles, tmp_path_factory) -> list[Path]:
    """One of each kind of network, and two whose requests wait for each other."""
    folder = tmp_path_factory.mktemp("repositories")
    for name, bundle, options in (
            ("diffusion", DIFFUSION, {"threads": 1}), ("feedforward", FEED_FORWARD, {}),
            ("pairs", DIFFUSION, {"max_batch": 2, "threads": 1, "queue_delay_us": FOREVER_US}),
            ("failing", DIFFUSION, {"max_batch": 2, "threads": 1, "queue_delay_us": FOREVER_US})):
        export_repository(bundles[bundle], folder / name, name=name, max_pixels=8192,
                          instances=2 if name == "feedforward" else 1, **options)
    with (folder / "failing" / "failing" / "1" / "model.py").open("a") as file:
        file.write(FAILING)
    return [folder / name for name in ("diffusion", "feedforward", "pairs", "failing")]


@pytest.fixture(scope="module")
def server(repositories, interpreter, tmp_path_factory):
    with TritonServer(repositories, interpreter,
                      tmp_path_factory.mktemp("server") / "triton") as running:
        yield running
    assert running.process.returncode == 0 and "failed to" not in running.log


def test_it_is_configured_as_exported(server):
    config = server.get("/v2/models/pairs/config")
    assert (config["backend"], config["max_batch_size"]) == ("python", 2)
    assert [(one["name"], one["data_type"], one["dims"], one["optional"])
            for one in config["input"]] == [
        ("image", "TYPE_UINT8", [-1, -1, 3], False), ("seed", "TYPE_INT64", [1], True),
        ("steps", "TYPE_INT64", [1], True)]
    batching = config["dynamic_batching"]
    assert batching["preferred_batch_size"] == [2]
    assert batching["max_queue_delay_microseconds"] == FOREVER_US
    assert {key: value["string_value"] for key, value in config["parameters"].items()} == {
        "threads": "1", "backend": "onnxruntime", "tile": "auto", "memory": "auto",
        "max_pixels": "8192"}


def test_instances_are_processes_that_share_the_cores(server):
    assert len(server.workers("feedforward")) == 2 and len(server.workers("pairs")) == 1
    threads = max(1, int(machine.usable_cores()) // 2)
    lines = re.findall(r"feedforward: onnxruntime .*, (\d+) thread", server.log)
    assert lines == [str(threads)] * 2


@pytest.mark.parametrize(("model", "bundle"), [("diffusion", DIFFUSION),
                                               ("feedforward", FEED_FORWARD)])
def test_pixels_equal_upscales(server, alone, model, bundle):
    several = picture(24, 24, 4, count=3)
    for images, others in ((picture(20, 33), {}), (picture(72, 64, 3), {"seed": 7}),
                           (several, {"seed": [1, 2, 3]})):
        seeds = np.broadcast_to(others.get("seed", 0), len(images))
        np.testing.assert_array_equal(server.ask(model, images, **others), np.stack([
            alone(bundle, image, int(seed)) for image, seed in zip(images, seeds)]))
    if bundle == DIFFUSION:
        one, both = (server.ask(model, several, steps=steps) for steps in (1, 2))
        np.testing.assert_array_equal(one[0], alone(bundle, several[0], steps=1))
        assert (one != both).any()


@pytest.mark.parametrize(("model", "image", "others", "words"), [
    ("diffusion", picture(8, 8).astype(np.float32), {}, "data-type is 'FP32'"),
    ("diffusion", np.zeros((1, 8, 8, 4), np.uint8), {}, "unexpected shape for input 'image'"),
    ("diffusion", np.zeros((5, 8, 8, 3), np.uint8), {}, "batch-size must be <= 4"),
    ("diffusion", picture(8, 8), {"depth": 3}, "unexpected inference input 'depth'"),
    ("diffusion", np.zeros((1, 0, 8, 3), np.uint8), {}, "shape [1, 0, 8, 3]"),
    ("diffusion", np.zeros((1, 65, 128, 3), np.uint8), {}, "128x65 pixels; this model accepts"),
    ("diffusion", picture(8, 8, count=2), {"steps": [1, 2]}, "`steps` differs"),
    ("feedforward", picture(8, 8), {"steps": 1}, "leave steps out")])
def test_what_cannot_be_served_is_a_sentence(server, model, image, others, words):
    answer = server.ask(model, image, **others)
    assert isinstance(answer, str) and answer.startswith("400: ") and words in answer


@pytest.mark.parametrize(("model", "bad", "others", "status", "words"), [
    ("pairs", picture(16, 16), {"seed": -1, "steps": 2}, 400, "`seed` is -1"),
    ("pairs", picture(16, 16), {"seed": 0, "steps": 9}, 400, "steps is 9, but there are 2"),
    ("failing", np.zeros((1, 16, 16, 3), np.uint8), {"seed": 0, "steps": 2}, 500,
     "onnxruntime could not run a step"),
    ("failing", np.ones((1, 16, 16, 3), np.uint8), {"seed": 0, "steps": 2}, 500,
     "the server failed (ZeroDivisionError); see its log")])
def test_a_bad_request_fails_alone_in_its_batch(server, alone, model, bad, others, status, words):
    good = picture(16, 16, 5)
    before = server.batches(model).get(2, 0)
    refused, answer = server.ask_together(model, [
        {"image": bad, **others}, {"image": good, "seed": 3, "steps": 2}])
    wait_until(lambda: server.batches(model).get(2) == before + 1)  # counted after the answers
    assert isinstance(refused, str) and refused == f"{status}: {refused[5:]}" and words in refused
    np.testing.assert_array_equal(answer[0], alone(DIFFUSION, good[0], 3))
    if status == 500:  # what the client is not told is in the log
        assert ("EngineError: onnx" if "onnx" in words else "Error: of the engine") in server.log


def test_a_killed_worker_comes_back_when_the_model_is_loaded_again(
        repositories, interpreter, alone, tmp_path):
    """Triton up to 24.05 started it again; this one does not, and ends in an error for its sake."""
    image = picture(16, 16)
    with TritonServer(repositories[:2], interpreter, tmp_path / "triton") as server:
        [worker] = server.workers("diffusion")
        os.kill(worker, signal.SIGKILL)
        refused = server.ask("diffusion", image)
        assert isinstance(refused, str) and refused.startswith("500: ") and "not healthy" in refused
        module = load_client(repositories[0])
        with pytest.raises(module.ClientError, match="worker of diffusion .* unload and load"):
            module.upscale(image, server.url, "diffusion")
        assert isinstance(server.ask("feedforward", image), np.ndarray)
        for action in ("unload", "load"):
            assert server.get(f"/v2/repository/models/diffusion/{action}", "{}") == {}
        answer = server.ask("diffusion", image)
        np.testing.assert_array_equal(answer[0], alone(DIFFUSION, image[0]))
        assert server.workers("diffusion") not in ([worker], [])


def test_memory_stays_flat(server):
    """Over 500 requests of four sizes, of which the first 100 fill caches."""
    def resident() -> list[int]:
        return [int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1])
                for process in (server.process.pid, *server.workers("diffusion"))]

    images = [picture(side, 48, side) for side in (45, 48, 54, 56)]
    answer_kb = 4 * 50 * 48 * 3 >> 10
    with client(server.url) as connection:
        for number in range(500):
            if number == 100:
                before = resident()
            connection.infer("diffusion", inputs(images[number % 4], seed=number, steps=1))
    for early, late in zip(before, resident(), strict=True):
        assert late - early < 400 * answer_kb / 2  # kB, where every answer leaks


def test_what_cannot_be_loaded_is_a_sentence(bundles, interpreter, tmp_path):
    reasons = {"damaged": "is not the file that was exported",
               "backends": "backend 'abacus' is not known", "threads": "many",
               "tile": "tile is 7", "memory": "memory 1 MiB is too little"}
    for name in (*reasons, "whole"):
        export_repository(bundles[DIFFUSION], tmp_path / name, name=name)
    for name, key, value in (("backends", "backend", "abacus"), ("threads", "threads", "many"),
                             ("tile", "tile", "7"), ("memory", "memory", "5")):
        path = tmp_path / name / name / "config.pbtxt"
        text, count = re.subn(rf'(key: "{key}"\s+value {{\s+string_value: )"\w+"', rf'\1"{value}"',
                              path.read_text())
        path.write_text(text)
        assert count == 1
    with open(tmp_path / "damaged" / "damaged" / "1" / "bundle" / "weights.bin", "r+b") as file:
        file.write(b"\xff")
    with TritonServer([tmp_path / name for name in (*reasons, "whole")], interpreter,
                      tmp_path / "triton", broken=True) as server:
        states = {entry["name"]: entry for entry in server.get("/v2/repository/index", "")}
        assert states["whole"]["state"] == "READY" and len(server.workers("whole")) == 1
        for name, words in reasons.items():
            assert states[name]["state"] == "UNAVAILABLE"
            assert f"{name}: " in states[name]["reason"] and words in states[name]["reason"]


def test_a_numpy_that_the_backend_cannot_read_is_refused(bundles, tmp_path):
    """Triton 24.10 with numpy 2, in the environment of this test: the model is not loaded; without
    its check every array is empty, and the client says what that means."""
    assert np.__version__.startswith("2.")
    for name in ("checked", "unchecked"):
        export_repository(bundles[FEED_FORWARD], tmp_path / name, name=name)
    path = tmp_path / "unchecked" / "unchecked" / "1" / "model.py"
    text = path.read_text()
    path.write_text(text.replace("            _check_arrays()\n", ""))
    assert path.read_text() != text
    with TritonServer([tmp_path / "checked", tmp_path / "unchecked"], Path(sys.prefix),
                      tmp_path / "triton", broken=True) as server:
        states = {entry["name"]: entry for entry in server.get("/v2/repository/index", "")}
        assert (f"compiled for numpy 1 and loses every array of numpy {np.__version__}; run pip "
                "install 'numpy<2'") in states["checked"]["reason"]
        assert states["unchecked"]["state"] == "READY"
        module = load_client(tmp_path / "unchecked")
        with pytest.raises(module.ClientError, match="empty image: .* install numpy<2"):
            module.upscale(picture(8, 8), server.url, "unchecked")
