"""The BIConv's own gradients, and training in low precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bidiff_deploy import machine
from bidiff_deploy.errors import UsageError
from bidiff_deploy.training.networks import fused
from bidiff_deploy.training.networks.binarize import BinaryConv2d, sign_activation, sign_weight
from bidiff_deploy.training.optimizer import Precision
from bidiff_deploy.training.recipe import recipe_from_dict
from bidiff_deploy.training.trainer import Trainer
from support.training_setup import TREE, changed

GROUP = torch.tensor([1])


def layer(channels: int, kernel: int, dtype: torch.dtype = torch.float32) -> BinaryConv2d:
    torch.manual_seed(3)
    module = BinaryConv2d(channels, channels, kernel, groups=3).to(dtype)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0, 0.8)
    return module


def in_parts(module: BinaryConv2d, x: torch.Tensor) -> torch.Tensor:
    """The layer with torch's own gradients for everything except the two signs."""
    threshold, shift_in, slope, shift_out = (
        parameter.index_select(0, GROUP).view(1, -1, 1, 1) for parameter in (
            module.threshold, module.shift_in, module.slope, module.shift_out))
    y = F.conv2d(sign_activation(x + threshold), sign_weight(module.weight),
                 padding=module.padding)
    return F.prelu(y + shift_in, slope.view(-1)) + shift_out + x


def gradients(module: BinaryConv2d, out: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(4)
    return list(torch.autograd.grad(out, [x, *module.parameters()], torch.randn(out.shape).to(out)))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("count", [1, 2])
def test_one_function_is_the_sum_of_its_parts(kernel, layout, count):
    module = layer(6, kernel, torch.float64)
    # A slice of channels, as in CP-Down, with values exactly at the threshold.
    whole = torch.randn(count, 12, 7, 5, dtype=torch.float64).contiguous(memory_format=layout)
    x = whole[:, 6:].requires_grad_()
    with torch.no_grad():
        x[0, 0, 0, :3] = -module.threshold[1, 0]
    ours, theirs = module(x, GROUP), in_parts(module, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    found = gradients(module, ours, x)
    for gradient, expected in zip(found, gradients(module, theirs, x)):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)
    assert all(not gradient[[0, 2]].any() for gradient in found[2:])  # of the other groups


def test_a_sum_of_nothing_is_nothing_in_any_order():
    """Where +1 and -1 cancel, RPReLU is at its kink, for any alpha and order of addition."""
    module = layer(16, 3)
    with torch.no_grad():
        module.shift_in.zero_()
    found = []
    for layout in (torch.channels_last, torch.contiguous_format):
        x = torch.randn(2, 16, 9, 9, generator=torch.Generator().manual_seed(0))
        x = x.contiguous(memory_format=layout).requires_grad_()
        out = module(x, GROUP)
        found.append([out.detach(), *gradients(module, out, x)])
    sums = (found[0][0] - x - module.shift_out[1].view(1, -1, 1, 1)).detach()
    assert (sums.abs() < 1e-6).float().mean() > 0.01  # such sums occur
    for ours, theirs in zip(*found):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()


@pytest.mark.parametrize("dtype, exact", [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_low_precision_keeps_signs_and_scales(monkeypatch, dtype, exact):
    """Signs are those of float32 inputs, also where bfloat16 inputs would be equal; sums of up to
    256 signs are exact; only products of the gradient are rounded."""
    module = layer(24, 3)
    x = torch.randn(2, 24, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x[0, :, 0] = torch.nextafter(-module.threshold[1], torch.tensor(-9.0))[:, None]
        x[0, :, 1] = -module.threshold[1][:, None]
    x.requires_grad_()
    seen: list[torch.Tensor] = []
    original = fused.signs
    monkeypatch.setattr(fused, "signs", lambda t: seen.append(original(t)) or seen[-1])
    full = module(x, GROUP)
    with torch.autocast("cpu", dtype):
        low = module(x, GROUP)
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])
    assert (seen[0][0, :, 0] == -1).all() and (seen[0][0, :, 1] == 1).all()
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, full, rtol=1e-6, atol=1e-6)
    for found, expected in zip(gradients(module, low, x), gradients(module, full, x)):
        assert found.dtype == torch.float32
        assert (found - expected).norm() <= 2 * exact * expected.norm()


def test_training_in_bfloat16_learns(folder, monkeypatch):
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda: True)
    box = {"path": "photos/a.png", "box": [0, 0, 16, 18]}
    tree = {**changed(
        data={"candidates": 1, "shuffle_colors": False, "train": [box], "validate": []},
        network={"dropout": 0.0, "channel_mults": [1]},
        run={"iterations": 400, "precision": "bfloat16"},
        optimizer={"learning_rate": 4e-3, "warmup": 10}),
        "steps": [{"timestep": 60, "origin": "condition"}]}
    trainer = Trainer(recipe_from_dict(tree), folder)
    kinds = set()
    trainer.network.stem.register_forward_hook(lambda module, given, out: kinds.add(out.dtype))
    losses = [trainer.train_once()["loss"] for _ in range(50)]
    assert kinds == {torch.bfloat16}
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    assert all(parameter.dtype == torch.float32 for parameter in trainer.network.parameters())


def test_a_cpu_that_emulates_bfloat16_trains_in_float32(folder, monkeypatch):
    recipe, lines = recipe_from_dict(changed(run={"precision": "bfloat16"})), []
    for flags, kind in (("avx2", torch.float32), ("avx2 avx512f avx512_bf16", torch.bfloat16),
                        ("avx2 amx_tile amx_bf16", torch.bfloat16)):
        monkeypatch.setattr(machine, "_read", lambda path, flags=flags: f"flags : {flags}")
        monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
        assert Trainer(recipe, folder, say=lines.append).precision.dtype is kind
    assert lines == ["this CPU has no instructions for bfloat16; training in float32"]
    assert machine.cpu("", "riscv64")["isa"] == {}


def test_precisions_that_a_device_does_not_have(monkeypatch):
    with pytest.raises(UsageError, match="float16 needs a GPU; on a CPU use bfloat16"):
        Precision("float16", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(UsageError, match="bfloat16 is not supported by this GPU; use float16"):
        Precision("bfloat16", torch.device("cuda"))
    assert not Precision("float32", torch.device("cpu")).scaler.is_enabled()


def test_overflow_of_float16_lowers_the_scale_and_then_ends(folder, monkeypatch):
    """Only the scaler, which also works without a GPU, on float32."""
    trainer = Trainer(recipe_from_dict(TREE), folder)
    trainer.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-7)
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    trainer.network.head.conv.bias.register_hook(lambda grad: grad * float("inf"))
    trainer.train_once()  # skipped
    assert all(map(torch.equal, before, trainer.network.parameters()))
    assert trainer.precision.scaler.get_scale() == 2.0**-8
    trainer.train_once()
    with pytest.raises(UsageError, match="training diverged at iteration 2"):
        trainer.train_once()
