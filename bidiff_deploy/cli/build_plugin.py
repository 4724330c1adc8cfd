"""``bidiff-deploy build-plugin``: builds the plugin library for an installed TensorRT."""

from __future__ import annotations

import click

from ._shared import PATH, json_option


@click.command()
@click.option("--tensorrt-root", required=True, type=PATH, metavar="DIR",
              help="Folder that TensorRT was unpacked to, or /usr for Debian packages.")
@click.option("--library", type=PATH, metavar="FILE",
              help="libnvinfer.so, if it is neither below DIR nor in an installed wheel.")
@click.option("--cuda-root", type=PATH, metavar="DIR",
              help="CUDA toolkit, if its headers are not found automatically.")
@click.option("-o", "--output", type=PATH, metavar="DIR",
              help="Folder to write. Default: where engines look for the plugin.")
@click.option("--architectures", default="auto",
              help="GPUs that nvcc compiles for now: auto (this machine's), all, numbers such as "
                   "75,87, or none (NVRTC compiles at first use).")
@click.option("--overwrite", is_flag=True, help="Replace a plugin that exists.")
@json_option("a summary")
def command(tensorrt_root: str, library: str | None, cuda_root: str | None, output: str | None,
            architectures: str, overwrite: bool, as_json: bool) -> None:
    """Build the plugin library for the TensorRT in DIR, version 8.5 or newer.

    Needs cmake, a C++ compiler, TensorRT's headers and library, and CUDA's cuda_runtime_api.h, but
    no GPU. trtexec loads libbidiff_tensorrt.so with --staticPlugins (--plugins before 8.6), or
    libbidiff_tensorrt_dynamic.so with --dynamicPlugins.
    """
    import dataclasses
    import json

    from ..engines.tensorrt.plugin.compile import build_plugin

    built = build_plugin(tensorrt_root, output, library=library, cuda_root=cuda_root,
                         architectures=architectures, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(built), indent=1, default=str))
        return
    for file in built.libraries:
        click.echo(f"{file}: TensorRT {built.tensorrt}, {built.interface}")
    codes = ", ".join(f"sm_{code}" for code in built.architectures)
    click.echo(f"GPU kernels: {'compiled for ' + codes if codes else 'compiled at first use'}")
