"""A plain file is checked and carries its card wherever it is made: by the command, by a run, for a browser; in fp32 and fp16."""

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.core.files import sha256_file
from rtseg.core.values import LabelSet
from rtseg.core.weights import WeightsInfo
from rtseg.data import as_dataset
from rtseg.evaluation.evaluator import save_trained
from rtseg.models import create_model
from rtseg.models.contract import SegNetwork
from rtseg.models.loading import spec_of
from rtseg.models.registry import MODELS
from rtseg.runs.plans import PLANS
from rtseg.runtimes.export import read_onnx_info, to_onnx
from rtseg.runtimes.half import is_half, to_half
from rtseg.runtimes.runtimes import load_runtime
from rtseg.shipping.candidates import Builder, Candidate, list_candidates, why_not
from rtseg.shipping.cards import load_card, write_shipped
from rtseg.shipping.faithful import clip_scores
from rtseg.shipping.plain import scored_form, ship_plain
from rtseg.web.page import page_network

SIZE = (64, 96)
LAWN = LabelSet("lawn", ("grass", "weed"), ((0, 128, 0), (200, 200, 0)), ((0, 0), (1, 1), (255, 255)))
LIMITS = {"min_agreement": 0.99, "max_drop": 0.005}


class Tiny(SegNetwork):
    """Three layers that end at a quarter, in the registry for these tests."""

    def __init__(self, num_classes=2, *, in_channels=3):
        super().__init__(num_classes, in_channels)
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, num_classes, 3, 2, 1)
        )

    def predict(self, x):
        return self.layers(x)


@pytest.fixture(scope="module")
def network():
    MODELS.register("tiny", title="Tiny", paper="", year=2026)(Tiny)
    torch.manual_seed(0)
    yield create_model("tiny", 2).eval()
    MODELS._entries.pop("tiny")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8) for _ in range(3)]
    return as_dataset([(image, (image[..., 0] > 128).astype(int)) for image in images], labels=LAWN)


@pytest.fixture
def trained(network, tmp_path):
    info = WeightsInfo(spec_of(network), LAWN, data={"name": "meadow"})
    return save_trained(tmp_path / "w.safetensors", network.state_dict(), epoch=3, which="best", seed=1, info=info)


def facts_of(path):
    return {prop.key: prop.value for prop in onnx.load(path).metadata_props}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_command_writes_a_card_with_both_scores(typed, trained, data, precision, tmp_path):
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "meadow" / kind / split).mkdir(parents=True)
    for i in range(len(data)):
        image, mask = data.read(i)
        Image.fromarray(image).save(tmp_path / f"meadow/images/val/{i}.png")
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / f"meadow/labels/val/{i}.png")
    out = tmp_path / "net.onnx"
    words = (
        f"export {trained} {out} --dataset folder --data {tmp_path / 'meadow'} --precision {precision} --license CC0"
    )
    code, text, err = typed(words)
    assert code == 0, err
    card = load_card(out)
    assert (card.precision, card.license, card.label_set, card.shape[2:]) == (precision, "CC0", "lawn", SIZE)
    assert card.source_sha256 == sha256_file(trained) and card.data == {"name": "meadow"} and card.origin["epoch"] == 3
    assert set(card.own_scores) == {"network", "shipped"} and card.examples == 3 and card.agreement >= 0.99
    assert set(card.iou_before) == set(card.iou_after) == {"0", "1"}
    assert f"mIoU of the network {card.own_scores['network']['miou']:.4f}; mIoU of the shipped" in text
    facts = facts_of(out)
    assert facts["rtseg.precision"] == precision and facts["rtseg.license"] == "CC0" and "rtseg.origin" in facts
    ends = [*onnx.load(out).graph.input, *onnx.load(out).graph.output]
    assert {end.type.tensor_type.elem_type for end in ends} == {onnx.TensorProto.FLOAT}
    assert is_half(onnx.load(out)) is (precision == "fp16")


@pytest.mark.parametrize("name", ["contextnet"])
def test_half_is_half_as_large_and_nearly_the_same(name, tmp_path):
    torch.manual_seed(0)
    network, made = create_model(name, 5).eval(), {}
    for precision in ("fp32", "fp16"):
        how = {"model": name, "labels": 5, "shape": (1, 3, *SIZE), "precision": precision, "dynamic_batch": False}
        made[precision], card = ship_plain(network, tmp_path / f"{precision}.onnx", **how)
        assert card.file_sha256 == made[precision].sha256 == sha256_file(made[precision].path)
    assert made["fp16"].bytes < 0.65 * made["fp32"].bytes and made["fp16"].max_abs_difference > 0


def test_what_half_precision_cannot_hold_is_refused(tmp_path):
    network = torch.nn.Conv2d(3, 2, 1)
    how = {"model": "net", "labels": 2, "shape": (1, 3, *SIZE), "precision": "fp16"}
    with torch.no_grad():
        network.weight.fill_(1e5)
    with pytest.raises(ConfigError, match="which half precision cannot"):
        ship_plain(network, tmp_path / "net.onnx", **how)
    with pytest.raises(ConfigError, match="int8"):
        ship_plain(network, tmp_path / "net.onnx", **how | {"precision": "int8"})
    assert not list(tmp_path.iterdir())


def test_a_file_that_loses_masks_is_not_written(network, data):
    torch.manual_seed(1)
    other = to_onnx(create_model("tiny", 2).eval(), (1, 3, *SIZE))
    with pytest.raises(ArtifactError, match=r"net.onnx was not written: .*labels agree"):
        scored_form(network, other, data, SIZE, what="net.onnx", **LIMITS)


def test_options_of_forms_are_not_swallowed(typed, trained, tmp_path):
    for word in ("--runtime openvino", "--threads 2"):
        code, _, err = typed(f"export {trained} {tmp_path / 'net.onnx'} {word}")
        assert code == 1 and f"{word.split()[0]} chooses among the forms" in err and err.count("\n") == 1
    code, _, err = typed(f"export {trained} {tmp_path / 'net.onnx'} --precision int8")
    assert code == 1 and "int8" in err and "fp16" in err


def test_fp16_is_a_form_where_a_runtime_has_it(network, data):
    assert "fp16" not in {form.precision for form in list_candidates("cpu")}
    assert "fp16" in {form.precision for form in list_candidates("cuda")}
    forms = [form for form in list_candidates("cpu", precisions=["fp16"]) if form.precision == "fp16"]
    reasons = {form.runtime: why_not(form) for form in forms}
    assert reasons["onnxruntime"] is None and "has no precision 'fp16'" in reasons["openvino"]
    with pytest.raises(ConfigError, match="fp61"):
        list_candidates("cpu", precisions=["fp61"])
    builder = Builder(network, data, shape=(1, 3, *SIZE), threads=1)
    half = Candidate("onnxruntime", "fp16")
    assert is_half(builder.graph(half)) and not is_half(builder.graph(Candidate("onnxruntime")))
    image = data.read(0)[0]
    assert float((builder.runtime(half)(image) == load_runtime(network)(image)).mean()) > 0.99


def test_a_half_graph_stays_as_it_is(network):
    half = to_half(to_onnx(network, (1, 3, *SIZE)))
    assert to_half(half) is half
    assert load_runtime(half, runtime="onnxruntime", precision="fp16").describe()["precision"] == "fp16"


def test_every_graph_that_a_run_ships_has_a_card():
    for name, stages in PLANS.items():
        made = {file for stage in stages for file in stage.makes}
        graphs = {file for file in made if file.endswith(".onnx")}
        assert graphs and {file.replace(".onnx", ".json") for file in graphs} <= made, name


def test_the_page_of_a_browser_has_the_same_card(network, data, tmp_path):
    info = WeightsInfo(spec_of(network), LAWN, data={"name": "meadow"}, origin={"epoch": 3})
    made = page_network(network, name="net", labels=LAWN, size=SIZE, data=data, info=info, license="CC0")
    card = made.card
    assert (card.license, card.label_set, card.data, card.origin) == ("CC0", "lawn", {"name": "meadow"}, {"epoch": 3})
    assert set(card.own_scores) == {"network", "shipped"} and card.iou_before.keys() == {"0", "1"}
    written = write_shipped(tmp_path / "net.onnx", made.graph, card)
    assert written.file and read_onnx_info(tmp_path / "net.onnx") == info  # a second writer keeps what stands there


def test_a_clip_says_how_steady_the_labels_are_before_and_after(network, typed, trained, tmp_path):
    frames = [np.zeros((*SIZE, 3), np.uint8) for _ in range(3)]
    (tmp_path / "clip").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "clip" / f"{number}.png")
    code, text, err = typed(f"export {trained} {tmp_path / 'net.onnx'} --size 64x96 --clip {tmp_path / 'clip'}")
    assert code == 0, err
    same = {"name": "clip", "frames": 3, "stability": 1.0}
    assert load_card(tmp_path / "net.onnx").clip_scores == {"network": same, "shipped": same}
    assert "shipped on clip clip: 100.00% of the labels as in the frame before, 3 frames" in text
    asked = {"network": lambda image: image[..., 0] * 0, "shipped": lambda image: image[..., 0]}
    scores = clip_scores(asked, tmp_path / "clip", (32, 48))
    assert scores == {"network": same, "shipped": same}
    Image.fromarray(frames[0] + 9).save(tmp_path / "clip" / "3.png")
    scores = clip_scores(asked, tmp_path / "clip", (32, 48))
    assert [scores[who]["stability"] for who in ("network", "shipped")] == [1.0, pytest.approx(2 / 3)]
    code, _, err = typed(f"export {trained} --web {tmp_path / 'page'} --clip {tmp_path / 'clip'}")
    assert code == 1 and "--clip" in err and not (tmp_path / "page").exists()
