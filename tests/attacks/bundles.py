"""Bundles that ask for more than they are worth: each maker changes a copy of an honest one.

A maker gets the bundle's folder and its manifest, changes either, and returns the manifest; sizes
and hashes are made to fit afterwards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Manifest = dict[str, Any]
Maker = Callable[[Path, Manifest], "Manifest | bytes"]


def write(folder: Path, maker: Maker) -> None:
    """Change the bundle in ``folder``, and make sizes and hashes fit unless the maker returns the
    manifest's bytes."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    names = list(manifest["files"])
    changed = maker(folder, manifest)
    if not isinstance(changed, bytes):
        entries = changed.get("files")
        for name in names:
            entry = entries.get(name) if isinstance(entries, dict) else None
            if isinstance(entry, dict):
                data = (folder / name).read_bytes()
                entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        changed = json.dumps(changed).encode()
    path.write_bytes(changed)


def _graph(change: Callable[[onnx.ModelProto], None]) -> Maker:
    """A maker that changes the graph of the first step."""
    def make(folder: Path, manifest: Manifest) -> Manifest:
        file = folder / manifest["steps"][0]["file"]
        model = onnx.load(file, load_external_data=False)
        change(model)
        file.write_bytes(model.SerializeToString())
        return manifest
    return make


def _initializer(model: onnx.ModelProto, name: str, *values: int) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))


def _big_constant(model: onnx.ModelProto) -> None:
    _initializer(model, "bomb.shape", 1, 3, 1 << 20, 1 << 20)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["bomb.shape"], ["bomb"]))


def _doubling(model: onnx.ModelProto) -> None:
    value = "input"
    for i in range(30):
        model.graph.node.append(helper.make_node("Concat", [value, value], [f"bomb{i}"], axis=1))
        value = f"bomb{i}"


def _nan_range(model: onnx.ModelProto) -> None:
    """ONNX Runtime aborts the process when this node runs."""
    model.graph.node.append(helper.make_node("RandomUniformLike", ["noisy"], ["bomb"],
                                             low=float("nan")))


def _many_constants(model: onnx.ModelProto) -> None:
    for i in range(9000):
        _initializer(model, f"bomb{i}.shape", 1 << 17)
        model.graph.node.append(helper.make_node("ConstantOfShape", [f"bomb{i}.shape"],
                                                 [f"bomb{i}"]))


def _loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], [], body=body))


def _redefined(model: onnx.ModelProto) -> None:
    model.functions[1].node[-1].op_type = "Add"


def _empty_initializers(model: onnx.ModelProto) -> None:
    """Two bytes each in the file, 500 in memory."""
    model.graph.initializer.extend(TensorProto() for _ in range(1_000_000))


def _external_elsewhere(model: onnx.ModelProto) -> None:
    entry = next(e for e in model.graph.initializer[0].external_data if e.key == "location")
    entry.value = "../../../../etc/passwd"


def _constant_elsewhere(model: onnx.ModelProto) -> None:
    constant = next(a.t for n in model.functions[0].node for a in n.attribute if a.HasField("t"))
    constant.data_location = TensorProto.EXTERNAL
    constant.external_data.add(key="location", value="secret.txt")


def _reference(key: str, value: str) -> Maker:
    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            next(e for e in tensor.external_data if e.key == key).value = value
    return _graph(change)


def _network(**options: Any) -> Maker:
    def make(folder: Path, manifest: Manifest) -> Manifest:
        manifest["network"].update(options)
        return manifest
    return make


def _offsets(change: Callable[[int], Any]) -> Maker:
    def make(folder: Path, manifest: Manifest) -> Manifest:
        manifest["tensors"] = {name: change(offset)
                               for name, offset in manifest["tensors"].items()}
        return manifest
    return make


def _one_place_for_all(folder: Path, manifest: Manifest) -> Manifest:
    """The published network's 200 MB, all of them the same 64 KiB of the file."""
    manifest["network"].update(inner_channel=64, channel_mults=[1, 2, 4, 8], norm_groups=16)
    manifest["tensors"] = dict.fromkeys(manifest["tensors"], 0)
    return manifest


def _without_tensors(folder: Path, manifest: Manifest) -> Manifest:
    del manifest["tensors"]
    return manifest


def _short_step(folder: Path, manifest: Manifest) -> Manifest:
    manifest["steps"][0]["offsets"].pop()
    return manifest


def _raw(change: Callable[[bytes], bytes]) -> Maker:
    """A maker that changes the manifest's bytes."""
    def make(folder: Path, manifest: Manifest) -> bytes:
        return change(json.dumps(manifest).encode())
    return make


def _empty_weights(folder: Path, manifest: Manifest) -> Manifest:
    (folder / manifest["weights"]).write_bytes(b"")
    return manifest


def _with(**keys: Any) -> Maker:
    def make(folder: Path, manifest: Manifest) -> Manifest:
        return {**manifest, **keys}
    return make


def _one_file_for_all_steps(folder: Path, manifest: Manifest) -> Manifest:
    """A graph of before is read once a step, so one file would be read 1000 times."""
    step = manifest["steps"][0]
    manifest["steps"] = [{**step, "timestep": time} for time in reversed(range(1000))]
    return manifest


def _text_that_steers(folder: Path, manifest: Manifest) -> Manifest:
    manifest["model"] = "\x1b[2J\nerror: fake"
    return manifest


# Graphs in files: nothing runs them, so the bundle computes what it did before.
GRAPHS: dict[str, Maker] = {
    "a constant of 12 TB": _graph(_big_constant), "30 doublings": _graph(_doubling),
    "a random range of NaN": _graph(_nan_range), "9000 constants to fold": _graph(_many_constants),
    "a loop": _graph(_loop), "an operator redefined": _graph(_redefined),
    "a million empty initializers": _graph(_empty_initializers),
    "tensors in another file": _graph(_external_elsewhere),
    "a constant in another file": _graph(_constant_elsewhere),
    "tensors beyond the file": _reference("offset", "999999999"),
    "tensors before the file": _reference("offset", "-64"),
    "places of many digits": _reference("offset", "9" * 100_000)}
# Manifests: refused in a sentence.
MANIFESTS: dict[str, Maker] = {
    "2^20 blocks a level": _network(res_blocks=1 << 20),
    "as many blocks as can be": _network(res_blocks=21_000, dynamic_group=1),
    "attention in 40 large maps": _network(res_blocks=40, attn_res=[32]),
    "2^20 groups": _network(dynamic_group=1 << 20, total_step=1 << 20),
    "as wide as can be": _network(inner_channel=16384, channel_mults=[1], norm_groups=1),
    "places beyond the file": _offsets(lambda offset: offset + (1 << 40)),
    "places before the file": _offsets(lambda offset: -4),
    "places between values": _offsets(lambda offset: offset + 1),
    "places that are no numbers": _offsets(lambda offset: True),
    "one place for all": _one_place_for_all, "no places": _without_tensors,
    "a place too few": _short_step, "names that steer a terminal": _text_that_steers,
    "no weights": _empty_weights, "one file for 1000 steps": _one_file_for_all_steps,
    "a number of 100000 digits": _raw(lambda text: b'{"x": ' + b"9" * 100_000 + b"," + text[1:]),
    "a key twice": _raw(lambda text: text[:-1] + b', "scale": 4}'),
    "100000 brackets": _raw(lambda text: b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b","
                            + text[1:]),
    "a million empty lists": _with(later=[[]] * 1_000_000),
    "400000 keys, the last twice": _raw(lambda text: text[:-1] + b"".join(
        b',"%d":1' % (i % 399_999) for i in range(400_000)) + b"}"),
    "NaN": _with(later=float("nan")), "infinity": _with(later=float("inf")),
    "a scale that is true": _with(scale=True), "a text of a megabyte": _with(model="x" * 1_000_000),
    "a million steps": _with(steps=[0] * 1_000_000),
    "notes that are a number": _with(assumptions=7),
    "no source": _with(source=None), "a schema of minus one": _with(schema_version=-1)}
