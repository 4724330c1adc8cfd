"""Sign bits of binary weights in 32-bit words, in the layout of files and kernels.

``words`` has shape (Cout, k, k, ceil(Cin / 32)) and dtype int32 (TensorRT has no uint32). Bit i,
counted from the least significant, of word j belongs to input channel 32 * j + i; 1 means +1 and 0
means -1. Bits of channels >= Cin are 0. A weight of zero, of either sign, becomes +1, because one
bit cannot store torch.sign(0) = 0; zeros are counted and reported.

``export/op_contract.md`` is the same contract in prose; ``engines/kernels`` has it in C++.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError

PACKING_VERSION = 1
WORD_BITS = 32


def words_per_tap(in_channels: int) -> int:
    """ceil(Cin / 32)."""
    return -(-in_channels // WORD_BITS)


def pack_signs(weight: np.ndarray) -> np.ndarray:
    """Sign bits of ``weight``, float (Cout, Cin, k, k), as int32 (Cout, k, k, ceil(Cin / 32))."""
    cout, cin, k, _ = weight.shape
    bits = np.zeros((cout, k, k, words_per_tap(cin) * WORD_BITS), np.uint8)
    bits[..., :cin] = (weight >= 0).transpose(0, 2, 3, 1)
    return np.packbits(bits, axis=-1, bitorder="little").view("<i4").astype(np.int32, copy=False)


def unpack_signs(words: np.ndarray, in_channels: int) -> npt.NDArray[np.float32]:
    """The inverse of ``pack_signs``: +1 and -1, float32 (Cout, Cin, k, k)."""
    octets = np.ascontiguousarray(words, "<i4").view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, bitorder="little")[..., :in_channels]
    return np.ascontiguousarray((bits.astype(np.float32) * 2 - 1).transpose(0, 3, 1, 2))


def dense_weight(words: np.ndarray, alpha: npt.NDArray[np.float32],
                 in_channels: int) -> npt.NDArray[np.float32]:
    """alpha * sign, float32 (Cout, Cin, k, k), of packed words and scales."""
    return unpack_signs(words, in_channels) * alpha[:, None, None, None]


@dataclass(frozen=True)
class BinaryWeight:
    """Signs and scales of a BIConv's latent weights W.

    words        int32 (Cout, k, k, ceil(Cin / 32)), see the top of this file
    alpha        float32 (Cout,), mean |W| of each output channel
    in_channels  Cin, which the words round up
    zeros        number of weights that were exactly zero (they became +1)
    planes       bit planes of weights of several bits: Cout is then that many times the layer's
                 outputs, plane after plane, the least significant first
    """

    words: np.ndarray
    alpha: np.ndarray
    in_channels: int
    zeros: int = 0
    planes: int = 1

    @classmethod
    def from_float(cls, weight: np.ndarray, name: str) -> BinaryWeight:
        """Binarise latent weights, float (Cout, Cin, k, k). Raises CheckpointError, naming
        ``name``, for NaN or infinite weights, which have no sign or no scale."""
        if not np.isfinite(weight).all():
            raise CheckpointError(
                f"{name} contains NaN or infinite weights, which have no sign to pack; "
                "the training diverged, so use an earlier checkpoint")
        # Summed in float64, so that the mean does not depend on the order.
        alpha = np.abs(weight).mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32)
        return cls(pack_signs(weight), alpha, weight.shape[1],
                   int(np.count_nonzero(weight == 0)))

    def plane(self, index: int) -> BinaryWeight:
        """One bit plane."""
        outputs = len(self.alpha) // self.planes
        rows = slice(index * outputs, (index + 1) * outputs)
        return BinaryWeight(self.words[rows], self.alpha[rows], self.in_channels)

    def to_float(self) -> np.ndarray:
        """alpha * sign, float32 (Cout, Cin, k, k): latent weights that binarise to the same."""
        return dense_weight(self.words, self.alpha, self.in_channels)
