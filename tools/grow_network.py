#!/usr/bin/env python3
"""Make a deeper or another-scale BBCU network from a trained one, to train on from there:

    python tools/grow_network.py bidiff_deploy/models/photo_x2.safetensors grown.safetensors \
        --blocks 16 --float-layers 20

A packed model, such as an installed one, will do as well; its binary weights begin as +-alpha.
Layers at the beginning and end of the body keep their weights. Full-precision layers that are added
begin near 0, so that, with their shortcut, they change nothing yet; of the binary layers the first
are taken, and added ones begin like those before them, which does change the image. A head of
another scale begins anew. The result is for `initial` in a recipe.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from bidiff_deploy.errors import BidiffError, CheckpointError
from bidiff_deploy.files import atomic_file, make_directory
from bidiff_deploy.networks.bbcu.architecture import BbcuConfig
from bidiff_deploy.training.networks.bbcu import Bbcu, FloatConv2d
from bidiff_deploy.training.portable import read_portable
from bidiff_deploy.training.weights import load_network, load_published, published_state

_NEAR_ZERO = 0.02  # factor on the usual initial weights


def grown(old: Bbcu, config: BbcuConfig) -> Bbcu:
    """A network of ``config`` with the layers of ``old``."""
    torch.manual_seed(0)
    new = Bbcu(config)
    new.stem.load_state_dict(old.stem.state_dict())
    if config.scale == old.config.scale:
        new.head.load_state_dict(old.head.state_dict())
    for kind in (True, False):
        ours, theirs = ([layer for layer in network.body if isinstance(layer, FloatConv2d) is kind]
                        for network in (new, old))
        if kind:  # half of them at each end
            half = len(theirs) // 2
            pairs = [*zip(ours[:half], theirs[:half]), *zip(ours[-half:], theirs[-half:])]
            for layer in ours[half:len(ours) - half]:
                layer.weight.data.mul_(_NEAR_ZERO)
                nn.init.zeros_(layer.bias)
        else:
            pairs = [(layer, theirs[min(index, len(theirs) - 1)])
                     for index, layer in enumerate(ours)]
        for layer, source in pairs:
            layer.load_state_dict(source.state_dict())
    return new


def trained(path: Path) -> Bbcu:
    """The network of a run's state, averaged over iterations, or of a checkpoint."""
    try:
        state = read_portable(path)
    except CheckpointError:
        found = load_network(path)
        if not isinstance(found, Bbcu):
            raise CheckpointError(f"{path}: is no network of BBCU; give one") from None
        return found
    network = Bbcu(BbcuConfig.from_dict(dict(state["recipe"]["network"])))
    load_published(network, state["params_ema"], network.config)
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("trained", type=Path, help="state of a run (run.state of its recipe), or "
                                                   "any checkpoint of BBCU")
    parser.add_argument("target", type=Path)
    parser.add_argument("--blocks", type=int, required=True)
    parser.add_argument("--float-layers", type=int, required=True)
    parser.add_argument("--scale", type=int)
    given = parser.parse_args()
    try:
        _grow(given)
    except BidiffError as error:
        sys.exit(f"error: {error}")


def _grow(given: argparse.Namespace) -> None:
    old = trained(given.trained)
    config = dataclasses.replace(old.config, blocks=given.blocks, float_layers=given.float_layers,
                                 scale=given.scale or old.config.scale)
    make_directory(given.target.parent)
    with atomic_file(given.target, overwrite=True) as temporary:
        temporary.write_bytes(save(published_state(grown(old, config), config)))


if __name__ == "__main__":
    main()
