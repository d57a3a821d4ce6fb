"""A torch Dataset of (image, mask) goes wherever a data set of rtseg goes."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rtseg.core.errors import DataError
from rtseg.core.values import LabelSet
from rtseg.data import as_dataset
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
