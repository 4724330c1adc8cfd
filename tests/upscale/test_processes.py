"""What only shows in whole processes: killed at any moment, run side by side, run for long."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.engines import library
from bidiff_deploy.images.read import read_image
from support import forked
from support.forked import COMMAND, Forked
from support.seeds import SEED, SOAK
from support.waiting import HANG_SECONDS

packed = pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason())
KILLS = 4 if SOAK else 1


def start(*arguments) -> Forked:
    return Forked(COMMAND, *arguments)


def kill_at_random_points(command, seed: int, check) -> None:
    """Run ``command`` to its end once, then kill -9 it at seeded moments; ``check`` each time."""
    began = time.monotonic()
    done = start(*command).done()
    assert done.returncode == 0, done.stderr
    length = time.monotonic() - began
    check(finished=True)
    moments = random.Random(1000 * SEED + seed)
    for _ in range(KILLS):
        process = start(*command)
        time.sleep(length * moments.uniform(0.1, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        check(finished=False)


@pytest.mark.soak
@pytest.mark.parametrize("overwrite", [False, True])
def test_export_killed_at_any_point_leaves_a_whole_bundle_or_none(reference, tmp_path, overwrite):
    out = tmp_path / "b"

    def check(finished):
        if finished or overwrite or out.exists():
            assert len(open_bundle(out).steps) == 50
        if not overwrite:
            shutil.rmtree(out, ignore_errors=True)

    command = ["export", reference.checkpoint("tiny"), "-o", out, "--options",
               reference.options("tiny"), *["--overwrite"] * overwrite]
    kill_at_random_points(command, 1, check)
    assert start(*command).wait(HANG_SECONDS) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["b"]  # and no temporaries


@pytest.mark.soak
@packed
def test_upscale_killed_at_any_point_leaves_whole_images_or_none(reference, tmp_path):
    bundle = reference.bundle("tiny", [900, 400, 0])
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 16, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{i}.png")
    out = tmp_path / "out"

    def check(finished):
        images = [p for p in out.iterdir() if not p.name.startswith(".")] if out.exists() else []
        assert len(images) == 4 or not finished
        for path in images:
            found = read_image(path)
            assert (found.height, found.width) == (48, 64)
        shutil.rmtree(out, ignore_errors=True)

    kill_at_random_points(["upscale", bundle, photos, "-o", out], 2, check)


@pytest.mark.soak
def test_training_killed_at_any_point_leaves_a_whole_checkpoint_or_none(tmp_path):
    torch = pytest.importorskip("torch")
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "scale: 2\nnetwork: {inner_channel: 8, norm_groups: 2, channel_mults: [1], res_blocks: 1}\n"
        "data: {crop: 8, train: [photos]}\nsteps: [{timestep: 12}]\n"
        # A checkpoint after every report, so that a kill often meets one being written.
        "run: {iterations: 20, batch: 1, threads: 1, report_every: 1, checkpoint_minutes: 1e-9}\n")
    run = tmp_path / "run"

    def check(finished):
        if finished or (run / "checkpoint.pt").exists():
            document = torch.load(run / "checkpoint.pt", weights_only=True)
            assert {"params", "params_ema"} <= set(document)
        shutil.rmtree(run, ignore_errors=True)

    kill_at_random_points(["train", recipe, "-o", run], 3, check)


@packed
def test_two_processes_on_one_bundle(reference, tmp_path):
    bundle = reference.bundle("tiny", [900, 400, 0])
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(tmp_path / "in.png")
    outs = [tmp_path / f"{i}.png" for i in range(2)]
    processes = [start("upscale", bundle, tmp_path / "in.png", "-o", out) for out in outs]
    assert [p.wait(HANG_SECONDS) for p in processes] == [0, 0]
    assert outs[0].read_bytes() == outs[1].read_bytes()


RESUME = """
import sys
sys.path[:0] = [{tests!r}, {tests!r} + "/.."]
import bidiff_deploy
from support.fake_engine import FakeEngine
from bidiff_deploy.cli import main

def load(model, **options):
    print("ready", file=sys.stderr, flush=True)
    sys.stdin.readline()
    engine = FakeEngine()
    engine.bundle.manifest = {{}}
    return engine

bidiff_deploy.load = load
main()
"""


def test_two_runs_with_resume_share_a_folder(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{i:02d}.png")
    code = RESUME.format(tests=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    runs = [subprocess.Popen([sys.executable, "-c", code, "upscale", "--model", "bundle",
                              "in", "-o", "out", "--resume", "--json"],
                             cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
            for _ in range(2)]
    for run in runs:
        assert run.stderr.readline() == "ready\n"
    for run in runs:  # both begin when both have found nothing
        run.stdin.write("\n")
        run.stdin.flush()
    results = [run.communicate(timeout=HANG_SECONDS) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], results
    made = [entry["output"] for stdout, _ in results for entry in json.loads(stdout)
            if not entry.get("skipped")]
    assert sorted(made) == [f"out/{i:02d}.png" for i in range(12)]
    assert all(len(json.loads(stdout)) == 12 for stdout, _ in results)
    for i in range(12):
        assert read_image(tmp_path / "out" / f"{i:02d}.png").width == 100


MANY = """
import sys
import numpy as np
from bidiff_deploy import load_bundle

def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096

image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
with load_bundle(sys.argv[1], threads=1) as engine:
    for i in range(100):
        engine.upscale(image, seed=i)
    before = resident()
    for i in range(400):
        engine.upscale(image, seed=i)
    print(resident() - before)
"""


@packed
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's /proc")
def test_hundreds_of_upscales_in_one_process_grow_no_memory(reference):
    grown = int(forked.python(MANY, reference.bundle("tiny", [0])).stdout)
    assert grown < 1 << 20, f"{grown} bytes more after 400 further upscales"


@packed
def test_opening_and_closing_gives_memory_back(reference):
    code = MANY.split("image =")[0] + """
for i in range(40):
    if i == 10:
        before = resident()
    load_bundle(sys.argv[1], threads=1).close()
print(resident() - before)
"""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("reads Linux's /proc")
    grown = int(forked.python(code, reference.bundle("tiny", [0])).stdout)
    assert grown < 12 << 20, f"{grown} bytes more after 30 further bundles"
