"""What TensorRT-RTX compiled when a plan ran, next to the plan; on objects that only remember."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bidiff_deploy.engines.tensorrt.run.runtime_cache import RuntimeCache


class Cache:
    """TensorRT-RTX's, with what it was given and what it will give."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.read: bytes | None = None

    def deserialize(self, blob: bytes) -> bool:
        self.read = blob
        return True

    def serialize(self) -> bytes:
        return self.content


def engine_of(cache: Cache) -> SimpleNamespace:
    def config() -> SimpleNamespace:
        made = SimpleNamespace(given=[], create_runtime_cache=lambda: cache)
        made.set_runtime_cache = lambda one: made.given.append(one)
        made.set_execution_context_allocation_strategy = lambda kind: made.given.append(kind)
        return made

    return SimpleNamespace(create_runtime_config=config)


def test_what_was_compiled_is_read_at_the_next_start(tmp_path):
    plan, first = tmp_path / "p.plan", Cache(b"compiled")
    cache = RuntimeCache(plan)
    assert cache.configured(engine_of(first), "user").given == ["user", first]
    assert cache.configured(engine_of(Cache(b"another")), "user").given == ["user", first]
    cache.save()
    assert plan.with_suffix(".cache").read_bytes() == b"compiled" and first.read is None
    second = Cache(b"compiled")
    RuntimeCache(plan).configured(engine_of(second), "user")
    assert second.read == b"compiled"


@pytest.mark.parametrize("state", ["unused", "unchanged", "a folder"])
def test_nothing_fails_without_a_cache_to_write(tmp_path, state):
    plan = tmp_path / "p.plan"
    file = plan.with_suffix(".cache")
    if state == "a folder":
        file.mkdir()
    elif state == "unchanged":
        file.write_bytes(b"same")
    cache = RuntimeCache(plan)
    if state != "unused":
        cache.configured(engine_of(Cache(b"same")), "user")
    before = file.stat().st_mtime_ns if file.exists() else None
    cache.save()
    assert (file.stat().st_mtime_ns if file.exists() else None) == before
