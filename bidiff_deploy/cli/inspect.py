"""``bidiff-deploy inspect``: what a bundle contains."""

from __future__ import annotations

import click

from ._shared import BUNDLE, json_option, parse_size, scale_option


@click.command()
@click.argument("bundle", type=BUNDLE)
@scale_option
@click.option("--size", metavar="HxW",
              help="Size to count operations for: of the output, or of a feed-forward or latent "
                   "network's input. Default: the network's image_size, 256x256 for the "
                   "published one.")
@json_option("everything")
def command(bundle: str, size: str | None, as_json: bool) -> None:
    """Show what BUNDLE contains: the kind of each layer with the reason, its cost, its bytes, and
    totals. BUNDLE may also be a checkpoint, or the name of an installed model.

    Layers are read from the graph that engines run, which is built from the network in the
    manifest, after the hash of every file is verified. If a step file contains another graph, or
    files and manifest differ otherwise, each disagreement is listed and the exit code is 1. Needs
    no inference runtime.

    Bytes on disk are a layer's share of the weights file. Bytes in memory are those of its tensors
    in one session with the constants of all steps, without a kernel's own copy of the sign words.
    Both are compared with the layer's float32 parameters in the checkpoint.
    """
    import json

    from ..errors import BundleError
    from ..proof.inspect.inspection import inspect_bundle
    from ..proof.inspect.text import to_text

    found = inspect_bundle(bundle, None if size is None else parse_size(size))
    click.echo(json.dumps(found.to_dict(), indent=1) if as_json else to_text(found))
    if number := len(found.disagreements):
        raise BundleError(f"{bundle} contradicts its manifest: {number} "
                          f"disagreement{'s' if number > 1 else ''}, such as: "
                          f"{found.disagreements[0]}; export the bundle again")
