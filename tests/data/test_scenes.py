"""The drawn scenes: deterministic, in Cityscapes' layout, with every class that they promise."""

import numpy as np
import pytest

from rtseg.core.errors import ConfigError, DataError
from rtseg.data import CITYSCAPES, check_dataset, draw_scene, make_scenes, open_dataset

PROMISED = set(range(19)) - {16, 17}  # no trains and no motorcycles


def test_a_seed_decides_every_pixel():
    first, again, other = (draw_scene(np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    assert (first[0] != other[0]).mean() > 0.5


@pytest.mark.parametrize("size", [(64, 128), (128, 256), (97, 151), (256, 512)])
def test_any_size(size):
    picture, ids = draw_scene(np.random.default_rng(0), size=size)
    assert picture.shape == (*size, 3) and ids.shape == size and picture.dtype == ids.dtype == np.uint8
    assert set(np.unique(CITYSCAPES.encode(ids))) <= PROMISED | {255}


def test_classes_and_shares():
    counts = np.zeros(256)
    for seed in range(80):
        _, ids = draw_scene(np.random.default_rng(seed), size=(64, 128))
        counts += np.bincount(CITYSCAPES.encode(ids).ravel(), minlength=256)
    share = counts / counts.sum()
    assert set(np.flatnonzero(share)) == PROMISED | {255}
    assert 0.25 < share[0] < 0.45 and 0.1 < share[2] < 0.35 and 0.05 < share[10] < 0.25 and share[255] < 0.05
    assert share[:19][sorted(PROMISED)].min() > 0.0003


def test_pictures_are_bright_enough_to_look_at():
    means = [draw_scene(np.random.default_rng(seed), size=(64, 128))[0].mean() for seed in range(30)]
    assert 70 < np.mean(means) < 180 and min(means) > 45


def test_layout_and_split_independence(tmp_path):
    root = make_scenes(tmp_path / "a", seed=1, counts={"train": 3, "val": 3, "test": 2}, size=(64, 128))
    splits = {split: open_dataset("cityscapes", root, split) for split in ("train", "val", "test")}
    report = check_dataset(splits)
    assert not report.errors and [s.images for s in report.splits] == [3, 3, 2]
    assert splits["train"].samples[0].mask.name == "lindenau_000000_000019_gtFine_labelIds.png"
    more = make_scenes(tmp_path / "b", seed=1, counts={"train": 5, "val": 3, "test": 2}, size=(64, 128))
    grown = open_dataset("cityscapes", more, "train")
    assert all(
        (grown.read(i)[0] == splits["train"].read(i)[0]).all() for i in range(3)
    )  # more scenes leave the first ones alone


def test_refusals(tmp_path):
    with pytest.raises(ConfigError, match="splits are train, val, test"):
        make_scenes(tmp_path / "a", counts={"trian": 3})
    with pytest.raises(ConfigError, match="at least 1"):
        make_scenes(tmp_path / "a", counts={"train": 0})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        make_scenes(tmp_path / "full", counts={"train": 1})
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"


def test_interrupted_drawing_goes_on(tmp_path, monkeypatch):
    import rtseg.data.scenes as scenes

    draw, calls = scenes.write_scene, []

    def failing(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        draw(*arguments, **options)

    monkeypatch.setattr(scenes, "write_scene", failing)
    with pytest.raises(KeyboardInterrupt):
        make_scenes(tmp_path / "s", counts={"train": 4}, size=(64, 128))
    monkeypatch.setattr(scenes, "write_scene", draw)
    with pytest.raises(DataError, match="beginning of other scenes"):
        make_scenes(tmp_path / "s", counts={"train": 2}, size=(64, 128))
    root = make_scenes(tmp_path / "s", counts={"train": 4}, size=(64, 128))
    assert len(open_dataset("synthetic", root, "train")) == 4 and not (root / "scenes-unfinished.json").exists()
