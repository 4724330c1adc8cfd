"""Checkpoints in every form, and every way that a file can be wrong."""

from __future__ import annotations

import json
import pickle
import re

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from bidiff_deploy.checkpoint.options import Options, read_options
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.published_keys import from_published, to_published
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.errors import CheckpointError
from bidiff_deploy.files import file_sha256
from bidiff_deploy.networks.bi_diffsr.architecture import blocks, parameters
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig

NAMES = ("tiny", "small", "full")


def same(a, b) -> bool:
    left, right = a.latent(), b.latent()
    return a.config == b.config and list(left) == list(right) and all(
        np.array_equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("name", NAMES)
def test_architecture_names_every_published_key_once(reference, name):
    layout = reference.layout(name)
    config = NetworkConfig.from_dict(layout["network"])
    keys = [key for p in parameters(config).values() for key in p.published]
    assert sorted(keys) == sorted(layout["shapes"])
    assert sum(np.prod(p.shape, dtype=int) for p in parameters(config).values()) \
        == layout["parameters"]
    assert 2 * sum(block.binary for block in blocks(config)) == layout["binary_convs"]


def test_published_keys_and_back(reference):
    config = NetworkConfig.from_dict(reference.layout("tiny")["network"])
    state = reference.state("tiny")
    back = to_published(from_published(state, config), config)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], state[key]) and back[key].shape == state[key].shape
               for key in state)


@pytest.mark.parametrize("name", NAMES)
def test_options_are_derived_from_the_tensors_alone(reference, name):
    layout = reference.layout(name)
    given = Options(network={key: layout["network"][key] for key in ("norm_groups", "total_step")})
    found = read_checkpoint(reference.checkpoint(name), given)
    wanted = NetworkConfig.from_dict(layout["network"])
    assert blocks(found.config) == blocks(wanted)
    assert parameters(found.config) == parameters(wanted)
    assert any("image_size" in line for line in found.assumptions)
    assert any("beta" in line for line in found.assumptions)
    assert found.scale is None


def test_defaults_are_assumed_and_reported(reference):
    found = read_checkpoint(reference.checkpoint("full"))
    assert found.config == NetworkConfig()
    told = " ".join(found.assumptions)
    assert "norm_groups = 16" in told and "total_step = 2000" in told


def test_options_that_contradict_the_tensors_are_refused(reference, tmp_path):
    path = reference.checkpoint("small")
    for wrong in ({"inner_channel": 64}, {"res_blocks": 2}, {"dynamic_group": 4}, {"fp_res": [32]},
                  {"attn_res": [64]}, {"channel_mults": [1, 2]}, {"in_channel": 3}):
        with pytest.raises(CheckpointError, match=f"{next(iter(wrong))}="):
            read_checkpoint(path, Options(network={"image_size": 64, **wrong}))
    with pytest.raises(CheckpointError, match="unknown network option colour"):
        read_checkpoint(path, Options(network={"colour": 1}))
    with pytest.raises(CheckpointError, match=r"unknown network options '\\n', a;"):
        read_checkpoint(path, Options(network={"a": 1, "\n": 1}))


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_packed_checkpoint_says_the_same_in_a_fraction(reference, name, tmp_path):
    original = reference.read(name)
    packed = tmp_path / "packed.safetensors"
    write_packed(packed, original)
    first = packed.read_bytes()
    again = read_checkpoint(packed)
    assert same(again, original) and again.scale == original.scale
    assert again.schedule == original.schedule
    assert packed.stat().st_size < reference.checkpoint(name).stat().st_size / 1.9
    write_packed(packed, original, overwrite=True)
    assert packed.read_bytes() == first, "the bytes of a packed checkpoint are not deterministic"


def test_packed_published_network_is_a_tenth(reference, tmp_path):
    packed = tmp_path / "full.safetensors"
    write_packed(packed, reference.read("full"))
    assert packed.stat().st_size < reference.checkpoint("full").stat().st_size / 10


@pytest.mark.parametrize("wrap", ["params", "params_ema", "bare", "module"])
def test_torch_files_in_every_published_form(reference, tmp_path, wrap):
    torch = pytest.importorskip("torch")
    state = {key: torch.from_numpy(value) for key, value in reference.state("tiny").items()}
    if wrap == "module":
        state = {f"module.{key}": value for key, value in state.items()}
    path = tmp_path / "net.pth"
    torch.save({wrap: state} if wrap.startswith("params") else state, path)
    assert same(read_checkpoint(path, read_options(reference.options("tiny"))),
                reference.read("tiny"))


def test_averaged_weights_come_first_and_that_is_reported(reference, tmp_path):
    torch = pytest.importorskip("torch")
    states = [{key: torch.from_numpy(value) for key, value in reference.state("tiny", seed).items()}
              for seed in (0, 1)]
    path = tmp_path / "net.pth"
    torch.save({"params": states[1], "params_ema": states[0]}, path)
    found = read_checkpoint(path, read_options(reference.options("tiny")))
    assert same(found, reference.read("tiny"))
    assert any("params_ema" in line for line in found.assumptions)


class Evil:
    def __reduce__(self):
        return (exec, ("open('owned', 'w')",))


def _bad_files(reference, folder):
    torch = pytest.importorskip("torch")
    state = reference.state("tiny")
    whole = reference.checkpoint("tiny").read_bytes()
    made = {}

    def file(name, data):
        made[name] = folder / name
        made[name].write_bytes(data)

    file("empty.pth", b"")
    file("empty.safetensors", b"")
    file("truncated.safetensors", whole[:len(whole) // 2])
    file("header_only.safetensors", whole[:50])
    file("noise.safetensors", bytes(range(256)) * 9)
    file("noise.pth", bytes(range(256)) * 9)
    file("evil.pth", pickle.dumps({"params": Evil()}))
    file("list.pth", pickle.dumps([1, 2, 3]))
    archive = folder / "evil_archive.pth"
    torch.save({"params": Evil()}, archive)
    made["evil_archive.pth"] = archive
    file("photo.png", b"\x89PNG\r\n\x1a\n" + bytes(99))
    save_file({"conv.weight": np.zeros((3, 3), np.float32)}, folder / "foreign.safetensors")
    made["foreign.safetensors"] = folder / "foreign.safetensors"
    for name, change in {"missing": lambda s: s.pop("stem.missing", None) or s.pop(
                             "downs.1.res_block.block1.conv.binary_conv.weight"),
                         "unexpected": lambda s: s.update(extra=np.zeros(3, np.float32)),
                         "misshapen": lambda s: s.update({"downs.0.bias": np.zeros(5, "f4")}),
                         "nan": lambda s: s["downs.0.bias"].__setitem__(0, np.nan),
                         "groups": lambda s: s.update({
                             "downs.2.biconv1.TaR.dynamic_move_999999.bias":
                                 np.zeros((1, 8, 1, 1), "f4")})}.items():
        copy = {key: value.copy() for key, value in state.items()}
        change(copy)
        save_file(copy, folder / f"{name}.safetensors")
        made[f"{name}.safetensors"] = folder / f"{name}.safetensors"
    made["absent.pth"] = folder / "absent.pth"
    made["folder"] = folder
    return made


def test_bad_files_are_refused_in_one_sentence(reference, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = read_options(reference.options("tiny"))
    for name, path in _bad_files(reference, tmp_path).items():
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path, options)
        assert str(path) in str(caught.value), name
        assert "\n" not in str(caught.value), name
    assert not (tmp_path / "owned").exists(), "a checkpoint ran code"


def test_damaged_and_newer_packed_checkpoints(reference, tmp_path):
    from safetensors import safe_open

    good = tmp_path / "good.safetensors"
    write_packed(good, reference.read("tiny"))
    with safe_open(str(good), "numpy") as stream:
        header = json.loads(stream.metadata()["bidiff"])
        tensors = {key: stream.get_tensor(key) for key in stream.keys()}

    def refused(match, header=header, tensors=tensors):
        path = tmp_path / "bad.safetensors"
        text = header if isinstance(header, str) else json.dumps(header)
        save_file(tensors, path, {"bidiff": text})
        with pytest.raises(CheckpointError, match=match):
            read_checkpoint(path)

    refused("newer version", {**header, "schema": 3})
    refused("newer version", {**header, "packing": 9})
    refused("not readable", "{")
    refused("not readable", {})
    refused("incomplete or garbled", {k: v for k, v in header.items() if k != "network"})
    refused("stem.bias must be", tensors={k: v for k, v in tensors.items() if k != "stem.bias"})
    words = "encoder.1.conv1.weight.words"
    refused(words, tensors={**tensors, words: tensors[words].astype(np.float32)})
    refused("NaN", tensors={**tensors, "stem.bias": tensors["stem.bias"] * np.nan})


@pytest.mark.parametrize("text, match", [
    ("a: [1, 2", "not valid YAML"), ("- 1", "must be a mapping"),
    ("scale: 0", "scale is 0; it must be"),
    ("scale: two", "scale is 'two'; it must be"), ("network_g: 3", "network_g must be a mapping"),
    ("beta_schedule: {schedule: cosine}", "schedule 'cosine'"),
    ("beta_schedule: {linear_start: x}", "linear_start 'x'"),
    ("beta_schedule: {n_timestep: 1.5}", "n_timestep is 1.5; it must be"),
    ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ("\x00", "not valid YAML")])
def test_bad_options_are_refused(tmp_path, text, match):
    path = tmp_path / "o.yml"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=match):
        read_options(path)


def test_the_remedy_for_aliases_works(tmp_path, monkeypatch):
    """PyYAML writes an alias where an object is used twice, unless it is told not to."""
    monkeypatch.setattr(yaml.Dumper, "ignore_aliases", yaml.Dumper.ignore_aliases)  # restored
    path, levels = tmp_path / "o.yml", [256, 128]
    options = {"network_g": {"attn_res": levels, "fp_res": levels}, "scale": 2}
    path.write_text(yaml.dump(options))
    with pytest.raises(CheckpointError, match="aliases .* are not supported") as refused:
        read_options(path)
    statement = re.search(r"set (yaml\.Dumper.*) before yaml\.dump", str(refused.value))
    exec(statement[1], {"yaml": yaml})
    path.write_text(yaml.dump(options))
    assert read_options(path).network == options["network_g"]


def test_what_is_no_plain_float_network_is_named(reference, tmp_path):
    """Whole numbers, more tensors, and the endings that checkpoints have."""
    state = reference.state("tiny")
    key = next(key for key, value in state.items() if value.ndim == 4)
    for change, words in (({key: state[key].astype(np.int8)}, f"{key} has whole numbers .int8."),
                          ({"more": np.zeros(1, "f4")}, "1 unexpected key .more.; remove them")):
        save_file({**state, **change}, tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError, match=words):
            read_checkpoint(tmp_path / "x.safetensors")
    torch = pytest.importorskip("torch")
    for ending in (".pt", ".ckpt", ".bin"):
        torch.save({key: torch.from_numpy(value) for key, value in state.items()},
                   tmp_path / f"x{ending}")
        assert same(read_checkpoint(tmp_path / f"x{ending}",
                                    read_options(reference.options("tiny"))),
                    reference.read("tiny"))


def test_options_take_what_concerns_a_checkpoint(tmp_path):
    path = tmp_path / "o.yml"
    path.write_text("scale: 2\nnetwork_g: {type: X, inner_channel: 32}\ntrain: {lr: 1}\n"
                    "beta_schedule: {n_timestep: 1000, linear_start: 1e-6, "
                    "num_inference_steps: 20}\n")
    found = read_options(path)
    assert found == Options({"inner_channel": 32}, {"total_steps": 1000, "beta_start": 1e-6}, 2, 20)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_options(tmp_path / "absent.yml")


def test_sha256(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
