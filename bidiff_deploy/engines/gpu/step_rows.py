"""The constants of every step as rows of float32 with one layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...bundle.step_graphs import StepGraphs
from ...errors import BundleError
from ...graphs.update import FACTORS

__all__ = ["StepRows", "rows_apart"]

_ALIGNMENT = 64  # floats: 256 bytes, the alignment of an allocation on a GPU


def rows_apart(constants: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A step's constants as vectors (1, C, 1, 1), every table (R, C) split into its rows, which are
    named ``table/0`` and so on. For graphs that would otherwise split and reshape them in every
    step."""
    apart: dict[str, np.ndarray] = {}
    for name, value in constants.items():
        rows = {name: value} if value.ndim != 2 else {
            f"{name}/{index}": row for index, row in enumerate(value)}
        apart.update((key, row.reshape(1, -1, 1, 1)) for key, row in rows.items())
    return apart


class StepRows:
    """Each step's constants as one row: vectors at multiples of 256 bytes, then the four factors of
    the loop's update.

    places  ``{input: (offset in floats, shape)}``
    size    length of a row in floats
    """

    def __init__(self, graphs: StepGraphs, timestep: int, *, apart: bool = False) -> None:
        """``apart``: whether constants are split by ``rows_apart``."""
        self._graphs, self._apart = graphs, apart
        self._rows: dict[int, np.ndarray] = {}
        self.places: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.size = 0
        for name, value in self._constants(timestep).items():
            self._place(name, value.shape)
        for name in FACTORS:
            self._place(name, (1,))

    def _constants(self, timestep: int) -> Mapping[str, np.ndarray]:
        constants = self._graphs.constants(timestep)
        return rows_apart(constants) if self._apart else constants

    def _place(self, name: str, shape: tuple[int, ...]) -> None:
        self.places[name] = (self.size, shape)
        count = int(np.prod(shape))
        self.size += -(-count // _ALIGNMENT) * _ALIGNMENT

    def row(self, timestep: int, factors: Sequence[np.float32]) -> np.ndarray:
        """A step's row, float32 (size,), with the factors of ``sampler.update_factors``. The next
        call for this timestep changes the same array. Raises BundleError if the step's constants
        differ in name, shape or type from the first step's."""
        if timestep not in self._rows:
            row = np.zeros(self.size, np.float32)
            constants = self._constants(timestep)
            # Such as a row of a table that has more or fewer rows.
            if odd := sorted(constants.keys() ^ self.places.keys() - set(FACTORS)):
                raise BundleError(f"{self._graphs.path} has {odd[0]} in only one of the step "
                                  f"{timestep} and the first step; export the bundle again")
            for name, value in constants.items():
                offset, shape = self.places[name]
                if value.shape != shape or value.dtype != np.float32:
                    raise BundleError(
                        f"{self._graphs.path} has {name} as {value.dtype} {value.shape} in step "
                        f"{timestep} but as float32 {shape} in the first step; export the bundle "
                        "again")
                row[offset:offset + value.size] = value.ravel()
            self._rows[timestep] = row
        row = self._rows[timestep]
        for name, factor in zip(FACTORS, factors, strict=True):
            row[self.places[name][0]] = factor
        return row
