"""A training folder goes on with what it was begun with, with nothing else, and for as long as is asked."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from rtseg.compression.schedule import CompressConfig, compress
from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.core.identity import read_identity
from rtseg.core.run_folder import RunBusy, hold
from rtseg.data.augmentation import Augmentation
from rtseg.data.datasets import open_dataset
from rtseg.data.labels import CITYSCAPES
from rtseg.data.scenes import make_scenes
from rtseg.shipping.bench import run_bench
from rtseg.training.config import LossConfig, TrainConfig
from rtseg.training.logging import read_metrics
from rtseg.training.schedules import ScheduleConfig, learning_rate
from rtseg.training.setup import load_state
from rtseg.training.trainer import Trainer

COUNTS = {"train": 3, "val": 1, "test": 1}
CONFIG = TrainConfig(
    precision="fp32",
    channels_last=True,
    compile=False,
    epochs=2,
    steps_per_epoch=2,
    batch_size=2,
    lr=0.05,
    device="cpu",
    augmentation=Augmentation(crop=(32, 32)),
    loss=LossConfig(kind="cross_entropy"),
    schedule=ScheduleConfig(kind="polynomial"),
)
BACKWARDS = replace(CITYSCAPES, classes=CITYSCAPES.classes[::-1], palette=CITYSCAPES.palette[::-1])
TWO = replace(CITYSCAPES, classes=("road", "rest"), palette=((1, 2, 3), (4, 5, 6)), ids=((7, 0), (8, 1)))


def toy(classes=19, width=4, seed=0):
    """A convolution, a norm and a classifier."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, classes, 1))


@pytest.fixture
def root(tmp_path):
    """A few scenes of this test's own, which it may change."""
    return make_scenes(tmp_path / "scenes", counts=COUNTS, size=(32, 64))


def train(root, folder, config=CONFIG, *, labels=None, model=None, **more):
    """The trainer of a toy on the scenes below `root`."""
    train, val = (open_dataset("synthetic", root, split, labels=labels) for split in ("train", "val"))
    model = model or toy(train.labels.num_classes)
    return Trainer(model, train, config=config, folder=folder, val=val, progress=False, **more)


def longer(**values):
    """The configuration with other values."""
    return CONFIG.model_copy(update=values)


def masks(root, split="train"):
    """The label images of a split."""
    return sorted((root / "gtFine" / split).rglob("*labelIds.png"))


CASES = {
    "another label set": (dict(labels=BACKWARDS), "labels.classes[0] is bicycle, it was begun with road"),
    "another number of classes": (dict(labels=TWO), 'labels.classes is ["road", "rest"], it was begun with 19 entries'),
    "another teacher": (dict(model=None, teacher=toy(seed=2)), "teacher.weights is "),
    "no teacher": (dict(teacher=None), "teacher is none, it was begun with "),
    "another network": (dict(model=toy(width=6)), "network.parameters is "),
    "other weights": (dict(pretrained_on="city.safetensors 1234abcd"), "weights is city.safetensors 1234abcd"),
    "another setting": (dict(config=longer(lr=0.1)), "config.lr is 0.1, it was begun with 0.05"),
    "another schedule": (dict(config=longer(schedule=ScheduleConfig(kind="linear"))), "config.schedule.kind is linear"),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A training with a teacher, and the scenes it read."""
    here = tmp_path_factory.mktemp("begun")
    root = make_scenes(here / "scenes", counts=COUNTS, size=(32, 64))
    train(root, here / "run", teacher=toy(seed=1)).fit()
    return root, here / "run"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_going_on_with_something_else_is_refused_by_its_name(begun, case):
    root, folder = begun
    changes, words = case
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(ConfigError) as error:
        train(root, folder, **{"teacher": toy(seed=1), "resume": True, **changes})
    assert words in str(error.value) and "another training" in str(error.value) and "--out" in str(error.value)
    assert "\n" not in str(error.value) and all(path.read_bytes() == data for path, data in before.items())


def test_going_on_with_the_same_from_another_place_is_not_refused(begun, tmp_path):
    root, folder = begun
    moved, copied = shutil.copytree(root, tmp_path / "moved"), shutil.copytree(folder, tmp_path / "run")
    run = train(moved, copied, longer(workers=1), teacher=toy(seed=1), model=toy(seed=9), resume=True)
    assert run.files.step == 4


def test_masks_that_were_painted_over_in_place_are_other_data(root, tmp_path):
    train(root, tmp_path / "run", longer(epochs=1)).fit()
    mask, other = masks(root)[:2]
    size, times = mask.stat().st_size, mask.stat().st_mtime_ns
    data = other.read_bytes()[:size].ljust(size, b"\0")  # as long, and with the old time
    mask.write_bytes(data)
    os.utime(mask, ns=(times, times))
    with pytest.raises(ConfigError, match="train.masks is "):
        train(root, tmp_path / "run", longer(epochs=1), resume=True)


def test_as_many_other_images_are_other_data(root, tmp_path):
    train(root, tmp_path / "run", longer(epochs=1)).fit()
    others = make_scenes(tmp_path / "others", counts=COUNTS, size=(32, 64), seed=5)
    with pytest.raises(ConfigError, match="train.pictures is "):
        train(others, tmp_path / "run", longer(epochs=1), resume=True)
    image = next((root / "leftImg8bit" / "val").rglob("*.png"))
    image.write_bytes(next((others / "leftImg8bit" / "val").rglob("*.png")).read_bytes())
    with pytest.raises(ConfigError, match="val.pictures is "):
        train(root, tmp_path / "run", longer(epochs=1), resume=True)


def test_a_folder_that_does_not_say_what_it_is_of_is_not_gone_on_with(root, tmp_path):
    train(root, tmp_path / "run", longer(epochs=1)).fit()
    assert json.loads((tmp_path / "run/identity.json").read_text()) == read_identity(tmp_path / "run")
    (tmp_path / "run/identity.json").unlink()
    with pytest.raises(ArtifactError, match="does not say what it was made of"):
        train(root, tmp_path / "run", longer(epochs=1), resume=True)


# more epochs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["stretch", "restart"])
def test_a_finished_training_is_extended(root, tmp_path, way):
    schedule = ScheduleConfig(kind="polynomial", on_extension=way)
    train(root, tmp_path / "run", longer(schedule=schedule)).fit()
    run = train(root, tmp_path / "run", longer(schedule=schedule, epochs=5), resume=True)
    assert (run.files.step, run.files.since, run.total_steps) == (4, 4, 10)
    assert run.fit().steps == 10
    lines = read_metrics(tmp_path / "run")
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    whole = dict(lr=0.05, steps_per_epoch=2, schedule=schedule)
    first = [learning_rate(step, total_steps=4, **whole) for step in (1, 3)]
    from_here = {
        "stretch": [learning_rate(step, total_steps=10, **whole) for step in (5, 7, 9)],
        "restart": [learning_rate(step - 4, total_steps=6, **whole) for step in (5, 7, 9)],
    }
    assert [line["lr"] for line in lines] == first + from_here[way]


def test_an_extension_that_is_killed_goes_on_with_the_same_bits(root, tmp_path):
    config = longer(epochs=5, schedule=ScheduleConfig(kind="polynomial", on_extension="restart"))
    for name in ("whole", "cut"):
        train(root, tmp_path / name, config.model_copy(update={"epochs": 2})).fit()
    train(root, tmp_path / "whole", config, resume=True).fit()
    cut = train(root, tmp_path / "cut", config, resume=True)
    next(cut.epochs())
    again = train(root, tmp_path / "cut", config, resume=True)
    assert (again.files.step, again.files.since) == (6, 4)
    again.fit()
    states = [load_state(tmp_path / name)["model"] for name in ("whole", "cut")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_training_that_ran_out_of_patience_is_extended(root, tmp_path):
    config = longer(epochs=9, patience=2, lr=1e-12)
    stopped = train(root, tmp_path / "run", config).fit()
    assert stopped.stopped and stopped.steps < 18
    result = train(root, tmp_path / "run", config.model_copy(update={"epochs": 10}), resume=True).fit()
    assert result.steps >= stopped.steps + 6  # at least a best one, and two that are no better
    assert (
        train(root, tmp_path / "run", config.model_copy(update={"epochs": 10}), resume=True).fit().steps == result.steps
    )


def test_a_training_is_not_made_shorter_than_it_is(root, tmp_path):
    train(root, tmp_path / "run").fit()
    with pytest.raises(ConfigError, match="has done 4 steps, more than the 2"):
        train(root, tmp_path / "run", longer(epochs=1), resume=True)


# compression ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def compressing(root, tmp_path):
    """A compression of a toy in a folder, with a few things changed; the compressed weights."""
    data, val = (open_dataset("synthetic", root, split) for split in ("train", "val"))
    usual = dict(
        data=data,
        train=longer(epochs=1, augmentation=None),
        config=CompressConfig(ratio=0.3, steps=1, example_size=(32, 64)),
        val=val,
    )

    def small(seed=0, **changes):
        told = {**usual, "folder": tmp_path / "small", "progress": False, **changes}
        return compress(toy(width=6, seed=seed), told.pop("data"), **told).model.state_dict()

    return small, usual


def test_a_compression_hands_its_result_to_nobody_else(root, tmp_path, compressing):
    """Another network's weights, other images, another share: the old file is not the answer."""
    small, usual = compressing
    first = small()
    again = small(train=longer(epochs=1, augmentation=None, workers=1))
    assert all(torch.equal(value, first[name]) for name, value in again.items())
    for changes, words in (
        (dict(seed=1), "network.weights is "),
        (dict(data=usual["val"]), "train.images is 1, it was begun with 3"),
        (dict(val=open_dataset("synthetic", root, "test")), "val.names is "),
        (dict(config=CompressConfig(ratio=0.5, steps=1, example_size=(32, 64))), "compression.ratio is 0.5"),
        (dict(train=longer(epochs=1, lr=0.2, augmentation=None)), "config.lr is 0.2"),
    ):
        with pytest.raises(ConfigError, match=words) as error:
            small(**changes)
        assert "another compression" in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "small/identity.json").unlink()
    with pytest.raises(ArtifactError, match="does not say what it was made of"):
        small()


def test_the_last_training_of_a_compression_is_extended(tmp_path, compressing):
    small, usual = compressing
    first = small()
    longest = small(train=longer(epochs=3, augmentation=None))
    log = tmp_path / "small/step_1/train"
    assert [line["epoch"] for line in read_metrics(log)] == [1, 2, 3]
    assert any(not torch.equal(value, first[name]) for name, value in longest.items())
    again = small(train=longer(epochs=3, augmentation=None))
    assert all(torch.equal(value, longest[name]) for name, value in again.items())
    with pytest.raises(ConfigError, match="has done 3 epochs, more than the 2"):
        small(train=longer(epochs=2, augmentation=None))
    how = usual["config"].model_copy(update={"final_epochs": 4})
    small(train=longer(epochs=3, augmentation=None), config=how)
    assert len(read_metrics(log)) == 4


def test_trainings_that_lie_behind_a_cut_are_not_extended(tmp_path, compressing):
    small, usual = compressing
    how = usual["config"].model_copy(update={"steps": 2, "recovery_epochs": None})
    small(config=how)
    with pytest.raises(ConfigError, match="config.epochs is 2"):
        small(config=how, train=longer(epochs=2, augmentation=None))


# one process ----------------------------------------------------------------------------------------------------------


def test_a_bench_is_measured_by_one_process(tmp_path):
    with hold(tmp_path), pytest.raises(RunBusy, match=f"process {os.getpid()}"):
        run_bench([], tmp_path / "bench.json", build=toy)
    assert run_bench([], tmp_path / "bench.json", build=toy).rows == ()
