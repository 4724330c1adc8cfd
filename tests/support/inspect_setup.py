"""What tests of ``inspect`` share: a bundle, changes of its graphs, and what inspect says of it."""

from __future__ import annotations

import hashlib

import onnx
from click.testing import CliRunner

from bidiff_deploy.cli import group
from bidiff_deploy.proof.inspect.inspection import inspect_bundle
from bidiff_deploy.proof.inspect.text import WIDTH


def run(*arguments) -> tuple[int, str, str]:
    result = CliRunner().invoke(group, ["inspect", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def rehash(bundle, edit_manifest):
    """State the files' true hashes: what follows is found in spite of them."""
    def change(manifest):
        for name, entry in manifest["files"].items():
            data = (bundle / name).read_bytes()
            entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    edit_manifest(bundle, change)


def edit_graphs(bundle, edit_manifest, change, pattern="step_*.onnx"):
    """``change`` gets each graph."""
    for path in sorted(bundle.glob(pattern)):
        model = onnx.load(path, load_external_data=False)
        change(model)
        path.write_bytes(model.SerializeToString(deterministic=True))
    rehash(bundle, edit_manifest)


def check_layers(found):
    """The graph has the layers that the network's costs are counted for."""
    expected = {layer.name: layer for layer in found.count.layers}
    assert sorted(layer.name for layer in found.layers) == sorted(expected)
    for layer in found.layers:
        counted, read = expected[layer.name], layer.found
        assert (layer.binary, read.shape, read.macs) == (
            read.kind == "packed", counted.shape, counted.macs), layer.name
        assert counted.product or (read.height, read.width) == (counted.height, counted.width)


def disagreements(bundle) -> str:
    """What inspect finds wrong, after the command line told it with exit code 1."""
    found = inspect_bundle(bundle).disagreements
    code, out, err = run(bundle)
    assert code == 1 and err.count("error: ") == 1 and "disagreement" in err, (out, err)
    told = " ".join(out.split())
    for line in found:
        assert " ".join(line.split()) in told
    assert max(len(line) for line in out.splitlines() if str(bundle) not in line) <= WIDTH
    return "\n".join(found)
