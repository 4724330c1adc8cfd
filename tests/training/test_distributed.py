"""Two processes of one run on a CPU compute what one does, and end together."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
import torch
import yaml

from bidiff_deploy.errors import UsageError
from bidiff_deploy.training.distributed import Processes, pick_device, processes
from bidiff_deploy.training.recipe import Run, recipe_from_dict
from bidiff_deploy.training.trainer import Trainer
from support.forked import COMMAND, Forked
from support.training_setup import TWO_LEVELS, changed
from support.waiting import HANG_SECONDS

CPU = torch.device("cpu")
WITHOUT_CHANCE = changed(network={**TWO_LEVELS, "dropout": 0.0},
                         run={"batch": 4, "timeout_minutes": 60})


def start(code: str, arguments: list, rank: int, port: int, ranks: int = 2) -> Forked:
    """Start a process as torchrun does."""
    return Forked(code, *arguments, torch=True, environment={
        "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})


@pytest.fixture
def port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def ended(running: list[Forked]) -> list[tuple[int, str]]:
    """Exit codes and stderr of processes that must end by themselves."""
    try:
        return [(process.wait(HANG_SECONDS), process.stderr.read()) for process in running]
    finally:
        for process in running:
            process.kill()


_GRADIENT = """
import sys
from pathlib import Path
import torch, yaml
from bidiff_deploy.training.distributed import processes
from bidiff_deploy.training.recipe import recipe_from_dict
from bidiff_deploy.training.trainer import Trainer

folder = Path(sys.argv[1])
recipe = recipe_from_dict(yaml.safe_load((folder / "recipe.yaml").read_text()))
with processes(recipe.run) as found:
    trainer = Trainer(recipe, folder, found, say=lambda line: None)
    loss = found.mean(trainer.train_once())["loss"]
    network = trainer.network
    torch.save({"loss": loss, "gradient": [p.grad for p in network.parameters()],
                "weights": [p.detach() for p in network.parameters()],
                "mean": found.mean({"rank": float(found.rank)}),
                "gathered": found.gather(found.share(list(range(5)))),
                "agreed": found.agree(found.rank == 1, 10.0 + found.rank)},
               folder / f"rank{found.rank}.pt")
"""


def test_two_processes_compute_what_one_does(folder, port):
    """The gradient of their common batch, up to the order of its float32 sums: 1e-5 of its norm.

    Weights are compared where the gradient is not as small as that: Adam's first step is the
    learning rate times its sign.
    """
    (folder / "recipe.yaml").write_text(yaml.safe_dump(WITHOUT_CHANCE))
    running = [start(_GRADIENT, [folder], rank, port) for rank in range(2)]
    (code, errors), (other, more) = ended(running)
    assert (code, other) == (0, 0), errors + more
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True)
                     for rank in range(2))
    assert all(map(torch.equal, first["weights"], second["weights"]))
    assert all(map(torch.equal, first["gradient"], second["gradient"]))
    assert first["mean"] == {"rank": 0.5} and first["gathered"] == [0, 1, 2, 3, 4]
    assert first["agreed"] == second["agreed"] == (True, 10.0)

    alone = Trainer(recipe_from_dict(WITHOUT_CHANCE), folder)
    assert first["loss"] == pytest.approx(alone.train_once()["loss"], rel=1e-6)
    expected = torch.cat([p.grad.flatten() for p in alone.network.parameters()])
    gradient = torch.cat([grad.flatten() for grad in first["gradient"]])
    assert (gradient - expected).norm() < 1e-5 * expected.norm()
    weights, theirs = (torch.cat([weight.detach().flatten() for weight in found])
                       for found in (alone.network.parameters(), first["weights"]))
    clear = expected.abs() > 1e-5 * expected.norm()
    assert clear.float().mean() > 0.2 and torch.allclose(weights[clear], theirs[clear], atol=1e-6)


def train_arguments(folder: Path, *settings: str) -> list[str]:
    return ["train", str(folder / "recipe.yaml"), "-o", str(folder / "run"),
            *(part for setting in settings for part in ("--set", setting))]


def test_only_the_first_process_writes_and_a_signal_to_any_stops_all(folder, port):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(WITHOUT_CHANCE))
    code = train_arguments(folder, "run.iterations=1000000", "run.report_every=1",
                           "run.validate_every=2")
    running = [start(COMMAND, code, rank, port) for rank in range(2)]
    said = ""
    while "PSNR-Y" not in said:
        said = running[0].stderr.readline()
        assert running[0].poll() is None
    running[1].send_signal(signal.SIGTERM)
    (code, first), (other, second) = ended(running)
    assert (code, other) == (0, 0), first + second
    assert "stopped; continue with --resume" in first and "it/s" in first
    assert "iteration" not in second
    assert running[0].stdout.read().strip() == str(folder / "run" / "checkpoint.pt")
    assert running[1].stdout.read() == ""
    names = [path.name for path in (folder / "run").iterdir() if "tfevents" not in path.name]
    assert sorted(names) == ["checkpoint.pt", "log.csv"]


def test_a_lost_process_ends_the_other_in_a_sentence(folder, port):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(WITHOUT_CHANCE))
    code = train_arguments(folder, "run.iterations=1000000", "run.report_every=1")
    running = [start(COMMAND, code, rank, port) for rank in range(2)]
    while "it/s" not in running[0].stderr.readline():
        assert running[0].poll() is None
    running[1].kill()
    (code, errors), _ = ended(running)
    assert code == 1
    shown = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(shown) == 1 and "process 0 of 2: another process of the run has ended" in shown[0]
    assert "Traceback" not in errors
    state = torch.load(folder / "run" / "checkpoint.pt", weights_only=True)
    assert state["iteration"] >= 1  # saved before it ended


def test_processes_that_never_come(port):
    environment = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}
    with pytest.raises(UsageError, match="MASTER_PORT is not set; start several processes with"):
        with processes(Run(device="cpu"), environment):
            pass


def test_alone_nothing_is_asked():
    alone = Processes(CPU)
    model = torch.nn.Linear(1, 1)
    assert alone.distribute(model) is model and alone.agree(True, 3.0) == (True, 3.0)
    assert alone.mean({"a": 2.0}) == {"a": 2.0} and alone.gather([1, 2]) == [1, 2]
    with pytest.raises(RuntimeError, match="gloo"):  # reported as it is
        with alone.report_lost():
            raise RuntimeError("gloo")


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == torch.device("cuda", 0)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    assert pick_device("cuda", local_rank=1) == torch.device("cuda", 1)
    assert pick_device("cpu", local_rank=1) == CPU
    with pytest.raises(UsageError, match="one GPU for several processes; set it to cuda"):
        pick_device("cuda:1", local_rank=1)
    with pytest.raises(UsageError, match="GPU 2 does not exist: torch finds 2"):
        pick_device("cuda", local_rank=2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert pick_device("auto") == CPU
