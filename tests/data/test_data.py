"""Data sets in every layout, bad input, exact loading, the data check and the preparation of Cityscapes."""

import errno
import json
import multiprocessing
import os
import pickle
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from rtseg.core.errors import ConfigError, DataError
from rtseg.data import (
    BDD100K,
    CAMVID,
    CITYSCAPES,
    Augmentation,
    DataReport,
    build_augmentation,
    check_dataset,
    get_labels,
    make_loader,
    make_scenes,
    normalize,
    open_dataset,
    prepare_cityscapes,
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return make_scenes(
        tmp_path_factory.mktemp("data") / "scenes", counts={"train": 8, "val": 3, "test": 2}, size=(64, 128)
    )


@pytest.fixture
def scenes(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "scenes")


def write_pair(folder, name, ids, size=None, images="images/train", masks="masks/train", suffix=".png"):
    """A grey-noise picture and its label image."""
    ids = np.asarray(ids, np.uint8)
    for part in (images, masks):
        (folder / part).mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(name.encode())).integers(0, 255, (*(size or ids.shape), 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / images / f"{name}{suffix}")
    Image.fromarray(ids).save(folder / masks / f"{name}.png")


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) > 20
    return text


# ---- label sets


def test_cityscapes_follows_the_official_table():
    from cityscapesscripts.helpers.labels import labels

    assert len(CITYSCAPES.ids) == 35 and CITYSCAPES.num_classes == 19
    for label in labels:
        train = int(CITYSCAPES.encode(np.array([[label.id]]))[0, 0])
        assert train == (label.trainId if 0 <= label.trainId < 255 else 255)
        if train != 255:
            assert CITYSCAPES.classes[train] == label.name and CITYSCAPES.palette[train] == label.color


@pytest.mark.parametrize("labels", [CITYSCAPES, CAMVID, BDD100K])
def test_label_sets_round_trip(labels, tmp_path):
    train = np.arange(labels.num_classes, dtype=np.uint8)
    assert (labels.encode(labels.decode(train)) == train).all()
    assert len(set(labels.palette)) == labels.num_classes
    assert (labels.colorize(np.array([[255]], np.uint8)) == 0).all()
    labels.to_yaml(tmp_path / "own.yaml")
    again = get_labels(tmp_path / "own.yaml")
    assert again.classes == labels.classes and again.palette == labels.palette and set(again.ids) == set(labels.ids)


def test_unknown_label_set():
    with pytest.raises(ConfigError, match="did you mean 'camvid'"):
        get_labels("camvd")
    with pytest.raises(DataError, match="does not exist"):
        get_labels("nowhere.yaml")


# ---- layouts


def test_camvid_shared(shared):
    ds = open_dataset("camvid", shared / "camvid", "train")
    picture, train = ds.read(0)
    assert len(ds) == 367 and picture.shape == (360, 480, 3) and train.shape == (360, 480)
    assert set(np.unique(train)) <= {*range(11), 255}
    small, ids = open_dataset("camvid", shared / "camvid", "test", scale=0.5).read(5)
    assert small.shape == (180, 240, 3) and ids.shape == (180, 240)
    first, second = ds.halves(seed=3)
    assert (len(first), len(second)) == (184, 183) and not set(first.samples) & set(second.samples)


def test_camvid_is_clean(shared):
    report = check_dataset({s: open_dataset("camvid", shared / "camvid", s) for s in ("train", "val", "test")})
    assert (
        not report.errors
        and [s.images for s in report.splits] == [367, 101, 233]
        and not any("look" in w for w in report.warnings)
    )
    assert 0.3 < report.splits[0].shares[3] < 0.4 and 0.03 < report.splits[0].void_share < 0.05


def test_camvid_as_users_find_it(tmp_path):
    for i in range(3):
        write_pair(tmp_path, f"x_{i}", np.full((12, 16), i), images="train", masks="trainannot")
    lines = [f"/SegNet/CamVid/train/x_{i}.png /SegNet/CamVid/trainannot/x_{i}.png" for i in range(3)]
    (tmp_path / "train.txt").write_text("\r\n".join(lines) + "\r\n\r\n")
    ds = open_dataset("camvid", tmp_path, "train")
    assert [int(ds.read(i)[1][0, 0]) for i in range(3)] == [0, 1, 2] and ds.samples[0].name == "x_0"


@pytest.mark.parametrize(
    "images, masks", [("images/10k/val", "labels/sem_seg/masks/val"), ("seg/images/val", "seg/labels/val")]
)
def test_bdd100k(tmp_path, images, masks):
    write_pair(tmp_path, "a", [[0, 18, 255, 4]] * 3, images=images, masks=masks, suffix=".jpg")
    (tmp_path / masks / "a.png").rename(tmp_path / masks / "a_train_id.png")
    ds = open_dataset("bdd100k", tmp_path, "val")
    assert ds.read(0)[1][0].tolist() == [0, 18, 255, 4] and ds.labels is BDD100K


def test_folder_with_own_labels(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "name: own\nclasses:\n  a: {color: [1, 2, 3], ids: [10]}\n  b: {color: [4, 5, 6], ids: [20, 21]}\nignore: [0]\n"
    )
    write_pair(tmp_path, "p", [[10, 20], [21, 0]], masks="labels/train", suffix=".JPG")
    ds = open_dataset("folder", tmp_path, "train", labels=tmp_path / "own.yaml")
    assert ds.read(0)[1].tolist() == [[0, 1], [1, 255]]


def test_list_separators_and_train_ids(scenes):
    prepare_cityscapes(scenes)
    text = (scenes / "cityscapes_val_fine.txt").read_text()
    assert "\t" in text
    (scenes / "spaces.txt").write_text(text.replace("\t", " "))
    by_ids, tabs, spaces = (
        open_dataset("cityscapes", scenes, "val"),
        open_dataset("list", scenes, "val", labels="cityscapes"),
        open_dataset("list", scenes, "spaces.txt", labels="cityscapes"),
    )
    for i in range(3):
        assert (by_ids.read(i)[1] == tabs.read(i)[1]).all() and (tabs.read(i)[1] == spaces.read(i)[1]).all()


def test_palette_masks_keep_their_numbers(tmp_path):
    write_pair(tmp_path, "p", [[0, 1], [2, 3]])
    picture = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8)).convert("P")
    picture.putpalette([9, 9, 9] * 256)
    picture.save(tmp_path / "masks/train/p.png")
    assert open_dataset("folder", tmp_path, "train", labels="cityscapes", mask_ids="train").read(0)[1].tolist() == [
        [0, 1],
        [2, 3],
    ]


def test_memory_cache_and_subset(scenes):
    ds = open_dataset("synthetic", scenes, "train", cache="memory")
    assert ds.read(1)[0] is ds.read(1)[0] and len(ds.subset([1, 3])) == 2 and ds.subset([1]).samples == (ds.samples[1],)


# ---- caches


def same_pairs(one, two) -> bool:
    return len(one) == len(two) and all(
        (a == b).all() for i in range(len(one)) for a, b in zip(one.read(i), two.read(i), strict=True)
    )


def test_preload_and_pickle(scenes):
    ds = open_dataset("synthetic", scenes, "train", cache="memory").preload(threads=2)
    assert len(ds._kept) == 8 and ds.preload() is ds
    sent = pickle.loads(pickle.dumps(ds))
    assert not sent._kept and same_pairs(sent, ds) and len(pickle.dumps(ds)) < 20_000
    assert not open_dataset("synthetic", scenes, "train").preload()._kept


def test_disk_cache_gives_the_same(scenes, tmp_path):
    plain, folder = open_dataset("synthetic", scenes, "train"), tmp_path / "cache"
    disk = open_dataset("synthetic", scenes, "train", cache="disk", cache_folder=folder)
    assert same_pairs(disk, plain) and len(list(folder.glob("*.npy"))) == 8
    times = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    again = plain.cached("disk", folder)
    assert same_pairs(again, plain) and {p: p.stat().st_mtime_ns for p in folder.iterdir()} == times
    assert same_pairs(again.subset([2, 5]), plain.subset([2, 5])) and again.subset([2]).cache == "disk"
    half = open_dataset("synthetic", scenes, "train", cache="disk", cache_folder=folder, scale=0.5)
    assert half.read(0)[0].shape == (32, 64, 3) and len(list(folder.iterdir())) == 9


def test_an_edited_picture_or_label_set_makes_a_new_entry(scenes, tmp_path):
    ds = open_dataset("synthetic", scenes, "train").cached("disk", tmp_path / "cache")
    before = ds.read(0)[0].copy()
    picture = cv2.imread(str(ds.samples[0].image))
    cv2.imwrite(str(ds.samples[0].image), 255 - picture)
    os.utime(ds.samples[0].image, ns=(1, 1))
    assert (ds.read(0)[0] == 255 - before).all()
    other = open_dataset("synthetic", scenes, "train", labels="bdd100k").cached("disk", tmp_path / "cache")
    with pytest.raises(DataError, match="label values"):
        other.read(0)


def damaged(data: bytes) -> list[bytes]:
    turned = bytearray(data)
    turned[len(data) // 2] ^= 1
    return [data[:-1], data[:70], b"", bytes(turned), b"PK\x03\x04", b"\x80\x04."]


def test_a_damaged_entry_is_made_again(scenes, tmp_path):
    plain = open_dataset("synthetic", scenes, "val")
    plain.cached("disk", tmp_path / "cache").preload()
    path = sorted((tmp_path / "cache").iterdir())[0]
    good = path.read_bytes()
    for bad in damaged(good):
        path.write_bytes(bad)
        assert same_pairs(plain.cached("disk", tmp_path / "cache"), plain) and path.read_bytes() == good
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert same_pairs(plain.cached("disk", tmp_path / "cache"), plain) and path.read_bytes() == good


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_warns_once_and_goes_on(scenes, tmp_path, monkeypatch, number):
    plain = open_dataset("synthetic", scenes, "train")
    ds, save, calls = plain.cached("disk", tmp_path / "cache"), np.save, []

    def full(file, array, **options):
        calls.append(1)
        if len(calls) > 3:
            file.write(b"some bytes")
            raise OSError(number, os.strerror(number))
        save(file, array, **options)

    monkeypatch.setattr("rtseg.data.cache.np.save", full)
    with pytest.warns(RuntimeWarning, match="is full") as seen:
        assert same_pairs(ds, plain)
    assert len(seen) == 1 and "\n" not in str(seen[0].message) and len(calls) == 4
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_folder_that_cannot_be_written_is_an_error(scenes, tmp_path):
    (tmp_path / "file").write_text("")
    ds = open_dataset("synthetic", scenes, "train").cached("disk", tmp_path / "file")
    with pytest.raises(DataError, match="cannot be written .* another cache_folder") as error:
        ds.read(0)
    one_line(error)


def test_a_cache_leaves_space(scenes, tmp_path, monkeypatch):
    from collections import namedtuple

    monkeypatch.setattr(
        "rtseg.data.cache.shutil.disk_usage", lambda path: namedtuple("usage", "total used free")(2**40, 0, 2**29)
    )
    ds = open_dataset("synthetic", scenes, "val").cached("disk", tmp_path / "cache")
    with pytest.warns(RuntimeWarning, match="1024 MiB would stay free"):
        ds.preload(threads=1)
    assert not list((tmp_path / "cache").iterdir())


def read_all(scenes, folder, barrier, results):
    ds = open_dataset("synthetic", scenes, "train", cache="disk", cache_folder=folder)
    barrier.wait()
    results.put([int(ds.read(i)[0].sum()) + int(ds.read(i)[1].sum()) for _ in range(3) for i in range(len(ds))])


def test_processes_share_a_cache(scenes, tmp_path):
    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(3), fork.Queue()
    workers = [fork.Process(target=read_all, args=(scenes, tmp_path / "cache", barrier, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    sums = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    plain = open_dataset("synthetic", scenes, "train")
    assert sums == [[int(plain.read(i)[0].sum()) + int(plain.read(i)[1].sum()) for _ in range(3) for i in range(8)]] * 3
    assert len(list((tmp_path / "cache").iterdir())) == 8


def test_missing_picture_with_a_cache(scenes, tmp_path):
    ds = open_dataset("synthetic", scenes, "train").cached("disk", tmp_path / "cache")
    ds.samples[1].image.unlink()
    with pytest.raises(DataError, match="does not exist"):
        ds.read(1)


# ---- bad input: one line each


def test_unknown_names(scenes):
    with pytest.raises(ConfigError, match="did you mean 'camvid'") as error:
        open_dataset("camvidd", scenes)
    one_line(error)
    with pytest.raises(DataError, match="did you mean 'val'") as error:
        open_dataset("cityscapes", scenes, "vall")
    one_line(error)


@pytest.mark.parametrize("name", ["cityscapes", "camvid", "bdd100k", "folder", "list"])
def test_missing_and_empty_folder(name, tmp_path):
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(DataError, match=root.name) as error:
            open_dataset(name, root, "train")
        one_line(error)
    with pytest.raises(DataError, match="needs root"):
        open_dataset(name, None, "train")


def test_empty_split(tmp_path):
    for part in ("images/train", "masks/train"):
        (tmp_path / part).mkdir(parents=True)
    with pytest.raises(DataError, match="holds no images"):
        open_dataset("folder", tmp_path, "train", labels="cityscapes")


def test_image_without_label_and_label_without_image(tmp_path, scenes):
    for name in ("a", "b"):
        write_pair(tmp_path, name, np.zeros((4, 4)))
    (tmp_path / "masks/train/b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png has no label image") as error:
        open_dataset("folder", tmp_path, "train", labels="cityscapes")
    one_line(error)
    (tmp_path / "images/train/b.png").unlink()
    write_pair(tmp_path, "c", np.zeros((4, 4)))
    (tmp_path / "images/train/c.png").unlink()
    with pytest.raises(DataError, match=r"c\.png has no image"):
        open_dataset("folder", tmp_path, "train", labels="cityscapes")
    min((scenes / "gtFine/val").rglob("*.png")).unlink()
    with pytest.raises(DataError, match="has no label image: put marwick_000000_000019_gtFine_labelIds.png into"):
        open_dataset("cityscapes", scenes, "val")


def test_sizes_values_and_damage(tmp_path):
    write_pair(tmp_path, "sizes", np.zeros((4, 6)), size=(4, 4))
    write_pair(tmp_path, "values", [[7, 77], [88, 7]])
    write_pair(tmp_path, "broken", np.zeros((4, 4)))
    (tmp_path / "images/train/broken.png").write_bytes(b"\x89PNG nothing")
    ds = open_dataset("folder", tmp_path, "train", labels="cityscapes")
    index = {s.name: i for i, s in enumerate(ds.samples)}
    for name, words in (
        ("sizes", r"sizes\.png is 6 x 4, its image sizes\.png 4 x 4"),
        ("values", r"values\.png: label values \[77, 88\]"),
        ("broken", "cannot be decoded"),
    ):
        with pytest.raises(DataError, match=words) as error:
            ds.read(index[name])
        one_line(error)
    report = check_dataset({"train": ds})
    assert len(report.errors) == 3 and all("\n" not in e for e in report.errors)
    with pytest.raises(DataError, match="and 2 more errors"):
        report.raise_errors()


def test_lists_name_their_line(tmp_path):
    write_pair(tmp_path, "a", np.zeros((4, 4)))
    good = "images/train/a.png masks/train/a.png"
    for line, words in (
        ("images/train/no.png masks/train/a.png", "line 2: .*no.png does not exist"),
        (f"{good} extra", "line 2 has 3 fields"),
    ):
        (tmp_path / "train.txt").write_text(f"{good}\n{line}\n")
        with pytest.raises(DataError, match=words):
            open_dataset("list", tmp_path, "train", labels="cityscapes")
    (tmp_path / "train.txt").write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        open_dataset("list", tmp_path, "train", labels="cityscapes")


def test_too_small_for_halves_and_wrong_options(scenes):
    with pytest.raises(DataError, match="at least 2"):
        open_dataset("synthetic", scenes, "train").subset([0]).halves()
    with pytest.raises(DataError, match="scale 2"):
        open_dataset("synthetic", scenes, scale=2)
    with pytest.raises(ConfigError, match="did you mean 'disk'"):
        open_dataset("synthetic", scenes, cache="disc")
    with pytest.raises(ConfigError, match="mask_ids"):
        open_dataset("synthetic", scenes, mask_ids="trains")


# ---- the data check


def test_duplicates_across_splits_are_errors(scenes):
    splits = {s: open_dataset("synthetic", scenes, s) for s in ("train", "val")}
    assert not check_dataset(splits).errors
    picture = cv2.imread(str(splits["train"].samples[2].image))
    cv2.imwrite(str(splits["val"].samples[1].image), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    errors = check_dataset(splits).errors
    assert len(errors) == 1 and "lindenau_000002" in errors[0] and "marwick_000001" in errors[0]
    shutil.copy(splits["train"].samples[0].image, splits["train"].samples[1].image)
    report = check_dataset({"train": splits["train"]})
    assert not report.errors and any("same picture" in w for w in report.warnings)


def test_near_duplicates_across_splits_are_warnings(scenes):
    splits = {s: open_dataset("synthetic", scenes, s) for s in ("train", "val")}
    assert not any("looks like" in w for w in check_dataset(splits).warnings)
    source, target = splits["train"].samples[2].image, splits["val"].samples[1].image
    for change in (
        lambda p: cv2.convertScaleAbs(p, alpha=1.2, beta=8),
        lambda p: cv2.resize(cv2.resize(p, (64, 32), interpolation=cv2.INTER_AREA), (128, 64)),
        lambda p: cv2.imdecode(cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1),
    ):
        cv2.imwrite(str(target), change(cv2.imread(str(source))))
        report = check_dataset(splits)
        lines = [w for w in report.warnings if "looks like" in w]
        assert (
            not report.errors
            and len(lines) == 1
            and source.name in lines[0]
            and target.name in lines[0]
            and "\n" not in lines[0]
        )


def test_report_counts_exactly(tmp_path):
    write_pair(tmp_path, "a", [[0, 0, 1, 255]])
    write_pair(tmp_path, "b", [[1, 1, 1, 1]])
    write_pair(tmp_path, "c", [[0, 255, 255, 0]])
    report = check_dataset({"train": open_dataset("folder", tmp_path, "train", labels="cityscapes", mask_ids="train")})
    stats = report.splits[0]
    assert (
        stats.pixels[:3] == (4, 5, 0) and stats.void == 3 and stats.present[:2] == (2, 2) and stats.void_share == 0.25
    )
    assert stats.shares[0] == pytest.approx(4 / 9) and stats.sizes == ((1, 4, 3),)
    assert (
        sum("one value only (1)" in w for w in report.warnings) == 1
        and sum("0 and 255 only" in w for w in report.warnings) == 1
    )
    assert any("17 of 19 classes never occur" in w for w in report.warnings)
    assert DataReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report and "44.44 %" in report.table()


# ---- augmentation and loading


@pytest.mark.parametrize("crop", [(32, 64), (64, 128), (80, 160)])
def test_augmentation_keeps_picture_and_labels_in_step(crop):
    code = np.arange(64 * 128, dtype=np.int64).reshape(64, 128) % 19
    picture = np.repeat((code * 10).astype(np.uint8)[..., None], 3, axis=2)
    augment = build_augmentation(Augmentation(crop=crop, scale_range=(1.0, 1.0)))
    for seed in range(10):
        image, mask = augment(picture, code.astype(np.uint8), np.random.default_rng(seed))
        seen = mask != 255
        assert image.shape == (*crop, 3) and mask.shape == crop and (image[..., 0][seen] == mask[seen] * 10).all()
    assert seen.mean() == pytest.approx(min(1, 64 * 128 / (crop[0] * crop[1])))


def test_scale_range_is_kept():
    mask = np.zeros((100, 100), np.uint8)
    augment = build_augmentation(Augmentation(crop=(200, 200), scale_range=(0.5, 1.5), flip=0.0))
    sides = [
        np.sqrt((augment(np.zeros((100, 100, 3), np.uint8), mask, np.random.default_rng(s))[1] == 0).sum())
        for s in range(60)
    ]
    assert 49 <= min(sides) < 65 and 135 < max(sides) <= 151


def test_flip_mirrors_half_of_the_time():
    ramp = np.tile(np.arange(16, dtype=np.uint8), (16, 1))
    augment = build_augmentation(Augmentation(crop=(16, 16), scale_range=(1, 1), flip=0.5))
    mirrored = sum(
        augment(np.repeat(ramp[..., None], 3, 2), ramp, np.random.default_rng(s))[1][0, 0] == 15 for s in range(200)
    )
    assert 70 < mirrored < 130


@pytest.mark.parametrize("cache", [None, "memory", "disk"])
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_is_exact(scenes, tmp_path, workers, cache):
    ds = open_dataset("synthetic", scenes, "train")
    options = {
        "batch_size": 3,
        "augmentation": build_augmentation(Augmentation(crop=(48, 64), brightness=0.3)),
        "seed": 7,
        "shuffle": True,
        "steps": 9,
    }
    whole = list(make_loader(ds, **options))
    resumed = list(make_loader(ds.cached(cache, tmp_path / "cache"), **options, start_step=4, workers=workers))
    assert len(whole) == 9 and len(resumed) == 5
    for a, b in zip(whole[4:], resumed, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.masks, b.masks) and a.names == b.names
    other = make_loader(ds, **{**options, "seed": 8}).batch(0)
    assert not torch.equal(other.images, whole[0].images)


def test_every_pass_sees_every_sample(scenes):
    ds = open_dataset("synthetic", scenes, "train")
    names = [n for batch in make_loader(ds, batch_size=4, shuffle=True, steps=6) for n in batch.names]
    for start in (0, 8, 16):
        assert len(set(names[start : start + 8])) == 8
    assert names[:8] != names[8:16]


def test_mixed_sizes_in_a_batch(tmp_path):
    write_pair(tmp_path, "a", np.full((4, 4), 7))
    write_pair(tmp_path, "b", np.full((4, 6), 7))
    ds = open_dataset("folder", tmp_path, "train", labels="cityscapes")
    with pytest.raises(DataError, match="4 x 4, 6 x 4") as error:
        list(make_loader(ds, batch_size=2, shuffle=False))
    one_line(error)
    assert [b.masks.shape for b in make_loader(ds, batch_size=1, shuffle=False)] == [(1, 4, 4), (1, 4, 6)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("what", ["image", "mask", "value", "cut"])
def test_damage_stops_with_the_name_of_the_file(scenes, workers, what):
    ds = open_dataset("synthetic", scenes, "train")
    victim = ds.samples[5].image if what == "image" else ds.samples[5].mask
    if what == "value":
        cv2.imwrite(str(victim), np.full((64, 128), 99, np.uint8))
    else:
        victim.write_bytes(b"no picture" if what == "mask" else victim.read_bytes()[: len(victim.read_bytes()) // 2])
    loader = make_loader(ds, batch_size=2, shuffle=True, seed=1, workers=workers, steps=20)
    batches = []
    with pytest.raises(DataError, match=victim.name) as error:
        for batch in loader:
            batches.append(batch)
    one_line(error)
    step = next(p for p in range(8) if loader.index(p) == 5) // 2
    assert len(batches) == step and not multiprocessing.active_children()


@pytest.mark.parametrize("exif", [False, True])
def test_a_jpeg_that_was_cut_short(tmp_path, exif):
    write_pair(tmp_path, "p", np.full((64, 64), 7), suffix=".jpg")
    ds = open_dataset("folder", tmp_path, "train", labels="cityscapes")
    path = ds.samples[0].image
    whole = path.read_bytes()
    if exif:  # a preview inside of the header has start and end marks of its own
        preview = b"Exif\0\0" + whole[:800] + b"\xff\xda....\xff\xd9"
        whole = whole[:2] + b"\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview + whole[2:]
    for tail in (b"", b"\0" * 50, b"trailer \xff\xda of a camera"):
        path.write_bytes(whole + tail)
        assert ds.read(0)[0].shape == (64, 64, 3)
    for part in (0, 100, len(whole) // 2, len(whole) * 9 // 10):
        path.write_bytes(whole[:part])
        with pytest.raises(DataError, match=r"p\.jpg cannot be decoded") as error:
            ds.read(0)
        one_line(error)


def test_batches_arrive_as_the_step_takes_them(scenes):
    ds = open_dataset("synthetic", scenes, "train")
    for workers in (0, 1):
        batch = next(iter(make_loader(ds, batch_size=2, shuffle=False, workers=workers, device="cpu")))
        assert batch.images.dtype == torch.uint8 and batch.masks.dtype == torch.int64
        assert normalize(batch.images).is_contiguous(memory_format=torch.channels_last), "as it was read"
        assert all(
            (batch.images[i].permute(1, 2, 0).numpy() == ds.read(i)[0]).all()
            and (batch.masks[i].numpy() == ds.read(i)[1]).all()
            for i in (0, 1)
        )
    compact = make_loader(ds, batch_size=2, shuffle=False).compact_batch(0)
    assert compact.masks.dtype == torch.uint8 and (
        compact.to("meta").masks.device.type,
        compact.to("meta").masks.dtype,
    ) == ("meta", torch.int64)


def test_wrong_loader_options(scenes):
    with pytest.raises(ConfigError, match="batch_size 0"):
        make_loader(open_dataset("synthetic", scenes), batch_size=0, shuffle=True)


def test_normalize_agrees_with_torchvision():
    from torchvision.transforms.v2.functional import normalize as reference

    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = reference(images.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert torch.allclose(normalize(images), expected, atol=1e-5)
    with pytest.raises(DataError, match="uint8"):
        normalize(images.float())


# ---- preparation of Cityscapes


def polygons(folder, stem, labels=("road", "car", "license plate")):
    shapes = [
        {"label": name, "polygon": [[4 * i, 2], [4 * i + 9, 2], [4 * i + 9, 20], [4 * i, 20]]}
        for i, name in enumerate(labels)
    ]
    (folder / f"{stem}_gtFine_polygons.json").write_text(
        json.dumps({"imgHeight": 64, "imgWidth": 128, "objects": shapes})
    )


def test_prepare_from_polygons(scenes):
    folder = scenes / "gtFine/val/marwick"
    for path in folder.glob("*.png"):
        polygons(folder, path.name.removesuffix("_gtFine_labelIds.png"))
        path.unlink()
    with pytest.raises(DataError, match="rtseg data prepare"):
        open_dataset("cityscapes", scenes, "val")
    report = prepare_cityscapes(scenes, workers=2)
    assert report.sources == {"labelIds": 10, "polygons": 3} and len(report.lists) == 3
    ids, train = open_dataset("cityscapes", scenes, "val"), open_dataset("cityscapes", scenes, "val", mask_ids="train")
    assert (ids.read(0)[1] == train.read(0)[1]).all() and set(np.unique(train.read(0)[1])) == {0, 13, 255}
    assert prepare_cityscapes(scenes).sources == {"present": 13}
    assert len(list(scenes.rglob("*labelTrainIds.png"))) == 13 and not list(scenes.rglob("*.tmp*"))


def test_prepare_faults(scenes, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        prepare_cityscapes(tmp_path / "nowhere")
    folder = scenes / "gtFine/val/marwick"
    mask = next(folder.glob("*.png"))
    stem = mask.name.removesuffix("_gtFine_labelIds.png")
    mask.unlink()
    with pytest.raises(DataError, match="neither polygons nor labelIds"):
        prepare_cityscapes(scenes)
    polygons(folder, stem, labels=("raod",))
    with pytest.raises(DataError, match="did you mean 'road'") as error:
        prepare_cityscapes(scenes)
    one_line(error)
    (folder / f"{stem}_gtFine_polygons.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        prepare_cityscapes(scenes)
