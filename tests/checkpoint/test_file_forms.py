"""Checkpoints of honest people in every form, and files that are none: read, or named."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import struct
import sys
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from bidiff_deploy.checkpoint.options import Options, read_options
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.checkpoint.tensor_files import read_state
from bidiff_deploy.cli import group
from bidiff_deploy.errors import CheckpointError, printable, quoted

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def tensors(reference):
    return [{key: torch.from_numpy(value) for key, value in reference.state("tiny", seed).items()}
            for seed in (0, 1)]


@pytest.fixture
def states(tensors):
    """Two state dicts of the same network, as torch tensors."""
    return [dict(state) for state in tensors]


@pytest.fixture
def read(reference, tmp_path):
    """A function: what is read of a document that torch.save writes."""
    def saved(document, **options):
        torch.save(document, tmp_path / "net.pth", **options)
        return read_checkpoint(tmp_path / "net.pth", read_options(reference.options("tiny")))
    return saved


def same(a, b) -> bool:
    left, right = a.latent(), b.latent()
    return a.config == b.config and all(np.array_equal(left[key], right[key]) for key in left)


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


AVERAGED = {
    "state_dict_ema": lambda raw, ema: {"state_dict": raw, "state_dict_ema": ema, "epoch": 3},
    "ema": lambda raw, ema: {"model": raw, "ema": ema, "optimizer": {"state": {0: raw}}},
    "model_ema": lambda raw, ema: {"model": raw, "model_ema": ema},
    "ema_state_dict": lambda raw, ema: {"state_dict": raw, "ema_state_dict": ema},
    "params_ema": lambda raw, ema: {"params": raw, "params_ema": ema},
    "net_g_ema": lambda raw, ema: {"net_g": raw, "net_d": prefixed("d.", raw), "net_g_ema": ema},
    "ema.module": lambda raw, ema: {"model": raw, "ema": {"decay": 0.9, "module": ema}},
    "swa_state_dict": lambda raw, ema: {
        "state_dict": raw, "swa_state_dict": {"n_averaged": torch.tensor(3),
                                              **prefixed("module.", ema)}},
    "EMA": lambda raw, ema: {"weights": raw, "EMA": ema},
    "checkpoint.ema": lambda raw, ema: {"checkpoint": {"model": raw, "ema": ema}},
    "ema_model": lambda raw, ema: {"initted": torch.tensor(True), "step": torch.tensor(7),
                                   **prefixed("online_model.", raw),
                                   **prefixed("ema_model.", ema)}}


@pytest.mark.parametrize("name", AVERAGED)
def test_averaged_weights_are_taken_and_named(reference, states, read, name):
    found = read(AVERAGED[name](states[1], states[0]))
    assert same(found, reference.read("tiny"))
    assert found.assumptions[0].startswith(
        f"{name}, the averaged weights, was taken; the file also has ")


def test_averaged_weights_of_a_safetensors_file(reference, tmp_path):
    both = {**prefixed("model.", reference.state("tiny", 1)),
            **prefixed("model_ema.", reference.state("tiny", 0))}
    save_file(both, tmp_path / "both.safetensors")
    found = read_checkpoint(tmp_path / "both.safetensors", read_options(reference.options("tiny")))
    assert same(found, reference.read("tiny")) and "model_ema, the averaged" in found.assumptions[0]


@pytest.mark.parametrize("ema", [{"decay": torch.tensor(0.9)}, {"shadow": [torch.ones(3)]},
                                 {"a.b": torch.ones(3), "c.d": torch.ones(2)}])
def test_averages_of_something_else_are_named_only(reference, states, read, ema):
    found = read({"state_dict": states[0], "ema": ema})
    assert same(found, reference.read("tiny"))
    assert found.assumptions[0].startswith("state_dict was taken; the file also has ema")


WRAPPED = {
    "_orig_mod.": lambda state: prefixed("_orig_mod.", state),
    "net_g.": lambda state: {"state_dict": prefixed("net_g.", state)},
    "module.": lambda state: {"model_state_dict": prefixed("module.", state)},
    "module.module.": lambda state: {"n_averaged": torch.tensor(2),
                                     **prefixed("module.module.", state)},
    "_orig_mod.module.": lambda state: prefixed("module._orig_mod.", state),
    "model.diffusion_model.": lambda state: prefixed("model.diffusion_model.", state),
    "generator.": lambda state: {**prefixed("discriminator.", {"a.b": torch.ones(3)}),
                                 **prefixed("generator.", state)}}


@pytest.mark.parametrize("prefix", WRAPPED)
def test_prefixes_of_all_keys_are_removed_and_named(reference, states, read, prefix):
    found = read(WRAPPED[prefix](states[0]))
    assert same(found, reference.read("tiny"))
    assert f"the prefix '{prefix}' was removed from its keys" in found.assumptions


def test_parts_that_were_compiled(reference, states, tmp_path):
    """torch.compile of one block puts its mark inside of keys."""
    state = {key.replace("downs.1.", "downs.1._orig_mod."): value.numpy()
             for key, value in prefixed("net.", states[0]).items()}
    save_file(state, tmp_path / "net.safetensors")
    found = read_checkpoint(tmp_path / "net.safetensors", read_options(reference.options("tiny")))
    assert same(found, reference.read("tiny"))
    state["net.downs.1.res_block.block1.conv.binary_conv.weight"] = state[
        "net.downs.1._orig_mod.res_block.block1.conv.binary_conv.weight"]
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="keys twice, with and without '_orig_mod.'"):
        read_checkpoint(tmp_path / "net.safetensors")


@pytest.mark.parametrize("state, lists", [
    ({"conv.weight": 3, "a\x1b": 1}, r"its 2 tensors are 'a\\x1b', conv.weight;"),
    ({f"layer{i}.weight": 3 for i in range(9)}, "its 9 tensors are layer0.weight, .*, ...;"),
    ({}, "it contains no tensors")])
def test_errors_list_what_the_file_has(read, state, lists):
    with pytest.raises(CheckpointError, match=f"no known network.*{lists}"):
        read({"params": {key: torch.ones(size) for key, size in state.items()}, "epoch": 3})


# -- numbers ------------------------------------------------------------------------------------
def halved(value):
    """The float32 that bfloat16 keeps, by truncation."""
    return (value.view(np.uint32) & 0xFFFF0000).view(np.float32)


def test_bfloat16_in_safetensors_is_widened_without_torch(reference, tmp_path, monkeypatch):
    state = reference.state("tiny")
    header, data = {}, b""
    for key, value in state.items():
        part = (value.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[key] = {"dtype": "BF16", "shape": list(value.shape),
                       "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    path = tmp_path / "b.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    monkeypatch.setitem(sys.modules, "torch", None)
    found, _, _ = read_state(path)
    assert all(np.array_equal(found[key], halved(value)) for key, value in state.items())
    assert read_checkpoint(path, read_options(reference.options("tiny"))).scale == 4


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_in_safetensors(reference, tmp_path, kind):
    state = reference.state("tiny")
    save_file({key: value.astype(kind) for key, value in state.items()},
              tmp_path / "f.safetensors")
    found, _, _ = read_state(tmp_path / "f.safetensors")
    assert all(np.array_equal(found[key], value.astype(kind).astype(np.float32))
               and found[key].dtype == np.float32 for key, value in state.items())


def test_numbers_beyond_float32_and_types_without_numpy(tmp_path, recwarn):
    save_file({"a": np.array([1e300])}, tmp_path / "f.safetensors")
    assert np.isinf(read_state(tmp_path / "f.safetensors")[0]["a"]).all() and not recwarn.list
    text = b'{"a\\n": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}'
    (tmp_path / "g.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0")
    with pytest.raises(CheckpointError, match=r"'a\\n' has numbers of type 'F8_E4M3'; save it as"):
        read_state(tmp_path / "g.safetensors")


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False},
                                 {"pickle_protocol": 4}])
def test_torch_files_are_read_as_torch_reads_them(tmp_path, kind, how, monkeypatch):
    whole = torch.randn(40, generator=torch.Generator().manual_seed(1)).to(getattr(torch, kind))
    state = {"a.all": whole, "a.part": whole[3:9], "a.stepped": whole[1::3],
             "a.turned": whole.view(5, 8).t(), "a.spread": whole[:1].expand(7),
             "a.scalar": whole[4], "a.none": whole[:0], "b.counts": torch.arange(5),
             "b.bytes": torch.arange(5, dtype=torch.uint8), "b.flags": torch.tensor([True, False]),
             "c.parameter": torch.nn.Parameter(whole.clone())}
    torch.save(torch.nn.ParameterDict().state_dict() | state, tmp_path / "net.pt", **how)
    wanted = torch.load(tmp_path / "net.pt", weights_only=False)  # True refuses protocol 4
    monkeypatch.setitem(sys.modules, "torch", None)
    found, _, _ = read_state(tmp_path / "net.pt")
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        value = value.detach()
        value = value.float() if value.is_floating_point() else value
        assert found[key].shape == value.shape and np.array_equal(found[key], value.numpy()), key
        assert found[key].dtype == value.numpy().dtype or not value.numel()


def test_what_training_programs_write_next_to_a_state_dict(reference, states, read):
    """Optimisers, schedulers and hyper-parameters that torch's safe reader takes are ignored."""
    weights = [torch.nn.Parameter(torch.ones(3))]
    optimizer = torch.optim.Adam(weights)
    weights[0].grad = torch.ones(3)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 7])
    found = read({"state_dict": states[0], "optimizer": optimizer.state_dict(),
                  "scheduler": scheduler.state_dict(), "epoch": 7, "lr": 1e-4, "none": None,
                  "device": torch.device("cpu"), "dtype": torch.float32, "size": torch.Size([3]),
                  "seeds": {1, 2}, "scores": [1.5, 2], "names": ("a", b"b")})
    assert same(found, reference.read("tiny")) and "state_dict" not in str(found.assumptions)


# -- objects ------------------------------------------------------------------------------------
@pytest.mark.parametrize("extra, named", [
    ({"lr": np.float64(1e-4)}, "scalar, numpy.dtype"),
    ({"args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
    ({"hyper": {"path": pathlib.PurePosixPath("/x")}}, "pathlib.PurePosixPath"),
    ({"stats": np.ones(3)}, "_reconstruct, numpy.dtype, numpy.ndarray"),
    ({"at": np.random.default_rng(1)}, ", ...")])
def test_other_objects_are_named_with_lines_that_save_the_weights(reference, states, tmp_path,
                                                                  monkeypatch, extra, named):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": states[0], **extra}, "net.pth")
    with pytest.raises(CheckpointError, match="objects other than tensors, which") as caught:
        read_checkpoint("net.pth")
    text = str(caught.value)
    assert named in text and "\n" not in text
    exec(text.partition("save its weights alone: ")[2], {"torch": torch})  # what a user types
    assert same(read_checkpoint("net_weights.pth", read_options(reference.options("tiny"))),
                reference.read("tiny"))


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"params": state}])
def test_arrays_of_numpy_are_named_with_lines_that_convert_them(reference, tmp_path, monkeypatch,
                                                                wrap):
    monkeypatch.chdir(tmp_path)
    torch.save(wrap(reference.state("tiny")), "net.pth")
    with pytest.raises(CheckpointError, match=r"numpy\.ndarray") as caught:
        read_checkpoint("net.pth")
    exec(str(caught.value).partition("save its weights alone: ")[2], {"torch": torch})
    assert same(read_checkpoint("net_weights.pth", read_options(reference.options("tiny"))),
                reference.read("tiny"))


@pytest.mark.parametrize("change, says", [
    (torch._neg_view, "not a plain dense tensor"), (torch.Tensor.to_sparse, "not a plain dense"),
    (lambda value: value.to("meta"), "not a plain dense tensor"),
    (lambda value: value.to(torch.float8_e4m3fn), "save it as float32")])
def test_tensors_of_other_kinds_are_named(states, tmp_path, change, says):
    torch.save({**states[0], "downs.0.bias": change(states[0]["downs.0.bias"])},
               tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=f"'downs.0.bias'.*{says}"):
        read_checkpoint(tmp_path / "net.pth")


def test_a_pickled_network_is_named(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"torch.nn.modules.linear.Linear.*torch.save\("
                                              r"d.state_dict\(\), 'net_weights.pth'\)"):
        read_state(tmp_path / "net.pth")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"d\['model'\].state_dict\(\)"):
        read_state(tmp_path / "net.pth")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "net.pt"))
    with pytest.raises(CheckpointError, match="is a TorchScript program"):
        read_state(tmp_path / "net.pt")


# -- files that are none ------------------------------------------------------------------------
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 99\n"


@pytest.mark.parametrize("ending", [".pth", ".pt", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("data, says", [
    (LFS, "pointer of Git LFS.*git lfs pull"),
    (b"/annex/objects/SHA256E-s99--aa.pth\n", "pointer of git-annex.*git annex get"),
    (b"outs:\n- md5: aa\n  size: 9\n  path: net.pth\n", "pointer of DVC.*dvc pull"),
    (b"\xef\xbb\xbf\r\n<!DOCTYPE html><html>", "a web page.*download it again"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "a web page.*download it again"),
    (b'{"error": "Invalid username or password."}', "site's error message.*download it again"),
    (b"Access denied\n", "site's error message.*download it again"),
    (b"\x1f\x8b\x08\0" + bytes(99), "a gzip archive; unpack"),
    (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"), (b"", "is empty")])
def test_content_that_is_no_checkpoint(tmp_path, ending, data, says):
    path = tmp_path / f"net{ending}"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"net{ending}.*{says}") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value) and "truncated" not in str(caught.value)


def test_formats_under_another_ending_and_archives(reference, states, tmp_path):
    torch.save(states[0], tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"rename it to end in \.pth"):
        read_checkpoint(tmp_path / "net.safetensors")
    (tmp_path / "net.pth").write_bytes(reference.checkpoint("tiny").read_bytes())
    with pytest.raises(CheckpointError, match=r"rename it to end in \.safetensors"):
        read_checkpoint(tmp_path / "net.pth")
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("weights/net.pth", b"x")
    with pytest.raises(CheckpointError, match="zip archive that torch did not write; unpack"):
        read_checkpoint(tmp_path / "net.pth")


def test_links_devices_and_pipes(reference, tmp_path):
    (tmp_path / "link.safetensors").symlink_to(reference.checkpoint("tiny"))
    assert read_checkpoint(tmp_path / "link.safetensors").config
    (tmp_path / "absent.pth").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    for name, says in {"absent": "a link to a file that is absent; fetch", "pipe": "regular file",
                       "zero": "regular file"}.items():
        with pytest.raises(CheckpointError, match=says):
            read_checkpoint(tmp_path / f"{name}.pth")
    os.mkfifo(tmp_path / "options.yml")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_options(tmp_path / "options.yml")


# -- scales -------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", ["export", "pack"])
def test_a_scale_that_contradicts_the_options_is_refused(reference, tmp_path, command):
    output = tmp_path / "out.safetensors"
    arguments = [command, str(reference.checkpoint("tiny")), "-o", str(output), "--options",
                 str(reference.options("tiny")), "--scale", "2"]
    result = CliRunner().invoke(group, arguments)
    assert result.exit_code == 1 and not output.exists()
    assert ("--scale says scale 2, but the options file says scale 4; leave the wrong one out"
            in result.output)
    result = CliRunner().invoke(group, [*arguments[:-1], "4"])
    assert result.exit_code == 0, result.output


def test_scales_of_packed_checkpoints_and_training_runs(reference, states, tmp_path):
    write_packed(tmp_path / "p.safetensors", reference.read("tiny"))
    recipe = {"scale": 4, "network": reference.layout("tiny")["network"],
              "steps": [{"timestep": 900}], "betas": [1e-6, 1e-2]}
    torch.save({"params": states[0], "recipe": recipe}, tmp_path / "run.pt")
    for name in ("p.safetensors", "run.pt"):
        assert read_checkpoint(tmp_path / name).scale == 4
        assert read_checkpoint(tmp_path / name, scale=4).scale == 4
        with pytest.raises(CheckpointError, match="--scale says scale 2, but the checkpoint says"):
            read_checkpoint(tmp_path / name, scale=2)
        with pytest.raises(CheckpointError, match="options file says scale 3, but the checkpoint"):
            read_checkpoint(tmp_path / name, Options(scale=3))


# -- words --------------------------------------------------------------------------------------
@pytest.mark.parametrize("value, text", [
    ("plain", "'plain'"), ("\x1b[2J\n", r"'\x1b[2J\n'"), ("\u202ex", r"'\u202ex'"), (7, "7"),
    ("x" * 61, "'" + "x" * 60 + "\u2026'"), ([1] * 99, ("[" + "1, " * 99)[:60] + "\u2026"),
    pytest.param(16 ** 9999, "a value of type int", id="long"), ({"a": "\x07"}, r"{'a': '\x07'}")])
def test_quoted(value, text):
    assert quoted(value) == text and quoted(value).isprintable()


def test_names_of_files_steer_no_terminal(tmp_path):
    assert printable("a\x1b[2Jä\n") == r"a\x1b[2Jä\n"
    path = tmp_path / "x\x1b[2J\nerror: fake.pth"
    path.write_bytes(b"x")
    result = CliRunner().invoke(group, ["export", str(path), "-o", str(tmp_path / "out")])
    assert result.exit_code == 1 and result.output.count("\n") == 1 and "\x1b" not in result.output
