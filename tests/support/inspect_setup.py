"""What tests of ``inspect`` share: a bundle, changes of its graphs, and what inspect says of it."""

from __future__ import annotations

import hashlib

import onnx
from click.testing import CliRunner

from bidiff_deploy.cli import group
from bidiff_deploy.operators.definitions import inline_fused
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


def edit_graphs(bundle, edit_manifest, change, pattern="step_*.onnx", fused=False):
    """``change`` gets each graph with its fused operators inlined, or as it is."""
    for path in sorted(bundle.glob(pattern)):
        model = onnx.load(path, load_external_data=False)
        model = model if fused else inline_fused(model)
        change(model.graph)
        path.write_bytes(model.SerializeToString(deterministic=True))
    rehash(bundle, edit_manifest)


def node_of(graph, name):
    return next(node for node in graph.node if node.output[0] == name)


def place_before(graph, name, *new):
    index = list(graph.node).index(node_of(graph, name))
    rest = list(graph.node)[index:]
    del graph.node[index:]
    graph.node.extend([*new, *rest])


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
