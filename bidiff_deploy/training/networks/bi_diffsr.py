"""BI-DiffSR in torch: the trainable noise predictor, with every published option.

Source: Chen et al., "Binarized Diffusion Model for Image Super-Resolution" (arXiv 2406.05723),
figure 2. ``networks.bi_diffsr.architecture`` lists its blocks and parameters.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...networks.bi_diffsr.architecture import blocks
from ...networks.bi_diffsr.config import NetworkConfig
from ...networks.bi_diffsr.preconditioning import shares
from ...networks.bi_diffsr.scale_norm import scale_embedding
from ...networks.bi_diffsr.step_constants import sinusoid
from .bi_diffsr_blocks import Down, Fusion, Head, Residual, TimeEmbedding, Up
from .binarize import BinaryLayer


def set_scale(network: nn.Module, scale: int) -> None:
    """Choose the upscaling factor of a network for several, of ``config.scales``; nothing for
    another network."""
    if isinstance(network, BiDiffSR) and network.scale is not None:
        network.scale.copy_(torch.from_numpy(
            scale_embedding(scale, network.config.inner_channel)))


class BiDiffSR(nn.Module):
    """The noise predictor of one ``NetworkConfig``. One for several upscaling factors computes for
    the one of ``set_scale``, at first the first.

    Its ``named_parameters`` have the names and shapes of ``architecture.parameters(config)``.
    ``copies``: as in ``bi_diffsr_blocks``; with more than 1, the network is not exported.
    """

    def __init__(self, config: NetworkConfig, copies: int = 1) -> None:
        super().__init__()
        self.config = config
        self.blocks = tuple(blocks(config))
        self.time_embedding = TimeEmbedding(config.inner_channel)
        self.stem = nn.Conv2d(config.in_channel, copies * config.channels(0), 3, padding=1)
        self.encoder = nn.ModuleDict()
        self.middle = nn.ModuleDict()
        self.decoder = nn.ModuleDict()
        inner = {"residual": Residual, "down": Down, "up": Up, "fusion": Fusion}
        for block in self.blocks:
            if block.kind in inner:
                part, index = block.name.split(".")
                getattr(self, part)[index] = inner[block.kind](config, block, copies)
        self.head = Head(config, config.channels(0), copies)
        self.scale: Tensor | None
        self.register_buffer("scale", torch.from_numpy(scale_embedding(
            config.scales[0], config.inner_channel)) if config.scales else None, persistent=False)
        self.shares: Tensor | None  # a copy, since numpy's is read-only
        self.register_buffer("shares", torch.tensor(shares(
            config.total_step, config.preconditioning)) if config.preconditioning else None,
            persistent=False)

    def forward(self, noisy: Tensor, condition: Tensor, timestep: int | Tensor) -> Tensor:
        """Predict the noise in ``noisy``.

        ``noisy``, ``condition``: float (N, 3, H, W), H and W multiples of
        ``config.size_multiple``, the condition in about [0, 1]. ``timestep``: int, or a tensor of
        one value or of N values of the same TaR/TaA group, which selects parameters for the whole
        batch. Returns (N, out_channel, H, W). Raises UsageError for other sizes and for timesteps
        of several groups.
        """
        multiple = self.config.size_multiple
        height, width = noisy.shape[-2:]
        if height % multiple or width % multiple:
            raise UsageError(f"height and width must be multiples of {multiple}, not "
                             f"{height}x{width}; pad the images")
        values = [timestep] if isinstance(timestep, int) else timestep.reshape(-1).tolist()
        groups = {self.config.group(value) for value in values}
        if len(groups) != 1:
            raise UsageError(f"timesteps {values} are in {len(groups)} TaR/TaA groups; use "
                             "timesteps of one group in a batch")
        device = noisy.device
        return self.predict(noisy, condition,
                            torch.tensor(values, dtype=torch.float32, device=device),
                            torch.tensor([groups.pop()], device=device))

    def binary_nodes(self) -> Iterator[tuple[str, BinaryLayer, nn.Module | None]]:
        """(name, layer, reader) of the layer of every BinaryConv node, in order of execution.

        ``reader``: if the layer's BinaryConv node in the exported graph adds more than the layer
        (the time vector), the module whose input is that node's output; else None.
        """
        for block in self.blocks:
            if block.binary:
                module = self.get_submodule(block.name)
                for name, _, _ in block.convolutions:
                    layer = self.get_submodule(name)
                    assert isinstance(layer, BinaryLayer)
                    timed = layer.fused and block.kind == "residual" and name.endswith("conv1")
                    for node, part in layer.nodes(name):
                        yield node, part, module.get_submodule("norm2") if timed else None

    def rounded_sinusoid(self, timestep: int) -> Tensor:
        """The time embedding's sinusoid, each float32 operation of it correctly rounded, float64
        (1, width); torch's may differ in the last bits."""
        return torch.from_numpy(sinusoid(timestep, self.time_embedding.width)).double()[None]

    def operator_ends(self) -> Iterator[tuple[str, nn.Module, bool, bool]]:
        """(name, module, is_input, inside) of each value at which an operator of the exported graph
        ends, and of attention's two values inside that are sums of products.

        name      in the graph, before ``short``
        is_input  whether the value is the module's input, not its output
        inside    whether what reads it is inside attention
        """
        for block in self.blocks:
            module = self.get_submodule(block.name)
            if block.kind == "residual":
                yield f"{block.name}.h", module.get_submodule("norm2"), True, False
            if not block.attention:
                last = block.kind == "head" and not self.config.preconditioning
                yield ("prediction" if last else block.name), module, False, False
                continue
            attention, name = module.get_submodule("attention"), f"{block.name}.attention"
            yield block.name, attention, True, True
            yield f"{name}/thirds", attention.get_submodule("qkv"), False, True
            yield f"{name}/mixed_map", attention.get_submodule("out"), True, True
            yield name, attention, False, False

    def predict(self, noisy: Tensor, condition: Tensor, timestep: Tensor, group: Tensor,
                outputs: dict[str, Tensor] | None = None, last: str = "") -> Tensor:
        """``forward`` with tensors and without checks: timestep float32 (1,) or (N,), group int64
        (1,).

        ``outputs``: receives the output of every block by name, (N, C, H, W). ``last``: the block
        after which to stop and whose output to return.
        """
        embedding = self.time_embedding(timestep)
        skips: list[Tensor] = []
        x = torch.cat([condition, noisy], dim=1)
        for block in self.blocks:
            module = self.get_submodule(block.name)
            if block.kind == "residual":
                x = module(x, embedding, group, self.scale)
            elif block.kind == "fusion":
                x = module(x, skips.pop(), group)
            elif block.kind in ("down", "up"):
                x = module(x, group)
            else:
                x = module(x)
            if block.pushes_skip:
                skips.append(x)
            if outputs is not None:
                outputs[block.name] = x
            if block.name == last:
                return x
        if self.shares is None:
            return x
        of_noisy, of_condition, of_output = self._shares(timestep)
        return noisy * of_noisy + condition * of_condition + x * of_output

    def deviation(self, timestep: Tensor) -> Tensor | None:
        """How much the noise may differ from what the inputs tell of it, float32 (1, 1, 1, 1) or
        (N, 1, 1, 1); None without preconditioning. Losses divide by it."""
        return None if self.shares is None else self._shares(timestep)[2]

    def _shares(self, timestep: Tensor) -> tuple[Tensor, ...]:
        assert self.shares is not None
        return self.shares[timestep.long()].view(-1, 3, 1, 1, 1).unbind(1)
