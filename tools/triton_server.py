"""Starts NVIDIA Triton's server, as the wheel nvidia-pytriton has it, on this machine only.

    with TritonServer([repository], interpreter, folder) as server:
        server.ask("bidiff_x2", pixels)

``interpreter`` is the environment (of venv) whose packages the Python backend imports: the stub
looks for its interpreter in PATH, and ignores PYTHONPATH. ``make nvidia`` makes one with numpy 1.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["TritonServer", "wheel"]

_START_SECONDS, _STOP_SECONDS = 120, 60


def wheel() -> Path | None:
    """The folder with the server in the wheel nvidia-pytriton; None: it is not installed."""
    found = importlib.util.find_spec("pytriton")
    return None if found is None or found.origin is None else \
        Path(found.origin).parent / "tritonserver"


class TritonServer:
    """A running server of model repositories; a context manager.

    repositories  model repositories, all served
    interpreter   environment of venv whose packages the models import
    folder        an empty or missing folder for the backend's files and the log
    broken        whether a model may fail to load

    Raises RuntimeError, with the end of the log, if the server does not start.
    """

    def __init__(self, repositories: Sequence[Path], interpreter: Path, folder: Path, *,
                 broken: bool = False) -> None:
        self.repositories, self.interpreter, self.folder = repositories, interpreter, folder
        self.broken, self.log_file = broken, folder / "server.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"127.0.0.1:{free.getsockname()[1]}"

    def __enter__(self) -> TritonServer:
        program = wheel()
        if program is None:
            raise RuntimeError("nvidia-pytriton is not installed; run make nvidia")
        shutil.copytree(program, self.folder)  # the wheel's programs lack the bit to run them
        server = self.folder / "bin" / "tritonserver"
        stub = self.folder / "backends" / "python" / "triton_python_backend_stub"
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        shutil.copy(self.folder / "python_backend_stubs" / version / stub.name, stub)
        for file in (server, stub):
            file.chmod(0o755)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment["PATH"] = f"{self.interpreter / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(
            [str(program.parent.parent / "nvidia_pytriton.libs"),
             str(sysconfig.get_config_var("LIBDIR"))])
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [server, *(f"--model-repository={path}" for path in self.repositories),
                 f"--backend-directory={self.folder / 'backends'}", "--http-address=127.0.0.1",
                 f"--http-port={self.url.partition(':')[2]}", "--allow-grpc=false",
                 "--allow-metrics=false", "--model-control-mode=explicit", "--load-model=*",
                 "--exit-timeout-secs=5", f"--exit-on-error={'false' if self.broken else 'true'}"],
                stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                # Ready means that every model is, which a broken one never becomes.
                if self.get("/v2/health/live" if self.broken else "/v2/health/ready") is not None:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"Triton does not start:\n{self.log[-3000:]}")

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def log(self) -> str:
        """What the server and its models have logged."""
        return self.log_file.read_text(errors="replace")

    def get(self, path: str, body: str | None = None) -> Any:
        """The JSON that the server answers, {} for an empty answer; None: not with status 200."""
        connection = http.client.HTTPConnection(self.url, timeout=60)
        try:
            connection.request("GET" if body is None else "POST", path, body)
            response = connection.getresponse()
            text = response.read()
            return (json.loads(text) if text else {}) if response.status == 200 else None
        finally:
            connection.close()

    def workers(self, model: str = "") -> list[int]:
        """Process ids of the instances of a model, or of all."""
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                command = Path(f"/proc/{child}/cmdline").read_bytes().decode()
                if re.search(rf"/{model}[^/]*/1/model\.py", command):
                    found.append(int(child))
        return found

    def batches(self, model: str) -> dict[int, int]:
        """How often a model ran with each number of images."""
        [stats] = self.get(f"/v2/models/{model}/stats")["model_stats"]
        return {int(entry["batch_size"]): int(entry["compute_infer"]["count"])
                for entry in stats["batch_stats"]}

    def ask(self, model: str, image: np.ndarray, **others: Any) -> np.ndarray | str:
        """The model's answer to the inputs, or the error's message.

        ``others``: int64 inputs by name, one value for all images or one for each.
        """
        return ask(self.url, model, image, **others)

    def ask_together(self, model: str, requests: Sequence[dict[str, Any]]
                     ) -> list[np.ndarray | str]:
        """``ask`` of each request, all sent at once, by a thread and a client each."""
        answers: list[Any] = [None] * len(requests)

        def send(place: int) -> None:
            answers[place] = self.ask(model, **requests[place])

        threads = [threading.Thread(target=send, args=(place,)) for place in range(len(requests))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers


@contextlib.contextmanager
def client(url: str) -> Iterator[Any]:
    """tritonclient's HTTP client, which belongs to the thread that made it."""
    import tritonclient.http as triton

    made = triton.InferenceServerClient(url, network_timeout=300.0, connection_timeout=300.0)
    try:
        yield made
    finally:
        made.close()


def inputs(image: np.ndarray, **others: Any) -> list[Any]:
    """The tensors of a request, as ``TritonServer.ask`` takes them."""
    import tritonclient.http as triton
    from tritonclient.utils import np_to_triton_dtype

    arrays = {"image": np.ascontiguousarray(image)}
    for name, value in others.items():
        arrays[name] = np.broadcast_to(np.asarray(value, np.int64).reshape(-1, 1),
                                       (len(image), 1)).copy()
    made = []
    for name, array in arrays.items():
        made.append(triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        made[-1].set_data_from_numpy(array)
    return made


def ask(url: str, model: str, image: np.ndarray, **others: Any) -> np.ndarray | str:
    """As ``TritonServer.ask``."""
    from tritonclient.utils import InferenceServerException

    with client(url) as connection:
        try:
            answer: np.ndarray = connection.infer(model, inputs(image, **others)).as_numpy("image")
            return answer
        except InferenceServerException as error:
            return f"{error.status()}: {error.message()}"
