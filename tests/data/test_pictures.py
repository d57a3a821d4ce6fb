"""One reader for photographs and masks: what people's files hold, read rightly or refused by name."""

import warnings

import cv2
import numpy as np
import pytest
from PIL import Image

from rtseg.core.errors import DataError
from rtseg.core.values import LabelSet
from rtseg.data import open_dataset
from rtseg.data.pictures import UPRIGHT, picture_size, read_image, read_mask, read_train_ids
from rtseg.data.images import image_files
from rtseg.explore.answers import open_photo
from rtseg.shipping.server import SERVER

SCENE = np.zeros((24, 40, 3), np.uint8)
SCENE[:12, :20], SCENE[12:, 20:] = (220, 30, 30), (30, 60, 220)
TRUTH = np.zeros((24, 40), np.uint8)
TRUTH[:12, :20], TRUTH[12:, 20:] = 1, 2
YARD = LabelSet(
    "yard",
    ("ground", "wall", "door"),
    ((20, 20, 20), (200, 40, 40), (40, 80, 200)),
    ((0, 0), (1, 1), (2, 2), (255, 255)),
)
TURNS = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
SAVED = {"jpg": {"quality": 95, "subsampling": 0}, "png": {}, "webp": {"lossless": True}}


@pytest.mark.parametrize("ending", [*SAVED, "tif"])
@pytest.mark.parametrize("turn", TURNS)
def test_a_photograph_stands_upright_in_every_reader(tmp_path, turn, ending):
    stored, path = np.ascontiguousarray(TURNS[turn](SCENE)), tmp_path / f"turned.{ending}"
    exif = Image.Exif()
    exif[0x112] = turn
    Image.fromarray(stored).save(
        path, **({"tiffinfo": {274: turn}} if ending == "tif" else {"exif": exif, **SAVED[ending]})
    )
    for read in (read_image(path), open_photo(path), open_photo(path.read_bytes())):
        assert read.shape == SCENE.shape and np.abs(read.astype(int) - SCENE).max() <= 8
    assert picture_size(path) == SCENE.shape[:2]


def test_a_mask_turns_with_its_exif_too(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 3
    Image.fromarray(np.ascontiguousarray(TRUTH[::-1, ::-1])).save(tmp_path / "m.png", exif=exif)
    assert (read_mask(tmp_path / "m.png") == TRUTH).all()


@pytest.mark.parametrize(
    ("bits", "grey", "ending"),
    [(16, False, "png"), (16, True, "png"), (12, False, "png"), (10, True, "tif"), (12, False, "tif")],
)
def test_deep_images_are_scaled_by_their_depth(tmp_path, bits, grey, ending):
    eight = SCENE.mean(-1).astype(np.uint8) if grey else SCENE
    deep = (eight.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    cv2.imwrite(str(tmp_path / f"deep.{ending}"), deep if grey else deep[..., ::-1])
    read = read_image(tmp_path / f"deep.{ending}", bits=None if bits == 16 else bits)
    assert np.abs(read.astype(int) - (np.dstack([eight] * 3) if grey else eight)).max() <= 1


def test_an_empty_looking_range_is_warned_about_and_an_overfull_one_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((8, 8), 1000, np.uint16))
    with pytest.warns(UserWarning, match="nothing above 1000.*bits=12 or bits=10"):
        read_image(tmp_path / "deep.png")
    with pytest.raises(DataError, match="holds 1000, more than 8 bits"):
        read_image(tmp_path / "deep.png", bits=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "deep.png", bits=10).max() == 249


def test_a_fourth_band_is_never_dropped_silently(tmp_path):
    opaque, clear = (np.dstack([SCENE, np.full(SCENE.shape[:2], alpha, np.uint8)]) for alpha in (255, 100))
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "opaque.png") == SCENE).all()
    with pytest.raises(DataError, match="clear.png has 4 bands"):
        read_image(tmp_path / "clear.png")


KINDS = {
    "grey.png": SCENE[..., 0],
    "one bit.png": SCENE[..., 0] > 0,
    "colours.png": SCENE,
    "palette.png": Image.fromarray(SCENE).quantize(8),
    "opaque.png": np.dstack([SCENE, np.full(SCENE.shape[:2], 255, np.uint8)]),
    "grey and opaque.png": Image.fromarray(SCENE[..., 0]).convert("LA"),
    "deep.png": SCENE[..., 0].astype(np.uint16) * 257,
    "a.bmp": SCENE,
    "a.webp": SCENE,
    "a.jpg": SCENE,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_picture_is_decoded_once_as_the_decoder_would_by_itself(tmp_path, monkeypatch, name):
    path, calls, decode = tmp_path / name, [], cv2.imdecode
    picture = KINDS[name] if isinstance(KINDS[name], Image.Image) else Image.fromarray(KINDS[name])
    picture.save(path)
    wanted = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), UPRIGHT)[..., ::-1]
    monkeypatch.setattr(cv2, "imdecode", lambda *words: calls.append(words) or decode(*words))
    read = read_image(path)
    assert (read == (wanted if wanted.dtype == np.uint8 else wanted // 257)).all() and len(calls) == 1
    assert picture_size(path) == read.shape[:2] and len(calls) == 1


def numbers(pixels):
    return Image.fromarray(pixels)


def palette(colours, order=None):
    lookup = np.arange(256) if order is None else np.array(order)
    made = Image.fromarray(lookup[TRUTH].astype(np.uint8))
    made.putpalette([v for colour in colours for v in colour])
    return made


MASKS = {
    "grey": numbers(TRUTH),
    "three": numbers(np.dstack([TRUTH] * 3)),
    "rgba": numbers(np.dstack([*[TRUTH] * 3, np.full_like(TRUTH, 255)])),
    "deep": Image.fromarray(TRUTH.astype(np.uint16)),
    "colour": numbers(YARD.colorize(TRUTH)),
    "soft": numbers(np.clip(YARD.colorize(TRUTH).astype(int) + 7, 0, 255).astype(np.uint8)),
    "adaptive": numbers(YARD.colorize(TRUTH)).convert("P", palette=Image.Palette.ADAPTIVE, colors=8),
    "shuffled": palette([YARD.palette[k] for k in (2, 0, 1)], order=(1, 2, 0)),
    "decorated": palette([(0, 0, 0), (9, 200, 9), (250, 250, 0)]),
}


@pytest.mark.parametrize("kind", MASKS)
def test_every_way_to_say_classes_gives_the_same_train_ids(tmp_path, kind):
    MASKS[kind].save(tmp_path / "m.png")
    assert (read_train_ids(tmp_path / "m.png", YARD) == TRUTH).all()


def test_colours_between_two_classes_count_nowhere_and_unknown_ones_are_named(tmp_path):
    colour = YARD.colorize(TRUTH)
    colour[0, 0] = (120, 60, 120)
    numbers(colour).save(tmp_path / "edge.png")
    assert read_train_ids(tmp_path / "edge.png", YARD)[0, 0] == 255
    colour[:, :5] = (0, 200, 90)
    numbers(colour).save(tmp_path / "lost.png")
    with pytest.raises(DataError, match=r"lost.png has colours that no class .* has: \[0, 200, 90\] \(12.5 %\)"):
        read_train_ids(tmp_path / "lost.png", YARD)


BINARY = {"ids": ((0, 0), (255, 1))}


@pytest.mark.parametrize("kind", ["bytes", "bits", "colour"])
def test_binary_masks(tmp_path, kind):
    door, labels = TRUTH == 2, LabelSet("door", ("rest", "door"), ((0, 0, 0), (255, 255, 255)), BINARY["ids"])
    made = {
        "bytes": numbers(door.astype(np.uint8) * 255),
        "bits": Image.fromarray(door),
        "colour": numbers(np.dstack([door.astype(np.uint8) * 255] * 3)),
    }[kind]
    made.save(tmp_path / "m.png")
    assert (read_train_ids(tmp_path / "m.png", labels) == door).all()


def write_yaml(path, text):
    path.write_text(text)
    return path


YAML = "name: x\n{head}classes:\n  {a}: {{color: [0, 0, 0]{ids_a}}}\n  fg: {{color: [9, 9, 9]{ids_b}}}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"ids_a": ", ids: [0, 1]", "ids_b": ", ids: [1]"}, "id 1 twice, as class 'bg' and as class 'fg'"),
        ({"ids_b": ", ids: [300]"}, "id 300: a mask holds 0 to 255"),
        ({"head": "ignore: [255]\n", "ids_b": ", ids: [255]"}, "id 255 twice, as class 'fg' and as ignored"),
        ({"head": "ignore_index: 0\n"}, "id 0 twice, as class 'bg' and as ignored"),
        ({"a": "no"}, "a class called False.*quotes"),
    ],
)
def test_a_label_set_that_contradicts_itself_is_refused(tmp_path, words, said):
    text = YAML.format(**{"head": "", "a": "bg", "ids_a": "", "ids_b": ""} | words)
    with pytest.raises(DataError, match=said):
        LabelSet.from_yaml(write_yaml(tmp_path / "l.yaml", text))


@pytest.mark.parametrize(
    ("classes", "colours", "said"),
    [
        (("one",), ((0, 0, 0),), "1 class:"),
        (("a", "a"), ((0, 0, 0), (1, 1, 1)), "two classes called 'a'"),
        (("a", "b"), ((0, 0, 0), (1, 1, 256)), r"colour \[1, 1, 256\]"),
    ],
)
def test_classes_are_checked(classes, colours, said):
    with pytest.raises(DataError, match=said):
        LabelSet("x", classes, colours, ((0, 0),))


@pytest.mark.parametrize(
    ("head", "ids", "mask"),
    [
        ("ignore_index: 254\n", "", [[0, 1], [254, 255]]),
        ("ignore_index: 0\n", "shift", [[1, 2], [0, 255]]),
        ("reduce_zero_label: true\n", "", [[1, 2], [0, 255]]),
        ("", "", [[0, 1], [255, 255]]),
    ],
)
def test_what_is_ignored_in_masks_is_255_inside(tmp_path, head, ids, mask):
    shift = {"ids_a": ", ids: [1]", "ids_b": ", ids: [2]"} if ids else {"ids_a": "", "ids_b": ""}
    labels = LabelSet.from_yaml(write_yaml(tmp_path / "l.yaml", YAML.format(head=head, a="bg", **shift)))
    assert labels.ignore_index == 255 and labels.encode(np.array(mask, np.uint8)).tolist() == [[0, 1], [255, 255]]
    labels.to_yaml(tmp_path / "again.yaml")
    assert LabelSet.from_yaml(tmp_path / "again.yaml").ids == tuple(
        sorted(labels.ids, key=lambda pair: (pair[1], labels.ids.index(pair)))
    )


def test_a_class_may_take_255(tmp_path):
    labels = LabelSet.from_yaml(
        write_yaml(tmp_path / "l.yaml", YAML.format(head="", a="bg", ids_a="", ids_b=", ids: [255]"))
    )
    assert labels.encode(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]


def pair(root, name, *, folder=""):
    for kind, pixels in (("images", SCENE), ("masks", TRUTH)):
        (root / kind / "train" / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / kind / "train" / folder / name)


def test_folders_need_classes_and_leave_out_what_is_no_data(tmp_path):
    pair(tmp_path, "a.png")
    pair(tmp_path / "far", "b.png")
    for kind in ("images", "masks"):
        (tmp_path / kind / "train" / ".ipynb_checkpoints").mkdir()
        Image.fromarray(SCENE).save(tmp_path / kind / "train" / ".ipynb_checkpoints" / "a-checkpoint.png")
        (tmp_path / kind / "train" / "._a.png").write_bytes(b"resource fork")
        (tmp_path / kind / "train" / "linked").symlink_to(tmp_path / "far" / kind / "train")
    with pytest.raises(DataError, match="'folder' has no classes of its own: give labels"):
        open_dataset("folder", tmp_path, "train")
    data = open_dataset("folder", tmp_path, "train", labels=YARD)
    assert [sample.name for sample in data.samples] == ["a", "linked/b"] and (data.read(1)[1] == TRUTH).all()


def test_a_link_to_its_own_folder_ends(tmp_path):
    pair(tmp_path, "a.png")
    (tmp_path / "images" / "train" / "loop").symlink_to(tmp_path / "images" / "train")
    (tmp_path / "masks" / "train" / "loop").symlink_to(tmp_path / "masks" / "train")
    assert len(open_dataset("folder", tmp_path, "train", labels=YARD)) == 1


def test_pictures_keep_their_names_apart(tmp_path):
    pair(tmp_path, "a.png")
    Image.fromarray(SCENE).save(tmp_path / "images" / "train" / "a.jpg")
    with pytest.raises(DataError, match="one name but for their ending"):
        open_dataset("folder", tmp_path, "train", labels=YARD)
    assert [name for name, _ in image_files(tmp_path / "images")] == ["train/a.jpg", "train/a.png"]
    pair(tmp_path, "c.png", folder="one")
    pair(tmp_path, "c.png", folder="two")
    (tmp_path / "train.txt").write_text(
        "".join(f"images/train/{where}/c.png masks/train/{where}/c.png\n" for where in ("one", "two"))
    )
    assert [sample.name for sample in open_dataset("list", tmp_path, "train", labels=YARD).samples] == [
        "images/train/one/c",
        "images/train/two/c",
    ]


def test_names_of_masks_say_train_ids_only_where_nothing_else_is_said(tmp_path):
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / "masks/train").mkdir(parents=True)
    Image.fromarray(SCENE).save(tmp_path / "images/train/a.png")
    Image.fromarray(np.full(TRUTH.shape, 11, np.uint8)).save(tmp_path / "masks/train/a_train_id.png")
    person, building = 11, 2
    assert open_dataset("folder", tmp_path, "train", labels="cityscapes").read(0)[1][0, 0] == person
    assert (
        open_dataset("folder", tmp_path, "train", labels="cityscapes", mask_ids="dataset").read(0)[1][0, 0] == building
    )
    own = LabelSet("own", ("a", "b"), ((0, 0, 0), (9, 9, 9)), ((0, 0), (11, 1)))
    assert open_dataset("folder", tmp_path, "train", labels=own).read(0)[1][0, 0] == 1


def test_the_script_without_torch_reads_as_we_do(tmp_path):
    """`serve.py` has its own reader, in Pillow: the same files give the same pixels, and the same are refused."""
    served = {"__name__": "served"}
    exec(SERVER, served)
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(SCENE).save(tmp_path / "turned.jpg", quality=95, subsampling=0, exif=exif)
    cv2.imwrite(str(tmp_path / "deep.png"), SCENE[..., 0].astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "deep_colour.png"), SCENE.astype(np.uint16) * 257)
    Image.fromarray(SCENE[..., 0]).save(tmp_path / "grey.webp", lossless=True)
    Image.fromarray(np.dstack([SCENE, np.full(SCENE.shape[:2], 255, np.uint8)])).save(tmp_path / "opaque.png")
    for path in sorted(tmp_path.iterdir()):
        assert np.abs(np.asarray(served["photograph"](path)).astype(int) - read_image(path)).max() <= 1, path.name
    Image.fromarray(np.dstack([SCENE, np.full(SCENE.shape[:2], 100, np.uint8)])).save(tmp_path / "clear.png")
    with pytest.raises(ValueError, match="mode RGBA"):
        served["photograph"](tmp_path / "clear.png")


def test_masks_of_floating_point_numbers_are_read_if_the_numbers_are_whole(tmp_path):
    ids = np.array([[0, 1, 2], [2, 255, 0]], np.float32)
    labels = LabelSet(
        "three", ("a", "b", "c"), ((1, 2, 3), (90, 60, 30), (0, 200, 0)), ((0, 0), (1, 1), (2, 2), (255, 255))
    )
    Image.fromarray(ids).save(tmp_path / "whole.tif")
    assert (read_train_ids(tmp_path / "whole.tif", labels) == ids).all()
    for wrong in (0.5, np.nan, 1e6, -2.0):
        Image.fromarray(np.where(ids == 1, np.float32(wrong), ids)).save(tmp_path / "wrong.tif")
        with pytest.raises(DataError, match=r"wrong\.tif"):
            read_train_ids(tmp_path / "wrong.tif", labels)


@pytest.mark.parametrize("kind", ["CMYK", "YCbCr", "P", "LA", "1"])
def test_photographs_of_other_modes_are_the_same_picture(tmp_path, kind):
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    picture = Image.fromarray(
        np.stack([np.tile(ramp, (48, 1)), np.tile(ramp[::-1], (48, 1)), np.full((48, 64), 90, np.uint8)], -1)
    )
    stored = picture.convert(kind)
    stored.save(tmp_path / "photo.tif")
    wanted = np.asarray(stored.convert("RGB")).astype(int)
    assert np.abs(read_image(tmp_path / "photo.tif").astype(int) - wanted).mean() < 2
