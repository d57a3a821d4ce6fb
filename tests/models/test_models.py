"""One contract for every network in the registry."""

import copy
import inspect

import pytest
import torch

from rtseg.core.errors import ConfigError, DataError
from rtseg.core.architecture import Architecture, Branch
from rtseg.core.files import read_json
from rtseg.runtimes.export import compare_onnx, to_onnx
from rtseg.models import SegNetwork, count_macs, count_parameters, create_model, list_models, model_info
from rtseg.models.checking import ContractBroken, check_evaluation, check_training, smallest_of_families
from rtseg.models.fasterseg import FasterSeg
from rtseg.core.registry import Registry
from rtseg.models import registry
from rtseg.models.registry import FACTS, MODELS, family_sizes, resolve_model

NAMES = smallest_of_families()
SIZES = [(64, 64), (65, 97), (128, 256)]
LARGE = [(360, 480), (375, 1242), (721, 1281)]


@pytest.fixture(params=NAMES, scope="module")
def network(request) -> SegNetwork:
    torch.manual_seed(0)
    return create_model(request.param, 5)


@pytest.mark.parametrize("size", SIZES)
def test_sizes(network, size):
    with torch.inference_mode():
        out = network.eval()(torch.randn(1, 3, *size))
    assert isinstance(out, torch.Tensor) and out.shape == (1, 5, *size) and torch.isfinite(out).all()


@pytest.mark.parametrize("name", NAMES)
def test_large_sizes(name):
    """Every operation of a forward pass fits, without computing it; `benchmarks/zoo_sizes.py` computes them."""
    with torch.device("meta"), torch.no_grad():
        net = create_model(name, 5).eval()
        assert [net(torch.empty(1, 3, *size)).shape for size in LARGE] == [(1, 5, *size) for size in LARGE]


def test_large_sizes_were_computed(root):
    """The committed record holds every network: ONNX Runtime agrees at all sizes; a network that unpools gives at least 99.8 % of the pixels the same class."""
    record = read_json(root / "benchmarks" / "results" / "zoo_sizes.json")["networks"]
    assert set(NAMES) <= set(record)
    for name in NAMES:
        assert set(record[name]["onnx"]) >= {"65x97", *(f"{h}x{w}" for h, w in LARGE)}
        beyond = [size for size, value in record[name]["onnx"].items() if value >= 1e-3]
        assert (
            not beyond
            or type(create_model(name)).__name__ in UNPOOLING
            and min(record[name]["onnx_agreement"][size] for size in beyond) > 0.998
        ), name


@pytest.mark.parametrize("size", SIZES[:2])
def test_training_at_batch_one(network, size):
    assert check_training(network, size=size).startswith("batch of 1")


@pytest.mark.parametrize("name", NAMES)
def test_auxiliary_heads_on_request(name):
    if "aux" not in inspect.signature(MODELS.get(name)).parameters:
        assert name == "smp", "every network of our own has a natural place for an auxiliary head"
        return
    plain, helped = create_model(name, 5, aux=False), create_model(name, 5, aux=True)
    assert count_parameters(plain) == count_parameters(helped) < count_parameters(helped, training=True)
    told = check_training(helped)
    assert "auxiliary outputs" in told and not told.startswith("batch of 1 at 65 x 97, 0")


def test_contract_names_what_is_broken():
    class Half(SegNetwork):
        def predict(self, x):
            return x[:, :1, ::2, ::2].expand(-1, self.num_classes, -1, -1) * float("nan")

    with pytest.raises(ContractBroken, match="finite"):
        check_evaluation(Half(5))


UNPOOLING = (
    "ENet",
    "SegNet",
)  # two maxima that are equal up to rounding may change places between kernels, and the logits around them with them


def same_numbers(network, changed, x) -> bool:
    with torch.no_grad():
        wanted, got = network.eval()(x), changed(x)
    difference = (got - wanted).abs()
    off = difference.mean() * 0.1 if type(network).__name__ in UNPOOLING else difference.max()
    return float(off) <= 1e-4 * float(wanted.abs().max())


def test_compiled_is_the_same(network, request):
    name = request.node.callspec.params["network"]
    x = torch.randn(1, 3, 65, 97)
    torch._dynamo.reset()
    compiled = torch.compile(network.eval(), backend="eager", fullgraph=True)
    if "compile" in model_info(name).get("unsupported", ()):
        with pytest.raises(Exception, match="."):
            same_numbers(network, compiled, x)
    else:
        assert same_numbers(network, compiled, x)


def test_channels_last_is_the_same(network):
    x = torch.randn(1, 3, 65, 97)
    other = copy.deepcopy(network).eval().to(memory_format=torch.channels_last)
    assert same_numbers(network, lambda image: other(image.contiguous(memory_format=torch.channels_last)), x)


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
    assert torch.equal(a, b) and torch.allclose(a[:1], single, rtol=0, atol=1e-4 * float(a.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_weights_survive_and_names_are_stable(name):
    first, second = create_model(name, 5), create_model(name, 5)
    assert list(first.state_dict()) == list(second.state_dict())
    second.load_state_dict(first.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(first.eval()(x), second.eval()(x))


@pytest.mark.parametrize("name", list_models())
def test_facts(name):
    info = model_info(name)
    assert {"title", "paper", "year"} <= set(info) and set(info) - {"name"} <= set(FACTS)
    with torch.device("meta"):  # shapes are all that is counted
        network = create_model(name, 19)
    if "params" in info:
        assert count_parameters(network) == pytest.approx(info["params"], rel=0.01)
    if "gmacs" in info:
        assert count_macs(network, (1, 3, *info["gmacs_size"])) / 1e9 == pytest.approx(info["gmacs"], rel=0.01)
    mutable = [
        p.name
        for p in inspect.signature(MODELS.get(name)).parameters.values()
        if isinstance(p.default, (list, dict, set))
    ]
    assert mutable == []


@pytest.mark.parametrize("wrong", [(1, 3, 63, 64), (1, 3, 64, 63), (1, 4, 64, 64), (3, 64, 64)])
def test_wrong_input(network, wrong):
    with pytest.raises(DataError) as error:
        network(torch.randn(wrong))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: create_model("fastersge"),
        lambda: create_model("fasterseg", aus=False),
        lambda: create_model("fasterseg", 0),
        lambda: create_model("fasterseg", 2.0),
        lambda: create_model("fasterseg", in_channels=0),
        lambda: model_info("x"),
    ],
)
def test_wrong_requests(wrong):
    with pytest.raises(ConfigError):
        wrong()


def onnx_difference(net: SegNetwork, size: tuple[int, int]) -> float:
    """Greatest difference between a network and its ONNX export with a free batch size, on a batch that was not traced, relative to the largest logit."""
    proto = to_onnx(net, (1, net.in_channels, *size))
    difference, _ = compare_onnx(proto, net, (3, net.in_channels, *size))
    with torch.inference_mode():
        return difference / float(net.eval()(torch.randn(1, net.in_channels, *size)).abs().max())


def test_onnx_agrees(network):
    with (
        torch.no_grad()
    ):  # norms that have seen something: a fresh Fast-SCNN answers zeros, which any graph would match
        network.train()(torch.randn(2, network.in_channels, 65, 97))
    assert onnx_difference(network, (65, 97)) < (0.1 if type(network).__name__ in UNPOOLING else 1e-3)


TRIO = Architecture(
    (
        Branch((1, 0, 2, 0, 1, 1), (0, 0, 1, 1, 2, 2), (4, 6, 4, 8, 4)),
        Branch((1, 0, 4), (0, 0, 1), (4, 6)),
        Branch((1, 3), (0, 0), (4,)),
    ),
    base_width=4,
)


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
    parts = [
        net.stem[0],
        net.stem[1],
        net.stem[2],
        *(c for layer in net.cells for c in layer),
        *(m for row in net.climbs for block in row for m in (block.arm, block.refine)),
        net.fusion.mix,
        net.head,
    ]
    for part in parts:
        part.register_forward_hook(
            lambda m, args, out: seen.append((*args[0].shape[2:], args[0].shape[1], out.shape[1]))
        )
    net(torch.randn(1, 3, height, width))
    assert sorted(seen) == sorted(
        (s.height, s.width, s.in_channels, s.out_channels) for s in TRIO.op_specs(height, width, 3)
    )


def test_a_family_and_a_size_name_a_network(monkeypatch):
    shelf = Registry("model")
    for size in ("s", "m"):
        shelf.register(f"example_{size}", title="Example", paper="", year=2024, family="example")(
            lambda classes, *, in_channels, size=size: (size, classes)
        )
    monkeypatch.setattr(registry, "MODELS", shelf)
    assert family_sizes("example") == {"m": "example_m", "s": "example_s"}
    assert resolve_model("example", {"size": "m", "aux": True}) == ("example_m", {"aux": True})
    for wrong, words in (
        (lambda: create_model("example"), "size=m or size=s"),
        (lambda: create_model("example", size="l"), "size of 'example' 'l' is unknown"),
        (lambda: create_model("exampel_s"), "did you mean 'example_s'"),
    ):
        with pytest.raises(ConfigError, match=words):
            wrong()
