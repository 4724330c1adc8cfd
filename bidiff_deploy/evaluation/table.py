"""An evaluation as lines of text, each of which can be printed as soon as it is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from .results import BASELINE, MODEL, Evaluation, ImageResult, SetResult

__all__ = ["SetTable", "table", "titles"]

_COLUMNS = {"psnr_y": ("PSNR-Y", "{:.2f}"), "ssim_y": ("SSIM-Y", "{:.4f}"),
            "ms_ssim_y": ("MS-SSIM-Y", "{:.4f}"), "niqe": ("NIQE", "{:.3f}"),
            "flip": ("FLIP", "{:.4f}"), "cvvdp": ("ColorVideoVDP", "{:.3f}"),
            "lpips": ("LPIPS", "{:.4f}")}


def titles(model: str, scale: int, description: str, measures: Mapping[str, str]) -> list[str]:
    """The lines that name what is scored, and the settings of further measures."""
    return [f"{model}, x{scale}: {description}",
            *(f"{_COLUMNS[name][0]}: {settings}" for name, settings in measures.items())]


class SetTable:
    """The lines of one data set; for each score bicubic's value, then the model's.

    ``low``: the folder of its low-resolution images, or None; ``images``: the names of its images;
    ``figures``: the names of the scores.
    """

    def __init__(self, name: str, low: object, images: Sequence[str],
                 figures: Iterable[str]) -> None:
        self._name, self._low, self._count = name, low, len(images)
        self._figures = [figure for figure in _COLUMNS if figure in figures]
        self._wide = max(map(len, [*images, "mean"])) + 2

    def head(self) -> Iterator[str]:
        """The lines above the first image; the first is empty."""
        made = "made by bicubic" if self._low is None else f"from {self._low}"
        blank = " " * self._wide
        yield ""
        yield f"{self._name}, {self._count} images, low-resolution images {made}"
        yield blank + "".join(f"{_COLUMNS[figure][0]:>18}" for figure in self._figures)
        yield blank + f"{'bicubic':>9}{'model':>9}" * len(self._figures) + f"{'seconds':>9}"

    def row(self, image: ImageResult) -> str:
        """The line of one image."""
        cells = [_cell(image.scores[which].get(figure), _COLUMNS[figure][1])
                 for figure in self._figures for which in (BASELINE, MODEL)]
        tiles = f"  in {image.tiles} tiles" if image.tiles > 1 else ""
        return f"{image.name:<{self._wide}}" + "".join(cells) + f"{image.seconds:>9.1f}{tiles}"

    def mean(self, result: SetResult) -> str:
        """The line below the last image."""
        seconds = sum(image.seconds for image in result.images) / len(result.images)
        return self.row(ImageResult("mean", 0, 0, seconds, 1, result.mean))


def table(result: Evaluation) -> str:
    """All lines of an evaluation."""
    lines = titles(result.model, result.scale, result.description, result.measures)
    for one in result.sets:
        part = SetTable(one.name, one.low, [image.name for image in one.images],
                        one.images[0].scores[MODEL])
        lines += [*part.head(), *map(part.row, one.images), part.mean(one)]
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return f"{'-' if value is None else form.format(value):>9}"
