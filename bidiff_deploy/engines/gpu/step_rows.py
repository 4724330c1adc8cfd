"""The constants of every step as rows of float32, of one layout for all steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...bundle.step_graphs import StepGraphs
from ...errors import BundleError
from ...graphs.update import FACTORS

__all__ = ["StepRows", "rows_apart"]

_ALIGNMENT = 64  # floats: 256 bytes, as an allocation on a GPU has


def rows_apart(constants: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A step's constants with the rows of every table (R, C) as vectors (C) of their own, called
    ``table/0`` and so on: for graphs that would have to take the tables apart in every step."""
    apart: dict[str, np.ndarray] = {}
    for name, value in constants.items():
        apart.update({name: value} if value.ndim != 2 else
                     {f"{name}/{index}": row for index, row in enumerate(value)})
    return apart


class StepRows:
    """The constants of every step as one row: vectors at multiples of 256 bytes, then the four
    factors of the loop's update.

    places  ``{input: (offset in floats, shape)}``
    size    floats of a row
    """

    def __init__(self, graphs: StepGraphs, timestep: int, *, apart: bool = False) -> None:
        """``apart``: constants as ``rows_apart`` has them."""
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
        """A step's row, float32 (size,), with the factors of ``sampler.update_factors``; the next
        call for this timestep changes it. Raises BundleError where the step's constants are not of
        the first step's shapes."""
        if timestep not in self._rows:
            row = np.zeros(self.size, np.float32)
            constants = self._constants(timestep)
            # Of a table with more or fewer rows.
            if odd := sorted(constants.keys() ^ self.places.keys() - set(FACTORS)):
                raise BundleError(f"{self._graphs.path} has {odd[0]} in step {timestep} or in "
                                  "another, but not in both; export the bundle again")
            for name, value in constants.items():
                offset, shape = self.places[name]
                if value.shape != shape or value.dtype != np.float32:
                    raise BundleError(
                        f"{self._graphs.path} has {name} as {value.dtype} {value.shape} in step "
                        f"{timestep} but as float32 {shape} in another; export the bundle again")
                row[offset:offset + value.size] = value.ravel()
            self._rows[timestep] = row
        row = self._rows[timestep]
        for name, factor in zip(FACTORS, factors, strict=True):
            row[self.places[name][0]] = factor
        return row
