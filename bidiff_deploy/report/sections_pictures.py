"""The page's pictures: sliders, details, and the loop step by step."""

from __future__ import annotations

from typing import Any

from .collect import Report
from .loop import Frame, Picture, Strip
from .markup import Markup, details, element, note, table

NAMES = {"bicubic": "Bicubic", "packed": "Packed 1-bit", "original": "Original"}


def pictures(report: Report) -> list[Any]:
    """Every image: a slider, a detail and its scores."""
    known = any(one.scores for one in report.pictures)
    found: list[Any] = [element(
        "p", f"Left of the line: the small image enlarged by bicubic{', or the original' * known}. "
             "Right: the packed 1-bit network. Drag the line, or use the arrow keys.",
        class_="lead js-only")]
    found += [_picture(index, picture) for index, picture in enumerate(report.pictures)]
    scored = [one for one in report.pictures if one.scores]
    if scored:
        found.append(details("Scores as a table", _scores(scored)))
    if report.left_out:
        found.append(note(f"{len(report.left_out)} more images were given; the page holds the "
                          f"first {len(report.pictures)}."))
    return found


def _picture(index: int, one: Picture) -> Markup:
    if one.shown is None or one.parts is None:
        return element("article", element("h3", one.name), note(
            "Its pictures do not fit the page's limit of size; give fewer images."))
    shown = one.shown
    factor = max(1, min(4, 512 // max(shown.width, shown.height)))
    frames = [_frame(name, shown.uris[name], factor * shown.width, factor * shown.height,
                     one.name) for name in ("bicubic", "original", "packed")
              if name in shown.uris]
    control = element("input", type="range", min="0", max="100", value="50", step="1",
                      class_="line", aria_label=f"{one.name}: share of the width that shows the "
                                                "picture on the left")
    choice = None
    if "original" in shown.uris:
        choice = element(
            "fieldset", element("legend", "Left of the line"),
            *(element("label", element("input", type="radio", name=f"left{index}", value=name,
                                       checked=name == "bicubic"),
                      element("span", NAMES[name])) for name in ("bicubic", "original")),
            class_="choice js-only")
    reduced = "" if shown.width == one.width else \
        f"; shown at {shown.width}\u00d7{shown.height}"
    return element(
        "article",
        element("h3", one.name),
        element("p", f"{one.low_width}\u00d7{one.low_height} to {one.width}\u00d7{one.height} "
                     f"in {_seconds(one.seconds)}{reduced}; pictures {shown.how}, "
                     f"scores of the pixels before that", class_="small"),
        element("div", *frames, element("div", class_="bar", aria_hidden="true"), control,
                class_="compare tall" if one.height > 1.2 * one.width else "compare"),
        choice,
        _chips(one),
        _detail(one),
        class_="picture")


def _frame(name: str, uri: str, width: int, height: int, image: str) -> Markup:
    return element("figure", element("img", src=Markup(uri), width=str(width), height=str(height),
                                     alt=f"{image}, {NAMES[name].lower()}", decoding="async"),
                   element("figcaption", NAMES[name]), class_=f"frame {name}")


def _chips(one: Picture) -> Markup | None:
    if not one.scores:
        return None
    rows = []
    for name in ("bicubic", "packed"):
        psnr, ssim = one.scores[name]["psnr_y"], one.scores[name]["ssim_y"]
        rows.append(element("li", element("span", NAMES[name]), " ",
                            element("b", _number(psnr, 2, " dB")), " PSNR-Y ",
                            element("b", _number(ssim, 4)), " SSIM-Y", class_=name))
    return element("ul", rows, class_="scores")


def _detail(one: Picture) -> Markup | None:
    if one.parts is None:
        return None
    top, left, side = one.detail
    return element(
        "div",
        element("p", f"The {side}\u00d7{side} pixels with the most edges, {left} from the left "
                     f"and {top} from the top, enlarged without smoothing", class_="small"),
        element("div", *(element(
            "figure", element("img", src=Markup(one.parts.uris[name]),
                              width=str(3 * one.parts.width), height=str(3 * one.parts.height),
                              alt=f"{one.name}, detail, {NAMES[name].lower()}"),
            element("figcaption", NAMES[name]))
            for name in ("bicubic", "packed", "original") if name in one.parts.uris),
            class_="row"), class_="detail")


def _scores(scored: list[Picture]) -> Markup:
    rows = [(one.name, *(_number(one.scores[name][key], places) for key, places in
                         (("psnr_y", 2), ("ssim_y", 4)) for name in ("bicubic", "packed")),
             f"{one.seconds:.2f}") for one in scored]
    return table("Against the originals, borders of the scale's width cropped",
                 ("image", "PSNR-Y bicubic, dB", "PSNR-Y packed, dB", "SSIM-Y bicubic",
                  "SSIM-Y packed", "seconds"), rows)


def loop(report: Report) -> list[Any]:
    """The strip of one image."""
    strip = report.strip
    assert strip is not None
    return [
        element("p", "Top: the latent, which the network sees. Below: the image that it implies "
                     "at this step, once the predicted noise is taken out.", class_="lead"),
        element("div", *(_step(strip, frame) for frame in strip.frames), class_="strip",
                tabindex="0", role="region", aria_label="The loop, step by step"),
        element("p", f"The middle {strip.width}\u00d7{strip.height} pixels of {strip.name}; "
                     f"{len(strip.frames)} of {strip.steps} steps.", class_="small"),
        details("The steps as a table", table(
            "Distance: root mean square to the final image, of 255 grey levels",
            ("step", "time step", "noise, % of variance", "distance"),
            [(f"{frame.number} of {strip.steps}", str(frame.timestep),
              _share(frame.noise), f"{frame.distance:.2f}") for frame in strip.frames])),
    ]


def _step(strip: Strip, frame: Frame) -> Markup:
    uris, index = strip.shown.uris, frame.number - 1
    size = {"width": str(strip.shown.width), "height": str(strip.shown.height)}
    return element(
        "figure",
        element("img", src=Markup(uris[f"latent{index}"]), **size,
                alt=f"Latent at time step {frame.timestep}"),
        element("img", src=Markup(uris[f"estimate{index}"]), **size,
                alt=f"Estimated image at time step {frame.timestep}"),
        element("figcaption", element("b", f"t = {frame.timestep}"), " ",
                f"{_share(frame.noise)} % noise"))


def _share(value: float) -> str:
    return f"{100 * value:.3g}" if value >= 1e-4 else "under 0.01"


def _number(value: float | None, places: int, unit: str = "") -> str:
    return "\u2013" if value is None else f"{value:.{places}f}{unit}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
