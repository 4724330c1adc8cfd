"""Windows of the ResShift family's attention, and the mask that its shifted blocks have.

The mask is not Swin's. The published code indexes a (1, 1, H, W) image of labels as (1, H, W, 1)
and turns it inside each window, so that in the last row of windows, and only there, tokens whose
column in the window is below ``window - shift`` and those whose column is not see each other with
-100; every other window has no mask, and wrapped pixels are attended to. Published weights were
trained with that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["HIDDEN", "Level", "relative_positions", "shift_mask"]

HIDDEN = -100.0  # what the mask adds to a score


@dataclass(frozen=True)
class Level:
    """The windows of a resolution; published code fixes them from the nominal one.

    index     0 is the latent's resolution, each further one half of it
    window    side of a window
    shift     of the odd blocks; 0: no block is shifted
    """

    index: int
    window: int
    shift: int

    @classmethod
    def of(cls, index: int, nominal: int, window: int) -> Level:
        """``nominal``: side of the map that the network was built for, at this level."""
        if nominal <= window:
            return cls(index, nominal, 0)
        return cls(index, window, window // 2)


def relative_positions(window: int) -> npt.NDArray[np.int32]:
    """Row of the bias table for each query and key, int32 (window^2, window^2)."""
    rows, columns = np.divmod(np.arange(window * window, dtype=np.int32), window)
    down, right = (place[:, None] - place + window - 1 for place in (rows, columns))
    places: npt.NDArray[np.int32] = (down * (2 * window - 1) + right).astype(np.int32)
    return places


def shift_mask(window: int, shift: int) -> npt.NDArray[np.float32]:
    """What is added to the scores of the last row of windows, float32 (window^2, window^2)."""
    beyond = np.arange(window * window) % window >= window - shift
    mask: npt.NDArray[np.float32] = np.where(beyond[:, None] != beyond, np.float32(HIDDEN),
                                             np.float32(0))
    return mask
