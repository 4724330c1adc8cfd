"""An evaluation as a table for a reader."""

from __future__ import annotations

from .run import BASELINE, MODEL, Evaluation, ImageResult, SetResult

__all__ = ["table"]

_COLUMNS = {"psnr_y": ("PSNR-Y", "{:.2f}"), "ssim_y": ("SSIM-Y", "{:.4f}"),
            "lpips": ("LPIPS", "{:.4f}")}


def table(result: Evaluation) -> str:
    """A block for each data set: every image and the mean; of each figure bicubic, then the model.
    """
    lines = [f"{result.model}, x{result.scale}: {result.description}"]
    for one in result.sets:
        lines += ["", *_block(one)]
    return "\n".join(lines)


def _block(one: SetResult) -> list[str]:
    names = [name for name in _COLUMNS if name in one.images[0].scores[MODEL]]
    wide = max(len(image.name) for image in one.images) + 2
    made = "made by bicubic" if one.low is None else f"of {one.low}"
    lines = [f"{one.name}, {len(one.images)} images, low-resolution images {made}",
             " " * wide + "".join(f"{_COLUMNS[name][0]:>18}" for name in names),
             " " * wide + f"{'bicubic':>9}{'model':>9}" * len(names) + f"{'seconds':>9}"]
    for image in one.images:
        lines.append(_row(image.name, image, names, wide))
    mean = ImageResult("", 0, 0, sum(image.seconds for image in one.images) / len(one.images),
                       one.mean)
    return [*lines, _row("mean", mean, names, wide)]


def _row(label: str, image: ImageResult, names: list[str], wide: int) -> str:
    cells = [_cell(image.scores[which].get(name), _COLUMNS[name][1])
             for name in names for which in (BASELINE, MODEL)]
    return f"{label:<{wide}}" + "".join(cells) + f"{image.seconds:>9.1f}"


def _cell(value: float | None, form: str) -> str:
    return f"{'-' if value is None else form.format(value):>9}"
