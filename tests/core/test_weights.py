"""What a weights file says about itself, and when two label sets mean the same."""

import json

import pytest
import torch

from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.core.files import save_tensors
from rtseg.core.values import LabelSet
from rtseg.core.weights import (
    InputSpec,
    NetworkSpec,
    WeightsInfo,
    classes_difference,
    read_info,
    require_same_classes,
    unknown_text,
)
from rtseg.data.labels import BDD100K, CAMVID, CITYSCAPES, train_id_labels


def named(*classes: str) -> LabelSet:
    return LabelSet(
        "mine", classes, tuple((i, i, i) for i in range(len(classes))), tuple((i, i) for i in range(len(classes)))
    )


@pytest.mark.parametrize("labels", [CITYSCAPES, CAMVID, BDD100K, named("no", "ja")])
def test_everything_comes_back_as_it_was_written(tmp_path, labels):
    info = WeightsInfo(
        NetworkSpec("icnet", 2, 4, {"encoder": "resnet18", "aux": True}, {"stem.0": [4, 9]}, ("aux_heads",)),
        labels,
        InputSpec((360, 480), None, 0.5, 12, (0.5,) * 4, (0.25,) * 4),
        {"name": "folder", "images": 7},
        {"epoch": 3, "which": "best", "seed": 0, "pretrained_on": "none"},
    )
    path = save_tensors(tmp_path / "net.safetensors", {"w": torch.ones(1)}, info.to_metadata() | {"card": "of another"})
    assert read_info(path) == info and info.unknown() == ()
    assert read_info(path).labels.ids == labels.ids


def test_what_is_not_said_is_told_and_what_cannot_be_read_refused(tmp_path):
    old = save_tensors(tmp_path / "old.safetensors", {"w": torch.ones(1)}, {"origin": json.dumps({"epoch": 1})})
    assert read_info(old).unknown() == ("its network", "its label set", "its input")
    assert "does not say its network, its label set, its input" in unknown_text(read_info(old), old)
    assert read_info(tmp_path / "published.pth") == WeightsInfo()
    for words, told in (({"labels": "{"}, "no JSON"), ({"network": '{"modl": "icnet"}'}, "did you mean 'model'")):
        path = save_tensors(tmp_path / "bad.safetensors", {"w": torch.ones(1)}, words)
        with pytest.raises(ArtifactError, match=told) as caught:
            read_info(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        (CITYSCAPES, train_id_labels(CITYSCAPES), ""),
        (CITYSCAPES, BDD100K, ""),
        (named("a", "b", "c"), named("b", "a", "c"), "class 0 is 'a' there, 'b' here; class 1 is 'b' there, 'a' here"),
        (named("a", "b"), named("a", "b", "c"), "2 classes there, 3 here; only here 'c'"),
        (named("a", "b"), named("a", "B"), "2 classes there, 2 here; only there 'b'; only here 'B'"),
    ],
)
def test_label_sets_mean_the_same_if_their_classes_have_the_same_names_in_order(ours, theirs, told):
    assert told in classes_difference(ours, theirs) and bool(told) == bool(classes_difference(ours, theirs))
    info = WeightsInfo(labels=ours)
    if not told:
        require_same_classes(info, theirs, weights="net.safetensors", what="--labels")
        return
    with pytest.raises(ConfigError, match="net.safetensors was trained with the label set"):
        require_same_classes(info, theirs, weights="net.safetensors", what="--labels")
    require_same_classes(WeightsInfo(), theirs, weights="net.safetensors", what="--labels")
