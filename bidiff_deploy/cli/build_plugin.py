"""``bidiff-deploy build-plugin``: the plugin library for a TensorRT."""

from __future__ import annotations

import click


@click.command()
@click.option("--tensorrt-root", required=True, type=click.Path(), metavar="DIR",
              help="Folder that TensorRT was unpacked to, or /usr for Debian packages.")
@click.option("--library", type=click.Path(), metavar="FILE",
              help="libnvinfer.so, where it is neither below DIR nor in an installed wheel.")
@click.option("--cuda-root", type=click.Path(), metavar="DIR",
              help="CUDA toolkit, where its headers are not found by themselves.")
@click.option("-o", "--output", type=click.Path(), metavar="DIR",
              help="Folder to write; by default the one where bundles look for the plugin.")
@click.option("--architectures", default="auto", show_default=True,
              help="GPUs to compile for now, by nvcc: auto (those here), none (at first use, by "
                   "NVRTC), all, or numbers such as 75,87.")
@click.option("--overwrite", is_flag=True, help="Replace a plugin that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print what was built as JSON on stdout.")
def command(tensorrt_root: str, library: str | None, cuda_root: str | None, output: str | None,
            architectures: str, overwrite: bool, as_json: bool) -> None:
    """Build the plugin library for the TensorRT in DIR, version 8.5 or newer.

    Needs cmake, a C++ compiler, TensorRT's headers and library, and cuda_runtime_api.h of CUDA. No
    GPU is needed. trtexec takes libbidiff_tensorrt.so as --staticPlugins (--plugins before 8.6), or
    libbidiff_tensorrt_dynamic.so as --dynamicPlugins.
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
