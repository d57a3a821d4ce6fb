"""Networks as features: strides and channels are what comes out, gradients flow, any module serves."""

import pytest
import torch
from torch import nn

from rtseg.models import create_model, features_only


@pytest.mark.parametrize("name", ["enet", "fastscnn", "bisenetv2", "stdc", "regseg"])
def test_strides_and_channels_are_what_comes_out(name):
    body = features_only(create_model(name, 19)).eval()
    assert {8} <= set(body.strides) and list(body.strides) == sorted(body.strides)
    with torch.no_grad():
        out = body(torch.randn(1, 3, 128, 256))
    assert [m.shape[1] for m in out] == list(body.channels) and 19 not in body.channels
    assert [(128 // m.shape[-2], 256 // m.shape[-1]) for m in out] == [(s, s) for s in body.strides]


def test_it_trains():
    body = features_only(create_model("fastscnn", 4), strides=(32,)).train()
    body(torch.randn(2, 3, 64, 64))[0].mean().backward()
    assert body.network.downsample[0].conv.weight.grad.abs().sum() > 0
    assert not any(module._forward_hooks for module in body.modules())


def test_any_module():
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.Upsample(scale_factor=4))
    body = features_only(plain)
    assert body.strides == (2, 4) and body.channels == (8, 16)
