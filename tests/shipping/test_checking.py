"""Runtimes against PyTorch: every layer matched, a fault found by name, failures that name operator and module."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from rtseg.core.errors import ConfigError
from rtseg.deployment import ServingGraph, load_runtime, why_absent
from rtseg.shipping.checking import (
    TOLERANCES,
    RuntimeCheck,
    check_runtime,
    compare_layers,
    expose,
    layer_tensors,
    norms_left,
    settled,
)
from rtseg.runtimes.export import to_onnx
from rtseg.runtimes.openvino import capabilities
from rtseg.models import create_model
from rtseg.models.checking import smallest_of_families

SHAPE = (1, 3, 65, 97)
NETWORKS = ("fastscnn", "ddrnet", "linknet", "contextnet", "fasterseg")
RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "runtime_agreement.json"
needs_openvino = pytest.mark.skipif(why_absent("openvino") is not None, reason=str(why_absent("openvino")))


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request):
    torch.manual_seed(0)
    net = settled(create_model(request.param, 7), (2, 3, 96, 128))
    return net, to_onnx(net, SHAPE, dynamic_batch=False)


@pytest.mark.slow
def test_networks_agree_layer_by_layer(exported):
    net, graph = exported
    check = check_runtime(net, "onnxruntime", shape=SHAPE, graph=graph, threads=1, layers="all")
    assert (
        check.agrees
        and check.relative_difference < 1e-4
        and check.label_agreement > 0.998
        and check.layers >= 40
        and check.first_layer is None
    ), str(check)


@needs_openvino
def test_networks_agree_in_openvino(exported):
    net, graph = exported
    check = check_runtime(net, "openvino", shape=SHAPE, graph=graph, threads=1)
    assert check.agrees and check.relative_difference < 1e-3, str(check)
    if "BF16" in capabilities():
        rough = check_runtime(net, "openvino", shape=SHAPE, graph=graph, precision="bf16", threads=1, layers="none")
        assert check.relative_difference < rough.relative_difference < 0.5 and rough.label_agreement > 0.8


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    net = settled(create_model("fastscnn", 7), (2, 3, 96, 128))
    return net, to_onnx(net, SHAPE, dynamic_batch=False)


@pytest.mark.parametrize("place", [0, 9, 20, -1])
def test_a_wrong_layer_is_named(small, place):
    net, graph = small
    broken = onnx.ModelProto()
    broken.CopyFrom(graph)
    tensor = [tensor for tensor, operator in layer_tensors(graph).values() if operator == "Conv"][place]
    node = next(n for n in broken.graph.node if n.output[0] == tensor)
    weight = next(t for t in broken.graph.initializer if t.name == node.input[1])
    weight.CopyFrom(numpy_helper.from_array(1.5 * numpy_helper.to_array(weight), weight.name))
    check = check_runtime(net, "onnxruntime", shape=SHAPE, graph=broken, threads=1)
    names = [name for name, (held, _) in layer_tensors(graph).items() if held == tensor]
    assert (
        not check.agrees
        and check.first_layer in names
        and check.first_operator == "Conv"
        and check.first_difference > 0.05
    )
    assert "DIFFERS" in str(check) and check.first_layer in str(check)


def test_pytorch_shows_its_own_layers(small):
    layers = compare_layers(
        small[0],
        None,
        np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32),
        runtime="torch",
        precision="bf16",
        threads=1,
    )
    assert len(layers) > 100 and layers[0].operator == "Conv2d" and 1e-4 < layers[0].relative < 0.02
    assert layers[0].relative < max(layer.relative for layer in layers)


@pytest.mark.slow
def test_a_serving_graph_is_compared_by_labels(small):
    check = check_runtime(ServingGraph(small[0]), "onnxruntime", shape=(1, 3, 64, 96), threads=1)
    assert (
        check.relative_difference is None
        and check.label_agreement > 0.99
        and check.agrees
        and check.shape == (1, 64, 96, 3)
    )


def test_photographs_and_labels_give_miou(small):
    photo = np.random.default_rng(0).integers(0, 256, (*SHAPE[2:], 3), dtype=np.uint8)
    truth = load_runtime(small[0], threads=1)(photo)
    truth[:8] = 255
    check = check_runtime(
        small[0], "onnxruntime", images=[photo, photo[::-1].copy()], labels=[truth, truth], graph=small[1], threads=1
    )
    assert check.images == 2 and 0.1 < check.miou < 1 and abs(check.miou - check.miou_runtime) < 0.01
    alone = check_runtime(small[0], "onnxruntime", images=[photo], labels=[truth], graph=small[1], threads=1)
    assert (
        alone.miou == 1.0
        and alone.miou_runtime > 0.99
        and RuntimeCheck.from_dict(json.loads(json.dumps(alone.to_dict()))) == alone
    )


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "give images"),
        ({"shape": SHAPE, "layers": "some"}, "layers"),
        ({"shape": SHAPE, "runtime": "onnxrt"}, "onnxruntime"),
        ({"images": [np.zeros((64, 96, 3), np.uint8)], "labels": []}, "0 label images"),
    ],
)
def test_impossible_requests(small, options, words):
    with pytest.raises(ConfigError, match=words) as caught:
        check_runtime(small[0], **options)
    assert "\n" not in str(caught.value)


def test_what_exposes_nothing_new_changes_nothing(small):
    assert [o.name for o in expose(small[1], ["logits"]).graph.output] == ["logits"]
    added = expose(small[1], [small[1].graph.node[0].output[0]] * 2)
    assert len(added.graph.output) == 2 and len(small[1].graph.output) == 1


def test_settling_leaves_the_original_and_the_callers_numbers_alone():
    net = create_model("fastscnn", 5)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    torch.manual_seed(3)
    first = torch.rand(1)
    torch.manual_seed(3)
    made = settled(net, (2, 3, 64, 96))
    assert torch.equal(torch.rand(1), first) and all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert not made.training and not torch.equal(
        made.state_dict()["downsample.0.bn.running_var"], state["downsample.0.bn.running_var"]
    )


def test_batch_norms_are_counted():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.folded, self.alone = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.folded(self.conv(x))
            return self.alone(y + y.mean((2, 3), keepdim=True))

    left = norms_left(to_onnx(Net(), (1, 3, 16, 16), dynamic_batch=False))
    assert left["exported"] == 1 and left["behind"] == {"Add": 1} and left["onnxruntime"] == 1


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


class Moody(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("part, operator", [(Bessel, "bessel_j0"), (Moody, "tracing stops")])
@pytest.mark.parametrize("batch", [True, False])
def test_a_failed_export_names_operator_and_module(part, operator, batch):
    net = nn.ModuleDict({"stem": nn.Conv2d(3, 4, 1), "head": nn.Sequential(nn.ReLU(), part())})

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = net

        def forward(self, x):
            return self.parts["head"](self.parts["stem"](x))

    with pytest.raises(ConfigError, match=operator) as caught:
        to_onnx(Net(), (1, 3, 16, 16), dynamic_batch=batch)
    assert "'parts.head.1'" in str(caught.value) and "\n" not in str(caught.value) and not net["head"][1]._forward_hooks


@pytest.fixture(scope="module")
def record():
    return json.loads(RECORD.read_text())


def test_recorded_runtimes_agree(record):
    exact = [row for row in record["rows"] if row["precision"] == "fp32"]
    assert len({row["model"] for row in exact}) >= 20
    for row in exact:  # beyond the tolerance only where PyTorch's own fp32 is about as far from its fp64
        own = record["rounding"].get(f"{row['model']} {row['size'][0]}x{row['size'][1]}", 0.0)
        assert (
            row["error"] is None
            and row["relative_difference"] <= max(TOLERANCES["fp32"], 3 * own)
            and row["label_agreement"] > (0.97 if own else 0.99)
        ), row
    assert {key.split()[0] for key in record["rounding"]} <= {
        "mininetv2",
        "dfanet",
        "segnet",
        "topformer_t",
        "hyperseg_s",
    }
    for row in record["rows"]:
        assert row["error"] is not None or row["agrees"] or row["first_layer"] or row["layers"], (
            row
        )  # what differs was looked into


def test_the_record_covers_every_network(record):
    if not record["complete"]:
        pytest.skip("the record is still being made: run benchmarks/runtime_agreement.py until it says complete")
    done = {(row["model"], row["runtime"], row["precision"], tuple(row["size"])) for row in record["rows"]}
    compared = set(smallest_of_families())
    wanted = {
        (model, *form, size)
        for model in compared
        for size in ((64, 96), (256, 512))
        for form in (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))
    }
    assert wanted <= done and set(record["norms"]) >= compared
