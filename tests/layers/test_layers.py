"""Layers: sizes of every operator at odd and tiny maps, gradients, and the batch norm that survives one value."""

import pytest
import torch

from rtseg.core.architecture import OPERATORS
from rtseg.core.errors import ConfigError
from rtseg.layers import BatchNorm, ClassifierHead, ConvBNAct, activation, build_operator, resize
from rtseg.layers.operators import ReducingSkip


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 8), (16, 16)])
def test_operator_sizes(op, stride, size):
    module = build_operator(op, 8, 16, stride).train()
    x = torch.randn(1, 8, *size, requires_grad=True)
    y = module(x)
    assert y.shape == (1, 16, *(-(-s // stride) for s in size))
    y.sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("op", OPERATORS)
def test_even_and_odd_sizes_are_one_rule(op):
    module = build_operator(op, 8, 8, 2).eval()
    x = torch.randn(1, 8, 12, 12)
    assert module(x).shape == (1, 8, 6, 6) and module(x[..., :11]).shape == (1, 8, 6, 6)


def test_reducing_skip_pads_only_what_it_must():
    module = ReducingSkip(4, 8).eval()
    x = torch.randn(1, 4, 7, 8)
    with torch.no_grad():
        y = module(x)
        padded = module(torch.nn.functional.pad(x, (0, 0, 0, 1)))
    assert torch.equal(y, padded)


def test_operators_keep_their_input_untouched():
    for op in OPERATORS:
        x = torch.randn(2, 8, 6, 6)
        before = x.clone()
        build_operator(op, 8, 8).train()(x)
        assert torch.equal(x, before)


def test_batch_norm_with_one_value_leaves_statistics_alone():
    norm = BatchNorm(3).train()
    norm(torch.full((1, 3, 1, 1), 9.0))
    assert torch.equal(norm.running_mean, torch.zeros(3)) and norm.num_batches_tracked == 0
    norm(torch.full((2, 3, 1, 1), 9.0))
    assert norm.num_batches_tracked == 1


def test_resize_targets():
    x = torch.randn(1, 2, 5, 7)
    for size in ((1, 1), (10, 3), (5, 7)):
        assert resize(x, size).shape[-2:] == size
        assert resize(x, size, align_corners=False).shape[-2:] == size
    assert resize(x, (10, 14), mode="nearest").shape == (1, 2, 10, 14)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: activation("relu7"),
        lambda: build_operator(5, 8, 8),
        lambda: build_operator(-1, 8, 8),
        lambda: build_operator("conv", 8, 8, 3),
        lambda: ConvBNAct(3, 8, act="swish"),
    ],
)
def test_unknown_choices(bad):
    with pytest.raises(ConfigError, match="unknown"):
        bad()


def test_head_hidden_channels():
    assert ClassifierHead(256, 3).gather.conv.out_channels == 256
    assert ClassifierHead(264, 3).gather.conv.out_channels == 132
    assert ClassifierHead(32, 3, hidden=8).gather.conv.out_channels == 8
