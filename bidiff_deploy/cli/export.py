"""``bidiff-deploy export``: checkpoint -> bundle."""

from __future__ import annotations

import click

from ._shared import (
    PATH,
    autoencoder_option,
    json_option,
    parse_timesteps,
    print_assumptions,
    published_options_option,
    quiet_option,
    sampler_option,
)


@click.command()
@click.argument("checkpoint", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, metavar="FOLDER",
              help="Folder of the bundle.")
@published_options_option
@autoencoder_option
@click.option("--scale", type=int, metavar="N",
              help="Upscaling factor; required if neither the checkpoint nor its options state it, "
                   "or if it has several.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N",
              help="Number of steps, evenly spaced. Default: what the checkpoint or its "
                   "options advise, otherwise 50.")
@click.option("--timesteps", metavar="T,T,...", help="The timesteps themselves, descending.")
@sampler_option
@click.option("--precision", type=click.Choice(["exact", "fast", "half", "int8"]),
              help="exact: all floats are float32. fast: factors of full-precision products may "
                   "be rounded to bfloat16, or to integers of 14 bits, where the CPU multiplies "
                   "them faster (x86-64 with BF16 or AVX2, ARM with BF16). half: on GPUs, these "
                   "factors and the maps between layers may be float16; on CPUs like exact. int8: "
                   "the convolutions of full-precision residual blocks multiply bytes; needs "
                   "--calibration. "
                   "Default: exact; of an installed model that with which it is run.")
@click.option("--calibration", type=PATH, metavar="FOLDER",
              help="Low-resolution images, such as the model is to enlarge, for --precision int8: "
                   "the loop runs on 32 crops of them, and the range of every int8 layer is "
                   "searched in what it computes.")
@click.option("--train-bounds", type=click.IntRange(min=0), default=0,
              metavar="N",
              help="Iterations that train the ranges of --calibration after the search, by "
                   "2DQuant's method; needs torch.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N",
              help="Threads of the calibration. Default: the number of CPU cores.")
@click.option("--overwrite", is_flag=True,
              help="Replace the bundle if it exists, in one step: whenever the process is killed, "
                   "the old or the new one is there. A file system that needs two steps is "
                   "reported.")
@quiet_option
@json_option("a summary")
def command(checkpoint: str, output: str, options: str | None, autoencoder: str | None,
            scale: int | None, steps: int | None, timesteps: str | None, sampler: str | None,
            precision: str | None, calibration: str | None, train_bounds: int, threads: int | None,
            overwrite: bool, quiet: bool, as_json: bool) -> None:
    """Turn CHECKPOINT into a bundle: one graph for each time step, weights packed to bits.

    CHECKPOINT is a .pth, .pt or .safetensors file, published, trained by this package or packed, or
    the name of an installed model. None needs torch. A feed-forward network (BBCU-M) becomes one
    graph without steps. A latent network (DiT-SR) also becomes an encoder and a decoder.
    """
    import json

    from ..bundle.manifest import MANIFEST
    from ..checkpoint.options import given_options
    from ..checkpoint.read import read_checkpoint
    from ..checkpoint.record import with_sampler
    from ..errors import UsageError
    from ..export.write import choose_timesteps, export_bundle
    from ..files import check_target
    from ..models.open import checkpoint_file, precision_of
    from ..progress import Progress

    if steps is not None and timesteps is not None:
        raise UsageError("--steps and --timesteps exclude each other; give one of them")
    if (precision == "int8") != (calibration is not None):
        raise UsageError("--precision int8 and --calibration belong together; give both of them or "
                         "none")
    listed = parse_timesteps(timesteps)
    # Before the long work, which would be lost otherwise.
    check_target(output, overwrite, directory=True, marker=MANIFEST)
    found = with_sampler(read_checkpoint(checkpoint_file(checkpoint),
                                         given_options(options, autoencoder), scale), sampler)
    chosen = choose_timesteps(found, steps=steps, timesteps=listed)
    ranges = None
    if calibration is not None:
        from ..quantisation.bounded import with_bounds

        found, ranges = with_bounds(found, chosen, calibration, iterations=train_bounds,
                                    threads=threads, quiet=quiet)
    with Progress("export", len(chosen) or 1, quiet=quiet) as progress:
        manifest = export_bundle(found, output, timesteps=chosen, overwrite=overwrite,
                                 precision=precision or precision_of(checkpoint),
                                 on_step=lambda done, total: progress.update(done))
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    if as_json:
        click.echo(json.dumps({
            "bundle": output, "bytes": size, "steps": list(chosen), "scale": manifest["scale"],
            "precision": manifest["precision"], "calibration": ranges,
            "network": manifest["network"], "zero_weights": manifest["zero_weights"],
            "assumptions": manifest["assumptions"]}))
        return
    if quiet:
        return
    print_assumptions(manifest["assumptions"])
    if ranges is not None:
        spread = (f"; ranges of groups of time steps differ by up to {ranges['spread']:.2f} times, "
                  "and each map has one for all" if ranges["spread"] > 1 else "")
        click.echo(f"note: calibrated on {ranges['crops']} crops of {ranges['images']} images"
                   f"{spread}", err=True)
    if manifest["zero_weights"]:
        click.echo(f"note: {manifest['zero_weights']} binary weights are exactly zero and were "
                   "stored as +1", err=True)
    click.echo(f"{output}: x{manifest['scale']}, "
               + (f"{len(chosen)} steps, {size / 1e6:.1f} MB" if chosen
                  else f"feed-forward, {size / 1e6:.2f} MB"))
