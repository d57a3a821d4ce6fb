"""Shipped files, their cards, and the script that serves them without PyTorch."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.core.values import Latency
from rtseg.data.labels import CAMVID
from rtseg.deployment import ServingGraph, load_runtime
from rtseg.shipping.cards import Card, Preprocessing, card_path, class_facts, load_card, write_shipped
from rtseg.runtimes.export import to_onnx
from rtseg.shipping.server import write_server
from rtseg.models.contract import SegNetwork


class Strongest(SegNetwork):
    """The strongest colour of every cell of 4 x 4 pixels."""

    def __init__(self):
        super().__init__(3)
        self.mix = nn.Conv2d(3, 3, 3, stride=4, padding=1)
        with torch.no_grad():
            self.mix.weight.zero_()
            self.mix.weight[range(3), range(3)] = 1.0
            self.mix.bias.copy_(torch.tensor([0.0, 0.01, 0.02]))

    def predict(self, x):
        return self.mix(x)


def a_card(**changes):
    latency = Latency(8.0, 7.9, 8.2, 30, (1, 64, 96, 3), "a CPU", "onnxruntime", "fp32", 1)
    facts = {
        "model": "strongest",
        "shape": (1, 3, 64, 96),
        **class_facts(3),
        "preprocessing": Preprocessing(),
        "runtime": "onnxruntime",
        "precision": "fp32",
        "threads": 1,
        "latency": latency,
        "agreement": 0.999,
        "miou_before": 0.5,
        "miou_after": 0.499,
        "source_sha256": "ab" * 32,
        "float_layers": ("mix",),
    }
    return Card(**facts | changes)


@pytest.fixture(scope="module")
def graph():
    return to_onnx(
        ServingGraph(Strongest(), upsampling="products"),
        (1, 64, 96, 3),
        dynamic_batch=False,
        outputs=("labels",),
        dtype=torch.uint8,
    )


@pytest.fixture
def shipped(graph, tmp_path):
    return tmp_path / "net.onnx", write_shipped(tmp_path / "net.onnx", graph, a_card())


def test_a_card_goes_through_json_whole(shipped):
    path, card = shipped
    assert (
        load_card(path) == load_card(card_path(path)) == card == Card.from_dict(json.loads(json.dumps(card.to_dict())))
    )
    assert card.latency.median_ms == 8.0 and card.file == "net.onnx" and card.float_layers == ("mix",)
    assert not [p.name for p in path.parent.iterdir() if p.suffix == ".tmp"]


def test_the_short_facts_are_in_the_file(shipped, graph):
    facts = {p.key: p.value for p in onnx.load(shipped[0]).metadata_props}
    assert (
        facts["rtseg.classes"] == "class 0, class 1, class 2"
        and facts["rtseg.source_sha256"] == "ab" * 32
        and facts["rtseg.inside"] == "normalisation, upsampling, argmax"
    )
    assert not graph.metadata_props or "rtseg.classes" not in {p.key for p in graph.metadata_props}


def damage(path, what):
    card = card_path(path)
    data = json.loads(card.read_text())
    if what == "file changed":
        path.write_bytes(path.read_bytes() + b"\0")
    elif what == "no card":
        card.unlink()
    elif what == "no file":
        path.unlink()
    elif what == "half a card":
        card.write_text(card.read_text()[:100])
    elif what == "other format":
        card.write_text(json.dumps(data | {"format": 99}))
    elif what == "unknown field":
        card.write_text(json.dumps(data | {"colour": "red"}))
    elif what == "a list":
        card.write_text("[]")
    elif what == "other file":
        card.write_text(json.dumps(data | {"file": "../../other.onnx"}))


@pytest.mark.parametrize(
    "what,message",
    [
        ("file changed", "do not fit"),
        ("no card", "has no card"),
        ("no file", "not beside it"),
        ("half a card", "is no card"),
        ("other format", "format 99"),
        ("unknown field", "no field 'colour'"),
        ("a list", "is no card"),
        ("other file", "not beside it"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(shipped, what, message):
    damage(shipped[0], what)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_card(shipped[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"palette": ((0, 0, 0),)}, "one colour a class"),
        ({"shape": (64, 96)}, "images, channels"),
        ({"classes": (), "palette": ()}, "0 classes"),
    ],
)
def test_impossible_cards(changes, message):
    with pytest.raises(ConfigError, match=message):
        a_card(**changes)


def test_impossible_places(graph, tmp_path):
    with pytest.raises(ConfigError, match="ends in .onnx"):
        write_shipped(tmp_path / "net.json", graph, a_card())
    with pytest.raises(ConfigError, match="softmax"):
        Preprocessing(inside=("softmax",))
    assert class_facts(CAMVID)["classes"] == CAMVID.classes and not list(tmp_path.iterdir())


def serve(folder, *words):
    """Run the server where neither torch nor rtseg can be imported."""
    blocked = "import sys, runpy\nfor name in ('torch', 'rtseg', 'torchvision'):\n    sys.modules[name] = None\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", blocked, "serve.py", *words], cwd=folder, capture_output=True, text=True
    )


@pytest.mark.parametrize("runtime,precision", [("onnxruntime", "fp32"), ("openvino", "fp32")])
def test_the_server_needs_no_torch_and_gives_the_same_masks(graph, tmp_path, runtime, precision):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    card = write_shipped(tmp_path / "net.onnx", graph, a_card(runtime=runtime, precision=precision))
    write_server(tmp_path)
    (tmp_path / "street").mkdir()
    rng, expected = np.random.default_rng(0), load_runtime(Strongest().eval(), threads=1)
    for i in range(2):
        small = Image.fromarray(rng.integers(0, 256, (4, 6, 3)).astype(np.uint8))
        small.resize((96, 64), Image.Resampling.BILINEAR).save(tmp_path / "street" / f"{i}.png")
    done = serve(tmp_path, "net.onnx", "street", "--out", "masks")
    assert done.returncode == 0, done.stderr
    assert "2 masks in masks, seen at 96 x 64" in done.stdout and "frames per second" in done.stdout
    for i in range(2):
        mask, photograph = (
            Image.open(tmp_path / "masks" / f"{i}.png"),
            np.asarray(Image.open(tmp_path / "street" / f"{i}.png")),
        )
        assert (np.asarray(mask) == expected(photograph)).mean() > 0.999 and mask.mode == "P"
        assert tuple(mask.getpalette()[3:6]) == tuple(card.palette[1])


def test_the_server_refuses_what_does_not_fit(shipped):
    path, _ = shipped
    write_server(path.parent)
    Image.new("RGB", (96, 64)).save(path.parent / "one.png")
    damage(path, "file changed")
    done = serve(path.parent, "net.onnx", "one.png")
    assert done.returncode == 1 and "do not fit" in done.stderr
