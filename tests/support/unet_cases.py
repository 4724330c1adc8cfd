"""States of ResShift's UNet by the rule of ``tests/reference/other``."""

from __future__ import annotations

import zlib

import numpy as np
from reference.synth_weights import synth_state_dict

from support.latent_cases import VQ, LatentCases

SYNTHETIC = 1  # seed of prediction_synthetic_state


def float_state(latent: LatentCases) -> dict[str, np.ndarray]:
    """The full-precision network of the tiny layout."""
    layout = latent.layout("bimacosr_tiny")
    return {**synth_state_dict(layout["float_parameters"]), **_masks(layout)}


def binary_state(latent: LatentCases, seed: int = SYNTHETIC) -> dict[str, np.ndarray]:
    """The binary network of the tiny layout, every tensor synthetic."""
    layout = latent.layout("bimacosr_tiny")
    state = synth_state_dict(layout["parameters"], seed)
    for key, (shape, _) in layout["buffers"].items():
        if key.endswith(".indices_float"):
            rows, columns = state[key.replace("skip_connection.indices_float", "weight")].shape[:2]
            drawn = np.random.default_rng([seed, zlib.crc32(key.encode())])
            places = drawn.permutation(rows * columns)[:shape[1]]
            state[key] = np.stack([places // columns, places % columns]).astype(np.float32)
    return {**state, **_masks(layout)}


def with_autoencoder(latent: LatentCases, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    coder = synth_state_dict(latent.layout(VQ)["parameters"])
    return {**state, **{f"autoencoder.{key}": value for key, value in coder.items()}}


def _masks(layout: dict) -> dict[str, np.ndarray]:
    return {key: np.zeros(shape, dtype) for key, (shape, dtype) in layout["buffers"].items()
            if key.endswith((".attn_mask", ".relative_position_index"))}
