"""Checkpoints and option files of strangers cost no more than honest ones of their size, and are
refused in one line that steers no terminal."""

from __future__ import annotations

import io
import json
import struct
import time
import warnings
import zipfile
from random import Random

import pytest
from attacks.checkpoints import OPTIONS, READ, REFUSED
from attacks.checkpoints import archive as write_archive
from attacks.limited import outcome_of_reading, outcome_of_text

from bidiff_deploy.checkpoint.options import read_options
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.pickles import read_pickle
from bidiff_deploy.checkpoint.published_keys import to_published
from bidiff_deploy.training.recipe import read_recipe
from support.seeds import SEED, SOAK
from support.small_bbcu import small_bbcu


@pytest.fixture
def options(reference):
    return reference.options("tiny")


@pytest.fixture(scope="module")
def honest(reference):
    return outcome_of_reading(reference.checkpoint("tiny"), reference.options("tiny"))


def allowed(path, honest):
    """Twice an honest file's memory, by size."""
    return 2 * honest.grown + 8 * path.stat().st_size + (24 << 20)


@pytest.mark.parametrize("attack", REFUSED)
def test_refused(reference, tmp_path, honest, attack):
    path = REFUSED[attack](tmp_path, reference.state("tiny"))
    outcome = outcome_of_reading(path, None)
    assert outcome.good and outcome.error, outcome
    assert "hostile." in outcome.error
    assert len(outcome.error) < 1200 and outcome.grown < allowed(path, honest), outcome
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("attack", READ)
def test_read_without_what_is_hostile(reference, options, tmp_path, honest, attack):
    path = READ[attack](tmp_path, reference.state("tiny"))
    outcome = outcome_of_reading(path, options)
    assert outcome.good and outcome.digest == honest.digest, outcome
    assert outcome.grown < allowed(path, honest), outcome


@pytest.mark.parametrize("attack", OPTIONS)
@pytest.mark.parametrize("reader", [read_options, read_recipe])
def test_option_files(tmp_path, attack, reader):
    """As options and as a recipe."""
    path = tmp_path / "hostile.yml"
    path.write_text(OPTIONS[attack])
    outcome = outcome_of_text(reader, path)
    assert outcome.good and "hostile.yml" in outcome.error and len(outcome.error) < 600, outcome
    assert outcome.grown < 64 << 20, outcome


def test_unknown_options_steer_no_terminal(reference, tmp_path):
    path = tmp_path / "hostile.yml"
    path.write_text('network_g: {"\\e[2J\\nerror: fake": 1}')
    outcome = outcome_of_reading(reference.checkpoint("tiny"), path)
    assert outcome.good and r"unknown network option '\x1b[2J\nerror: fake'" in outcome.error


# -- mutated files ------------------------------------------------------------------------------
def _mutated_bytes(data, random):
    """A few bytes changed, a piece removed, doubled or moved."""
    data = bytearray(data)
    for _ in range(random.randint(1, 4)):
        place, length = random.randrange(len(data)), random.randint(1, 64)
        piece = data[place:place + length]
        match random.randrange(5):
            case 0:
                data[place] = random.randrange(256)
            case 1:
                del data[place:place + length]
            case 2:
                data[place:place] = piece
            case 3:
                data[place:place + 4] = random.choice([b"\xff" * 4, bytes(4), b"\0\0\0\x80"])
            case 4:
                other = random.randrange(len(data))
                data[place:place + length] = data[other:other + length]
        data = data or bytearray(1)
    return bytes(data)


def _mutated_value(value, random):
    """A JSON document with one value replaced by an odd one."""
    if isinstance(value, (dict, list)) and value and random.random() < 0.9:
        key = random.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value[key] = _mutated_value(value[key], random)
        return value
    return random.choice([None, True, -1, 0, 3, 1 << 20, 1 << 40, 10 ** 400, 1e308, float("inf"),
                          "", "\x1b[2J\n", "x" * 10_000, [], {}, [[[]]] * 1000, {"a": {}},
                          list(range(5000))])


def _mutated(random, files, path):
    """A file of one of the forms, changed where its form allows it; ``path`` without ending."""
    form = random.choice(list(files))
    data = files[form]
    if random.random() < 0.1:
        data = data[:random.randrange(1, len(data))]
    elif form.startswith("archive"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        name = random.choice([name for name in records if name.endswith("data.pkl")] * 9
                             + list(records))
        records[name] = _mutated_bytes(records[name], random)
        return write_archive(path.with_suffix(".pth"), records)
    elif form == "legacy":
        start = random.choice([0, 0, len(data) - 200])
        data = data[:start] + _mutated_bytes(data[start:start + 60_000], random) + data[
            start + 60_000:]
    else:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8:8 + length])
        if random.random() < 0.7 and form.startswith("packed"):
            inner = json.loads(header["__metadata__"]["bidiff"])
            header["__metadata__"]["bidiff"] = json.dumps(_mutated_value(inner, random))
        else:
            header = _mutated_value(header, random)
        text = json.dumps(header).encode()
        if random.random() < 0.2:
            text = _mutated_bytes(text, random)
        data = struct.pack("<Q", len(text)) + text + data[8 + length:]
    path = path.with_suffix(".pth" if form.startswith(("archive", "legacy")) else ".safetensors")
    path.write_bytes(data)
    return path


@pytest.mark.soak
def test_mutated_checkpoints(reference, tmp_path, honest):
    """Each is read or refused in one line, within twice an honest file's memory and 10 s."""
    torch = pytest.importorskip("torch")
    state = {key: torch.from_numpy(value) for key, value in reference.state("tiny").items()}
    document = {"params": state, "params_ema": state, "recipe": {"steps": [{"timestep": 1}] * 5}}
    torch.save(document, tmp_path / "archive")
    torch.save(document, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    write_packed(tmp_path / "packed", reference.read("tiny"))
    files = {name: (tmp_path / name).read_bytes() for name in ("archive", "legacy", "packed")}
    files["published"] = reference.checkpoint("tiny").read_bytes()
    other = small_bbcu()
    write_packed(tmp_path / "packed bbcu", other)
    torch.save({key: torch.from_numpy(value) for key, value in to_published(
        other.latent(), other.config).items()}, tmp_path / "archive bbcu")
    for name in ("packed bbcu", "archive bbcu"):
        files[name] = (tmp_path / name).read_bytes()
    random = Random(SEED)
    read = worst = 0
    longest = 0.0
    for number in range(500 if SOAK else 14):
        path = _mutated(random, files, tmp_path / f"m{number}")
        start = time.monotonic()
        outcome = outcome_of_reading(path)
        longest = max(longest, time.monotonic() - start)
        assert outcome.good, f"{path}: {outcome}"
        assert outcome.grown < allowed(path, honest), f"{path}: {outcome}"
        assert not outcome.error or path.name in outcome.error
        read, worst = read + (not outcome.error), max(worst, outcome.grown)
        path.unlink()
    print(f"{read} read, at most {worst >> 20} MiB and {longest:.1f} s; honest "
          f"{honest.grown >> 20} MiB")


def test_a_damaged_text_in_a_pickle_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_pickle(io.BytesIO(b"S'a\\\x03'\n."))[0] == "a\\\x03"
