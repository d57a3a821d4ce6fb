"""A torch Dataset of (image, mask) goes wherever a data set of rtseg goes."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rtseg.core.errors import ConfigError, DataError
from rtseg.core.values import LabelSet
from rtseg.data import as_dataset, fingerprints, numbered_labels
from rtseg.data.fingerprints import data_facts
from rtseg.data.pairs import PairDataset
from rtseg.evaluation import evaluate
from rtseg.training import TrainConfig, Trainer

LAWN = LabelSet("lawn", ("grass", "weed"), ((0, 128, 0), (200, 200, 0)), ((0, 0), (1, 1), (255, 255)))


def picture(i):
    image = np.full((64, 96, 3), 40 * i, np.uint8)
    image[: 20 + i, :, 1] = 250
    mask = np.zeros((64, 96), np.int64)
    mask[: 20 + i] = 1
    return image, mask


class Pairs(torch.utils.data.Dataset):
    def __init__(self, form):
        self.form = form

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return self.form(*picture(i))


FORMS = {
    "arrays": lambda image, mask: (image, mask),
    "PIL": lambda image, mask: (Image.fromarray(image), Image.fromarray(mask.astype(np.uint8))),
    "torchvision's ToTensor": lambda image, mask: (
        torch.from_numpy(image).permute(2, 0, 1) / 255,
        torch.from_numpy(mask),
    ),
    "bytes, mask with an axis": lambda image, mask: (
        torch.from_numpy(image).permute(2, 0, 1),
        torch.from_numpy(mask)[None].byte(),
    ),
    "a mapping": lambda image, mask: {"image": image, "mask": mask, "name": "x"},
    "three things": lambda image, mask: (image, mask, "name"),
}


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_classes = 2
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def forward(self, x):
        return self.body(x)


def config(**more):
    return TrainConfig.parse(
        {
            "epochs": 1,
            "steps_per_epoch": 2,
            "batch_size": 2,
            "precision": "fp32",
            "channels_last": False,
            "augmentation": None,
            **more,
        }
    )


@pytest.mark.parametrize("form", FORMS)
def test_every_usual_form_gives_the_same_pair(form):
    image, mask = as_dataset(Pairs(FORMS[form]), labels=LAWN).read(2)
    wanted = picture(2)
    assert np.array_equal(image, wanted[0]) and np.array_equal(mask, wanted[1])


def test_it_trains_and_is_evaluated(tmp_path):
    result = Trainer(
        Tiny(),
        Pairs(FORMS["PIL"]),
        config=config(cache="memory", balanced_sampling=True),
        folder=tmp_path / "run",
        val=Pairs(FORMS["arrays"]),
        progress=False,
    ).fit()
    assert result.steps == 2 and result.last.classes == ("class 0", "class 1")
    assert evaluate(Tiny(), as_dataset(Pairs(FORMS["arrays"]), labels=LAWN)).classes == LAWN.classes


def test_minus_one_and_minus_hundred_have_no_label():
    data = as_dataset([(np.zeros((2, 2, 3), np.uint8), np.array([[-1, -100], [255, 1]]))], classes=2)
    assert data.read(0)[1].tolist() == [[255, 255], [255, 1]]


@pytest.mark.parametrize(
    "pair, words",
    [
        ((torch.randn(3, 64, 96), np.zeros((64, 96), int)), "sample 0 of list: .* normalises by itself"),
        ((np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 7)), r"holds \[7\], and there are 2 classes"),
        ((np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), int)), "a mask of"),
        ((np.zeros((4, 4), np.uint8), np.zeros((4, 4), int)), "give H x W x 3"),
        ((np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4))), "whole numbers"),
        (5, "give a pair"),
    ],
)
def test_what_cannot_be_used_is_said(pair, words):
    with pytest.raises(DataError, match=words):
        as_dataset([pair], classes=2).read(0)


def test_what_has_no_length_is_refused():
    with pytest.raises(DataError, match="no length"):
        as_dataset(iter([]), classes=2)
    with pytest.raises(DataError, match="nothing about its classes"):
        as_dataset(Pairs(FORMS["arrays"]))


def numbers(count, seed=0):
    """Pairs of noise."""
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, 255, (4, 6, 3), dtype=np.uint8), rng.integers(0, 2, (4, 6))) for _ in range(count)]


def test_pairs_are_known_by_what_they_hold():
    facts = data_facts(as_dataset(numbers(5), classes=2))
    assert facts == data_facts(as_dataset(numbers(5), classes=2)) and facts["images"] == 5
    assert data_facts(as_dataset(numbers(5, seed=1), classes=2))["pictures"] != facts["pictures"]
    painted = numbers(5)
    painted[3] = (painted[3][0], 1 - painted[3][1])
    changed = data_facts(as_dataset(painted, classes=2))
    assert changed["pictures"] == facts["pictures"] and changed["masks"] != facts["masks"]
    assert data_facts(as_dataset(numbers(5), classes=2).subset([0, 1, 2]))["pictures"] != facts["pictures"]


@pytest.mark.parametrize("cache", [None, "memory"])
def test_pairs_that_are_drawn_anew_are_told_by_their_number(cache):
    class Drawn:
        rng = np.random.default_rng(0)

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return self.rng.integers(0, 255, (4, 6, 3), dtype=np.uint8), np.zeros((4, 6), int)

    data = PairDataset(Drawn(), labels=numbered_labels(2), cache=cache)
    assert data_facts(data) == data_facts(data) and "each reading" in data_facts(data)["pictures"]


def test_many_pairs_are_looked_at_in_samples(monkeypatch):
    monkeypatch.setattr(fingerprints, "PAIRS", 4)
    seen = []

    class Counted(list):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    data_facts(as_dataset(Counted(numbers(10)), classes=2))
    assert seen == [0, 0, 3, 6, 9]


def test_a_training_on_other_pairs_is_another_training(tmp_path):
    def training(seed, **more):
        network = nn.Sequential(nn.Conv2d(3, 2, 1))
        config = TrainConfig.parse(QUICK)
        return Trainer(network, numbers_of(seed), config=config, folder=tmp_path / "run", progress=False, **more)

    def numbers_of(seed):
        return as_dataset(numbers(4, seed), classes=2)

    training(0).fit()
    assert training(0, resume=True).fit().steps == 1
    with pytest.raises(ConfigError, match="train.pictures is"):
        training(1, resume=True)


QUICK = {
    "epochs": 1,
    "steps_per_epoch": 1,
    "batch_size": 2,
    "augmentation": None,
    "precision": "fp32",
    "channels_last": False,
    "compile": False,
    "device": "cpu",
}
