"""Photos of a recipe: pairing, crops as functions of their number, workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bidiff_deploy.errors import ImageError, UsageError
from bidiff_deploy.images.matlab_bicubic import make_low
from bidiff_deploy.images.resample import to_condition
from bidiff_deploy.training.batches import batches
from bidiff_deploy.training.crops import open_crops
from bidiff_deploy.training.loop import train
from bidiff_deploy.training.photos import find_sources
from bidiff_deploy.training.recipe import Photo, recipe_from_dict
from bidiff_deploy.training.validate import load_pairs
from support.training_photos import PAIRS, crops_of, picture, save, write_pairs
from support.training_setup import states_equal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pairs(tmp_path)

# Pairs

def test_pairs_of_folders_boxes_and_packages(folder):
    photos = [PAIRS, Photo("photos"), Photo("photos/a.png", (2, 4, 21, 22), 0.5)]
    sources = find_sources(photos, folder, 2)
    found = [(source.files.name, source.files.low and source.files.low.name,
              (source.files.height, source.files.width), source.weight) for source in sources]
    assert found == [
        ("0000.png", "0000x2.png", (40, 52), 1.0), ("0001.png", "0001x2.png", (36, 34), 1.0),
        ("0002.png", "0002x2.png", (60, 44), 1.0), ("a.png", None, (40, 50), 1.0),
        ("grey.jpg", None, (32, 34), 1.0), ("a.png", None, (20, 22), 0.5)]
    whole, boxed = (load_pairs([photo], folder, 2)[0] for photo in (Photo("photos/a.png"),
                                                                    photos[2]))
    assert np.array_equal(boxed.high, whole.high[2:22, 4:26])
    assert np.array_equal(boxed.low, make_low(boxed.high, 2))
    pytest.importorskip("skimage")
    assert load_pairs([Photo("skimage/data/coffee.png")], folder, 2)[0].low.shape == (200, 300, 3)


def test_low_resolution_images_come_from_their_folder(folder):
    for pair in load_pairs([PAIRS], folder, 2):
        assert np.array_equal(pair.low, pair.high[::2, ::2])
        assert np.array_equal(pair.condition, to_condition(pair.low, 2))
    boxed = Photo(PAIRS.path, (4, 6, 20, 21), 1.0, PAIRS.low, PAIRS.template)
    pair = load_pairs([boxed], folder, 2)[0]
    assert np.array_equal(pair.high, picture(40, 52)[4:24, 6:26])
    assert np.array_equal(pair.low, pair.high[::2, ::2])


def test_one_pair_of_files(folder):
    photo = Photo("DF2K/HR/0001.png", low="DF2K/LR_bicubic/X2/0001x2.png")
    assert [pair.name for pair in load_pairs([photo], folder, 2)] == ["0001.png"]


@pytest.mark.parametrize("photo, smallest, says", [
    (Photo("none"), 1, "no such photo or folder"),
    (Photo("no.such/thing.png"), 1, "no such photo or folder"),
    (Photo("DF2K/HR", low="nowhere"), 1, "nowhere: no such photo or folder"),
    (Photo("empty"), 1, "contains no images"),
    (Photo("DF2K/HR", low="empty"), 1, "contains no images"),
    (Photo("photos/notes.txt"), 1, "cannot be read as an image"),
    (Photo("zero.png"), 1, "cannot be read as an image"),
    (Photo("deep.png"), 1, r"deep.png has samples \(mode I;16\) that do not have 8 bits"),
    (Photo("photos/a.png", (0, 0, 42, 10)), 1, "is not inside the image's 41x50"),
    (Photo("photos/a.png"), 48, "41x50 pixels are less than a crop of 48"),
    (Photo("photos"), 36, "grey.jpg: 33x34 pixels are less than a crop of 36"),
    (Photo("DF2K/HR", low="photos/a.png"), 1, "must be a folder if"),
    (Photo("DF2K/HR", low=PAIRS.low), 1,
     r"0000.png, 0001.png, 0002.png of .*HR have no partner in .*X2 and 0000x2.png, .* of .*X2 "
     r"have none in .*HR by the template '\{\}'; complete the folders"),
    (Photo("DF2K/HR", (1, 0, 20, 20), low=PAIRS.low, template="{}x2"), 1,
     "must begin at multiples of the scale 2"),
])
def test_photos_that_are_refused(folder, photo, smallest, says):
    (folder / "empty").mkdir()
    (folder / "zero.png").touch()
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(folder / "deep.png")
    with pytest.raises(UsageError, match=says) as caught:
        find_sources([photo], folder, 2, smallest)
    assert "\n" not in str(caught.value)


def test_partners_that_lack_or_do_not_fit(folder):
    low = folder / PAIRS.low
    (low / "0001x2.png").unlink()
    with pytest.raises(UsageError, match="^0001.png of .*HR has no partner in .*X2 by "):
        find_sources([PAIRS], folder, 2)
    save(low / "0001x2.png", picture(18, 18))
    with pytest.raises(UsageError, match=r"0001.png has 36x34 pixels, "
                                         "which is not 2 times the 18x18 of .*0001x2.png"):
        find_sources([PAIRS], folder, 2)
    save(low / "0001x2.png", picture(18, 17))
    save(folder / PAIRS.path / "0001.png", picture(37, 34))  # divides only if it is cut
    with pytest.raises(UsageError, match="37x34 .* is not 2 times the"):
        find_sources([PAIRS], folder, 2)
    assert load_pairs([PAIRS], folder, 2)[1].high.shape == (36, 34, 3)  # as benchmarks are
    for index in range(10, 20):
        save(low / f"{index:04d}x2.png", picture(4, 4))
    save(folder / PAIRS.path / "0001.png", picture(36, 34))
    with pytest.raises(UsageError, match=r"0010x2.png, .*0014x2.png and 5 more of .* have no "):
        find_sources([PAIRS], folder, 2)


@pytest.mark.parametrize("template", ["x2", "{}{}", "{0}x2", "a/{}", ""])
def test_templates_that_are_refused(template):
    with pytest.raises(UsageError, match="must be a file name with one {}"):
        Photo("DF2K/HR", low="DF2K/LR", template=template)


# Crops

def test_a_crop_is_cut_from_the_whole_photo_and_its_whole_condition(folder):
    """Bit for bit, at any position and in any orientation."""
    for aligned in (True, False):
        crops = crops_of(folder, aligned=aligned, crop=12)
        pairs = {pair.name: pair for pair in load_pairs([PAIRS], folder, 2)}
        seen = set()
        for index in range(60):
            photo, condition = crops.crop(index)
            found = [(name, top, left, turns, flip)
                     for name, pair in pairs.items() for turns in range(4) for flip in (0, 1)
                     for top, left in _places(pair.high, _undone(photo, turns, flip))]
            (name, top, left, turns, flip), = found
            expected = pairs[name].condition[:, top:top + 12, left:left + 12]
            assert np.array_equal(_undone(condition, turns, flip), expected)
            seen.add((name, top % 2, left % 2, turns, flip))
        assert {one[0] for one in seen} == set(pairs)
        assert len({one[3:] for one in seen}) == 8  # every flip and rotation
        assert {one[1:3] for one in seen} == ({(0, 0)} if aligned else
                                              {(0, 0), (0, 1), (1, 0), (1, 1)})


def _undone(image: np.ndarray, turns: int, flip: int) -> np.ndarray:
    return np.rot90(image[:, :, ::-1] if flip else image, -turns, (1, 2))


def _places(photo: np.ndarray, crop: np.ndarray) -> list[tuple[int, int]]:
    """The positions of a (3, h, w) crop of noise in a photo (H, W, 3)."""
    corner = (photo[:-11, :-11] == crop[:, 0, 0]).all(-1)
    return [(top, left) for top, left in np.argwhere(corner)
            if np.array_equal(photo[top:top + 12, left:left + 12].transpose(2, 0, 1), crop)]


@pytest.mark.parametrize("options, orientations", [
    ({"flip": False, "rotate": False}, 1), ({"rotate": False}, 2), ({"flip": False}, 4), ({}, 8)])
def test_orientations_that_are_asked_for(folder, options, orientations):
    crops = crops_of(folder, [Photo("DF2K/HR/0001.png", (0, 0, 16, 16))], **options)
    assert len({crops.crop(index)[0].tobytes() for index in range(100)}) == orientations


def test_colours_are_permuted_together(folder):
    photo = Photo("DF2K/HR/0001.png", (0, 0, 16, 16))
    crops = crops_of(folder, [photo], flip=False, rotate=False, shuffle_colors=True)
    pair, = load_pairs([photo], folder, 2)
    orders = set()
    for index in range(60):
        found, condition = crops.crop(index)
        order = [next(c for c in range(3) if np.array_equal(plane, pair.high[..., c]))
                 for plane in found]
        assert np.array_equal(condition, pair.condition[order])
        orders.add(tuple(order))
    assert len(orders) == 6


def test_the_crop_that_bicubic_restores_worst_is_kept(folder):
    save(folder / "two/flat.png", np.full((32, 32, 3), 128, np.uint8))
    save(folder / "two/noise.png", picture(32, 32))

    def detailed(candidates: int) -> float:
        photos, _ = crops_of(folder, [Photo("two")], candidates=candidates).batch(0, 400)
        return float((photos.std((1, 2, 3)) > 0).float().mean())

    assert detailed(1) == pytest.approx(1 / 2, abs=0.08)  # three standard deviations
    assert detailed(2) == pytest.approx(3 / 4, abs=0.08)


def test_weights_are_shares_of_draws(folder):
    save(folder / "two/flat.png", np.full((32, 32, 3), 128, np.uint8))
    save(folder / "two/noise.png", picture(32, 32))
    photos, _ = crops_of(folder, [Photo("two/flat.png", weight=3.0),
                                  Photo("two/noise.png")]).batch(0, 400)
    assert float((photos.std((1, 2, 3)) == 0).float().mean()) == pytest.approx(3 / 4, abs=0.08)


def test_crops_depend_on_seed_and_number_alone(folder):
    crops = crops_of(folder, candidates=2, shuffle_colors=True)
    photos, conditions = crops.batch(0, 12)
    assert photos.shape == conditions.shape == (12, 3, 16, 16)
    assert photos.dtype == conditions.dtype == torch.float32
    assert 0 <= photos.min() and photos.max() == 1.0
    for again in (crops, crops_of(folder, candidates=2, shuffle_colors=True, memory=0)):
        later = again.batch(5, 4)
        assert torch.equal(later[0], photos[5:9]) and torch.equal(later[1], conditions[5:9])
    assert not torch.equal(crops_of(folder, candidates=2, shuffle_colors=True, seed=1
                                    ).batch(0, 12)[0], photos)
    assert len({photo.numpy().tobytes() for photo in photos}) == 12
    drawn = crops.draw(3, torch.Generator().manual_seed(4))
    assert torch.equal(drawn[0], crops.draw(3, torch.Generator().manual_seed(4))[0])


# Batches

@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_give_the_same_crops(folder, workers):
    crops = crops_of(folder)
    crops.photos.prepare(1)
    parts = [batches(crops, 4, start=3, rank=rank, ranks=2, workers=workers) for rank in (0, 1)]
    before = torch.random.get_rng_state()
    for iteration in range(3, 7):
        expected = crops.batch(4 * iteration, 4)
        found = [next(part) for part in parts]
        for index in (0, 1):
            assert torch.equal(torch.cat([one[index] for one in found]), expected[index])
    assert torch.equal(torch.random.get_rng_state(), before)  # dropout's numbers are not touched
    for part in parts:
        part.close()


def test_signals_of_the_whole_group_do_not_end_workers(folder):
    """Ctrl-C and SIGTERM reach workers too, but the last iterations still need their batches."""
    crops = crops_of(folder)
    stream = batches(crops, 2, workers=2)
    for _ in range(2):  # one of each worker, which by then listens to no signals
        next(stream)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGTERM)
    for iteration in range(2, 13):  # more than were cut ahead
        assert torch.equal(next(stream)[0], crops.batch(2 * iteration, 2)[0])
    assert all(worker.is_alive() for worker in workers)
    stream.close()
    del stream
    for worker in workers:
        worker.join(10)
        assert not worker.is_alive()


def test_a_batch_that_cannot_be_shared_out(folder):
    with pytest.raises(UsageError, match="run.batch=5 cannot be divided among 2 processes"):
        batches(crops_of(folder), 5, ranks=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_photo_is_named_or_left_out(folder, workers):
    """Its header is complete, so the damage shows only in decoding."""
    damaged = folder / PAIRS.path / "0001.png"
    damaged.write_bytes(damaged.read_bytes()[:400])
    with pytest.raises(UsageError, match="0001.png cannot be read as an image.*, or set data.skip_"
                       ) as caught:
        stream = batches(crops_of(folder, memory=0), 8, workers=workers)
        for _ in range(10):
            next(stream)
    assert "\n" not in str(caught.value)
    # Left out, whether it is found before training or in it, the crops are the same.
    lazy, early = (crops_of(folder, memory=memory, skip_unreadable=True) for memory in (0, 1 << 30))
    early.photos.prepare(2, skip=True)
    assert list(early.photos.unreadable) == [1]
    for start in (0, 8):
        assert torch.equal(lazy.batch(start, 8)[0], early.batch(start, 8)[0])
    assert list(lazy.photos.unreadable) == [1]


def test_no_photo_is_left(folder):
    for path in (folder / PAIRS.path).iterdir():
        path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(UsageError, match="none of the photos in data.train can be read"):
        crops_of(folder, skip_unreadable=True).batch(0, 8)


# Runs

def test_a_run_resumes_bit_for_bit_with_other_workers(folder):
    def stop(line: str) -> None:
        if line.startswith("iteration 2 "):
            signal.raise_signal(signal.SIGINT)

    run = {"iterations": 4, "batch": 2, "threads": 1, "report_every": 2}
    whole = train(recipe(run=run), folder, folder / "whole", report=lambda line: None)
    train(recipe(run=run, loading={"workers": 2}), folder, folder / "part", report=stop)
    part = train(recipe(run=run, loading={"workers": 1, "memory_gb": 0.0}), folder,
                 folder / "part", resume=True, report=lambda line: None)
    states = [torch.load(path, weights_only=True) for path in (whole, part)]
    assert [state["iteration"] for state in states] == [4, 4]
    for state in states:
        assert state.pop("seconds") > 0 and state.pop("recipe")
    assert states_equal(*states)


# Recipes

def recipe(**groups):
    tree = {"scale": 2, "steps": [{"timestep": 5, "origin": "condition"}],
            "network": {"inner_channel": 8, "norm_groups": 2, "channel_mults": [1, 2],
                        "res_blocks": 1, "image_size": 64, "fp_res": [64], "total_step": 200,
                        "dynamic_group": 2},
            "data": {"crop": 16, "train": [{"path": "DF2K/HR", "low": "DF2K/LR_bicubic/X2",
                                            "template": "{}x2"}]}}
    for key, value in groups.items():
        tree[key] = {**tree.get(key, {}), **value}
    return recipe_from_dict(tree)


def test_crops_of_a_recipe(folder):
    lines: list[str] = []
    plain = open_crops(recipe(run={"seed": 3}), folder, say=lines.append)
    assert not lines and plain.photos._bytes == plain.photos.decoded_bytes
    cached = open_crops(recipe(run={"seed": 3}, loading={"cache": "cache", "workers": 2}), folder,
                        rank=1, ranks=2, say=lines.append)
    assert torch.equal(plain.batch(0, 8)[0], cached.batch(0, 8)[0]) and not lines
    open_crops(recipe(loading={"memory_gb": 1e-5}), folder, say=lines.append)
    assert "more than loading.memory_gb=1e-05: photos are decoded repeatedly" in lines.pop()
    (folder / PAIRS.path / "0001.png").write_bytes(b"")
    with pytest.raises(UsageError, match="0001.png cannot be read .*, or set data.skip_"):
        open_crops(recipe(), folder)
    left = open_crops(recipe(data={"skip_unreadable": True}), folder, say=lines.append)
    assert len(left.photos.pairs) == 2 and "left out" in lines[0] and "0001.png" in lines[0]


@pytest.mark.parametrize("loading, says", [
    ({"workers": -1}, "loading.workers is -1; it must be a whole number, from 0 to 256"),
    ({"workers": 1000}, "loading.workers is 1000"),
    ({"memory_gb": -1.0}, "loading.memory_gb must be 0 or more, not -1.0"),
    ({"memory_gb": float("inf")}, "loading.memory_gb must be 0 or more, not inf")])
def test_loading_that_is_refused(loading, says):
    with pytest.raises(UsageError, match=says):
        recipe(loading=loading)


def test_a_photo_that_changes_while_it_is_used(folder):
    sources = find_sources([PAIRS], folder, 2)
    save(folder / PAIRS.path / "0000.png", picture(20, 20))
    with pytest.raises(ImageError, match="0000.png has changed since it was checked"):
        sources[0].files.read_high()
