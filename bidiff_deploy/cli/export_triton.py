"""``bidiff-deploy export-triton``: bundle -> model repository for NVIDIA Triton."""

from __future__ import annotations

import click

from ._shared import BUNDLE, PATH, backend_option, json_option, parse_bytes, scale_option


@click.command()
@click.argument("bundle", type=BUNDLE)
@scale_option
@click.option("-o", "--output", required=True, type=PATH, metavar="REPO",
              help="Folder of the model repository.")
@click.option("--name", help="Name of the model. Default: bidiff_x and the bundle's scale.")
@click.option("--instances", type=int, default=1, metavar="N",
              help="Processes, each with its own engine.")
@click.option("--max-batch", type=int, default=4, metavar="N",
              help="Largest batch of images of one size; 1: no batching.")
@click.option("--queue-delay-us", type=int, default=500, metavar="N",
              help="Microseconds that a request may wait for others of its size.")
@click.option("--threads", type=int, metavar="N",
              help="Threads of an instance. Default: all cores, shared by the instances.")
@backend_option
@click.option("--tile", metavar="N|auto|none", default="auto",
              help="Side of tiles in output pixels, at least 64, or none to compute each image "
                   "whole. auto: whole if the memory allows, otherwise in tiles that fit it.")
@click.option("--memory", metavar="SIZE",
              help="Memory budget of an instance, e.g. 2GB or 512MiB. Default: half of what is "
                   "free on the server, shared by the instances.")
@click.option("--max-pixels", type=int, default=1 << 20, metavar="N",
              help="Largest input image in pixels; larger ones are refused.")
@click.option("--overwrite", is_flag=True, help="Replace the repository if it exists.")
@json_option("a summary")
def command(bundle: str, output: str, name: str | None, instances: int, max_batch: int,
            queue_delay_us: int, threads: int | None, backend: str, tile: str, memory: str | None,
            max_pixels: int, overwrite: bool, as_json: bool) -> None:
    """Write a model repository that serves BUNDLE in NVIDIA Triton Inference Server.

    BUNDLE may also be a checkpoint, or the name of an installed model. It runs in Triton's Python
    backend, on the CPU, in an interpreter with bidiff_deploy and onnxruntime. REPO/README.md
    explains how to start it; REPO/client.py upscales a file with it.
    """
    import dataclasses
    import json
    from pathlib import Path

    from ..serving.triton import export_repository

    serving = export_repository(
        bundle, output, overwrite=overwrite, name=name, instances=instances, max_batch=max_batch,
        queue_delay_us=queue_delay_us, threads=threads, backend=backend,
        tile=tile.lower(), memory=None if memory is None else parse_bytes(memory),
        max_pixels=max_pixels)
    if as_json:
        click.echo(json.dumps({"repository": output, **dataclasses.asdict(serving)}))
        return
    click.echo(f"{output}: model {serving.name}; {Path(output) / 'README.md'} explains how to "
               "serve it")
