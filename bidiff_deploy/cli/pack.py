"""``bidiff-deploy pack``: checkpoint -> packed checkpoint."""

from __future__ import annotations

import click

from ._shared import (
    PATH,
    autoencoder_option,
    parse_timesteps,
    print_assumptions,
    published_options_option,
    sampler_option,
)


@click.command()
@click.argument("checkpoint", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, metavar="FILE",
              help="The packed checkpoint, a .safetensors file.")
@published_options_option
@autoencoder_option
@click.option("--scale", type=int, metavar="N",
              help="Upscaling factor; required if neither the checkpoint nor its options state it. "
                   "Of a checkpoint that has several, keeps this one. Default: all are kept.")
@click.option("--timesteps", metavar="T,T,...",
              help="Timesteps of exports that name none, descending.")
@click.option("--start", type=click.IntRange(min=0), metavar="T",
              help="Timestep at which sampling with these exports begins, from the noised "
                   "condition.")
@sampler_option
@click.option("--half", is_flag=True,
              help="Round full-precision weights to float16, which halves their size. Up to a "
                   "quarter of an image's values change by one level of 255, few by more.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def command(checkpoint: str, output: str, options: str | None, autoencoder: str | None,
            scale: int | None, timesteps: str | None, start: int | None, sampler: str | None,
            half: bool, overwrite: bool) -> None:
    """Shrink CHECKPOINT to about a tenth: binary weights become sign bits and scales, all other
    weights stay float32 unless --half is given. A latent network and its autoencoder become one
    file.

    A packed checkpoint is read by export as well as by training and check, and may be packed again.
    """
    import dataclasses
    from pathlib import Path

    from ..checkpoint.options import given_options
    from ..checkpoint.packed import write_packed
    from ..checkpoint.read import read_checkpoint
    from ..checkpoint.record import with_sampler
    from ..errors import UsageError
    from ..export.write import choose_timesteps

    if Path(output).suffix.lower() != ".safetensors":
        raise UsageError(f"{output} must end in .safetensors, the form of a packed checkpoint")
    found = with_sampler(read_checkpoint(checkpoint, given_options(options, autoencoder), scale),
                         sampler)
    sampling = dict(found.sampling)
    if timesteps is not None:
        listed = parse_timesteps(timesteps)
        sampling["timesteps"] = list(choose_timesteps(found, timesteps=listed))
    if start is not None:
        sampling["start"] = start
    write_packed(output, dataclasses.replace(found, sampling=sampling), overwrite=overwrite,
                 half=half)
    before, after = Path(checkpoint).stat().st_size, Path(output).stat().st_size
    print_assumptions(found.assumptions)
    click.echo(f"{output}: {after / 1e6:.2f} MB, {before / after:.1f} times smaller than "
               f"{checkpoint}")
