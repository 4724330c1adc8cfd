"""``bidiff-deploy export-triton``: bundle -> model repository for NVIDIA Triton."""

from __future__ import annotations

import click

PATH = click.Path(readable=False)


@click.command()
@click.argument("bundle", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, metavar="REPO",
              help="Folder of the model repository.")
@click.option("--name", help="Of the model. Default: bidiff_x and the bundle's scale.")
@click.option("--instances", type=int, default=1, show_default=True,
              help="Processes with an engine each.")
@click.option("--max-batch", type=int, default=4, show_default=True,
              help="Images of one size that Triton may hand over at once; 1: no batching.")
@click.option("--queue-delay-us", type=int, default=500, show_default=True,
              help="Microseconds that a request may wait for others of its size.")
@click.option("--threads", type=int,
              help="Threads of an instance. Default: all cores, shared by the instances.")
@click.option("--backend", default="onnxruntime", show_default=True,
              help="What runs the graphs: onnxruntime, onnxruntime-stock, onnxruntime-cuda, "
                   "tensorrt, tensorrt-dense or tensorrt-dense-int8.")
@click.option("--tile", metavar="N|auto|none", default="auto", show_default=True,
              help="Side of tiles in output pixels, from 64; none runs images whole.")
@click.option("--memory", metavar="SIZE",
              help="What an instance may need at its peak, such as 2GB or 512MiB. Default: half of "
                   "what the server has left, shared by the instances.")
@click.option("--max-pixels", type=int, default=1 << 20, show_default=True,
              help="Of an input image; larger ones are refused.")
@click.option("--overwrite", is_flag=True, help="Replace the repository if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON on stdout.")
def command(bundle: str, output: str, name: str | None, instances: int, max_batch: int,
            queue_delay_us: int, threads: int | None, backend: str, tile: str, memory: str | None,
            max_pixels: int, overwrite: bool, as_json: bool) -> None:
    """Write a model repository that serves BUNDLE in NVIDIA Triton Inference Server.

    The model runs in Triton's Python backend, on CPU, in an interpreter that has bidiff_deploy and
    onnxruntime; REPO/README.md says how to start it, REPO/client.py upscales a file with it.
    """
    import dataclasses
    import json
    from pathlib import Path

    from ..serving.triton import export_repository
    from ._shared import parse_bytes

    serving = export_repository(
        bundle, output, overwrite=overwrite, name=name, instances=instances, max_batch=max_batch,
        queue_delay_us=queue_delay_us, threads=threads, backend=backend,
        tile=tile.lower(), memory=None if memory is None else parse_bytes(memory),
        max_pixels=max_pixels)
    if as_json:
        click.echo(json.dumps({"repository": output, **dataclasses.asdict(serving)}))
        return
    click.echo(f"{output}: model {serving.name}; {Path(output) / 'README.md'} says how to serve it")

