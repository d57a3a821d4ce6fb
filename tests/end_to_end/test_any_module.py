"""A module that knows nothing of rtseg is trained, evaluated, measured, pruned and shipped."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from rtseg.compression import CompressConfig, compress, load_pruned, prune, save_pruned
from rtseg.core.errors import ConfigError
from rtseg.data import as_dataset
from rtseg.evaluation import evaluate
from rtseg.latency.measuring import measure_latency
from rtseg.runtimes.export import export_onnx
from rtseg.runtimes.runtimes import load_runtime
from rtseg.runtimes.serving import ServingGraph
from rtseg.shipping.autotuning import autotune, ship
from rtseg.shipping.candidates import list_candidates
from rtseg.shipping.cards import load_card
from rtseg.shipping.faithful import evaluate_form, read_examples
from rtseg.shipping.plain import ship_plain
from rtseg.training import TrainConfig, Trainer

SIZE = (64, 96)
BRIEF = {
    "epochs": 1,
    "steps_per_epoch": 2,
    "batch_size": 2,
    "augmentation": None,
    "precision": "fp32",
    "channels_last": False,
    "compile": False,
}


class Stranger(nn.Module):
    """Logits at the image's size; no base class, no `num_classes`, no options."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU()
        )
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        return nn.functional.interpolate(self.out(self.body(x)), scale_factor=2, mode="bilinear")


def pairs():
    images = np.random.default_rng(0).integers(0, 255, (4, *SIZE, 3), dtype=np.uint8)
    return as_dataset([(image, (image[..., 0] > 128).astype(int)) for image in images], classes=2)


def test_a_stranger_goes_all_the_way(tmp_path):
    torch.manual_seed(0)
    network, data = Stranger(), pairs()
    config = TrainConfig.parse(BRIEF)
    result = Trainer(network, data, config=config, folder=tmp_path / "run", val=data, progress=False).fit()
    assert result.steps == 2 and evaluate(network, data).miou == result.last.miou
    assert measure_latency(network.eval(), (1, 3, *SIZE), max_seconds=0.2).median_ms > 0
    small = prune(network, ratio=0.5, example_size=SIZE)
    assert small.model.body[0].out_channels == 8 and small.model.out.out_channels == 2
    report = export_onnx(small.model, tmp_path / "small.onnx", shape=(1, 3, *SIZE))
    assert report.class_agreement > 0.99
    examples = read_examples(data, SIZE, count=2)
    served = load_runtime(ServingGraph(small.model.eval()), runtime="onnxruntime", shape=(1, *SIZE, 3))
    eager = load_runtime(small.model)
    score = evaluate_form(served, examples, reference=[eager(example.image) for example in examples])
    assert score.agreement > 0.999


def test_a_stranger_that_was_cut_is_saved_read_compressed_and_shipped(tmp_path):
    torch.manual_seed(0)
    network, data = Stranger(), pairs()
    small = prune(network, ratio=0.5, example_size=SIZE).model.eval()
    again = load_pruned(save_pruned(tmp_path / "small.safetensors", small), network=network)
    image = torch.randn(1, 3, *SIZE)
    assert torch.equal(again(image), small(image)) and network.body[0].out_channels == 16
    with pytest.raises(ConfigError, match=r"only you can build Stranger.*network="):
        load_pruned(tmp_path / "small.safetensors")
    how = CompressConfig(ratio=0.5, steps=2, example_size=SIZE)
    train = TrainConfig.parse(BRIEF)
    told = dict(config=how, train=train, folder=tmp_path / "cut", progress=False)
    result = compress(copy.deepcopy(network), data, **told)
    assert result.model.body[0].out_channels < 16 and result.table[-1]["parameters"] < result.table[0]["parameters"]
    found = compress(copy.deepcopy(network), data, **told).model  # everything is read from the folder
    assert torch.equal(found(image), result.model(image))
    report, card = ship_plain(
        small, tmp_path / "small.onnx", model="stranger", labels=2, shape=(1, 3, *SIZE), data=data, precision="fp16"
    )
    assert card.agreement >= 0.99 and card.precision == "fp16" and load_card(report.path) == card


def test_the_fastest_form_of_a_stranger_is_shipped(tmp_path):
    torch.manual_seed(0)
    data = pairs()
    forms = list_candidates(runtimes=["onnxruntime"], precisions=["fp32", "int8"])
    tuned = autotune(
        Stranger().eval(),
        data,
        shape=(1, 3, *SIZE),
        images=2,
        candidates=forms,
        files_only=True,
        rounds=1,
        seconds=1,
        threads=1,
        min_agreement=0.5,
        max_drop=1.0,
        max_class_drop=1.0,
    )
    assert {row.status for row in tuned.rows} <= {"accepted", "chosen"}, [row.reason for row in tuned.rows]
    card = ship(tuned, tmp_path / "net.onnx", model="stranger", labels=2)
    assert load_card(tmp_path / "net.onnx") == card and card.form["upsampling"] == "resize"
