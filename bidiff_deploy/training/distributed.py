"""The processes of a run: one, or those that torchrun started on one or several machines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..errors import UsageError, one_line
from .recipe_parts import Run

__all__ = ["ProcessLost", "Processes", "pick_device", "processes"]

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun


class ProcessLost(UsageError):
    """Another process of the run has ended or does not answer."""


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    rank, ranks  its number, and how many there are; number 0 writes, logs and reports
    device       where it computes
    group        process group for everything except gradients: on the CPU, so that a GPU does not
                 wait
    """

    device: torch.device
    rank: int = 0
    ranks: int = 1
    timeout_minutes: float = 30.0
    group: Any = None

    def distribute(self, objective: nn.Module) -> nn.Module:
        """``objective`` with its gradients averaged over the processes."""
        if self.ranks == 1:
            return objective
        ids = [self.device] if self.device.type == "cuda" else None
        with self.report_lost():
            return nn.parallel.DistributedDataParallel(objective, device_ids=ids,
                                                       broadcast_buffers=False)

    def agree(self, stop: bool, seconds: float) -> tuple[bool, float]:
        """Whether any process was asked to stop, and the time measured by number 0."""
        if self.ranks == 1:
            return stop, seconds
        numbers = torch.tensor([float(stop), 0.0 if self.rank else seconds], dtype=torch.float64)
        with self.report_lost():
            dist.all_reduce(numbers, group=self.group)
        return bool(numbers[0]), float(numbers[1])

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean of each value over the processes, which all have the same names."""
        if self.ranks == 1:
            return dict(values)
        numbers = torch.tensor(list(values.values()), dtype=torch.float64)
        with self.report_lost():
            dist.all_reduce(numbers, group=self.group)
        return dict(zip(values, (numbers / self.ranks).tolist()))

    def gather(self, items: Sequence[Any]) -> list[Any]:
        """The items of every process, in the order before ``share`` divided them."""
        if self.ranks == 1:
            return list(items)
        parts: list[Any] = [None] * self.ranks
        with self.report_lost():
            dist.all_gather_object(parts, list(items), group=self.group)
        longest = max(map(len, parts))
        return [part[index] for index in range(longest) for part in parts if index < len(part)]

    def share(self, items: Sequence[Any]) -> list[Any]:
        """This process's part of ``items``: every ``ranks``-th one."""
        return list(items[self.rank::self.ranks])

    @contextlib.contextmanager
    def report_lost(self) -> Iterator[None]:
        """Raise ProcessLost, in one sentence, for torch's errors about another process."""
        try:
            yield
        except RuntimeError as error:
            if self.ranks == 1 or not _is_lost(error):
                raise
            raise ProcessLost(
                f"process {self.rank} of {self.ranks}: another process of the run has ended or "
                f"did not answer for {self.timeout_minutes:g} minutes (run.timeout_minutes); see "
                "its error above and continue with --resume") from None


@contextlib.contextmanager
def processes(run: Run, environment: Mapping[str, str] | None = None) -> Iterator[Processes]:
    """This process and the others that torchrun started, connected while the block runs.

    Gradients use nccl between GPUs and gloo between CPUs. Raises UsageError if the others cannot be
    reached or the device does not exist.
    """
    given = os.environ if environment is None else environment
    ranks = int(given.get("WORLD_SIZE", "1")) if "RANK" in given else 1
    device = pick_device(run.device, int(given.get("LOCAL_RANK", "0")) if ranks > 1 else None)
    if ranks == 1:
        yield Processes(device)
        return
    missing = [name for name in _VARIABLES if name not in given]
    if missing:
        raise UsageError(f"{', '.join(missing)} is not set; start several processes with torchrun")
    backend = "nccl" if device.type == "cuda" else "gloo"
    limit = timedelta(minutes=run.timeout_minutes)
    rank = int(given["RANK"])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(backend, timeout=limit)
        group = dist.new_group(backend="gloo", timeout=limit) if backend == "nccl" else None
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"process {rank} of {ranks}: the others cannot be reached at "
                         f"{given['MASTER_ADDR']}:{given['MASTER_PORT']} ({one_line(error)}); "
                         "check that address and start them all") from None
    try:
        yield Processes(device, rank, ranks, run.timeout_minutes, group)
    finally:
        with contextlib.suppress(RuntimeError):  # the others may have ended
            dist.destroy_process_group()


def pick_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device that ``run.device`` names; ``auto`` is a GPU if there is one.

    With several processes on a machine, process ``local_rank`` uses the GPU of that number. Raises
    UsageError for a GPU that does not exist.
    """
    found = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if found else "cpu"
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if local_rank is not None and ":" in name:
        raise UsageError(f"run.device={name} is one GPU for several processes; set it to cuda")
    index = (device.index or 0) if local_rank is None else local_rank
    if index >= found:
        raise UsageError(f"GPU {index} does not exist: torch finds {found}; set run.device, or "
                         "start one process for each GPU")
    return torch.device("cuda", index)


def _is_lost(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in text or "nccl" in text
