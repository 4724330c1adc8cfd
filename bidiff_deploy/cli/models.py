"""``bidiff-deploy models``: the models that are installed with the package."""

from __future__ import annotations

import click

from ._shared import json_option


@click.command()
@json_option("the list")
def command(as_json: bool) -> None:
    """List the models that are installed with the package.

    PSNR-Y is the mean of eight photos that no model has seen, reduced by Matlab's bicubic; Pillow's
    bicubic enlargement reaches 33.58 dB for x2 and 29.70 for x4. Seconds are CPU time for these
    eight photos, whose results have 0.1 to 0.4 megapixels. `upscale --model NAME` uses one;
    without it, `upscale` takes the first of the --scale, and for JPEG files the one for them.
    """
    import json
    from dataclasses import asdict

    from ..models.shipped import SHIPPED

    sizes = {one.name: one.path.stat().st_size for one in SHIPPED}
    if as_json:
        click.echo(json.dumps([{**asdict(one), "bytes": sizes[one.name]} for one in SHIPPED],
                              indent=1))
        return
    rows = [("model", "scale", "size", "PSNR-Y", "seconds", "for"),
            *((one.name, f"x{one.scale}", f"{sizes[one.name] / 1e6:.2f} MB", f"{one.psnr:.2f} dB",
               str(one.seconds), one.purpose) for one in SHIPPED)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(value.ljust(width) for value, width in zip(row, widths)).rstrip())
