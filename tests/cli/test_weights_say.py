"""Weights say what they are: commands take a file or a run folder alone, and refuse what contradicts it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rtseg.cli.main import main
from rtseg.core.errors import ConfigError
from rtseg.core.files import save_tensors
from rtseg.core.values import LabelSet
from rtseg.core.weights import read_info
from rtseg.data.datasets import open_dataset
from rtseg.explore.mask_viewer import explore_masks
from rtseg.models import create_model, load_network
from rtseg.models.loading import spec_of
from rtseg.runtimes.export import read_onnx_info

NAMES = ("stone", "leaf", "sand")
TINY = "--set epochs=1 --set steps_per_epoch=1 --set batch_size=1 --set augmentation.crop=[64,64]"


def write_labels(path, names):
    labels = LabelSet(
        "ground",
        tuple(names),
        tuple((60 * k, 90, 40) for k in range(len(names))),
        tuple((k, k) for k in range(len(names))),
    )
    labels.to_yaml(path)
    return path


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """Two images a split with masks of three classes, the label set as YAML, and the same list in another order."""
    root = tmp_path_factory.mktemp("ground")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for k in range(2):
            Image.fromarray(rng.integers(0, 255, (64, 96, 3), np.uint8)).save(root / f"images/{split}/{k}.png")
            Image.fromarray(rng.integers(0, 3, (64, 96), np.uint8)).save(root / f"masks/{split}/{k}.png")
    write_labels(root / "ground.yaml", NAMES)
    write_labels(root / "turned.yaml", NAMES[::-1])
    return root


@pytest.fixture(scope="module")
def run(ground, tmp_path_factory):
    """The folder of a training of one step."""
    out = tmp_path_factory.mktemp("runs") / "one"
    line = f"train --model fastscnn --dataset folder --data {ground} --labels {ground}/ground.yaml --out {out} {TINY}"
    with pytest.raises(SystemExit) as end:
        main(line.split())
    assert end.value.code == 0
    return out


def test_every_file_of_a_training_says_what_it_is(run):
    for which in ("best", "last"):
        info = read_info(run / f"{which}.safetensors")
        assert info.unknown() == () and info.labels.classes == NAMES and info.network.model == "fastscnn"
        assert info.input.size == (64, 96) and info.input.crop == (64, 64) and info.input.mean == (0.485, 0.456, 0.406)
        assert info.origin["which"] == which and info.data == {"name": "folder", "split": "train", "images": 2}
    loaded = load_network(run)
    assert loaded.path.name == "best.safetensors" and loaded.labels.classes == NAMES and not loaded.network.training


def test_a_folder_alone_is_evaluated_predicted_and_exported(run, ground, typed, tmp_path):
    code, out, err = typed(f"evaluate {run} --dataset folder --data {ground} --precision fp32 --out {tmp_path}/r.json")
    assert code == 0 and "stone" in out, err
    assert json.loads((tmp_path / "r.json").read_text())["classes"] == list(NAMES)
    line = f"predict {run}/last.safetensors {ground}/images/val --out {tmp_path}/seen --kinds ids --precision fp32"
    assert typed(line)[0] == 0
    assert set(np.unique(Image.open(tmp_path / "seen/ids/0.png"))) <= {0, 1, 2}
    assert typed(f"export {run} {tmp_path}/net.onnx")[0] == 0
    said = read_onnx_info(tmp_path / "net.onnx")
    assert said.labels.classes == NAMES and said.network == read_info(run / "best.safetensors").network
    assert said.origin["pretrained_on"] == "none"


def test_what_contradicts_the_weights_is_refused_and_shown(run, ground, typed, tmp_path):
    turned = "class 0 is 'stone' there, 'sand' here"
    for line, told in (
        (f"evaluate {run} --dataset folder --data {ground} --labels {ground}/turned.yaml", turned),
        (f"predict {run} {ground}/images/val --labels {ground}/turned.yaml --out {tmp_path}/x", turned),
        (f"export {run} {tmp_path}/x.onnx --labels {ground}/turned.yaml", turned),
        (f"export {run} {tmp_path}/x.onnx --labels cityscapes", "3 classes there, 19 here"),
        (f"export {run} {tmp_path}/x.onnx --classes 5", "has 3 classes, and --classes says 5"),
        (f"export {run} {tmp_path}/x.onnx --model enet", "model fastscnn there, enet here"),
        (
            f"compress --weights {run} --dataset folder --data {ground} --labels {ground}/turned.yaml --out {tmp_path}/c {TINY}",
            turned,
        ),
        (
            f"distill --model enet --teacher-weights {run} --dataset folder --data {ground} --labels {ground}/turned.yaml --out {tmp_path}/d {TINY}",
            turned,
        ),
    ):
        code, out, err = typed(line)
        assert code == 1 and told in err and out == "" and "Traceback" not in err, (line, err)
    assert list(tmp_path.iterdir()) == []


def test_weights_from_before_are_read_with_a_plain_message(run, ground, typed, tmp_path):
    old = save_tensors(tmp_path / "old.safetensors", load_network(run).network.state_dict())
    code, _, err = typed(f"evaluate {old} --dataset folder --data {ground} --labels {ground}/ground.yaml")
    assert code == 1 and "old.safetensors does not say its network" in err and "--model" in err
    line = f"evaluate {old} --model fastscnn --dataset folder --data {ground} --labels {ground}/ground.yaml --precision fp32"
    code, out, err = typed(line)
    assert code == 0 and "stone" in out and "does not say its network, its label set" in err
    code, _, err = typed(f"predict {old} {ground}/images/val --model fastscnn --out {tmp_path}/x")
    assert code == 1 and "give --labels" in err or "do not fit" in err


def test_a_start_of_other_classes_of_the_same_number_begins_with_a_fresh_classifier(run, ground, typed, tmp_path):
    for labels, fresh in (("turned", True), ("ground", False)):
        code, out, err = typed(
            f"train --model fastscnn --weights {run} --dataset folder --data {ground} --labels {ground}/{labels}.yaml --out {tmp_path}/{labels} {TINY}"
        )
        assert code == 0 and ("fresh: head.2" in out) == fresh, (out, err)
        assert "best.safetensors" in read_info(tmp_path / labels / "last.safetensors").origin["pretrained_on"]


@pytest.mark.parametrize(
    ("name", "options"),
    [("icnet", {"encoder": "resnet18"}), ("fasterseg", {"aux": False}), ("dabnet", {}), ("stdc", {"encoder": "stdc1"})],
)
def test_a_spec_builds_the_same_network_again(name, options):
    network = create_model(name, 4, in_channels=2, **options)
    spec = spec_of(network)
    assert json.loads(json.dumps(spec.to_dict())) == json.loads(
        json.dumps(spec_of(create_model(spec.model, 4, in_channels=2, **spec.options)).to_dict())
    )
    assert {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in create_model(spec.model, 4, in_channels=2, **spec.options).state_dict().items()
    }
    assert spec_of(torch.nn.Identity()) is None


def test_the_viewer_takes_a_run_folder_and_its_label_set(run, ground):
    photo = ground / "images/val/0.png"
    assert explore_masks(photo, {"ours": run}).labels.classes == NAMES
    turned = open_dataset("folder", ground, "val", labels=ground / "turned.yaml")
    with pytest.raises(ConfigError, match="class 0 is 'stone' there, 'sand' here"):
        explore_masks(turned, {"ours": run / "best.safetensors"})
    with pytest.raises(ConfigError, match="without a label set"):
        explore_masks(photo, {})
