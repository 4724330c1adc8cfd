"""``bidiff-deploy inspect``: what a bundle really is."""

from __future__ import annotations

import click


@click.command()
@click.argument("bundle", type=click.Path(readable=False))
@click.option("--size", metavar="HxW",
              help="Height and width of the output to count operations for; of a feed-forward "
                   "network those of its input. Default: what the network names its levels by, "
                   "256x256 for the published one.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON on stdout.")
def command(bundle: str, size: str | None, as_json: bool) -> None:
    """Show what BUNDLE is: each layer's kind and why, its cost and its bytes, and totals.

    Everything is read from the graphs and weights themselves, after every file's hash is verified;
    where they contradict the manifest, each disagreement is listed and the exit code is 1. Needs
    no inference runtime.

    Bytes on disk are a layer's share of the weights file, bytes in memory those of its tensors in
    one session with the constants of all steps (a kernel's own form of the sign words comes on
    top), both beside its float32 parameters in the checkpoint.
    """
    import json

    from ..errors import BundleError
    from ..proof.inspect.inspection import inspect_bundle
    from ..proof.inspect.text import to_text

    found = inspect_bundle(bundle, None if size is None else _size(size))
    click.echo(json.dumps(found.to_dict(), indent=1) if as_json else to_text(found))
    if number := len(found.disagreements):
        raise BundleError(f"{bundle} is not what its manifest says: {number} "
                          f"disagreement{'s' if number > 1 else ''}, such as: "
                          f"{found.disagreements[0]}; export the bundle again")


def _size(text: str) -> tuple[int, int]:
    """``"256x320"`` as height and width. Raises UsageError."""
    import re

    from ..errors import UsageError

    match = re.fullmatch(r"([0-9]{1,9})[xX]([0-9]{1,9})", text)
    if not match:
        raise UsageError(f"--size {text!r} must be height and width, such as 256x320")
    return int(match[1]), int(match[2])
