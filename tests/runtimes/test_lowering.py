"""A lowered program computes what the network does, whatever is changed in place and whoever looks at it."""

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from rtseg.runtimes.export import compare_onnx, to_onnx
from rtseg.runtimes.lowering import lower_program

IMAGE = torch.linspace(-2, 2, 2 * 3 * 4 * 6).view(2, 3, 4, 6)


def seen_later(x):
    y = x * 2
    return F.relu_(y) + y


def seen_before(x):
    y = x * 2
    return y.sum(1, keepdim=True) + F.relu_(y)


def twice(x):
    return F.silu(F.relu_(x * 2).add_(1), inplace=True)


def through_a_view(x):
    y = x * 2
    part = y[:, :1]
    return F.relu_(y) + part


def of_a_view(x):
    y = x * 2
    F.relu_(y[:, :1])
    return y


def of_a_slice(x):
    y = x * 2
    y[:, :1] = 1
    return y


def changed_twice(x):
    y = x * 2
    z = y.t() if y.dim() == 2 else y.transpose(2, 3)
    y.mul_(3)
    return z + F.relu_(y).mean()


def in_parts(x):
    a, b, c = F.relu_(x * 2).chunk(3, dim=1)
    return torch.cat([c, a * b], 1)


def enlarged(x):
    return F.interpolate(F.interpolate(x.flatten(2), size=12, mode="linear").unsqueeze(2), size=x.shape[2:])


def conditional(x):
    return torch.cond(x.sum() > 0, lambda x: F.relu_(x * 2), lambda x: x - 1, (x,))


ALONE = (seen_later, seen_before, twice, in_parts, enlarged)
TOGETHER = (through_a_view, of_a_view, of_a_slice, changed_twice, conditional)


class Network(nn.Module):
    def __init__(self, does):
        super().__init__()
        self.does = does

    def forward(self, x):
        return self.does(x)


def changing(program: ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if "_." in str(node.target)]


@pytest.mark.parametrize("does", [*ALONE, *TOGETHER], ids=lambda does: does.__name__)
def test_programs_compute_the_same(does, monkeypatch):
    whole = []
    theirs = ExportedProgram.run_decompositions
    monkeypatch.setattr(ExportedProgram, "run_decompositions", lambda *args: whole.append(does) or theirs(*args))
    program = torch.export.export(Network(does), (IMAGE,))
    program = lower_program(program, dict(torch.export.default_decompositions().items()))
    torch.testing.assert_close(program.module()(IMAGE), does(IMAGE))
    assert changing(program) == [] and bool(whole) == (does in TOGETHER)


def test_an_exported_network_keeps_its_statistics():
    """A norm that counts in evaluation is no norm that can be traced alone."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 2, 2, 2)
    ).eval()
    net[2].running_mean.fill_(0.5)
    proto = to_onnx(net, (1, 3, 4, 6))
    assert compare_onnx(proto, net, (3, 3, 4, 6))[0] < 1e-5
    net[2].train()
    program = torch.export.export(net, (IMAGE,))
    lower = lower_program(program, dict(torch.export.default_decompositions().items()))
    changed = [spec.target for spec in lower.graph_signature.output_specs if spec.target]
    assert changed == ["2.running_mean", "2.running_var", "2.num_batches_tracked"]
