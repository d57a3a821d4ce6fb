"""What data and settings alone can tell is told before anything is trained or measured, in one line that names file and setting."""

import json

import numpy as np
import pytest
from PIL import Image

from rtseg.core.errors import ConfigError, DataError
from rtseg.core.values import LabelSet
from rtseg.data.datasets import open_dataset
from rtseg.data.readiness import Needs, check_count, check_crop, check_masks, check_ready, spread_order
from rtseg.runs.config import load_preset
from rtseg.runs.steps import check_run
from rtseg.training.config import TrainConfig, training_needs

GOOD = np.arange(64 * 96).reshape(64, 96) % 2
LABELS = LabelSet("lawn", ("grass", "weed"), ((0, 128, 0), (200, 200, 0)), ((0, 0), (1, 1), (255, 255)))
TINY = "--set epochs=1 --set steps_per_epoch=1 --set batch_size=1 --set augmentation.crop=[64,64]"


def folder(root, train, val=(GOOD,)):
    """A folder with these masks."""
    for split, masks in (("train", train), ("val", val)):
        for number, mask in enumerate(masks):
            for kind, pixels in (("images", np.zeros((*mask.shape, 3), np.uint8)), ("masks", mask.astype(np.uint8))):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / kind / split / f"{number}.png")
    LABELS.to_yaml(root / "lawn.yaml")
    return root


def opened(root, split="train"):
    return open_dataset("folder", root, split, labels=LABELS)


def test_every_sample_is_reached_once_far_ones_first():
    for count in (1, 2, 7, 64, 1000):
        order = list(spread_order(count))
        assert sorted(order) == list(range(count)) and order[0] == count // 2


def test_a_look_ends_at_the_second_class(tmp_path, monkeypatch):
    data, read = opened(folder(tmp_path, [GOOD] * 9)), []
    monkeypatch.setattr(type(data), "train_mask", lambda self, index: read.append(index) or GOOD)
    check_masks(data)
    assert read == [4]


CASES = {
    "one class": (([0 * GOOD] * 3, (GOOD,)), "", ["hold one class only, 'grass'", "masks/train/0.png", "--labels"]),
    "void train": (([0 * GOOD + 255] * 2, (GOOD,)), "", ["ignore every pixel", "masks/train/0.png"]),
    "void val": (([GOOD] * 2, (0 * GOOD + 255,)), "", ["split 'val' ignore every pixel", "masks/val/0.png"]),
    "crop": (
        ([GOOD] * 2, (GOOD,)),
        "--set augmentation.crop=[64,256]",
        ["augmentation.crop is [64, 256]", "64 x 96", "images/train/", "set augmentation.crop=[64, 96]"],
    ),
    "batch": (([GOOD] * 2, (GOOD,)), "--set batch_size=4", ["holds 2 images", "batch_size=4", "set batch_size=2"]),
}
COMMANDS = {
    "train": "train --model fastscnn",
    "distill": "distill --model fastscnn --teacher dabnet --teacher-weights none.safetensors",
    "tune": "tune --model fastscnn --trials 1",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", CASES)
def test_commands_say_it_before_they_begin(typed, tmp_path, case, command):
    masks, settings, words = CASES[case]
    root, out = folder(tmp_path / "data", *masks), tmp_path / "out"
    line = f"{COMMANDS[command]} --dataset folder --data {root} --labels {root}/lawn.yaml --out {out} {TINY} {settings}"
    code, said, err = typed(line)
    assert code == 1 and said == "" and err.count("\n") == 1 and all(word in err for word in words), err
    assert not out.exists()


def test_a_crop_may_be_as_large_as_the_largest_scale(tmp_path):
    data = opened(folder(tmp_path, [GOOD, GOOD]))
    settings = TrainConfig(batch_size=2, augmentation={"crop": (96, 144), "scale_range": (0.5, 1.5)})
    check_ready(data, None, training_needs(settings))
    stepped = TrainConfig(batch_size=2, augmentation={"crop": (96, 144), "scale_range": (0.5, 1.5), "scale_step": 0.4})
    assert training_needs(stepped).scale == 1.2
    with pytest.raises(ConfigError, match="augmentation.crop"):
        check_crop(data, training_needs(stepped))
    check_ready(data, None, training_needs(TrainConfig(batch_size=2, augmentation=None)))


def test_a_search_needs_two_images_and_a_crop_that_its_supernet_takes(tmp_path):
    one, two = (opened(folder(tmp_path / str(k), [GOOD] * k)) for k in (1, 2))
    with pytest.raises(DataError, match="a search splits it into 2 parts, so at least 2 are needed"):
        check_count(one, Needs(None, 1, group="search."), parts=2)
    demo = load_preset("demo-fasterseg")
    small = {"pretrain.augmentation.crop": [64, 96], "search.augmentation.crop": [64, 96], "search.batch_size": 1}
    small |= {
        f"{name}.{key}": value
        for name in ("teacher", "student")
        for key, value in (("augmentation.crop", [64, 96]), ("batch_size", 2))
    }
    splits = {"train": two, "val": two}
    check_run(demo.with_values(small), splits)
    for change, told in (
        (
            {"search.augmentation.crop": [60, 96]},
            r"search.augmentation.crop is \[60, 96\].*multiples of 32.*\[32, 96\]",
        ),
        ({"search.batch_size": 2}, "1 images in each of 2 parts, fewer than search.batch_size=2"),
        ({"student.augmentation.crop": [64, 512]}, "student.augmentation.crop is"),
        ({"data.search_scale": 0.5}, "pretrain.augmentation.crop is"),
    ):
        with pytest.raises((ConfigError, DataError), match=told):
            check_run(demo.with_values(small | change), splits)


def test_the_data_check_draws_what_it_found(typed, tmp_path):
    root = folder(tmp_path / "data", [GOOD, 0 * GOOD, GOOD[:, :80]])
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(root / "images/train/2.png")
    line = f"data check folder --data {root} --labels {root}/lawn.yaml --splits train --picture {tmp_path}/found.png --out {tmp_path}/r.json"
    code, _, err = typed(line)
    assert code == 1 and "must have one size" in err
    marked = [(split, index) for split, index, _ in json.loads((tmp_path / "r.json").read_text())["marked"]]
    assert ("train", 1) in marked and ("train", 2) in marked
    sheet = Image.open(tmp_path / "found.png")
    assert sheet.width == 1000 and sheet.height > 700
