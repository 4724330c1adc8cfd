"""``bidiff-deploy export-onnx``: model -> one ONNX file for other programs."""

from __future__ import annotations

import click

from ._shared import (
    PATH,
    autoencoder_option,
    json_option,
    print_assumptions,
    published_options_option,
)


@click.command()
@click.argument("model", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, metavar="FILE", help="The ONNX file.")
@click.option("--step", type=click.IntRange(min=0), metavar="T",
              help="Write the network at time step T, with inputs noisy and condition and output "
                   "prediction, for a loop of your own.")
@click.option("--part", type=click.Choice(["encoder", "decoder"]),
              help="Write the encoder or the decoder of a latent network, between images from -1 "
                   "to 1 and latents.")
@click.option("--precision", type=click.Choice(["exact", "half"]), default="exact",
              help="exact: all floats are float32. half: the input, the output and the maps "
                   "between layers are float16.")
@click.option("--plain", is_flag=True,
              help="Store binary weights as floats: a larger file for programs that may not "
                   "decode bits once, when they load it, such as TensorRT.")
@click.option("--seed", type=int, default=0, metavar="N",
              help="Seed of the noise in the file; a feed-forward network has none.")
@published_options_option
@autoencoder_option
@click.option("--scale", type=int, metavar="N",
              help="Upscaling factor; required if neither the checkpoint nor its options state it, "
                   "or if it has several.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@json_option("a summary")
def command(model: str, output: str, step: int | None, part: str | None, precision: str,
            plain: bool, seed: int, options: str | None, autoencoder: str | None,
            scale: int | None, overwrite: bool, as_json: bool) -> None:
    """Write MODEL as one ONNX file that runs without this package: image in, image out.

    MODEL is the name of an installed model, such as photo-x2, or a checkpoint: of a feed-forward
    network, or of a model that samples in one step from the noised input or latent. The file has
    standard operators alone, and takes RGB images of any size and number, NCHW and from 0 to 1.
    docs/onnx.md shows its use in ONNX Runtime, OpenVINO, chaiNNer, vs-mlrt and the browser.
    """
    import json
    import os

    from ..checkpoint.options import given_options
    from ..checkpoint.read import read_checkpoint
    from ..errors import UsageError
    from ..export.one_file import export_one_file
    from ..files import check_target
    from ..models.open import checkpoint_file
    from ..networks.base import STEP

    if os.path.isdir(model):
        raise UsageError(f"{model} is a folder; give the checkpoint that the bundle was "
                         "exported from")
    check_target(output, overwrite)  # before the work, which would be lost otherwise
    found = read_checkpoint(checkpoint_file(model), given_options(options, autoencoder), scale)
    facts = export_one_file(found, output, step=step, part=part or STEP, seed=seed,
                            half=precision == "half", plain=plain, overwrite=overwrite)
    size = os.stat(output).st_size
    if as_json:
        click.echo(json.dumps({"file": output, "bytes": size, "assumptions": found.assumptions,
                               **facts}))
        return
    print_assumptions(found.assumptions)
    what = f"the {part}" if part else (
        f"x{facts['scale']}" if step is None else f"the network at step {step}")
    click.echo(f"{output}: {what}, {facts['precision']}, {size / 1e6:.2f} MB")
