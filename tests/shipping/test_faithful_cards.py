"""What ships says what it is: size and aspect, per-class scores, metadata of plain exports, a check on this machine."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from rtseg.cli.export import export_plain, unstretched
from rtseg.core.values import LabelSet
from rtseg.core.weights import WeightsInfo
from rtseg.data import as_dataset
from rtseg.models import create_model
from rtseg.models.loading import LoadedNetwork
from rtseg.runtimes.export import read_onnx_info, to_onnx
from rtseg.runtimes.serving import ServingGraph
from rtseg.shipping.cards import load_card
from rtseg.shipping.faithful import FormScore, class_ious, own_scores
from rtseg.shipping.server import write_check, write_server

LAWN = LabelSet("lawn", ("grass", "weed"), ((0, 128, 0), (200, 200, 0)), ((0, 0), (1, 1), (255, 255)))


def test_a_thin_class_may_not_be_lost():
    thin = FormScore(0.999, 4, 0.70, 0.699, {0: 0.9, 7: 0.42}, {0: 0.9, 7: 0.30})
    assert thin.worst_class == (7, pytest.approx(0.12))
    assert "class 7 falls from IoU 0.4200 by 0.1200" in thin.refusal(min_agreement=0.99, max_drop=0.005)
    assert thin.refusal(min_agreement=0.99, max_drop=0.005, max_class_drop=0.15) is None
    gone = FormScore(0.999, 4, 0.70, 0.699, {7: 0.42}, {})
    assert gone.worst_class == (7, 0.42)


def test_class_ious_by_hand():
    truth, found = np.array([[0, 0, 1, 255]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8)
    assert class_ious([found], [truth]) == {0: 0.5, 1: 0.5}


@pytest.mark.parametrize(
    "size, wanted", [((45, 60), (45, 60)), (None, (90, 120)), ((64, 128), (90, 120)), ((180, 240), (180, 240))]
)
def test_a_graph_does_not_stretch_unasked(size, wanted):
    data = as_dataset([(np.zeros((90, 120, 3), np.uint8), np.zeros((90, 120), int))], labels=LAWN)
    assert unstretched(size, data) == wanted


def test_scores_are_those_of_the_photographs_as_they_are():
    """Stretching costs what it costs, and is seen: both scores are taken at the photograph's size."""
    image = np.zeros((60, 80, 3), np.uint8)
    image[:, ::2] = 255  # stripes of one pixel: gone at half the size
    mask = (image[..., 0] > 128).astype(np.uint8)

    def network(pixels):
        return (pixels[..., 0] > 128).astype(np.uint8)

    scores = own_scores(network, network, [(image, mask)], (30, 40))
    assert scores["network"]["miou"] == 1.0 and scores["shipped"]["miou"] < 0.6
    assert scores["network"]["iou"].keys() == {"0", "1"} and scores["shipped"]["sizes"] == ["60x80"]
    assert own_scores(network, network, [image], (30, 40)) == {}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create_model("enet", 2).eval()


def test_a_graph_of_labels_says_labels(network):
    proto = to_onnx(ServingGraph(network), (1, 64, 96, 3), dynamic_batch=False, dtype=torch.uint8)
    assert [o.name for o in proto.graph.output] == ["labels"]
    assert [o.name for o in to_onnx(network, (1, 3, 64, 96)).graph.output] == ["logits"]


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_plain_export_has_card_and_metadata(network, dynamic, tmp_path):
    from rtseg.core.files import save_tensors

    path = save_tensors(tmp_path / "net.safetensors", network.state_dict())
    loaded = LoadedNetwork(network, WeightsInfo(labels=LAWN, origin={"epoch": 3}), LAWN, path)
    text = export_plain(
        loaded, tmp_path / "net.onnx", model="enet", size=(64, 96), opset=18, dynamic_batch=dynamic, license="CC0"
    )
    graph, card = onnx.load(tmp_path / "net.onnx"), load_card(tmp_path / "net.onnx")
    facts = {p.key: p.value for p in graph.metadata_props}
    assert facts["rtseg.colour_order"] == "RGB" and facts["rtseg.mean"] == "0.485, 0.456, 0.406"
    assert facts["rtseg.size"] == "64x96" and facts["rtseg.classes"] == "grass, weed"
    assert read_onnx_info(tmp_path / "net.onnx").labels == LAWN
    assert (card.label_set, card.license, card.origin) == ("lawn", "CC0", {"epoch": 3}) and len(
        card.source_sha256
    ) == 64
    assert card.preprocessing.dtype == "float32" and "argmax" not in card.preprocessing.inside
    batch = graph.graph.input[0].type.tensor_type.shape.dim[0]
    assert bool(batch.dim_param) is dynamic and "nobody said" not in text


def test_an_unsaid_size_is_said(network, tmp_path):
    from rtseg.core.files import save_tensors

    path = save_tensors(tmp_path / "net.safetensors", network.state_dict())
    text = export_plain(LoadedNetwork(network, WeightsInfo(), None, path), tmp_path / "net.onnx", model="enet")
    assert "nobody said for which size" in text


def shipped(folder, labels, said_ms):
    """A graph that gives each pixel's first byte as its label, with a card that says `said_ms`."""
    from onnx import TensorProto, helper

    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 8, 12, 3])
    out = helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, 8, 12])
    nodes = [helper.make_node("Gather", ["image", "first"], ["labels"], axis=3)]
    first = helper.make_tensor("first", TensorProto.INT64, [], [0])
    graph = helper.make_model(
        helper.make_graph(nodes, "bytes", [image], [out], [first]), opset_imports=[helper.make_opsetid("", 17)]
    )
    graph.ir_version = 9
    from rtseg.core.values import Latency
    from rtseg.shipping.cards import Card, Preprocessing, class_facts, write_shipped

    latency = Latency(said_ms, said_ms, said_ms, 9, (1, 8, 12, 3), "another processor", "onnxruntime", "int8", 1)
    how = {"runtime": "onnxruntime", "precision": "int8", "threads": 1, "agreement": 0.999, "latency": latency}
    write_shipped(
        folder / "net.onnx",
        graph,
        Card("bytes", (1, 3, 8, 12), **class_facts(2), preprocessing=Preprocessing(), **how),
    )
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:, 6:] = 1
    write_check(folder / "net.onnx", pixels, labels(pixels))
    return write_server(folder)


def run_check(script):
    words = [sys.executable, str(script), str(script.parent / "net.onnx"), "--check"]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "labels, said_ms, code, words",
    [
        (lambda p: p[..., 0], 1e3, 0, "100.00% of the labels are PyTorch's"),
        (lambda p: 1 - p[..., 0], 1e3, 1, "the masks are others here"),
        (lambda p: p[..., 0], 1e-6, 1, "times as long here"),
    ],
)
def test_the_server_checks_the_cards_claims_here(labels, said_ms, code, words, tmp_path):
    done = run_check(shipped(tmp_path, labels, said_ms))
    assert done.returncode == code and words in done.stdout + done.stderr, done.stderr


def test_masks_come_at_the_photographs_own_size_and_a_broken_file_is_one_line(tmp_path):
    script = shipped(tmp_path, lambda p: p[..., 0], 1.0)
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.zeros((30, 50, 3), np.uint8)).save(photos / "wide.png")
    turned = Image.fromarray(np.zeros((30, 50, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(photos / "turned.jpg", exif=exif)
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    words = [sys.executable, str(script), str(tmp_path / "net.onnx"), str(photos), "--out", str(tmp_path / "masks")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and len([x for x in done.stdout.splitlines() if "broken.jpg is left out" in x]) == 1
    assert Image.open(tmp_path / "masks" / "wide.png").size == (50, 30)
    assert Image.open(tmp_path / "masks" / "turned.png").size == (30, 50)
    (tmp_path / "empty").mkdir()
    words[3] = str(tmp_path / "empty")
    empty = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert empty.returncode == 1 and "holds no photograph" in empty.stderr and "Traceback" not in empty.stderr
