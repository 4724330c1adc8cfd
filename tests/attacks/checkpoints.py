"""Checkpoints and option files that ask for more than they are worth.

A maker gets a folder and an honest state dict with published keys, writes a file into the folder,
and returns its path. ``Options`` makers return the text of an option file.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save, save_file

State = Mapping[str, np.ndarray]
Maker = Callable[[Path, State], Path]

KEY = "downs.0.weight"  # by which a network is recognised


# -- files of torch -----------------------------------------------------------------------------
def _torch(change: Callable[[dict[str, Any], Any], Any]) -> Maker:
    """torch.save of ``change(state, torch)``."""
    def make(folder: Path, state: State) -> Path:
        import torch

        tensors = {key: torch.from_numpy(value) for key, value in state.items()}
        torch.save(change(tensors, torch), folder / "hostile.pth")
        return folder / "hostile.pth"
    return make


def _pickle(body: bytes) -> Maker:
    """An archive of torch's form around the instructions of a pickle."""
    def make(folder: Path, state: State) -> Path:
        return archive(folder / "hostile.pth", {"x/data.pkl": b"\x80\x02" + body + b"."})
    return make


def archive(path: Path, records: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in records.items():
            file.writestr(name, data)
    return path


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _tensor(count: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """Instructions that push a tensor of storage 0."""
    def number(value: int) -> bytes:
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    storage = (b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu")
               + number(count) + b"tQ")
    sizes = b"".join(b"(" + b"".join(map(number, values)) + b"t" for values in (size, stride))
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + sizes
            + b"\x89ccollections\nOrderedDict\n)RtR")


def _one_tensor(*tensor: Any, **more: Any) -> Maker:
    def make(folder: Path, state: State) -> Path:
        body = b"}" + _text(KEY) + _tensor(*tensor, **more) + b"s"
        return archive(folder / "hostile.pth", {"x/data.pkl": b"\x80\x02" + body + b".",
                                                "x/data/0": bytes(64)})
    return make


def _views(state: dict[str, Any], torch: Any) -> Any:
    half = torch.zeros(1 << 20, dtype=torch.float16)
    return {"params": {KEY: half, **{f"k{i}": half[i:] for i in range(1000)}}}


def _shared(width: int, depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value] * width
    return value


def _shared_dicts(state: dict[str, Any], torch: Any) -> Any:
    value: dict[str, Any] = {}
    for _ in range(3):
        value = {f"k{i}": value for i in range(1000)}
    return value


def _itself(state: dict[str, Any], torch: Any) -> Any:
    document: dict[str, Any] = {"epoch": 1}
    document["model"] = document
    return document


def _deflated(folder: Path, state: State) -> Path:
    return archive(folder / "hostile.pth",
                   {"x/data.pkl": pickle.dumps({}), "x/data/0": bytes(64 << 20)},
                   zipfile.ZIP_DEFLATED)


def _many_records(folder: Path, state: State) -> Path:
    """A directory of 70,000 records that are all the same bytes."""
    path = archive(folder / "hostile.pth", {"x/data.pkl": pickle.dumps({}), "x/data/0": bytes(9)})
    data = path.read_bytes()
    start = data.rindex(b"PK\1\2")
    entry = data[start:data.rindex(b"PK\5\6")]
    directory = data[data.index(b"PK\1\2"):start] + entry * 70_000
    path.write_bytes(data[:data.index(b"PK\1\2")] + directory + struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(directory), data.index(b"PK\1\2"), 0))
    return path


def _overlapping(folder: Path, state: State) -> Path:
    """A thousand records that are all the same megabyte."""
    path = archive(folder / "hostile.pth", {"x/data.pkl": pickle.dumps({}),
                                            "x/data/0": bytes(1 << 20)})
    data = path.read_bytes()
    start, end = data.rindex(b"PK\1\2"), data.rindex(b"PK\5\6")
    first = data.index(b"PK\1\2")
    directory = data[first:start] + data[start:end] * 1000
    path.write_bytes(data[:first] + directory + struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, 1001, 1001, len(directory), first, 0))
    return path


def _legacy(count: int) -> Maker:
    """The form of torch 1.5, whose storage claims ``count`` numbers."""
    def make(folder: Path, state: State) -> Path:
        stream = io.BytesIO()
        for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            stream.write(pickle.dumps(value, 2))
        storage = (b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu")
                   + b"\x8a\x08" + count.to_bytes(8, "little", signed=True) + b"NtQ")
        stream.write(b"\x80\x02}" + _text(KEY) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage
                     + b"K\0(K\x04t(K\x01t\x89}tRs.")
        stream.write(pickle.dumps(["0"], 2) + struct.pack("<q", count) + bytes(64))
        (folder / "hostile.pth").write_bytes(stream.getvalue())
        return folder / "hostile.pth"
    return make


class _Evil:
    def __reduce__(self) -> Any:
        return exec, ("open('owned', 'w')",)


_DOUBLED = b")q\0" + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1])
                              for i in range(60))


# -- safetensors --------------------------------------------------------------------------------
def _safetensors(change: Callable[[dict[str, np.ndarray]], object],
                 metadata: Mapping[str, str] | None = None) -> Maker:
    def make(folder: Path, state: State) -> Path:
        tensors = dict(state)
        change(tensors)
        save_file(tensors, folder / "hostile.safetensors", dict(metadata or {}))
        return folder / "hostile.safetensors"
    return make


def _metadata(**texts: str) -> Maker:
    return _safetensors(lambda tensors: None, texts)


def _header(text: bytes, length: int | None = None) -> Maker:
    def make(folder: Path, state: State) -> Path:
        path = folder / "hostile.safetensors"
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text)
        return path
    return make


def packed(change: Callable[[dict[str, Any]], object]) -> Maker:
    """A packed checkpoint with a header that ``change`` changed, and three of its tensors."""
    def make(folder: Path, state: State) -> Path:
        header = {"format": "bidiff-packed", "schema": 1, "packing": 1, "scale": 4,
                  "network": {"inner_channel": 8, "norm_groups": 4, "channel_mults": [1]},
                  "schedule": {"total_steps": 2000, "beta_start": 1e-6, "beta_end": 1e-2},
                  "sampling": {}, "zeros": {}, "assumptions": [], "source": {}}
        change(header)
        path = folder / "hostile.safetensors"
        tensors = {f"time_embedding.linear1.{part}": np.zeros(shape, np.float32)
                   for part, shape in (("weight", (32, 8)), ("bias", (32,)))}
        path.write_bytes(save(tensors, {"bidiff": json.dumps(header)}))
        return path
    return make


def _network(**options: Any) -> Maker:
    return packed(lambda header: header["network"].update(options))


_RECIPE = {"scale": 4, "network": {"inner_channel": 8, "channel_mults": [1, 2]},
           "steps": [{"timestep": 900}], "betas": [1e-6, 1e-2]}
_STEERING = "\x1b[2J\x1b]0;x\x07\nerror: fake \u202e"

# Refused in a sentence.
REFUSED: dict[str, Maker] = {
    "1000 views of one half tensor": _torch(_views), "a deflated record": _deflated,
    "70,000 records": _many_records, "a record 1000 times": _overlapping,
    "code": _torch(lambda state, torch: {"params": _Evil()}),
    "dictionaries of shared dictionaries": _torch(_shared_dicts),
    "a dictionary in itself": _torch(_itself),
    "a key that takes for ever to hash": _pickle(b"}" + _DOUBLED + b"Ns"),
    "a place 2^32 in the memo": _pickle(b"]r\xff\xff\xff\xff"),
    "an array of 100 GB": _pickle(b"cbuiltins\nbytearray\n(\x8a\x06" + (10 ** 11).to_bytes(
        6, "little") + b"tR"),
    "two million lists": _pickle(b"]" * 2_000_000),
    "100,000 nested lists": _pickle(b"]" * 100_000 + b"a" * 99_999),
    "a number of a million digits": _pickle(b"I" + b"9" * 1_000_000 + b"\n"),
    "a text of 4 GB": _pickle(b"X\xff\xff\xff\xff"),
    "a tensor of 2^80 numbers": _one_tensor(16, (1 << 39, 1 << 39), (0, 0)),
    "a tensor before its storage": _one_tensor(16, (4,), (1,), offset=-4),
    "a tensor beyond its storage": _one_tensor(1 << 40, (4,), (1 << 30,)),
    "a tensor that goes backwards": _one_tensor(16, (4,), (-1,)),
    "a legacy storage of 2^60": _legacy(1 << 60), "a legacy storage of -1": _legacy(-1),
    "a sparse tensor": _torch(lambda state, torch: {**state, KEY: torch.eye(4).to_sparse()}),
    "a nested tensor": _torch(lambda state, torch: {**state, KEY: torch.nested.nested_tensor(
        [torch.ones(2), torch.ones(3)])}),
    "a complex tensor": _torch(lambda state, torch: {**state, KEY: state[KEY] + 1j}),
    "keys that steer a terminal": _torch(lambda state, torch: {
        f"{_STEERING}{i}": value for i, value in enumerate(state.values())}),
    "keys of a million dots": _torch(lambda state, torch: {
        "a." * 500_000 + str(i): torch.ones(1) for i in range(3)}),
    # safetensors
    "a header of 20 MB": _header(b" " * (20 << 20)), "a header of 2^63": _header(b"{}", 1 << 63),
    "20,000 empty tensors": _safetensors(lambda tensors: tensors.update(
        {f"k{i}": np.zeros(0, np.float32) for i in range(20_000)})),
    "tensors in tensors": _header(b'{"a":{"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}'),
    "a deep header": _header(b'{"a":' * 100_000),
    "keys that steer (safetensors)": _safetensors(lambda tensors: tensors.update(
        {_STEERING: np.zeros(3, np.float32)})),
    # packed
    **{f"a packed header that is {name}": _metadata(bidiff=text) for name, text in {
        "garbage": "{", "a list": "[]", "null": "null", "deep": "[" * 100_000,
        "infinite": '{"schema": Infinity, "packing": 1}', "1e999": '{"schema": 1e999}',
        "long": '{"schema": ' + "9" * 4000 + ', "packing": 1}'}.items()},
    "2^20 blocks": _network(res_blocks=1 << 20), "65535 blocks": _network(res_blocks=65534,
                                                                          dynamic_group=1),
    "2^15 groups": _network(res_blocks=1, dynamic_group=1 << 15, total_step=1 << 15),
    "as wide as can be": _network(inner_channel=16384, norm_groups=1),
    "a hundred thousand levels": _network(attn_res=list(range(100_000))),
    "widths of 4000 digits": _network(channel_mults=[int("9" * 4000)]),
    "a schedule that is none": packed(lambda header: header.update(schedule={"x": _STEERING})),
    "a sampling that is none": packed(lambda header: header.update(
        sampling={"timesteps": [5, _STEERING]})),
    "a model that steers": packed(lambda header: header.update(model=_STEERING * 1000)),
    "an option that steers": _network(**{_STEERING: 1}),
    "a scale that steers": packed(lambda header: header.update(scale=_STEERING))}

# Read as if what is hostile were not there.
READ: dict[str, Maker] = {
    "a recipe of shared lists": _torch(lambda state, torch: {
        "params": state, "recipe": {**_RECIPE, "x": _shared(10, 30)}}),
    "a recipe of shared texts": _torch(lambda state, torch: {
        "params": state, "recipe": {**_RECIPE, "x": ["x" * 1_000_000] * 10_000}}),
    **{f"a recipe that is {name}": _metadata(recipe=text) for name, text in {
        "garbage": "{", "a list": "[]", "null": "null", "text": '"x"', "deep": "[" * 100_000,
        "infinite": json.dumps({**_RECIPE, "betas": [1e-6, float("inf")]}),
        "1e999": '{"betas": [1e999, 1]}',
        "of endless steps": json.dumps({**_RECIPE, "steps": [{"timestep": float("inf")}]}),
        "of odd steps": json.dumps({**_RECIPE, "steps": [{"timestep": [1]}]}),
        "of another scale": json.dumps({**_RECIPE, "scale": 1 << 70}),
        "of another network": json.dumps({**_RECIPE, "model": _STEERING})}.items()}}

_LAUGHS = "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)])
# Texts of option files, refused in a sentence.
OPTIONS: dict[str, str] = {
    "aliases of aliases": f"{_LAUGHS}\nscale: *a9", "one alias": "a: &a 2\nscale: *a",
    "an alias of itself": "&a [*a]", "merges": "network_g: {<<: {<<: {inner_channel: 8}}}",
    "base 60": "scale: " + "1:" * 60_000 + "1",
    "base 60, said": "scale: !!int '" + "1:" * 999 + "1'",
    "base 60 with a point": "beta_schedule: {linear_start: !!float '" + "1:" * 999 + "1.5'}",
    "a number of 100,000 digits": "scale: " + "9" * 100_000,
    "a number of 100,000 hexadecimal digits": "scale: 0x" + "f" * 100_000,
    "deep lists": "[" * 30_000, "deep mappings": "{a: " * 30_000, "deep keys": "? " * 60_000,
    "a long text": "scale: " + "x" * 120_000, "two megabytes": "- x\n" * 500_000,
    "an object": "scale: !!python/object/apply:os.system ['true']",
    "a scale of options that steers": 'scale: "\\e[2J\\nerror: fake"',
    "a schedule that steers": 'beta_schedule: {schedule: "\\e[2J\\nerror: fake"}',
    "an infinite number": "beta_schedule: {n_timestep: .inf}",
    "numbers beyond float": "beta_schedule: {linear_start: " + "9" * 399 + "}"}
