"""Augmentation: labels stay with their pictures, presets, colours; sampling and class weights."""

import cv2
import numpy as np
import pytest
import torch

from rtseg.core.errors import ConfigError, DataError
from rtseg.data import (
    CITYSCAPES,
    Augmentation,
    augmentation_preset,
    augmentation_source,
    build_augmentation,
    class_weights,
    list_augmentation_presets,
    make_loader,
    make_scenes,
    open_dataset,
)
from rtseg.data.augmentation import MEAN_COLOUR
from rtseg.data.sampling import balanced_order, class_counts, sampling_probabilities

COLOURS = np.array([*CITYSCAPES.palette, *[MEAN_COLOUR] * 237], np.uint8)
GEOMETRY = {
    "plain": {"scale_range": (1, 1), "flip": 0.0},
    "flip": {"scale_range": (1, 1), "flip": 1.0},
    "smaller": {"scale_range": (0.3, 0.9)},
    "larger": {"scale_range": (1.1, 3.0)},
    "steps": {"scale_range": (0.125, 1.5), "scale_step": 0.125},
    "rotation": {"rotation": 180.0, "rotation_chance": 1.0},
    "all": {"scale_range": (0.4, 2.0), "rotation": 15.0},
}


@pytest.fixture(scope="module")
def mosaic():
    return np.kron(np.random.default_rng(0).integers(0, 19, (6, 8)), np.ones((20, 20))).astype(np.uint8)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return open_dataset(
        "synthetic", make_scenes(tmp_path_factory.mktemp("a") / "scenes", counts={"train": 12}, size=(64, 128)), "train"
    )


def inner(labels: np.ndarray) -> np.ndarray:
    """Pixels more than two pixels away from every border, the crop's own included."""
    away = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) == 0
    away[:2] = away[-2:] = away[:, :2] = away[:, -2:] = False
    return away


@pytest.mark.parametrize("crop", [(60, 80), (120, 160), (150, 100)])
@pytest.mark.parametrize("name", GEOMETRY)
def test_a_pixel_keeps_the_colour_of_its_label(name, crop, mosaic):
    augment, compared = build_augmentation(Augmentation(crop=crop, **GEOMETRY[name])), 0
    for seed in range(15):
        painted, labels = augment(COLOURS[mosaic], mosaic, np.random.default_rng(seed))
        assert painted.shape == (*crop, 3) and labels.shape == crop and painted.dtype == labels.dtype == np.uint8
        assert set(np.unique(labels)) <= set(np.unique(mosaic)) | {255}
        away = inner(labels)
        assert (painted[away] == COLOURS[labels[away]]).all()
        compared += away.mean() / 15
    assert compared > 0.2


def test_labels_match_to_a_fraction_of_a_pixel():
    """A soft edge crosses the middle grey where the labels change: nearest and linear interpolation share their coordinates."""
    ids = np.zeros((64, 200), np.uint8)
    ids[:, 100:] = 1
    picture = np.repeat((ids * 200)[..., None], 3, 2)
    for scale in (0.5, 0.55, 0.8, 1.3, 2.0, 2.7):
        augment = build_augmentation(Augmentation(crop=(32, 60), scale_range=(scale, scale), flip=0.0))
        for seed in range(20):
            image, labels = augment(picture, ids, np.random.default_rng(seed))
            bright, label = int((image[0, :, 0] > 100).sum()), int((labels[0] == 1).sum())
            assert abs(bright - label) <= 1


def test_padding_is_ignored_and_mean_coloured():
    augment = build_augmentation(Augmentation(crop=(100, 100), scale_range=(0.5, 0.5), flip=0.5), ignore_index=99)
    image, labels = augment(np.full((64, 80, 3), 7, np.uint8), np.zeros((64, 80), np.uint8), np.random.default_rng(0))
    assert (labels == 0).sum() == 32 * 40 and set(np.unique(labels)) == {0, 99}
    assert (image[labels == 99] == MEAN_COLOUR).all() and (image[labels == 0] == 7).all()


def test_every_place_is_reached():
    ids = np.zeros((8, 8), np.uint8)
    augment, seen = build_augmentation(Augmentation(crop=(6, 6), scale_range=(1, 1), flip=0.0)), set()
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)[..., None].repeat(3, 2)
    for seed in range(200):
        seen.add(int(augment(picture, ids, np.random.default_rng(seed))[0][0, 0, 0]))
    assert seen == {8 * y + x for y in range(3) for x in range(3)}


def test_the_generator_decides_alone_and_the_source_is_left(scenes):
    config = augmentation_preset("zoo", crop=(48, 64), rotation=10, blur=0.5, grayscale=0.3, holes=3)
    picture, ids = scenes.read(0)
    before = picture.copy(), ids.copy()
    results = []
    for _ in range(2):
        np.random.seed(len(results))
        augment = build_augmentation(config)
        results.append([augment(picture, ids, np.random.default_rng([7, 1, p])) for p in range(20)])
    assert all((a == b).all() for one, two in zip(*results, strict=True) for a, b in zip(one, two, strict=True))
    assert len({image.tobytes() for image, _ in results[0]}) == 20
    assert (picture == before[0]).all() and (ids == before[1]).all()
    whole = build_augmentation(Augmentation(crop=ids.shape, scale_range=(1, 1), flip=0.0, holes=2, holes_chance=1.0))
    whole(picture, ids, np.random.default_rng(0))
    assert (picture == before[0]).all() and (ids == before[1]).all()


def test_read_only_pictures_are_accepted(scenes):
    picture, ids = (part.copy() for part in scenes.read(0))
    picture.flags.writeable = ids.flags.writeable = False
    config = Augmentation(crop=(64, 128), scale_range=(0.9, 1.1), rotation=5, brightness=0.2, blur=0.5, holes=2)
    for seed in range(10):
        build_augmentation(config)(picture, ids, np.random.default_rng(seed))


def test_chances_are_kept(scenes):
    picture, ids = scenes.read(0)
    config = Augmentation(crop=ids.shape, scale_range=(1, 1), flip=0.0, grayscale=0.25, holes=2, holes_chance=0.5)
    results = [build_augmentation(config)(picture, ids, np.random.default_rng(s)) for s in range(200)]
    grey = np.mean([(np.ptp(image[(labels != 255)].astype(int), axis=-1) == 0).all() for image, labels in results])
    holed = np.mean([(labels == 255).mean() > (ids == 255).mean() for _, labels in results])
    assert 0.17 < grey < 0.34 and 0.4 < holed < 0.6
    kept = build_augmentation(
        Augmentation(crop=ids.shape, scale_range=(1, 1), flip=0.0, holes=2, holes_chance=1.0, holes_ignored=False)
    )
    image, labels = kept(picture, ids, np.random.default_rng(0))
    assert (labels == ids).all() and (image != picture).any()


@pytest.mark.parametrize(
    "data, words",
    [
        ({"rotaton": 3}, "did you mean 'rotation'"),
        ({"rotation": 200}, "rotation"),
        ({"hole_size": (0.5, 0.1)}, "runs downwards"),
        ({"scale_range": (0.1, 0.2), "scale_step": 0.3}, "no multiple"),
        ({"blur": -1}, "blur"),
        ({"crop": (0, 4)}, "crop"),
        ({"scale_range": (0, 1)}, "scale_range"),
    ],
)
def test_wrong_options_are_refused(data, words):
    with pytest.raises(ConfigError, match=words) as error:
        Augmentation.parse(data)
    assert "\n" not in str(error.value)


# ---- presets


def test_presets_are_the_references():
    assert set(list_augmentation_presets()) == {"fasterseg", "stdc", "icnet", "pspnet", "zoo", "camvid"}
    stdc = augmentation_preset("stdc")
    assert (
        stdc.crop == (512, 1024)
        and stdc.scales() == tuple(k / 8 for k in range(1, 13))
        and stdc.brightness == stdc.contrast == stdc.saturation == 0.5
    )
    assert augmentation_preset("fasterseg").scales() == (0.75, 1.0, 1.25)
    psp = augmentation_preset("pspnet")
    assert psp.scale_range == (0.5, 2.0) and psp.rotation == 10 and psp.blur == 0.5 and psp.crop == (768, 768)
    assert augmentation_preset("icnet").crop == augmentation_preset("zoo").crop == (1024, 1024)
    assert augmentation_preset("camvid").crop == (360, 480) and augmentation_preset("camvid").scales() == (
        0.75,
        1.0,
        1.25,
        1.5,
        1.75,
        2.0,
    )
    assert all(len(augmentation_source(name)) > 30 for name in list_augmentation_presets())
    with pytest.raises(ConfigError, match="did you mean 'fasterseg'"):
        augmentation_preset("fastersegg")


@pytest.mark.parametrize("name", ["fasterseg", "stdc", "icnet", "pspnet", "zoo", "camvid"])
def test_presets_run_at_their_size(name, scenes):
    config = augmentation_preset(name)
    picture, ids = scenes.read(0)
    for seed in range(2):
        image, labels = build_augmentation(config)(picture, ids, np.random.default_rng(seed))
        assert (
            image.shape == (*config.crop, 3)
            and labels.shape == config.crop
            and set(np.unique(labels)) <= set(np.unique(ids)) | {255}
        )
    assert Augmentation.parse(config.to_dict()) == config


def test_scale_lists_are_even():
    augment = build_augmentation(
        augmentation_preset("stdc", crop=(200, 400), flip=0.0, brightness=0, contrast=0, saturation=0)
    )
    ids, picture = np.zeros((128, 256), np.uint8), np.full((128, 256, 3), 7, np.uint8)
    heights = [int((augment(picture, ids, np.random.default_rng(s))[1] == 0).any(1).sum()) for s in range(600)]
    values, counts = np.unique(heights, return_counts=True)
    assert values.tolist() == [16 * k for k in range(1, 13)] and counts.min() > 25 and counts.max() < 80


# ---- sampling


def test_counts_and_probabilities(scenes):
    counts = class_counts(scenes, threads=2)
    for i in (0, 7):
        assert (counts[i] == np.bincount(scenes.read(i)[1].ravel(), minlength=256)[:19]).all()
    for rule in ("rcs", "uniform"):
        chances = sampling_probabilities(counts, rule=rule)
        assert chances.sum() == pytest.approx(1) and (chances >= 0).all()


def test_rcs_is_the_paper_formula():
    counts = np.array([[900, 10, 0], [950, 0, 20], [980, 0, 0]])
    shares = counts.sum(0) / counts.sum()
    weight = np.exp((1 - shares) / 0.01)
    weight /= weight.sum()
    expected = np.array([weight[0] / 3 + weight[1], weight[0] / 3 + weight[2], weight[0] / 3])
    assert np.allclose(sampling_probabilities(counts), expected)
    assert np.allclose(sampling_probabilities(counts, rule="uniform"), [1 / 9 + 1 / 3, 1 / 9 + 1 / 3, 1 / 9])


def test_a_pass_holds_each_sample_as_often_as_its_chance():
    rng = np.random.default_rng(0)
    for _ in range(20):
        chances = rng.random(50) ** 3
        chances /= chances.sum()
        drawn = np.bincount(balanced_order(3, 1, tuple(chances.tolist())), minlength=50)
        assert drawn.sum() == 50 and (np.abs(drawn - 50 * chances) < 1).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_balanced_loading_resumes(scenes, workers):
    options = {
        "batch_size": 5,
        "augmentation": build_augmentation(augmentation_preset("stdc", crop=(32, 48))),
        "seed": 3,
        "shuffle": True,
        "steps": 8,
    }
    whole = list(make_loader(scenes, **options, balanced=True))
    resumed = list(make_loader(scenes, **options, balanced=True, start_step=3, workers=workers))
    assert len(resumed) == 5
    for a, b in zip(whole[3:], resumed, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.masks, b.masks) and a.names == b.names
    plain, uniform = list(make_loader(scenes, **options)), list(make_loader(scenes, **options, balanced="uniform"))
    assert [b.names for b in plain] != [b.names for b in whole] != [b.names for b in uniform]


def test_balanced_errors(scenes, tmp_path):
    with pytest.raises(ConfigError, match="shuffle"):
        make_loader(scenes, batch_size=2, shuffle=False, balanced=True)
    with pytest.raises(ConfigError, match="did you mean 'rcs'"):
        make_loader(scenes, batch_size=2, shuffle=True, balanced="rc")
    with pytest.raises(ConfigError, match="weight rule"):
        class_weights(scenes, rule="mean")
    with pytest.raises(DataError, match="no labelled pixel"):
        sampling_probabilities(np.zeros((3, 4), int))


def test_class_weights_by_hand(scenes):
    counts = class_counts(scenes)
    shares = counts.sum(0) / counts.sum()
    there = shares > 0
    enet, median, root = (np.array(class_weights(scenes, rule=rule)) for rule in ("enet", "median", "sqrt_median"))
    assert np.allclose(enet[there], 1 / np.log(1.02 + shares[there]), atol=1e-4)
    assert (enet[~there] == 1).all() and (median[~there] == 1).all()
    frequency = [counts[:, c].sum() / counts[counts[:, c] > 0].sum() for c in np.flatnonzero(there)]
    assert np.allclose(median[there], np.median(frequency) / frequency, atol=1e-4)
    assert np.allclose(root[there], np.sqrt(np.median(shares[there]) / shares[there]), atol=1e-4)


def test_camvid_weights_are_the_recipes(shared):
    weights = class_weights(open_dataset("camvid", shared / "camvid", "train"), rule="sqrt_median")
    assert np.allclose(weights, [0.52, 0.44, 2.14, 0.38, 1.0, 0.68, 1.96, 2.0, 0.87, 2.65, 3.92], atol=0.01)
