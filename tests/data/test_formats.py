"""What annotation tools write: each format as its tool lays it out, read, imported, broken; layouts without renaming."""

import base64
import json
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from rtseg.core.errors import ArtifactError, ConfigError, DataError, RtsegError
from rtseg.core.values import LabelSet
from rtseg.data import CAMVID, check_dataset, open_dataset
from rtseg.data.correcting import Corrections
from rtseg.data.drawn import Outline, outlines_of, paint_layers
from rtseg.data.formats import FORMATS, read_source
from rtseg.data.formats_masks import camvid_split
from rtseg.data.importing import import_dataset
from rtseg.data.layouts import Pairing
from rtseg.evaluation.suggestion import Views, choose_images

SIZE = (24, 32)
TRUTH = np.zeros(SIZE, np.uint8)  # a wall, and a door in it
TRUTH[4:20, 6:26], TRUTH[10:20, 12:18] = 1, 2
WALL, DOOR = [[6, 4], [26, 4], [26, 20], [6, 20]], [[12, 10], [18, 10], [18, 20], [12, 20]]
NAMES = ("background", "wall", "door")
OWN = LabelSet("yard", NAMES, ((0, 0, 0), (200, 0, 0), (0, 0, 200)), ((9, 0), (8, 1), (7, 2)))


def photo(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(path.name.encode())).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def write(path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def png(pixels) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(pixels))[1].tobytes()


def make_labelme(root):
    mask = base64.b64encode(png((TRUTH == 2)[10:20, 12:18] * np.uint8(255))).decode()
    for k in range(5):
        photo(root / f"shots/{k}.jpg")
        shapes = [
            {"label": "wall", "points": WALL, "group_id": None, "shape_type": "polygon", "flags": {}, "mask": None},
            {"label": "door", "points": [[12, 10], [17, 19]], "shape_type": "mask", "mask": mask, "flags": {}},
            {"label": "door", "points": [[1, 1]], "shape_type": "point", "flags": {}},
        ]
        head = {"version": "5.4.1", "flags": {}, "imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        write(root / f"annotated/{k}.json", {**head, "imagePath": f"..\\shots\\{k}.jpg", "shapes": shapes})
    photo(root / "shots/unlabelled.jpg")


def make_coco(root):
    runs = coco_mask.encode(np.asfortranarray(TRUTH == 2, np.uint8))
    plain = np.flatnonzero(np.diff(np.pad((TRUTH == 2).ravel("F").astype(int), 1, constant_values=-1)))
    for split in ("train2017", "val2017"):
        for k in range(2):
            photo(root / f"{split}/{split}{k}.jpg")
        door = runs["counts"].decode() if split == "train2017" else np.diff(plain).tolist()
        annotations = [
            {"segmentation": {"size": list(SIZE), "counts": door}, "iscrowd": 1, "category_id": 5, "image_id": 40},
            {"segmentation": [np.ravel(WALL).tolist()], "iscrowd": 0, "category_id": 1, "image_id": 40},
            {"bbox": [0, 0, 5, 5], "segmentation": [], "category_id": 1, "image_id": 41},
        ]
        images = [{"id": 40 + k, "file_name": f"{split}{k}.jpg", "height": SIZE[0], "width": SIZE[1]} for k in range(2)]
        categories = [{"id": 1, "name": "wall", "supercategory": "stuff"}, {"id": 5, "name": "door"}]
        document = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        write(root / f"annotations/instances_{split}.json", document)


def make_supervisely(root):
    classes = [
        {"title": "wall", "shape": "polygon", "color": "#C80000"},
        {"title": "door", "shape": "bitmap", "color": "#0000c8"},
    ]
    write(root / "meta.json", {"classes": classes, "tags": [], "projectType": "images"})
    alpha = np.zeros((10, 6, 4), np.uint8)
    alpha[..., 3] = 255
    data = base64.b64encode(zlib.compress(png(alpha))).decode()
    for dataset in ("train", "val"):
        for k in range(2):
            photo(root / f"{dataset}/img/{dataset}{k}.png")
            objects = [
                {"classTitle": "wall", "geometryType": "polygon", "points": {"exterior": WALL, "interior": [DOOR]}},
                {
                    "classTitle": "door",
                    "geometryType": "bitmap",
                    "bitmap": {"data": data, "origin": [12, 10]},
                    "points": None,
                },
                {
                    "classTitle": "door",
                    "geometryType": "line",
                    "points": {"exterior": [[0, 0], [3, 3]], "interior": []},
                },
            ]
            size = {"height": SIZE[0], "width": SIZE[1]}
            write(
                root / f"{dataset}/ann/{dataset}{k}.png.json",
                {"description": "", "tags": [], "size": size, "objects": objects},
            )


def make_cvat_masks(root):
    colours = np.array([[0, 0, 0], [250, 50, 83], [51, 221, 255]], np.uint8)
    write(
        root / "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndoor:51,221,255::\nwall:250,50,83::\n",
    )
    for split in ("Train", "Validation"):
        for k in range(2):
            photo(root / f"JPEGImages/{split}{k}.jpg")
            (root / "SegmentationClass").mkdir(exist_ok=True)
            Image.fromarray(colours[TRUTH]).save(root / f"SegmentationClass/{split}{k}.png")
        write(root / f"ImageSets/Segmentation/{split}.txt", f"{split}0\n{split}1\n")


def make_roboflow(root):
    for split in ("train", "valid"):
        write(root / split / "_classes.csv", "Pixel Value, Class\n0, background\n1, door\n2, wall\n")
        for k in range(2):
            photo(root / f"{split}/{split}{k}_jpg.rf.8ab.jpg")
            numbers = np.array([0, 2, 1], np.uint8)[TRUTH]
            Image.fromarray(numbers).save(root / f"{split}/{split}{k}_jpg.rf.8ab_mask.png")


def make_cvat(root):
    for subset in ("Train", "Validation"):
        images = ""
        for k in range(2):
            photo(root / f"images/{subset}{k}.jpg")
            images += f"""<image id="{k}" name="{subset}{k}.jpg" subset="{subset}" width="{SIZE[1]}" height="{SIZE[0]}">
            <mask label="door" source="manual" occluded="0" rle="0, 60" left="12" top="10" width="6" height="10" z_order="2"></mask>
            <box label="wall" source="manual" occluded="0" xtl="6.00" ytl="4.00" xbr="26.00" ybr="20.00" z_order="1"></box>
            <points label="door" points="3.0,3.0" z_order="0"></points></image>"""
        labels = "".join(
            f"<label><name>{n}</name><color>#{c}</color><type>any</type></label>"
            for n, c in (("wall", "c80000"), ("door", "0000c8"))
        )
        meta = f"<version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
        write(
            root / f"{subset}.xml", f'<?xml version="1.0" encoding="utf-8"?><annotations>{meta}{images}</annotations>'
        )


def make_yolo(root):
    write(root / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['wall', 'door']\n")
    lines = [f"{k} " + " ".join(f"{x / SIZE[1]} {y / SIZE[0]}" for x, y in ring) for k, ring in ((1, DOOR), (0, WALL))]
    for split in ("train", "valid"):
        for k in range(2):
            photo(root / f"{split}/images/{split}{k}.jpg")
            write(root / f"{split}/labels/{split}{k}.txt", "\n".join([*lines, "0 0.5 0.5 0.2 0.2", ""]))
    photo(root / "train/images/new.jpg")


MAKERS = {
    "cvat": make_cvat,
    "yolo": make_yolo,
    "labelme": make_labelme,
    "coco": make_coco,
    "supervisely": make_supervisely,
    "cvat-masks": make_cvat_masks,
    "roboflow": make_roboflow,
}
SKIPPED = {
    "cvat": {"shape without area": 4},
    "yolo": {"box without an outline": 4, "image without annotation": 1},
    "labelme": {"shape without area": 5, "image without annotation": 1},
    "coco": {"box without an outline": 2},
    "supervisely": {"shape without area": 4},
}


def named_train_ids(dataset, index) -> np.ndarray:
    """Train ids in the order of NAMES."""
    order = np.full(256, 255, np.uint8)
    order[[dataset.labels.classes.index(name) for name in NAMES]] = range(3)
    return order[dataset.read(index)[1]]


@pytest.mark.parametrize("name", MAKERS)
def test_a_format_is_read_as_it_lies_and_imports_to_the_same(tmp_path, name):
    MAKERS[name](tmp_path / "left")
    report = import_dataset(name, tmp_path / "left", tmp_path / "plain")
    assert sum(report.images.values()) in (4, 5) and set(report.images) == {"train", "val"}
    assert report.skipped == SKIPPED.get(name, {}) and set(report.classes) == set(NAMES)
    for split in ("train", "val"):
        direct, imported = (
            open_dataset(name, tmp_path / "left", split),
            open_dataset("folder", tmp_path / "plain", split),
        )
        assert (named_train_ids(direct, 0) == TRUTH).all(), name
        for i in range(len(direct)):
            assert all((a == b).all() for a, b in zip(direct.read(i), imported.read(i), strict=True))
        assert check_dataset({split: direct}).errors == ()


@pytest.mark.parametrize("name", MAKERS)
def test_own_classes_are_matched_by_name_and_a_cache_knows_them_apart(tmp_path, name):
    MAKERS[name](tmp_path / "left")
    own, cached = (
        open_dataset(name, tmp_path / "left", labels=OWN, cache=c, cache_folder=tmp_path / "c") for c in (None, "disk")
    )
    assert own.labels.classes == NAMES and (own.read(0)[1] == TRUTH).all() and (cached.read(0)[1] == TRUTH).all()
    turned = LabelSet("yard", NAMES[::-1], OWN.palette, ((0, 0), (1, 1), (2, 2)))
    other = open_dataset(name, tmp_path / "left", labels=turned, cache="disk", cache_folder=tmp_path / "c")
    assert (other.read(0)[1] == 2 - TRUTH).all()
    with pytest.raises(DataError, match="class 'door' .* is not in label set 'yard'.*did you mean 'doors'"):
        open_dataset(
            name, tmp_path / "left", labels=LabelSet("yard", ("wall", "doors"), OWN.palette[1:], ((0, 0), (1, 1)))
        )
    ignoring = open_dataset(name, tmp_path / "left", background="ignore")
    assert set(ignoring.labels.classes) == {"wall", "door"} and ((ignoring.read(0)[1] == 255) == (TRUTH == 0)).all()


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("labelme", "annotated/0.json", "{"),
        ("labelme", "annotated/0.json", {"shapes": [{"points": WALL}]}),
        (
            "labelme",
            "annotated/0.json",
            {"shapes": [{"label": "wall", "points": [["a", 1], [2, 2], [3, 3]]}], "imagePath": "0.jpg"},
        ),
        (
            "labelme",
            "annotated/0.json",
            {"shapes": [{"label": "wall", "points": [[0, 0], [float("nan"), 1], [2, 3]]}], "imagePath": "0.jpg"},
        ),
        (
            "labelme",
            "annotated/0.json",
            {"shapes": [{"label": "wall", "points": [[0, 0]], "shape_type": "mask", "mask": "AAAA"}]},
        ),
        (
            "coco",
            "annotations/instances_val2017.json",
            '{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
        ),
        ("coco", "annotations/instances_val2017.json", "[" * 100_000),
        (
            "labelme",
            "annotated/0.json",
            {"shapes": [], "imagePath": "0.jpg", "imageHeight": 10**9, "imageWidth": 10**9},
        ),
        (
            "cvat",
            "Train.xml",
            '<annotations><label><name>a</name></label><image name="Train0.jpg" width="32" height="24"><box label="a" xtl="nan" ytl="0" xbr="1" ybr="1"/></image></annotations>',
        ),
        (
            "cvat",
            "Train.xml",
            '<annotations><label><name>a</name></label><image name="Train0.jpg" width="32" height="24"><ellipse label="a" cx="1" cy="1" rx="inf" ry="1"/></image></annotations>',
        ),
        ("supervisely", "meta.json", {"classes": [{"name": "wall"}]}),
        (
            "supervisely",
            "train/ann/train0.png.json",
            {"size": {"height": 24, "width": 32}, "objects": [{"classTitle": "roof"}]},
        ),
        ("cvat-masks", "labelmap.txt", "wall;1;2;3"),
        ("cvat", "Train.xml", "<annotations><image"),
        (
            "cvat",
            "Train.xml",
            '<annotations><image name="Train0.jpg" width="32" height="24"><box label="roof"/></image></annotations>',
        ),
        ("cvat", "Train.xml", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations>&x;</annotations>'),
        ("yolo", "data.yaml", "nc: 2"),
        ("yolo", "train/labels/train0.txt", "0 0.1 0.1 0.2 0.2 0.3"),
        ("yolo", "train/labels/train0.txt", "7 0.1 0.1 0.2 0.2 0.3 0.3"),
        ("roboflow", "train/_classes.csv", "Pixel Value, Class\nx, wall\n"),
    ],
)
def test_a_broken_annotation_is_one_line_that_names_the_file(tmp_path, name, file, content):
    MAKERS[name](tmp_path)
    write(tmp_path / file, content)
    with pytest.raises(DataError) as error:
        read_source(name, tmp_path)
    assert str(tmp_path / file) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_runs_that_lie_are_refused_before_they_are_unpacked(tmp_path):
    make_coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    for counts in ([10], [10**9], [-5, 773], "o" * 40, "P" * 9, "é", 5, None):
        document["annotations"][0]["segmentation"] = {"size": list(SIZE), "counts": counts}
        write(path, document)
        with pytest.raises(DataError, match="instances_train2017.json"):
            read_source("coco", tmp_path)


def test_a_bitmap_that_swells_is_refused(tmp_path):
    make_supervisely(tmp_path)
    data = base64.b64encode(zlib.compress(bytes(70 * 2**20))).decode()
    objects = [{"classTitle": "wall", "bitmap": {"data": data, "origin": [0, 0]}}]
    write(tmp_path / "train/ann/train0.png.json", {"size": {"height": 24, "width": 32}, "objects": objects})
    with pytest.raises(DataError, match="train0.png.json.*more than"):
        read_source("supervisely", tmp_path)


def test_unknown_formats_and_wrong_places(tmp_path):
    with pytest.raises(ConfigError, match="format 'labelmee' is unknown.*did you mean 'labelme'"):
        import_dataset("labelmee", tmp_path, tmp_path / "out")
    for name in FORMATS:
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(RtsegError) as error:
            open_dataset(name, tmp_path / "empty")
        assert "\n" not in str(error.value) and "empty" in str(error.value), name
    make_labelme(tmp_path / "left")
    with pytest.raises(ConfigError, match="not empty"):
        import_dataset("labelme", tmp_path / "left", tmp_path / "left")
    with pytest.raises(DataError, match="has no split 'test': it has train, val"):
        open_dataset("labelme", tmp_path / "left", "test")


def test_a_pair_that_does_not_fit_stops_or_is_counted(tmp_path):
    make_labelme(tmp_path / "left")
    photo(tmp_path / "left/shots/2.jpg", (20, 20))
    with pytest.raises(DataError, match="2.json is 32 x 24, its image 2.jpg 20 x 20"):
        import_dataset("labelme", tmp_path / "left", tmp_path / "plain")
    report = import_dataset("labelme", tmp_path / "left", tmp_path / "kept", damaged="skip")
    assert sum(report.images.values()) == 4 and any("2.json" in reason for reason in report.skipped)


def test_names_in_a_file_cannot_lead_out_of_the_folder(tmp_path):
    make_coco(tmp_path / "left")
    photo(tmp_path / "secret/away.jpg")
    path = tmp_path / "left/annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    document["images"][0]["file_name"] = "../../secret/away.jpg"
    write(path, document)
    import_dataset("coco", tmp_path / "left", tmp_path / "deep/plain")
    written = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*") if p.is_file()}
    assert written == {"left", "secret", "deep"} and (tmp_path / "deep/plain/images/train/away.jpg").is_file()


def test_voc_as_it_is_distributed(tmp_path):
    folder = tmp_path / "VOCdevkit/VOC2012"
    for split, stem in (("train", "2007_000032"), ("val", "2007_000033"), ("trainval", "2007_000032")):
        photo(folder / f"JPEGImages/{stem}.jpg")
        write(folder / f"ImageSets/Segmentation/{split}.txt", f"{stem}\n")
        numbers = np.array([0, 15, 255], np.uint8)[TRUTH]
        picture = Image.fromarray(numbers)
        palette = np.zeros((256, 3), np.uint8)
        palette[[15, 255]] = (192, 128, 128), (224, 224, 192)
        picture.putpalette(palette.tobytes())
        (folder / "SegmentationClass").mkdir(exist_ok=True)
        picture.save(folder / f"SegmentationClass/{stem}.png")
    train = open_dataset("voc", tmp_path, "train")
    assert len(train) == 1 and train.labels.num_classes == 21 and train.labels.classes[15] == "person"
    assert (train.read(0)[1] == np.array([0, 15, 255], np.uint8)[TRUTH]).all()


def test_mapillary_counts_what_its_config_evaluates(tmp_path):
    """Two classes share a colour there, so numbers count and not the palette's colours."""
    names = (("object--manhole", True), ("construction--wall", True), ("object--door", True), ("void--static", False))
    labels = [{"name": n, "readable": n.split("--")[1].title(), "evaluate": e, "color": [70, 70, 70]} for n, e in names]
    write(tmp_path / "config_v2.0.json", {"labels": labels, "version": "2.0"})
    for part in ("training", "validation"):
        photo(tmp_path / f"{part}/images/{part}.jpg")
        picture = Image.fromarray(np.where(TRUTH == 0, 3, TRUTH).astype(np.uint8))
        picture.putpalette([70, 70, 70] * 4)
        (tmp_path / f"{part}/v2.0/labels").mkdir(parents=True)
        picture.save(tmp_path / f"{part}/v2.0/labels/{part}.png")
    photo(tmp_path / "testing/images/t.jpg")
    read = open_dataset("mapillary", tmp_path, "val")
    assert (
        read.labels.classes == ("Manhole", "Wall", "Door") and (read.read(0)[1] == np.array([255, 1, 2])[TRUTH]).all()
    )
    report = import_dataset("mapillary", tmp_path, tmp_path / "plain")
    assert (
        report.images == {"test": 1, "train": 1, "val": 1}
        and open_dataset("folder", tmp_path / "plain", "test").samples[0].mask is None
    )
    assert (open_dataset("folder", tmp_path / "plain", "val").read(0)[1] == read.read(0)[1]).all()


def test_ade20k_ignores_zero(tmp_path):
    lines = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1576\t11664\t1172\t1\twall\n2\t0.1072\t6046\t612\t1\tbuilding, edifice\n"
    write(tmp_path / "objectInfo150.txt", lines)
    photo(tmp_path / "images/training/ADE_train_00000001.jpg")
    (tmp_path / "annotations/training").mkdir(parents=True)
    Image.fromarray(TRUTH).save(tmp_path / "annotations/training/ADE_train_00000001.png")
    train = open_dataset("ade20k", tmp_path, "train")
    assert train.labels.classes == ("wall", "building") and (train.read(0)[1] == np.array([255, 0, 1])[TRUTH]).all()


def test_camvid_in_32_colours_is_the_tutorials_eleven_classes_and_split(tmp_path, shared):
    colours = dict(
        zip(
            TRUTH_NAMES := ("Void", "SUVPickupTruck", "LaneMkgsDriv"),
            ((0, 0, 0), (64, 128, 192), (128, 0, 192)),
            strict=True,
        )
    )
    for stem in ("0006R0_f00930", "Seq05VD_f00000"):
        photo(tmp_path / f"701_StillsRaw_full/{stem}.png")
        (tmp_path / "LabeledApproved_full").mkdir(exist_ok=True)
        Image.fromarray(np.array([colours[n] for n in TRUTH_NAMES], np.uint8)[TRUTH]).save(
            tmp_path / f"LabeledApproved_full/{stem}_L.png"
        )
    for split in ("train", "test"):
        read = open_dataset("camvid32", tmp_path, split)
        assert len(read) == 1 and read.labels.classes == CAMVID.classes
        assert (
            read.read(0)[1] == np.array([255, CAMVID.classes.index("car"), CAMVID.classes.index("road")])[TRUTH]
        ).all()
    for split in ("train", "val", "test"):
        stems = [
            line.split()[0].rsplit("/", 1)[-1][:-4]
            for line in (shared / f"camvid/{split}.txt").read_text().splitlines()
        ]
        assert {camvid_split(stem) for stem in stems} == {split} and len(stems) == {
            "train": 367,
            "val": 101,
            "test": 233,
        }[split]


def test_overlapping_objects_the_smaller_in_front(tmp_path):
    make_coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    document["annotations"] = document["annotations"][1::-1]
    write(path, document)
    assert (named_train_ids(open_dataset("coco", tmp_path), 0) == TRUTH).all()


def test_outlines_and_back_are_exact_and_short():
    assert [(o.number, len(o.rings[0])) for o in outlines_of(TRUTH)] == [
        (0, 4),
        (1, 8),
        (2, 4),
    ]  # the door reaches the foot of the wall
    noise = np.random.default_rng(3).integers(0, 5, (40, 50)).astype(np.uint8)
    assert (paint_layers(noise.shape, tuple(outlines_of(noise, tolerance=0)), ground=77) == noise).all()
    assert (paint_layers(SIZE, (Outline(1, (np.array(WALL, float) * 1e9,)),)) == 0).all()


# ---- layouts without renaming


def pairs(root, images, masks, stems=("a", "b c", "d,e")):
    for stem in stems:
        photo(root / images.format(stem))
        (root / masks.format(stem)).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(TRUTH).save(root / masks.format(stem))


@pytest.mark.parametrize(
    ("images", "masks", "told"),
    [
        ("images/train/{}.jpg", "masks/train/{}.png", {}),
        ("train/images/{}.jpg", "train/labels/{}.png", {}),
        ("training/images/{}.jpg", "training/annotations/{}.png", {}),
        ("images/training/{}.jpg", "annotations/training/{}.png", {}),
        ("train/{}_rgb.png", "train/{}_mask.png", {"image_suffix": "_rgb", "mask_suffix": "_mask"}),
        ("train/{}.jpg", "train/{}.png", {"image_suffix": ".jpg", "mask_suffix": ".png"}),
        ("images/train/{}_img.jpg", "masks/train/{}_gt.png", {"image_suffix": "_img.jpg", "mask_suffix": "_gt.png"}),
        ("train/images/{}.jpg", "train/images/{}_mask.png", {"mask_suffix": "_mask"}),
    ],
)
def test_folders_are_read_without_renaming(tmp_path, images, masks, told):
    pairs(tmp_path, images, masks)
    labels = LabelSet("yard", NAMES, OWN.palette, ((0, 0), (1, 1), (2, 2)))
    read = open_dataset("folder", tmp_path, "train", labels=labels, **told)
    assert [s.name for s in read.samples] == ["a", "b c", "d,e"] and (read.read(1)[1] == TRUTH).all()


def test_valid_is_val_and_a_test_split_needs_no_masks(tmp_path):
    pairs(tmp_path, "images/valid/{}.jpg", "masks/valid/{}.png")
    photo(tmp_path / "images/test/x.jpg")
    labels = LabelSet("yard", NAMES, OWN.palette, ((0, 0), (1, 1), (2, 2)))
    assert len(open_dataset("folder", tmp_path, "val", labels=labels)) == 3
    alone = open_dataset("folder", tmp_path, "test", labels=labels)
    assert alone.samples[0].mask is None and (alone.read(0)[1] == 255).all()


@pytest.mark.parametrize("mark", ["\t", ",", ", ", " "])
def test_lists_with_any_separator_and_any_name(tmp_path, mark):
    pairs(tmp_path, "p h/{}.jpg", "m/{}.png")
    write(tmp_path / "train.txt", "\n".join(f"p h/{s}.jpg{mark}m/{s}.png" for s in ("a", "b c", "d,e")) + "\n\n")
    labels = LabelSet("yard", NAMES, OWN.palette, ((0, 0), (1, 1), (2, 2)))
    read = open_dataset("list", tmp_path, "train", labels=labels)
    assert [s.image.name for s in read.samples] == ["a.jpg", "b c.jpg", "d,e.jpg"]
    assert all((read.read(i)[1] == TRUTH).all() for i in range(3))


def test_unpaired_files_are_skipped_on_request_and_counted(tmp_path):
    """As BDD100K's archive came: images without masks, masks without images."""
    pairs(tmp_path, "images/10k/train/{}.jpg", "labels/sem_seg/masks/train/{}.png", ("3d581db5", "52e3fd10"))
    photo(tmp_path / "images/10k/train/781756b0-61e0a182.jpg")
    Image.fromarray(TRUTH).save(tmp_path / "labels/sem_seg/masks/train/fee92217-63b3f87f.png")
    with pytest.raises(DataError, match="781756b0-61e0a182.jpg has no label image.*--unpaired skip"):
        open_dataset("bdd100k", tmp_path, "train")
    read = open_dataset("bdd100k", tmp_path, "train", unpaired="skip")
    assert len(read) == 2 and list(read.skipped.values()) == [1, 1] and read.subset([0]).skipped == read.skipped
    report = import_dataset("bdd100k", tmp_path, tmp_path / "out", pairing=Pairing(unpaired="skip"))
    assert report.images == {"train": 2} and sum(report.skipped.values()) == 2


def test_cityscapes_with_train_ids_only_and_with_coarse_labels(tmp_path):
    stem = "ulm_000000_000019"
    photo(tmp_path / f"leftImg8bit/train/ulm/{stem}_leftImg8bit.png")
    for kind, ending, number in (("gtFine", "labelTrainIds", 0), ("gtCoarse", "labelIds", 7)):
        (tmp_path / f"{kind}/train/ulm").mkdir(parents=True)
        Image.fromarray(np.full(SIZE, number, np.uint8)).save(tmp_path / f"{kind}/train/ulm/{stem}_{kind}_{ending}.png")
    for name in ("cityscapes", "cityscapes-coarse"):
        assert (open_dataset(name, tmp_path, "train").read(0)[1] == 0).all(), name


def test_one_split_of_cityscapes_has_one_kind_of_numbers(tmp_path):
    """The two kinds of label images mean other classes by one number: a split that mixes them is an error."""
    for k, ending in enumerate(("labelIds", "labelTrainIds")):
        photo(tmp_path / f"leftImg8bit/train/ulm/ulm_00000{k}_000019_leftImg8bit.png")
        (tmp_path / "gtFine/train/ulm").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(SIZE, 7, np.uint8)).save(
            tmp_path / f"gtFine/train/ulm/ulm_00000{k}_000019_gtFine_{ending}.png"
        )
    with pytest.raises(DataError, match="put ulm_000001_000019_gtFine_labelIds.png into"):
        open_dataset("cityscapes", tmp_path, "train")


def test_archives_stay_in_their_folder(tmp_path):
    make_roboflow(tmp_path / "left")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for path in sorted((tmp_path / "left").rglob("*.*")):
            archive.write(path, f"My Project/{path.relative_to(tmp_path / 'left')}")
    report = import_dataset("roboflow", tmp_path / "export.zip", tmp_path / "plain")
    assert report.images == {"train": 2, "val": 2} and not list(tmp_path.glob(".unpacked*"))
    with zipfile.ZipFile(tmp_path / "export.zip", "a") as archive:
        archive.writestr("../../evil.txt", "")
    with pytest.raises(ArtifactError, match="would leave"):
        import_dataset("roboflow", tmp_path / "export.zip", tmp_path / "again")
    assert not list(tmp_path.rglob("evil.txt"))


# ---- and back: shapes for a person, and what to label next


def test_predictions_go_back_to_the_tools_and_return(tmp_path):
    photo(tmp_path / "photos/sub/a.jpg")
    labels = LabelSet("yard", NAMES, ((0, 0, 0), (200, 0, 0), (0, 0, 200)), ((0, 0), (1, 1), (2, 2)))
    asked = Corrections(tmp_path / "out", ("labelme", "coco"), labels, tolerance=0)
    asked.add("sub/a", tmp_path / "photos/sub/a.jpg", TRUTH)
    asked.close()
    document = json.loads((tmp_path / "out/coco.json").read_text())
    assert document["images"][0]["file_name"] == "../photos/sub/a.jpg" and len(document["annotations"]) == 3
    assert json.loads((tmp_path / "out/labelme/sub/a.json").read_text())["imagePath"] == "../../../photos/sub/a.jpg"
    for kind, place in (("labelme", "out/labelme"), ("coco", "out/coco.json")):
        back = open_dataset(kind, tmp_path / place, "train", labels=labels)
        assert back.samples[0].image == tmp_path / "photos/sub/a.jpg" and (back.read(0)[1] == TRUTH).all()


def test_suggestions_are_uncertain_and_unlike_each_other():
    content = np.array([[0.0, 0], [0, 0.1], [5, 5], [5, 5.1], [9, 0]])
    views = Views(np.array([1.0, 0.9, 0.2, 0.3, 0.5]), content)
    assert choose_images(views, 3) == [0, 4, 3] and choose_images(views, 2, known=content[[0, 4]])[0] == 3
    with pytest.raises(ConfigError, match="6 of 5 images"):
        choose_images(views, 6)
