"""Indices of an axis that is continued beyond its ends by mirroring."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["mirrored"]


def mirrored(index: npt.NDArray[np.int64], size: int, *,
             repeat_edge: bool) -> npt.NDArray[np.int64]:
    """The pixels, from 0 to ``size`` - 1, at any whole numbers ``index`` of the mirrored axis.

    ``repeat_edge``: whether the edge pixel appears twice (1 0 0 1) or once (1 0 1). An axis of one
    pixel repeats it either way.
    """
    period = 2 * size if repeat_edge else max(2 * (size - 1), 1)
    index = index % period
    return np.minimum(index, period - repeat_edge - index)
