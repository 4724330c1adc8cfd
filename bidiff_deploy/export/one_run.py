"""Checkpoint of a feed-forward network -> bundle: one graph, the weights file, the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx_ir as ir

from .. import __version__
from ..bundle.manifest import FORMAT, MANIFEST, OPSET_VERSION, SCHEMA_VERSION
from ..checkpoint.record import Checkpoint
from ..bundle.feedforward import GRAPH, KIND
from ..files import atomic_directory, file_sha256
from ..networks import model_of
from ..operators.names import ONNX_OPSET
from ..operators.sign_bits import PACKING_VERSION
from ..networks.bbcu.graph import build_graph
from ..bundle.weights_file import FILE_NAME, WeightsFile


def export_feedforward(checkpoint: Checkpoint, output: str | Path, *,
                       overwrite: bool = False) -> dict[str, Any]:
    """Write the bundle of ``checkpoint``, a feed-forward network's, to the folder ``output``.

    Returns the manifest. The folder appears whole or not at all. Raises OutputError where it can
    not be written, or exists and ``overwrite`` is not given.
    """
    with atomic_directory(output, overwrite, marker=MANIFEST) as folder:
        with open(folder / FILE_NAME, "wb") as stream:
            model = build_graph(checkpoint, WeightsFile(stream).add)
        (folder / GRAPH).write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
        manifest = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "model": model_of(checkpoint.config),
            "tool": {"name": "bidiff_deploy", "version": __version__},
            "source": {"name": checkpoint.name, "sha256": checkpoint.sha256},
            "assumptions": list(checkpoint.assumptions),
            "zero_weights": checkpoint.zeros,
            "network": checkpoint.config.to_dict(),
            "scale": checkpoint.config.scale,
            "graph": GRAPH,
            "onnx_opset": ONNX_OPSET,
            "bidiff_opset": OPSET_VERSION,
            "packing_version": PACKING_VERSION,
            "precision": "float32",
            "weights": FILE_NAME,
            "files": {file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
                      for file in sorted(folder.iterdir())},
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n",
                                       encoding="utf-8")
    return manifest
