"""Decoded photos: tiles in files, the cache folder, and the memory they may take."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bidiff_deploy.errors import OutputError, UsageError
from bidiff_deploy.images.matlab_bicubic import imresize
from bidiff_deploy.training.decoded import DecodedPhotos
from bidiff_deploy.training.photos import find_sources
from bidiff_deploy.training.recipe import Photo
from bidiff_deploy.training.tiles import SIDE, Tiles, Whole, stored_bytes
from support import forked
from support.training_photos import PAIRS, crops_of, picture, save, write_pairs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pairs(tmp_path)


def test_tiles_hold_every_window(tmp_path):
    pixels = picture(2 * SIDE + 9, 3 * SIDE - 5)
    Tiles.write(tmp_path / "a.npy", pixels)
    tiles = Tiles.open(tmp_path / "a.npy", *pixels.shape[:2])
    whole = Whole(pixels)
    random = np.random.default_rng(0)
    for _ in range(200):
        top, left = (int(random.integers(side)) for side in pixels.shape[:2])
        size = [int(random.integers(1, side - start + 1))
                for side, start in zip(pixels.shape, (top, left))]
        assert np.array_equal(tiles.window(top, left, *size), whole.window(top, left, *size))
    assert tiles.nbytes == 0 and whole.nbytes == pixels.nbytes
    assert (tmp_path / "a.npy").stat().st_size - stored_bytes(*pixels.shape[:2]) in range(64, 257)
    assert Tiles.open(tmp_path / "a.npy", pixels.shape[0] + SIDE, pixels.shape[1]) is None
    assert Tiles.open(tmp_path / "b.npy", *pixels.shape[:2]) is None
    for damage in (b"", b"garbage", (tmp_path / "a.npy").read_bytes()[:-1]):
        (tmp_path / "a.npy").write_bytes(damage)
        assert Tiles.open(tmp_path / "a.npy", *pixels.shape[:2]) is None


def test_a_cache_gives_the_same_crops_without_decoding(folder, monkeypatch):
    expected = crops_of(folder).batch(0, 16)
    crops = crops_of(folder, cache=folder / "cache")
    seen = []
    crops.photos.prepare(2, first=1, on_photo=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)] and len(list((folder / "cache").iterdir())) == 6
    monkeypatch.setattr("bidiff_deploy.images.datasets.read_rgb8", None)  # nothing is decoded
    again = crops_of(folder, cache=folder / "cache", memory=0)
    again.photos.prepare(1)
    for found in (crops.batch(0, 16), again.batch(0, 16)):
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_a_changed_photo_or_a_damaged_cache_is_decoded_anew(folder):
    cache = folder / "cache"
    crops_of(folder, cache=cache).photos.prepare(1)
    names = {path.name for path in cache.iterdir()}
    photo = folder / PAIRS.path / "0001.png"
    save(photo, picture(36, 34, seed=99))
    os.utime(photo, ns=(0, 0))
    next(cache.iterdir()).write_bytes(b"damaged")
    crops = crops_of(folder, cache=cache)
    crops.photos.prepare(1)
    assert len({path.name for path in cache.iterdir()} - names) == 2
    expected = crops_of(folder)
    assert torch.equal(crops.batch(0, 16)[0], expected.batch(0, 16)[0])


def test_memory_is_kept_within_its_budget(folder):
    crops = crops_of(folder)
    photos = crops.photos
    photos.prepare(2)
    assert photos.fits and photos._bytes == photos.decoded_bytes == sum(
        3 * h * w * 5 // 4 for h, w in [(40, 52), (36, 34), (60, 44)])
    tight = crops_of(folder, memory=12_000).photos
    tight.prepare(1)
    assert not tight.fits and not tight._kept  # nothing is decoded in vain
    for index in (0, 1, 0, 2, 1, 0):
        assert np.array_equal(*(store[index][0].window(0, 0, 9, 9) for store in (tight, photos)))
        assert tight._bytes == sum(p.nbytes for kept in tight._kept.values() for p in kept)
        assert tight._bytes <= 12_000 and tight._kept


def test_a_cache_that_cannot_be_written(folder, monkeypatch):
    (folder / "file").touch()
    with pytest.raises(OutputError, match="a file of that name exists"):
        crops_of(folder, cache=folder / "file").photos.prepare(1)
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"need 0.0 GB and 0.0 GB are free; free some space, "
                                          "or change or remove loading.cache"):
        crops_of(folder, cache=folder / "cache").photos.prepare(1)


_FEW_FILES = """
import os, resource, sys
from pathlib import Path
from PIL import Image
from bidiff_deploy.training.decoded import OPEN, DecodedPhotos
from bidiff_deploy.training.photos import find_sources
from bidiff_deploy.training.recipe import Photo

folder, count = Path(sys.argv[1]), OPEN + 20
(folder / "many").mkdir()
for index in range(count):
    Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / "many" / f"{index:04d}.png")
pairs = [source.files for source in find_sources([Photo("many")], folder, 2)]
photos = DecodedPhotos(pairs, 1 << 30, folder / "cache")
taken = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 2 * OPEN + 12,) * 2)
photos.prepare(2)
assert len(os.listdir("/proc/self/fd")) <= taken + 2
for _ in range(2):
    for index in range(count):
        assert (photos[index][0].window(0, 0, 8, 8) == (index, 0, 0)).all()
        assert (photos[index][1].window(0, 0, 4, 4) == (index, 0, 0)).all()
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_a_cache_of_more_files_than_a_process_may_open(tmp_path):
    done = forked.python(_FEW_FILES, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_photo_is_used_at_several_sizes(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = [source.files for source in find_sources([Photo("a.png")], tmp_path, 2, 20,
                                                     sizes=(1.0, 0.5, 0.45))]
    assert [(pair.height, pair.width) for pair in found] == [(40, 60), (20, 30)]  # 18 is too small
    assert np.array_equal(found[1].read_high(), imresize(pixels, 20, 30))
    assert found[1].read_low().shape == (10, 15, 3)
    cached = DecodedPhotos(found, 1 << 20, tmp_path / "cache")
    cached.prepare(1)
    assert np.array_equal(cached[1][0].window(0, 0, 20, 30), imresize(pixels, 20, 30))
    assert np.array_equal(cached[0][0].window(0, 0, 40, 60), pixels)


def test_sizes_that_leave_no_photo(tmp_path):
    for name, side in (("a", 36), ("b", 40)):
        Image.new("RGB", (side, side)).save(tmp_path / f"{name}.png")
    with pytest.raises(UsageError, match=r"b.png: the largest photo has 40x40 pixels, less than a "
                                         r"crop of 32 at data.sizes \[0.5\].*smaller data.crop$"):
        find_sources([Photo("a.png"), Photo("b.png")], tmp_path, 2, 32, sizes=(0.5,))
    assert len(find_sources([Photo("b.png")], tmp_path, 2, 20, sizes=(0.5,))) == 1
    assert find_sources([], tmp_path, 2, 32, sizes=(0.5,)) == []


def test_pairs_cannot_change_their_size(tmp_path):
    for name, side in (("a", 40), ("ax2", 20)):
        Image.new("RGB", (side, side)).save(tmp_path / f"{name}.png")
    with pytest.raises(UsageError, match="has a low-resolution image, .*, so it cannot"):
        find_sources([Photo("a.png", low="ax2.png")], tmp_path, 2, sizes=(1.0, 0.5))


def test_originals_with_one_partner_are_refused(folder):
    save(folder / PAIRS.path / "0001.jpg", picture(36, 34))
    with pytest.raises(UsageError, match=r"0001.jpg and 0001.png in the same folder share one "
                                         r"low-resolution image, .*0001x2.png; keep the original"):
        find_sources([PAIRS], folder, 2)
