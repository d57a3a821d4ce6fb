"""int8 by QDQ graphs, faithful forms, tails of serving graphs: sweeps and faults."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from rtseg.core.errors import ArtifactError, ConfigError, DataError, MissingExtra
from rtseg.data.loading import normalize
from rtseg.deployment import ServingGraph, load_runtime
from rtseg.runtimes.export import to_onnx
from rtseg.shipping.faithful import evaluate_form, miou, read_examples
from rtseg.runtimes.openvino import capabilities
from rtseg.shipping.quantization import (
    QUANTISERS,
    QuantizationRecord,
    fewest,
    float_graph,
    input_ranges,
    layers_of,
    quantize,
    quantize_for_speed,
    rank_layers,
    round_layer,
    tail_of,
)
from rtseg.layers.enlarging import interpolation_weights
from rtseg.runtimes.serving import enlarge_by_products
from rtseg.evaluation.metrics import ConfusionMeter, mean_iou
from rtseg.models.contract import SegNetwork

SHAPE = (1, 3, 64, 96)


class Colours(SegNetwork):
    """The strongest colour at every second pixel, through three convolutions."""

    def __init__(self):
        super().__init__(3)
        self.first, self.middle, self.last = (
            nn.Conv2d(3, 3, 3, stride=2, padding=1),
            nn.Conv2d(3, 3, 3, padding=1),
            nn.Conv2d(3, 3, 1),
        )
        with torch.no_grad():
            for conv in (self.first, self.middle, self.last):
                conv.weight.mul_(0.05)
                conv.weight[range(3), range(3), conv.kernel_size[0] // 2, conv.kernel_size[0] // 2] += 1.0

    def predict(self, x):
        return self.last(F.relu(self.middle(self.first(x)) + 3) - 3)


def photographs(count=4):
    rng = np.random.default_rng(0)
    small = torch.from_numpy(rng.integers(0, 256, (count, 3, 5, 7)).astype(np.float32))
    return list(F.interpolate(small, size=SHAPE[2:], mode="bilinear").permute(0, 2, 3, 1).to(torch.uint8).numpy())


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Colours().eval()


@pytest.fixture(scope="module")
def graph(network):
    return float_graph(network, SHAPE)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize(
    "small,large", [((8, 16), (64, 128)), ((9, 13), (65, 97)), ((16, 16), (33, 40)), ((5, 5), (5, 5)), ((1, 1), (7, 9))]
)
def test_two_products_are_the_bilinear_enlargement(small, large, corners):
    x = torch.randn(2, 4, *small, generator=torch.Generator().manual_seed(0))
    wanted = F.interpolate(x, size=large, mode="bilinear", align_corners=corners)
    assert (enlarge_by_products(x, large, align_corners=corners) - wanted).abs().max() < 2e-5
    assert np.allclose(interpolation_weights(small[0], large[0], align_corners=corners).sum(1), 1)


class ColoursByCorners(Colours):
    """The same, enlarged corner to corner."""

    align_corners = True


@pytest.mark.parametrize("kind", [Colours, ColoursByCorners])
@pytest.mark.parametrize("argmax,rows", [("after", 1), ("half", 2)])
def test_every_tail_gives_the_masks_in_every_runtime(kind, argmax, rows):
    torch.manual_seed(0)
    net, pixels = kind().eval(), np.random.default_rng(0).integers(0, 256, (65, 97, 3)).astype(np.uint8)
    with torch.inference_mode():
        logits = net(normalize(torch.from_numpy(pixels).permute(2, 0, 1)[None]))
    top = logits.topk(2, 1).values
    sure = ((top[:, 0] - top[:, 1]) > 1e-4 * logits.abs().max())[0].numpy()
    proto = to_onnx(
        ServingGraph(net, argmax=argmax, upsampling="products"), (1, 65, 97, 3), dynamic_batch=False, dtype=torch.uint8
    )
    for runtime in ("onnxruntime", "openvino") if capabilities_known() else ("onnxruntime",):
        labels = load_runtime(proto, runtime=runtime, threads=1)(pixels)
        differs = (labels != logits.argmax(1)[0].numpy())[::rows, ::rows]
        assert labels.shape == (65, 97) and not (differs & sure[::rows, ::rows]).any() and sure.mean() > 0.9


def test_products_need_a_network_that_shows_its_logits():
    with pytest.raises(ConfigError, match="does not show"):
        ServingGraph(nn.Conv2d(3, 4, 1), upsampling="products")
    with pytest.raises(ConfigError, match="rtseg's contract"):
        ServingGraph(Colours(), argmax="half", output="logits")


def test_miou_is_the_evaluators():
    rng = np.random.default_rng(0)
    truth, found = rng.integers(0, 5, (3, 20, 30)).astype(np.uint8), rng.integers(0, 5, (3, 20, 30)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = 255
    meter = ConfusionMeter(5)
    meter.update(torch.from_numpy(found), torch.from_numpy(truth))
    assert np.isclose(miou(list(found), list(truth)), mean_iou(meter.matrix))


@pytest.mark.parametrize(
    "data,message",
    [
        ([], "0 images"),
        ([np.zeros((3, 8, 8), np.float32)], "not normalised"),
        ([np.zeros((8, 8), np.uint8)], "not normalised"),
        (["x.png"], "an image is str"),
    ],
)
def test_examples_are_photographs(data, message):
    with pytest.raises(DataError, match=message):
        read_examples(data, (8, 8))


def test_the_score_needs_the_same_images():
    with pytest.raises(DataError, match="other shapes"):
        evaluate_form(
            lambda image: image[..., 0],
            read_examples(photographs(2), SHAPE[2:]),
            reference=[np.zeros((64, 96), np.uint8)],
        )


def test_layers_and_tail(graph):
    tail, ends = tail_of(graph)
    assert list(layers_of(graph).values()) == ["first", "middle", "last"] and len(ends) == 1
    assert {"MatMul", "ArgMax"} <= {n.op_type for n in graph.graph.node if n.name in tail} and not set(tail) & set(
        layers_of(graph)
    )


def test_rounding_one_layer_is_small_and_its_own(graph):
    images = [p[None] for p in photographs()]
    ranges = input_ranges(graph, images)
    assert all(low <= 0 <= high and high > low for low, high in ranges.values()) and len(ranges) == 3
    node = list(layers_of(graph))[1]
    rounded = round_layer(graph, node, next(ranges[n.input[0]] for n in graph.graph.node if n.name == node))
    onnx.checker.check_model(rounded)
    kinds = [n.op_type for n in rounded.graph.node]
    assert (
        kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == 1
        and len(rounded.graph.node) == len(graph.graph.node) + 2
    )
    ranked = rank_layers(graph, images)
    assert set(ranked) == set(layers_of(graph)) and 0 < max(ranked.values()) < 0.05


def test_a_loud_channel_makes_a_layer_sensitive():
    torch.manual_seed(0)
    net = Colours().eval()
    with (
        torch.no_grad()
    ):  # a bias of 500 that the next layer takes away again: few of the 256 steps are left for the rest
        net.first.bias[2] += 500.0
        net.middle.weight[:, 2] = 0
    graph = float_graph(net, SHAPE)
    ranked = rank_layers(graph, [p[None] for p in photographs()])
    assert layers_of(graph)[next(iter(ranked))] == "middle" and max(ranked.values()) > 5 * sorted(ranked.values())[1]


@pytest.mark.parametrize("method", sorted(QUANTISERS))
def test_quantised_masks_agree_in_both_runtimes(network, method):
    if method == "nncf":
        pytest.importorskip("nncf")
    done = quantize(network, photographs(), shape=SHAPE, method=method, min_agreement=0.97, threads=1)
    record = done.record
    assert record.refused is None and record.score["agreement"] >= 0.97 and record.layers == 3 and record.images == 4
    assert QuantizationRecord.from_dict(record.to_dict()) == record
    weights = {w.name: numpy_helper.to_array(w) for w in done.graph.graph.initializer}
    stored = [w for w in weights.values() if w.dtype == np.int8 and w.ndim == 4]
    scales = [w.shape for n, w in weights.items() if w.shape == (3,) and w.dtype == np.float32 and "scale" in n.lower()]
    assert "QuantizeLinear" in {n.op_type for n in done.graph.graph.node} and len(scales) >= 3 - len(
        record.float_layers
    ), (stored, scales)
    eager = load_runtime(network, threads=1)
    pixels = photographs()[1]
    for runtime in ("onnxruntime", "openvino") if capabilities_known() else ("onnxruntime",):
        assert (
            load_runtime(done.graph, runtime=runtime, precision="int8", threads=1)(pixels) == eager(pixels)
        ).mean() > 0.95


def test_int8_for_speed_touches_every_convolution_and_is_asked_of_nothing_else(network):
    graph = float_graph(network, SHAPE)
    made = quantize_for_speed(graph, [p[None] for p in photographs()], runtime="onnxruntime")
    inputs = {node.name: node.input[1] for node in made.graph.node if node.op_type == "Conv"}
    assert len(inputs) == 3 and all("DequantizeLinear" in name for name in inputs.values()), (
        "every weight comes through a dequantising node"
    )
    assert load_runtime(made, runtime="onnxruntime", precision="int8", threads=1).precision == "int8"
    for runtime in ("onnxruntime", "openvino") if capabilities_known() else ("onnxruntime",):
        with pytest.raises(ConfigError, match="needs a quantised graph"):
            load_runtime(graph, runtime=runtime, precision="int8", threads=1)


def capabilities_known() -> bool:
    try:
        return "FP32" in capabilities()
    except ModuleNotFoundError:
        return False


def test_unreachable_limits_hand_back_the_best_with_the_reason(network):
    done = quantize(
        network, photographs(2), shape=SHAPE, method="onnxruntime", min_agreement=1.0, max_float=0.34, threads=1
    )
    assert done.record.refused is None or "of the labels agree" in done.record.refused
    assert all(t["float_layers"] <= 1 for t in done.record.tries)
    assert done.record.score["agreement"] == max(t["agreement"] for t in done.record.tries)


def test_layers_in_float_are_those_that_suffer():
    torch.manual_seed(0)
    net = Colours().eval()
    with torch.no_grad():
        net.first.bias[2] += 500.0
        net.middle.weight[:, 2] = 0
        net.middle.bias[2] += 1.0
    done = quantize(net, photographs(), shape=SHAPE, method="onnxruntime", min_agreement=0.97, max_float=0.9, threads=1)
    assert done.record.refused is None and done.record.float_layers[0] == "middle" and len(done.record.tries) > 1
    assert "in float: middle" in str(done.record) and done.record.tries[0]["refused"]


@pytest.mark.parametrize("count,first", [(1, 0), (2, 1), (7, 3), (60, 0), (60, 37), (60, 59)])
def test_fewest_finds_the_border(count, first):
    asked = []
    assert fewest(count, lambda k: asked.append(k) or k >= first) == first
    assert len(asked) == len(set(asked)) <= 14 and max(asked) < count


def test_faults_are_one_line(network, graph, monkeypatch):
    with pytest.raises(ConfigError, match="did you mean 'nncf'"):
        quantize(network, photographs(1), shape=SHAPE, method="ncnf")
    with pytest.raises(ConfigError, match="shares between 0 and 1"):
        quantize(network, photographs(1), shape=SHAPE, min_agreement=99)
    with pytest.raises(ConfigError, match="takes normalised floats"):
        float_graph(to_onnx(network, SHAPE, dynamic_batch=False), SHAPE)
    quantised = QUANTISERS["onnxruntime"](graph, [photographs(1)[0][None]], keep=[])
    with pytest.raises(ConfigError, match="quantised already"):
        float_graph(quantised, SHAPE)
    pixels = helper.make_tensor_value_info("image", TensorProto.UINT8, [1])
    nothing = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["image"], ["y"])],
            "g",
            [pixels],
            [helper.make_tensor_value_info("y", TensorProto.UINT8, [1])],
        )
    )
    with pytest.raises(ConfigError, match="0 convolutions"):
        float_graph(nothing, SHAPE)
    monkeypatch.setattr("rtseg.shipping.quantization.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"rtseg\[openvino\]"):
        QUANTISERS["nncf"](graph, [photographs(1)[0][None]], keep=[])


def test_a_convolution_with_computed_weights_is_no_layer():
    """As in SCTNet's attention, whose second convolution takes the first one's kernels transposed."""
    make = onnx.helper.make_node
    kernel = onnx.numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "first.weight")
    value = lambda name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)  # noqa: E731
    nodes = [
        make("Conv", ["x", "first.weight"], ["y"], name="a"),
        make("Transpose", ["first.weight"], ["back"], name="b", perm=[1, 0, 2, 3]),
        make("Conv", ["y", "back"], ["z"], name="c"),
    ]
    graph = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [value("x")], [value("z")], [kernel]))
    graph.opset_import[0].version, graph.ir_version = 18, 10
    assert layers_of(graph) == {"a": "first"}
    assert list(rank_layers(graph, [np.ones((1, 3, 2, 2), np.float32)])) == ["a"]


def refused_graph():
    """A valid file that ONNX Runtime cannot run: two tensors of different types are added."""
    make, value = helper.make_node, helper.make_tensor_value_info
    nodes = [make("Cast", ["x"], ["i"], to=TensorProto.INT32), make("Add", ["x", "i"], ["y"])]
    sides = [value("x", TensorProto.FLOAT, None)], [value("y", TensorProto.FLOAT, None)]
    model = helper.make_model(helper.make_graph(nodes, "QuantizeLinear", *sides))
    model.opset_import[0].version, model.ir_version = 18, 10
    return model


def test_a_graph_that_onnx_runtime_refuses_is_one_line():
    with pytest.raises(ArtifactError, match="ONNX Runtime refuses the graph: .*; take another runtime") as said:
        load_runtime(refused_graph(), runtime="onnxruntime", threads=1)
    assert "\n" not in str(said.value)


def test_forms_that_the_runtime_refuses_do_not_pass(network, graph, monkeypatch):
    """As LMFFNet's by NNCF, whose average pool would get a scale for each channel: the worst layers stay in float until a form runs."""
    whole, tail = QUANTISERS["onnxruntime"], len(tail_of(graph)[0])

    def needs_one(source, images, *, keep):
        return whole(source, images, keep=keep) if len(keep) > tail else refused_graph()

    monkeypatch.setitem(QUANTISERS, "onnxruntime", needs_one)
    how = dict(shape=SHAPE, method="onnxruntime", min_agreement=0.9, threads=1)
    record = quantize(network, photographs(2), **how).record
    assert len(record.float_layers) == 1 and record.refused is None and [t["float_layers"] for t in record.tries] == [1]
    monkeypatch.setitem(QUANTISERS, "onnxruntime", lambda source, images, *, keep: refused_graph())
    with pytest.raises(ArtifactError, match="ONNX Runtime refuses the graph"):
        quantize(network, photographs(2), **how)
