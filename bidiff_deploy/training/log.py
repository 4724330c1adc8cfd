"""The records of a run: log.csv and TensorBoard events."""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import OutputError, one_line
from ..files import atomic_file

__all__ = ["COLUMNS", "CSV", "Log", "write_errors"]

CSV = "log.csv"
COLUMNS = ("iteration", "minutes", "loss", "learning_rate", "psnr_y", "gain_over_bicubic",
           "ssim_y")


class Log:
    """The log of a run in ``folder``; entries after ``iteration`` are dropped, for a resume.

    ``scales``: upscaling factors of a run of several, each with a column of its PSNR-Y.

    Events are written if the package tensorboard is installed; if not, ``say`` is called once.
    """

    def __init__(self, folder: Path, iteration: int, say: Callable[[str], object],
                 scales: Sequence[int] = ()) -> None:
        self._path = folder / CSV
        self._scales = scales
        self._say = say
        _drop_rows(self._path, iteration)
        self._events: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            say("only log.csv is written; for TensorBoard events, pip install "
                "'bidiff-deploy[tensorboard]'")
        else:
            self._events = SummaryWriter(str(folder), purge_step=iteration + 1)

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Write numbers of one iteration, by name."""
        self._write(lambda events: [events.add_scalar(name, value, iteration)
                                    for name, value in values.items()])

    def images(self, iteration: int, name: str, images: Sequence[npt.NDArray[np.uint8]]) -> None:
        """Write images, uint8 (H, W, 3) of one size, side by side."""
        self._write(lambda events: events.add_image(
            name, np.concatenate(images, axis=1), iteration, dataformats="HWC"))

    def row(self, iteration: int, minutes: float, loss: float, rate: float,
            psnr: float, gain: float, ssim: float,
            by_scale: Mapping[int, float] | None = None) -> None:
        """Append one line to log.csv, after a validation. ``by_scale``: PSNR-Y of each of the
        log's scales. Raises OutputError."""
        of_scale = {f"psnr_y_x{scale}": (by_scale or {}).get(scale, math.nan)
                    for scale in self._scales}
        with write_errors(self._path):
            is_new = not self._path.exists()
            with self._path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                if is_new:
                    writer.writerow([*COLUMNS, *of_scale])
                writer.writerow([iteration, f"{minutes:.2f}", f"{loss:.5f}", f"{rate:.3e}",
                                 f"{psnr:.3f}", f"{gain:.3f}", f"{ssim:.4f}",
                                 *(f"{value:.3f}" for value in of_scale.values())])
        self.scalars(iteration, {name: value for name, value in (
            ("validation/psnr_y", psnr), ("validation/gain_over_bicubic", gain),
            ("validation/ssim_y", ssim),
            *((f"validation/{name}", value) for name, value in of_scale.items()))
            if math.isfinite(value)})

    def close(self) -> None:
        self._write(lambda events: events.close())

    def _write(self, write: Callable[[Any], object]) -> None:
        if self._events is None:
            return
        try:
            write(self._events)
        except OSError as error:  # a run does not depend on its events
            self._events = None
            self._say(f"TensorBoard events stop here ({error.strerror or one_line(error)})")


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raise OutputError for a failed write of ``path``."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or one_line(error)}; free some "
                          "space or choose another folder, and continue with --resume") from None


def _drop_rows(path: Path, iteration: int) -> None:
    """Keep the rows of log.csv up to ``iteration``; remove the file if none remain. A table of an
    older version gets its missing columns, empty."""
    if not path.exists():
        return
    with write_errors(path):
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            header, *rows = list(csv.reader(file)) or [list(COLUMNS)]
        kept = [row for row in rows if row and row[0].isdigit() and int(row[0]) <= iteration]
        older = len(header) < len(COLUMNS) and tuple(header) == COLUMNS[:len(header)]
        if len(kept) == len(rows) and not older:
            return
        if not kept:
            path.unlink()
            return
        if older:
            header = list(COLUMNS)
            kept = [row + [""] * (len(COLUMNS) - len(row)) for row in kept]
        with atomic_file(path, overwrite=True) as temporary, temporary.open(
                "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *kept])
