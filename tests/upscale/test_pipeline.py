"""The three stages overlap, keep their order, hold little, fail singly and leave no thread."""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref

import pytest

from bidiff_deploy.errors import ImageError, OutputError
from bidiff_deploy.upscale import pipeline
from bidiff_deploy.upscale.pipeline import Failure
from support.waiting import HANG_SECONDS, wait_until


class Stages:
    """Stages that note what they did, wait, and fail where ``fail`` says."""

    def __init__(self, pause: float = 0.0, fail: dict | None = None) -> None:
        self.pause, self.fail = pause, fail or {}
        self.threads: dict[str, set[str]] = {}
        self.reported: list[tuple[int, object]] = []
        self.encoded: list[int] = []

    def _stage(self, name: str, job: int) -> None:
        self.threads.setdefault(name, set()).add(threading.current_thread().name)
        time.sleep(self.pause)
        error = self.fail.get((name, job))
        if error is not None:
            raise error

    def decode(self, job: int) -> list[int]:
        self._stage("decode", job)
        return [job]

    def compute(self, job: int, item: list[int]) -> list[int]:
        self._stage("compute", job)
        return [*item, job * 10]

    def encode(self, job: int, item: list[int]) -> str:
        self._stage("encode", job)
        self.encoded.append(job)
        return f"{item}"

    def report(self, job: int, result: object) -> None:
        self._stage("report", job)
        self.reported.append((job, result))

    def run(self, count: int, **options: int) -> None:
        before = threading.active_count()
        try:
            pipeline.run(range(count), self.decode, self.compute, self.encode, self.report,
                         **options)
        finally:
            assert threading.active_count() == before


def test_results_in_the_order_of_the_jobs() -> None:
    stages = Stages()
    stages.run(20)
    assert stages.reported == [(job, f"[{job}, {job * 10}]") for job in range(20)]
    here = {threading.current_thread().name}
    assert stages.threads == {"decode": {"decode_0"}, "encode": {"encode_0"}, "compute": here,
                              "report": here}
    Stages().run(0)


def test_failures_keep_their_place_and_the_others_go_on() -> None:
    errors = {("decode", 0): ImageError("a"), ("compute", 2): MemoryError(),
              ("encode", 3): OutputError("b"), ("decode", 5): ImageError("c"),
              ("decode", 6): MemoryError(), ("encode", 7): OutputError("d")}
    stages = Stages(fail=errors)
    stages.run(8)
    assert [job for job, _ in stages.reported] == list(range(8))
    failed = {job: result.error for job, result in stages.reported if isinstance(result, Failure)}
    assert failed == {job: error for (_, job), error in errors.items()}
    assert stages.encoded == [1, 4]


def test_stages_overlap() -> None:
    """The third is decoded, the second computed and the first encoded at one time."""
    stages, together = Stages(), threading.Barrier(3, timeout=HANG_SECONDS)
    meeting = {("decode", 2), ("compute", 1), ("encode", 0)}

    def meet(name: str, job: int) -> None:
        if (name, job) in meeting:
            together.wait()

    stages._stage = meet
    stages.run(4)
    assert stages.encoded == [0, 1, 2, 3]


@pytest.mark.parametrize("slow", ["decode", "compute", "encode"])
def test_little_is_held(slow: str) -> None:
    alive: weakref.WeakSet = weakref.WeakSet()
    most = {"input": 0, "output": 0}
    ahead, behind = 3, 2

    class Held:
        def __init__(self, kind: str) -> None:
            self.kind = kind
            alive.add(self)
            count = sum(1 for other in list(alive) if other.kind == kind)
            most[kind] = max(most[kind], count)

    def stage(name: str, kind: str | None):
        def work(job: int, item: object = None) -> object:
            if name == slow:
                if job == 1:  # until the others are as far as they come
                    wait_until(lambda: slow != "compute" or most["input"] > ahead)
                    wait_until(lambda: slow != "encode" or most["output"] > behind)
                time.sleep(0.01)
            return Held(kind) if kind else None
        return work

    pipeline.run(range(25), stage("decode", "input"), stage("compute", "output"),
                 stage("encode", None), lambda job, result: None, ahead=ahead, behind=behind)
    # The one computed, and the one on its way to the encoder, on top.
    assert most["input"] <= ahead + 1 and most["output"] <= behind + 1
    if slow == "compute":
        assert most["input"] == ahead + 1
    if slow == "encode":
        assert most["output"] == behind + 1


@pytest.mark.parametrize("stage", ["decode", "compute", "encode", "report"])
@pytest.mark.parametrize("error", [RuntimeError("of no file"), KeyboardInterrupt()], ids=repr)
def test_what_no_file_is_to_blame_for_ends_the_run(stage: str, error: BaseException) -> None:
    stages = Stages(pause=0.002, fail={(stage, 5): error})
    with pytest.raises(type(error)):
        stages.run(50)
    # Those after it that were computed by then are done as well.
    done = [job for job, _ in stages.reported]
    assert done[:5] == list(range(5)) and 5 not in done and len(stages.encoded) < 15


def test_an_interruption_keeps_what_is_computed() -> None:
    stages = Stages(fail={("compute", 4): KeyboardInterrupt()})
    quick = stages.encode
    stages.encode = lambda job, item: (time.sleep(0.05), quick(job, item))[1]
    with pytest.raises(KeyboardInterrupt):
        stages.run(50, behind=4)
    assert stages.encoded == [0, 1, 2, 3] and [job for job, _ in stages.reported] == [0, 1, 2, 3]


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("behind, computed", [(3, 3), (1, 2)])
def test_signals_do_not_cut_the_encoding(monkeypatch, behind: int, computed: int,
                                         number: int) -> None:
    """While the last outputs are waited for; with ``behind`` 1, while the second one waits for
    the first to be encoded."""
    stages, done, waits = Stages(), threading.Event(), []
    quick, wait, here = stages.encode, pipeline.wait, threading.current_thread()

    class Semaphore(threading.Semaphore):
        def acquire(self, *arguments: object, **options: object) -> bool:
            blocks = not arguments and not options and self._value == 0
            if blocks and threading.current_thread() is here:
                waits.append("for a place")
            return super().acquire(*arguments, **options)

    def noted(futures: list) -> object:
        waits.append("for the rest")
        return wait(futures)

    def interrupt() -> None:
        for sent in range(number):  # each where the run waits, and it waits again
            wait_until(lambda sent=sent: len(waits) > sent + 1)  # it begins with a short one
            os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: len(waits) > number + 1)
        done.set()

    monkeypatch.setattr(threading, "Semaphore", Semaphore)
    monkeypatch.setattr(pipeline, "wait", noted)

    def encode(job: int, item: list[int]) -> str:
        assert done.wait(HANG_SECONDS)
        return quick(job, item)

    stages.encode = encode
    sender = threading.Thread(target=interrupt)
    sender.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(range(3), stages.decode, stages.compute, stages.encode, stages.report,
                         behind=behind)
    finally:
        sender.join()
    assert stages.encoded == [job for job, _ in stages.reported] == list(range(computed))
    assert ("for a place" in waits) == (behind == 1)
