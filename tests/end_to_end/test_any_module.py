"""A module that knows nothing of rtseg is trained, evaluated, measured, pruned and shipped."""

import numpy as np
import torch
from torch import nn

from rtseg.compression import prune
from rtseg.data import as_dataset
from rtseg.evaluation import evaluate
from rtseg.latency.measuring import measure_latency
from rtseg.runtimes.export import export_onnx
from rtseg.runtimes.runtimes import load_runtime
from rtseg.runtimes.serving import ServingGraph
from rtseg.shipping.faithful import evaluate_form, read_examples
from rtseg.training import TrainConfig, Trainer

SIZE = (64, 96)


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
    config = TrainConfig.parse(
        {
            "epochs": 1,
            "steps_per_epoch": 2,
            "batch_size": 2,
            "augmentation": None,
            "precision": "fp32",
            "channels_last": False,
            "compile": False,
        }
    )
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
