"""``bidiff-deploy app``: a local page that upscales photos."""

from __future__ import annotations

import click

from ._shared import threads_option


@click.command()
@click.option("--host", default="127.0.0.1", metavar="ADDRESS",
              help="Address to listen at; 0.0.0.0 lets other machines use the page.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N",
              help="Port to listen at. Default: the first that is free, from 7860.")
@click.option("--model", metavar="NAME|BUNDLE|CHECKPOINT",
              help="The model that is chosen first: a name that `bidiff-deploy models` lists, or a "
                   "path. Default: photo-x2, and photo-jpeg-x2 for JPEG files.")
@threads_option
@click.option("--max-pixels", type=click.IntRange(min=1), default=1 << 27,
              metavar="N", help="Refuse photos of more pixels; a small file may hold a huge image.")
@click.option("--max-upload", type=click.IntRange(1, 100_000), default=500,
              metavar="MB", help="Refuse more photos than this at a time in one page.")
@click.option("--open/--no-open", "opens", default=True,
              help="Open the page in a browser.")
def command(host: str, port: int | None, model: str | None, threads: int | None, max_pixels: int,
            max_upload: int, opens: bool) -> None:
    """Show a page in the browser that upscales photos on this machine.

    Drop photos, choose a model, compare before and after, download the results: the files that
    `upscale` writes. One picture is computed at a time, other pages wait. Nothing is sent to
    another host, and what a page uploaded is deleted when it is closed. Ctrl-C ends the app.

    Only this machine reaches the page, unless --host says otherwise; there is no password. Gradio
    must be installed (the extra app).
    """
    import webbrowser

    from ..app.guard import is_loopback
    from ..app.server import Settings, serve

    if not is_loopback(host):
        click.echo(f"warning: anybody who reaches {host} can use the page; there is no password",
                   err=True)

    def on_ready(address: str) -> None:
        click.echo(f"{address} (Ctrl-C ends the app)")
        if opens:
            webbrowser.open(address)

    serve(Settings(host, port, model, threads, max_pixels, max_upload * 1_000_000), on_ready)
