"""One contract for every network in the registry."""

import inspect
import io

import numpy as np
import onnxruntime
import pytest
import torch

from rtseg.core.errors import ConfigError, DataError
from rtseg.core.values import SegOutput
from rtseg.core.architecture import Architecture, Branch
from rtseg.models import SegNetwork, count_macs, count_parameters, create_model, list_models, model_info
from rtseg.models.fasterseg import FasterSeg
from rtseg.models.registry import FACTS, MODELS

NAMES = list_models()
SIZES = [(64, 64), (65, 97), (128, 256)]


@pytest.fixture(params=NAMES, scope="module")
def network(request) -> SegNetwork:
    torch.manual_seed(0)
    return create_model(request.param, 5)


@pytest.mark.parametrize("size", SIZES)
def test_sizes(network, size):
    with torch.inference_mode():
        out = network.eval()(torch.randn(1, 3, *size))
    assert isinstance(out, torch.Tensor) and out.shape == (1, 5, *size) and torch.isfinite(out).all()


@pytest.mark.parametrize("size", SIZES[:2])
def test_training_at_batch_one(network, size):
    network.train().zero_grad(set_to_none=True)
    out = network(torch.randn(1, 3, *size))
    assert isinstance(out, SegOutput) and all(t.shape == (1, 5, *size) for t in (out.logits, *out.aux))
    (out.logits.mean() + sum(a.mean() for a in out.aux)).backward()
    without = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("num_classes", "in_channels"), [(2, 1), (150, 3)])
def test_classes_and_channels(name, num_classes, in_channels):
    net = create_model(name, num_classes, in_channels=in_channels).eval()
    assert net(torch.randn(1, in_channels, 64, 64)).shape == (1, num_classes, 64, 64)


def test_auxiliary_heads_do_not_run_in_evaluation(network):
    ran = []
    heads = [m for n, m in network.named_modules() if network.trains_only(f"{n}.")]
    handles = [m.register_forward_hook(lambda *a: ran.append(1)) for m in heads]
    network.eval()(torch.randn(1, 3, 64, 64))
    assert ran == []
    for h in handles:
        h.remove()


def test_evaluation_is_deterministic_and_independent_of_the_batch(network):
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        a, b, single = network.eval()(x), network(x), network(x[:1])
    assert torch.equal(a, b) and torch.allclose(a[:1], single, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_weights_survive_and_names_are_stable(name):
    first, second = create_model(name, 5), create_model(name, 5)
    assert list(first.state_dict()) == list(second.state_dict())
    second.load_state_dict(first.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(first.eval()(x), second.eval()(x))


@pytest.mark.parametrize("name", NAMES)
def test_facts(name):
    info = model_info(name)
    assert {"title", "paper", "year"} <= set(info) and set(info) - {"name"} <= set(FACTS)
    if "params" in info:
        assert count_parameters(create_model(name, 19)) == pytest.approx(info["params"], rel=0.01)
    if "gmacs" in info:
        assert count_macs(create_model(name, 19), (1, 3, *info["gmacs_size"])) / 1e9 == pytest.approx(info["gmacs"], rel=0.01)
    mutable = [p.name for p in inspect.signature(MODELS.get(name)).parameters.values() if isinstance(p.default, (list, dict, set))]
    assert mutable == []


@pytest.mark.parametrize("wrong", [(1, 3, 63, 64), (1, 3, 64, 63), (1, 4, 64, 64), (3, 64, 64)])
def test_wrong_input(network, wrong):
    with pytest.raises(DataError) as error:
        network(torch.randn(wrong))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [lambda: create_model("fastersge"), lambda: create_model("fasterseg", aus=False), lambda: create_model("fasterseg", 0),
                                   lambda: create_model("fasterseg", 2.0), lambda: create_model("fasterseg", in_channels=0), lambda: model_info("x")])
def test_wrong_requests(wrong):
    with pytest.raises(ConfigError):
        wrong()


def onnx_difference(net: SegNetwork, size: tuple[int, int]) -> float:
    """Greatest difference between a network and its ONNX export, on one random image."""
    x = torch.randn(1, net.in_channels, *size)
    file = io.BytesIO()
    program = torch.onnx.export(net.eval(), (x,), dynamo=True, verbose=False)
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.inference_mode():
        wanted = net(x).numpy()
    return float(np.abs(got - wanted).max() / max(1.0, np.abs(wanted).max()))


@pytest.mark.parametrize("size", SIZES[1:])
def test_onnx_agrees(network, size):
    assert onnx_difference(network, size) < 1e-3


TRIO = Architecture((Branch((1, 0, 2, 0, 1, 1), (0, 0, 1, 1, 2, 2), (4, 6, 4, 8, 4)), Branch((1, 0, 4), (0, 0, 1), (4, 6)),
                     Branch((1, 3), (0, 0), (4,))), base_width=4)


@pytest.mark.parametrize("picked", [(0,), (1,), (2,), (2, 1), (0, 2), (0, 1, 2), (2, 1, 0)])
def test_every_mix_of_branches(picked):
    arch = Architecture(tuple(TRIO.branches[i] for i in picked), base_width=4)
    net = FasterSeg(arch, 3)
    out = net.train()(torch.randn(1, 3, 67, 101))
    assert out.logits.shape == (1, 3, 67, 101) and len(out.aux) == max(b.last for b in arch.branches)
    (out.logits.sum() + sum(a.sum() for a in out.aux)).backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    assert onnx_difference(net, (65, 97)) < 1e-3


def test_shared_cells_exist_once():
    net = FasterSeg(TRIO, 3)
    assert [len(layer) for layer in net.cells] == [len(g) for g in TRIO.groups()]
    assert [len(g) for g in TRIO.groups()][:2] == [1, 2]


def test_op_specs_are_the_operators_that_run():
    """The sizes and channels that a latency table is asked for are those of the network's own convolutions."""
    height, width = 90, 132
    net, seen = FasterSeg(TRIO, 3).eval(), []
    parts = [net.stem[0], net.stem[1], net.stem[2], *(c for layer in net.cells for c in layer),
             *(m for row in net.climbs for block in row for m in (block.arm, block.refine)), net.fusion.mix, net.head]
    for part in parts:
        part.register_forward_hook(lambda m, args, out: seen.append((*args[0].shape[2:], args[0].shape[1], out.shape[1])))
    net(torch.randn(1, 3, height, width))
    assert sorted(seen) == sorted((s.height, s.width, s.in_channels, s.out_channels) for s in TRIO.op_specs(height, width, 3))
