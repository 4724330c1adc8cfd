"""--shard: disjoint parts of the images, a journal each, and what --resume makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bidiff_deploy import UsageError
from bidiff_deploy.upscale.jobs import plan
from bidiff_deploy.upscale.journal import FILE_NAME
from bidiff_deploy.upscale.shard import Shard
from support.batch_setting import Setting, outputs

NAMES = [f"{letter}.png" for letter in "abcdefghij"]


def photos(setting: Setting) -> None:
    for seed, name in enumerate(NAMES):
        setting.photo(f"in/{name}", seed)


def results(setting: Setting, *arguments: str, code: int = 0) -> list[dict]:
    return json.loads(setting.run("in", "-o", "out", "--json", *arguments, code=code).stdout)


def test_shards_are_disjoint_and_whole(setting: Setting) -> None:
    photos(setting)
    setting.run("in", "-o", "whole")
    made = [[Path(entry["output"]).name for entry in results(setting, "--shard", f"{number}/3")]
            for number in (1, 2, 3)]
    assert sorted(sum(made, [])) == NAMES and all(len(part) < 10 for part in made)
    tree = setting.tree()
    assert {name: tree[f"out/{name}"] for name in NAMES} == {
        name: tree[f"whole/{name}"] for name in NAMES}
    journals = sorted(path.name for path in (setting.folder / "out").glob(".*"))
    assert journals == [f".bidiff-upscale.{number}-of-3.jsonl" for number in (1, 2, 3)]
    for number, part in enumerate(made, 1):
        lines = (setting.folder / "out" / f".bidiff-upscale.{number}-of-3.jsonl").read_text()
        assert sorted(json.loads(line)["output"] for line in lines.splitlines()) == sorted(part)


def test_an_image_stays_in_its_shard(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is there, and wherever the folders are mounted."""
    photos(setting)

    def sharded(*arguments: str) -> list[str]:
        return [job.target.name for job in plan(*arguments, shard=Shard(2, 3))]

    before = sharded(["in"], "out")
    (setting.folder / "elsewhere").mkdir()
    assert sharded([str(setting.folder / "in")], str(setting.folder / "elsewhere/out")) == before
    setting.photo("in/aa.png")
    assert [name for name in sharded(["in"], "out") if name != "aa.png"] == before
    beside = [job.target for job in plan([str(setting.folder / "in")], None, shard=Shard(2, 3))]
    monkeypatch.chdir(setting.folder / "in")
    assert beside == [job.target for job in plan(
        [str(setting.folder / "in")], None, shard=Shard(2, 3))] != []
    monkeypatch.chdir(setting.folder)
    assert [job.index for job in plan(["in"], "out", shard=Shard(2, 3))] == list(
        range(len(sharded(["in"], "out"))))


def test_the_parts_are_about_equal() -> None:
    counts = [sum(Shard(number, 8).has(Path(f"photos/{n}.png")) for n in range(4000))
              for number in range(1, 9)]
    assert sum(counts) == 4000 and min(counts) > 400 and max(counts) < 600


def test_resume_continues_a_shard_and_then_all(setting: Setting) -> None:
    photos(setting)
    shard = ("--shard", "1/2")
    first = [Path(entry["output"]) for entry in results(setting, *shard)]
    assert "already exists" in setting.run("in", "-o", "out", *shard, code=1).stderr
    first[0].unlink()
    again = results(setting, *shard, "--resume")
    assert [entry.get("skipped", False) for entry in again] == [False] + [True] * (len(first) - 1)
    rest = results(setting, "--resume")  # the other shard never ran
    assert {entry["output"] for entry in rest if entry.get("skipped")} == set(map(str, first))
    assert outputs(setting) == NAMES
    assert all(entry["skipped"] for entry in results(setting, "--resume", "--shard", "2/3"))
    assert (setting.folder / "out" / FILE_NAME).exists()


def test_of_two_records_the_files_own_counts(setting: Setting) -> None:
    """Made by a shard, and made again with other options by a run over all images."""
    photos(setting)
    setting.run("in", "-o", "out", "--shard", "1/1", "--format", "jpg", "--quality", "30")
    setting.run("in", "-o", "out", "--format", "jpg", "--quality", "90", "--overwrite")
    assert all(entry["skipped"] for entry in results(
        setting, "--resume", "--shard", "1/1", "--format", "jpg", "--quality", "90"))
    assert "another --quality" in setting.run(
        "in", "-o", "out", "--resume", "--format", "jpg", "--quality", "30", code=1).stderr


def test_a_shard_without_images(setting: Setting) -> None:
    setting.photo("in/a.png")
    (setting.folder / "in" / "notes.txt").write_text("words")
    parts = [results(setting, "--shard", f"{number}/4") for number in range(1, 5)]
    assert sum("output" in entry for part in parts for entry in part) == 1
    assert sum("passed_over" in entry for part in parts for entry in part) <= 1
    empty = next(number for number, part in enumerate(parts, 1) if part == [])
    assert setting.run("in", "-o", "out", "--shard", f"{empty}/4").stderr == (
        f"none of the images is in shard {empty}/4, so there is nothing to do\n")


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "1/3/4", "-1/3", "1/999999"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(UsageError, match="must be I/N"):
        Shard.parse(text)


def test_a_page_needs_all_images(setting: Setting) -> None:
    setting.photo("in/a.png")
    assert "when all shards are done" in setting.refused("in", "-o", "out", "--shard", "1/2",
                                                         "--compare")
