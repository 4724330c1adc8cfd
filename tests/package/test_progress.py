"""The progress line: in place on a terminal, sparse elsewhere, silent when asked."""

from __future__ import annotations

import io

import pytest

from bidiff_deploy.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(stream: io.StringIO, seconds: int, total: int = 100, **options) -> str:
    clock = Clock()
    with Progress("work", total, stream=stream, clock=clock, **options) as progress:
        for done in range(1, total + 1):
            clock.now = seconds * done / total
            progress.update(done)
    return stream.getvalue()


def test_a_terminal_line_is_redrawn_and_removed() -> None:
    text = run(Terminal(), 200)
    assert "\n" not in text and text.count("\r") > 100 and text.endswith(" \r")
    assert "work:  25%, 50 s, about 2:30 min left" in text and "100%, 3:20 min " in text


def test_a_log_gets_a_line_every_ten_seconds() -> None:
    lines = run(io.StringIO(), 200).splitlines()
    assert len(lines) == 20 and lines[0] == "work:   5%, 10 s, about 3:10 min left"
    assert lines[-1] == "work: 100%, 3:20 min"


def test_a_log_gets_nothing_of_short_jobs_and_quiet_ones() -> None:
    assert run(io.StringIO(), 5) == "" and run(Terminal(), 500, quiet=True) == ""


def test_the_label_follows_and_shorter_lines_cover_longer_ones() -> None:
    stream, clock = Terminal(), Clock()
    progress = Progress("a", 2, stream=stream, clock=clock)
    clock.now = 1
    progress.update(0.5, "a long name")
    clock.now = 2
    progress.update(1.5, "b")
    first, second = stream.getvalue().split("\r")[1:]
    assert first.startswith("a long name:  25%") and second.startswith("b:  75%")
    assert len(second) == len(first)


def test_without_a_total_the_time_alone_is_shown() -> None:
    stream, clock = Terminal(), Clock()
    with Progress("a", None, stream=stream, clock=clock) as progress:
        for clock.now in (0.05, 65.0):
            progress.update(0.0, "a, still")
    assert [line.strip() for line in stream.getvalue().split("\r") if line.strip()] == [
        "a, still: 1:05 min"]


def test_a_broken_stream_does_not_end_the_job() -> None:
    class Broken(Terminal):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    assert run(Broken(), 100) == ""


@pytest.mark.parametrize(("seconds", "text"), [
    (0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (3599, "59:59 min"), (3600, "1:00:00 h"),
    (90061, "25:01:01 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("stream, quiet, told", [
    (io.StringIO(), False, (True, False)), (Terminal(), False, (True, True)),
    (Terminal(), True, (False, False))], ids=["log", "terminal", "quiet"])
def test_who_looks_on(stream, quiet, told) -> None:
    progress = Progress("work", 1, stream=stream, quiet=quiet)
    assert (progress.shown, progress.on_terminal) == told
