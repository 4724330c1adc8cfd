"""What the page shows, and what its buttons do.

Files go in and out by path: Gradio's image components would encode them again.
"""

from __future__ import annotations

import html
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import BidiffError, UsageError, one_line, printable
from ..images.image import READ_EXTENSIONS
from ..models.open import scales_of
from ..models.shipped import SHIPPED, choose
from .pages import Pages, Upload, Work
from .photos import Stopped, Upscaler

__all__ = ["MAX_WAITING", "build", "model_choices"]

MAX_WAITING = 32  # pages whose photos wait for those of others
_PROGRESS = gr.Progress()
_SMALL = """
.gradio-container { padding: 0 !important }
.sentences p { margin: 0.2em 0; overflow-wrap: anywhere }
"""
_AUTOMATIC = ""


def model_choices(own: str | None) -> list[tuple[str, str, int]]:
    """(label, model, scale) of what the page offers; ``own`` first, which is a shipped model's name
    or a path, else the choice by each file's kind. Raises as ``open_model``."""
    found = [(f"{one.name}: {one.purpose}", one.name, one.scale) for one in SHIPPED]
    if own is None:
        by_kind = [(choose(None, one.scale).name, one) for one in SHIPPED if one.jpeg]
        return [*((f"automatic: {usual}, for JPEG files {one.name}", _AUTOMATIC, one.scale)
                  for usual, one in by_kind), *found]
    first = [choice for choice in found if choice[1] == own]
    first = first or [(Path(own).name, own, scale) for scale in scales_of(own)]
    return [*first, *(choice for choice in found if choice not in first)]


def build(pages: Pages, upscaler: Upscaler, own_model: str | None, privacy: str) -> gr.Blocks:
    """The page. ``own_model``: the one that is chosen first, None: the default; ``privacy``: where
    photos are, in a sentence."""
    choices = model_choices(own_model)
    offered = {(model, scale) for _, model, scale in choices}
    scales = sorted({2, 4, *(scale for *_, scale in choices)})

    def of_scale(scale: int) -> dict[str, Any]:
        fitting = [(label, model) for label, model, its in choices if its == scale]
        return {"choices": fitting, "value": fitting[0][1] if fitting else None}

    def add(files: Any, request: gr.Request) -> Any:
        try:
            page = pages.open(_name(request), _uploads(files))
        except BidiffError as error:
            return _sentences([str(error)])
        return gr.skip() if page.work else ""

    def run(files: Any, scale: int, model: str | None, request: gr.Request,
            progress: gr.Progress = _PROGRESS) -> Iterator[tuple[Any, ...]]:
        written: list[str] = []
        work = None
        try:
            uploads = _uploads(files)
            work = pages.open(_name(request), uploads).start(uploads)
            yield _shown(work, written)
            if not uploads:
                raise UsageError("no photo is there yet; drop one, or click to choose some")
            if (model, scale) not in offered:  # what a page sends may be anything
                model = _AUTOMATIC
            for larger in upscaler.run(work, model or None, scale,
                                       lambda share, text: progress(share, desc=text)):
                written += [] if larger is None else [str(larger)]
                yield _shown(work, written)
            if len(written) > 1:
                yield _shown(work, written, _zipped(work, written, scale))
        except Stopped:
            return
        except (BidiffError, OSError) as error:
            sentences = [*(work.lines if work else ()), one_line(error)]
            yield _sentences(sentences), *[gr.skip()] * 4

    def stop(request: gr.Request) -> tuple[Any, Any]:
        page = pages.find(_name(request))
        if page is None or page.work is None:
            return gr.skip(), gr.update(visible=False)
        page.work.stopped.set()
        return _sentences([*page.work.lines, "Stopped."]), gr.update(visible=False)

    def compare(name: str | None, request: gr.Request) -> tuple[str, str] | None:
        page = pages.find(_name(request))
        if page is None or page.work is None or name is None:
            return None
        return page.work.results.get(name)

    def close(request: gr.Request) -> None:
        pages.close(_name(request))

    first = choices[0]
    with gr.Blocks(title="Upscale photos", analytics_enabled=False, fill_width=False) as blocks:
        gr.Markdown(f"# Upscale photos\n{privacy}")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                files = gr.File(label="Photos", file_count="multiple", height=200,
                                file_types=list(READ_EXTENSIONS), elem_id="photos")
                scale = gr.Radio([(f"x{scale}", scale) for scale in scales], value=first[2],
                                 label="Scale", elem_id="scale")
                model = gr.Dropdown(label="Model", elem_id="model", **of_scale(first[2]))
                with gr.Row():
                    start = gr.Button("Upscale", variant="primary", elem_id="start")
                    stopping = gr.Button("Stop", variant="stop", visible=False, elem_id="stop")
                progress_bar = gr.HTML(min_height=50, elem_id="progress")
            with gr.Column(scale=3, min_width=300):
                sentences = gr.HTML(elem_id="sentences", elem_classes="sentences")
                shown = gr.Dropdown(label="Show", visible=False, elem_id="shown")
                slider = gr.ImageSlider(label="Enlarged by Lanczos | upscaled", type="filepath",
                                        interactive=False, buttons=["fullscreen"],
                                        visible=False, elem_id="slider", max_height=600)
                results = gr.File(label="Download", file_count="multiple", interactive=False,
                                  visible=False, elem_id="results")
                everything = gr.DownloadButton("Download all", visible=False, elem_id="everything")
        # Not preprocessed: Gradio would leave an empty file for each.
        common: dict[str, Any] = {"preprocess": False, "api_visibility": "private"}
        quiet = {**common, "queue": False, "show_progress": "hidden"}
        files.change(add, files, sentences, **quiet)
        scale.change(lambda value: gr.Dropdown(**of_scale(value)), scale, model, **quiet)
        shown.change(compare, shown, slider, **quiet)
        start.click(lambda: gr.update(visible=True), None, stopping, **quiet)
        running = start.click(run, [files, scale, model],
                              [sentences, shown, slider, results, everything],
                              concurrency_limit=1, show_progress="full",
                              show_progress_on=progress_bar, **common)
        running.then(lambda: gr.update(visible=False), None, stopping, **quiet)
        stopping.click(stop, None, [sentences, stopping], cancels=running, **quiet)
        blocks.unload(close)
    blocks.queue(max_size=MAX_WAITING, api_open=False)
    return blocks


def style() -> dict[str, Any]:
    """The part of the look that Gradio takes when it starts; fonts of the system alone."""
    return {"theme": gr.themes.Default(font=["system-ui", "sans-serif"],
                                       font_mono=["ui-monospace", "monospace"]), "css": _SMALL}


def _name(request: gr.Request) -> str:
    return str(request.session_hash)


def _uploads(files: Any) -> list[Upload]:
    """What the page says of its files; ``Pages.open`` checks the paths."""
    return [Upload(Path(str(file["path"])), str(file.get("orig_name") or Path(file["path"]).name))
            for file in files or ()]


def _sentences(lines: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(printable(line))}</p>" for line in lines)


def _shown(work: Work, written: Sequence[str], everything: str | None = None) -> tuple[Any, ...]:
    """The state of every output."""
    names = list(work.results)
    last = names[-1] if names else None
    return (_sentences(work.lines),
            gr.update(choices=names, value=last, visible=len(names) > 1),
            gr.update(value=work.results[last] if last else None, visible=bool(names)),
            gr.update(value=list(written), visible=bool(written)),
            gr.update(value=everything, visible=everything is not None))


def _zipped(work: Work, written: Sequence[str], scale: int) -> str:
    path = work.folder / f"photos_x{scale}.zip"
    with zipfile.ZipFile(path, "w") as archive:  # stored: pictures do not get smaller
        for file in written:
            archive.write(file, Path(file).name)
    return str(path)
