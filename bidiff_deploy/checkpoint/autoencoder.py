"""The file of a latent network's autoencoder, whose tensors become part of the network's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import CheckpointError, quoted
from ..files import file_sha256
from ..networks.resshift.vq import FOREIGN, PUBLISHED
from .tensor_files import read_state

__all__ = ["read_autoencoder"]

_STEM = "encoder.conv_in.weight"
_COMPILED = "_orig_mod."


def read_autoencoder(path: str | Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """``{key: array}`` of an autoencoder in the published layout, with the prefix that it has next
    to a network, and sentences about the file.

    A prefix that all its keys share (``module.``, ``first_stage_model.``) is removed, and so are
    the discriminators and averages of its training. Raises CheckpointError as ``read_checkpoint``.
    """
    path = Path(path)
    state, _, notes = read_state(path)
    keys = {key.replace(_COMPILED, ""): key for key in state}
    prefixes = sorted(key[:-len(_STEM)] for key in keys if key.endswith(_STEM))
    prefixes = [prefix for prefix in prefixes if not prefix or prefix.endswith(".")]
    if len(prefixes) != 1:
        what = (f"it has {len(prefixes)}: {', '.join(map(quoted, prefixes))}" if prefixes
                else f"it has no {_STEM}")
        raise CheckpointError(f"{path} does not have one VQ autoencoder in the published layout: "
                              f"{what}; give a file like ResShift's autoencoder_vq_f4.pth")
    prefix, = prefixes
    own = {key.removeprefix(prefix): state[old] for key, old in keys.items()
           if key.startswith(prefix)}
    found = {f"{PUBLISHED}{key}": value for key, value in own.items() if not FOREIGN.match(key)}
    notes.append(f"the autoencoder is {path.name}, SHA-256 {file_sha256(path)[:16]}...")
    unread = len(state) - len(found)
    if prefix:
        notes.append(f"the prefix {quoted(prefix)} was removed from the autoencoder's keys")
    if unread:
        notes.append(f"{unread} tensors of {path.name} are not the autoencoder's, and not read")
    return found, notes
