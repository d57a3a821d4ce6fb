"""Ways of asking a network, boundary IoU, the official evaluation, videos, arrays, and what may go wrong while they run."""

import csv
import errno
import gc
import hashlib
import json
import resource
import tracemalloc
import weakref
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from rtseg.core.errors import ArtifactError, ConfigError, DataError
from rtseg.core.values import EvalReport
from rtseg.core.weights import InputSpec, WeightsInfo
from rtseg.data.datasets import SegDataset, open_dataset
from rtseg.data.images import read_ahead
from rtseg.data.layouts import Sample
from rtseg.data.labels import CITYSCAPES
from rtseg.data.loading import normalize
from rtseg.data.scenes import make_scenes
from rtseg.evaluation import inference
from rtseg.evaluation.boundary import BoundaryMeter, band_width, boundary_band, boundary_iou
from rtseg.evaluation.evaluator import evaluate, save_trained
from rtseg.evaluation.inference import Inference, View, class_scores, predict_ids, view_logits, window_counts, windows
from rtseg.evaluation.metrics import cityscapes_categories, class_iou, join_classes, mean_iou, report_table
from rtseg.evaluation.prediction import predict
from rtseg.evaluation.video import frames_ahead, read_frames, video_facts, write_video
from rtseg.models.loading import spec_of
from rtseg.models.registry import create_model


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Six scenes in Cityscapes' layout."""
    return make_scenes(
        tmp_path_factory.mktemp("scenes"), seed=5, counts={"train": 1, "val": 6, "test": 1}, size=(64, 128)
    )


@pytest.fixture(scope="module")
def val(scenes):
    """The validation scenes, opened."""
    return open_dataset("synthetic", scenes, "val")


class Looking(nn.Module):
    """Random convolutions with a field of view, whose answers vary; counts the batches it is given."""

    def __init__(self, seed=0, stride=2):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(3, 12, 5, stride, 2),
            nn.ReLU(),
            nn.Conv2d(12, 12, 3, padding=3, dilation=3),
            nn.ReLU(),
            nn.Conv2d(12, 19, 1),
        )
        nn.init.normal_(self.body[0].weight, std=0.5)
        nn.init.normal_(self.body[4].weight, std=2)
        self.shapes = []

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        return F.interpolate(self.body(x), size=x.shape[-2:], mode="bilinear")


def some_images(count=3, height=64, width=96, seed=0):
    """Random images N x 3 x H x W uint8."""
    return torch.randint(
        0, 256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


# ways of asking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 96), (65, 91), (80, 80)])
@pytest.mark.parametrize(
    "asked",
    [
        Inference(mode="sliding", crop=2000),
        Inference(scales=(1.0,)),
        Inference(mode="sliding", crop=(100, 96), overlap=0.5),
    ],
)
def test_what_has_to_equal_the_whole_does(size, asked):
    net, images = Looking().eval(), some_images(3, *size)
    with torch.inference_mode():
        plain = net(normalize(images).contiguous(memory_format=torch.channels_last))
    assert torch.equal(class_scores(net, images, inference=Inference()), plain)
    assert torch.equal(class_scores(net, images, inference=asked), plain)


def test_the_overlap_is_averaged_by_counts():
    """Two windows by hand: 64 columns, windows of 40 at 0 and 24."""
    net, images = Looking(stride=1).eval(), some_images(2, 64, 64)
    asked = Inference(mode="sliding", crop=(64, 40), overlap=0.4)
    assert [(c.start, c.stop) for _, c in windows((64, 64), asked)] == [(0, 40), (24, 64)]
    with torch.inference_mode():
        x = normalize(images)
        left, right = net(x[..., :40]), net(x[..., 24:])
    expected = torch.cat([left[..., :24], (left[..., 24:] + right[..., :16]) / 2, right[..., 16:]], -1)
    found = class_scores(net, images, inference=asked)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert window_counts((64, 64), asked)[0].tolist() == [1] * 24 + [2] * 16 + [1] * 24


def test_many_views_by_hand():
    net, images = Looking().eval(), some_images(2)
    with torch.inference_mode():
        x = normalize(images)
        half = F.interpolate(x, size=(32, 48), mode="bilinear")
        answers = [
            net(x),
            net(x.flip(-1)).flip(-1),
            F.interpolate(net(half), size=(64, 96), mode="bilinear"),
            F.interpolate(net(half.flip(-1)).flip(-1), size=(64, 96), mode="bilinear"),
        ]
        expected = sum(a.softmax(1) for a in answers) / 4
    assert (class_scores(net, images, inference=Inference(scales=(1.0, 0.5), flip=True)) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("corners", [False, True])
def test_reduced_input_with_logits_at_the_labels_size(corners):
    """STDC-Seg50: the image at half its size, the logits enlarged."""
    net, images = Looking().eval(), some_images(2)
    with torch.inference_mode():
        small = F.interpolate(normalize(images), size=(32, 48), mode="bilinear", align_corners=corners)
        expected = F.interpolate(net(small), size=(64, 96), mode="bilinear", align_corners=corners)
    found = class_scores(net, images, inference=Inference(scale=0.5, align_corners=corners))
    assert found.shape == (2, 19, 64, 96) and (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert net.shapes[-1] == (2, 3, 32, 48)


def test_a_mirror_symmetric_network_gains_nothing_from_the_mirror():
    net, images = Looking(stride=1).eval(), some_images()
    for layer in net.body:
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = (layer.weight.data + layer.weight.data.flip(-1)) / 2
    once, twice = (class_scores(net, images, inference=Inference(flip=flip)) for flip in (False, True))
    assert (once.softmax(1) - twice).abs().max() < 1e-5
    assert (predict_ids(net, images, inference=Inference(flip=True)) == predict_ids(net, images)).float().mean() > 0.999
    lopsided = class_scores(Looking().eval(), images, inference=Inference(flip=True))
    assert (lopsided - class_scores(Looking().eval(), images).softmax(1)).abs().max() > 0.01


def test_scales_of_windows_combine():
    net, images = Looking().eval(), some_images(2)
    asked = Inference(mode="sliding", crop=48, scales=(0.75, 1.5), flip=True)
    with torch.inference_mode():
        views = [
            view_logits(net, normalize(images), View(s, f), asked, batch_size=3)
            for s in (0.75, 1.5)
            for f in (False, True)
        ]
    assert (class_scores(net, images, inference=asked) - sum(v.softmax(1) for v in views) / 4).abs().max() < 1e-5
    assert {shape[2:] for shape in net.shapes} == {(48, 48)}


def test_windows_of_several_images_share_a_batch():
    net, images = Looking().eval(), some_images(3, 64, 128)
    asked = Inference(mode="sliding", crop=64)
    assert len(windows((64, 128), asked)) == 3
    together = class_scores(net, images, inference=asked, batch_size=5)
    assert [shape[0] for shape in net.shapes] == [5, 4]
    alone = torch.cat([class_scores(net, image[None], inference=asked, batch_size=1) for image in images])
    assert (together - alone).abs().max() < 1e-4 * alone.abs().max()


def test_larger_views_are_computed_in_smaller_batches():
    net = Looking().eval()
    class_scores(net, some_images(8), inference=Inference(scales=(1.0, 2.0)), batch_size=8)
    assert [(shape[0], shape[2:]) for shape in net.shapes] == [(8, (64, 96)), *[(2, (128, 192))] * 4]


def test_a_zoo_network_in_every_way(val):
    torch.manual_seed(0)
    net, val = create_model("fastscnn", 19).eval(), val.subset(range(2))
    for asked in (Inference(mode="sliding", crop=64, flip=True), Inference(scale=1.5)):
        report = evaluate(net, val, inference=asked, batch_size=3)
        assert report.images == 2 and np.sum(report.confusion) == sum((val.read(i)[1] != 255).sum() for i in range(2))
    with pytest.raises(DataError, match="at least 64 x 64"):
        evaluate(net, val, inference=Inference(scale=0.5))


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "whol"},
        {"scales": []},
        {"scales": [1, 1]},
        {"scales": [-1]},
        {"scale": 9},
        {"crop": [0, 5]},
        {"overlap": 1},
        {"flips": True},
    ],
)
def test_impossible_settings_are_one_line(wrong):
    with pytest.raises(ConfigError) as error:
        Inference.parse(wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("precision, tolerance", [("bf16", 0.03), ("fp16", 0.01)])
def test_half_precision_in_windows(precision, tolerance):
    asked, images = Inference(mode="sliding", crop=48, flip=True), some_images()
    full, half = (class_scores(Looking().eval(), images, inference=asked, precision=p) for p in ("fp32", precision))
    assert half.dtype == torch.float32 and (full.argmax(1) != half.argmax(1)).float().mean() < tolerance


def test_the_report_says_how_it_was_made(val):
    asked = Inference(mode="sliding", crop=48, scales=(0.5, 1.0), flip=True)
    report = evaluate(Looking(), val, inference=asked, precision="bf16", boundary=True)
    again = EvalReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again == report and report.inference["precision"] == "bf16"
    assert Inference.parse({key: report.inference[key] for key in Inference.model_fields}) == asked
    table = report_table(report)
    assert "boundary IoU" in table and "windows of 48 x 48, scale 0.5, 1, mirrored too, bf16" in table
    older = {key: value for key, value in report.to_dict().items() if key not in ("inference", "boundary_iou")}
    assert EvalReport.from_dict(older).inference == {} and "asked" not in report_table(EvalReport.from_dict(older))


# memory ---------------------------------------------------------------------------------------------------------------


class Drawn(SegDataset):
    """Images that are made when they are read, and watched while they live."""

    def __init__(self, count, labels):
        super().__init__("drawn", [Sample("none", None, str(i)) for i in range(count)], split="val", labels=labels)
        self.alive, self.most = weakref.WeakValueDictionary(), 0

    def read(self, index):
        image = np.full((48, 96, 3), index, np.uint8)
        self.alive[index] = image
        self.most = max(self.most, len(self.alive))
        return image, np.full((48, 96), index % 19, np.uint8)


@pytest.mark.parametrize("asked", [Inference(), Inference(mode="sliding", crop=48, flip=True)])
def test_images_do_not_pile_up(asked):
    most, peaks, net = [], [], nn.Conv2d(3, 19, 1)
    evaluate(net, Drawn(3, CITYSCAPES), inference=asked, batch_size=3)  # what is imported late is imported now
    for count in (8, 32):
        gc.collect()
        data = Drawn(count, CITYSCAPES)
        tracemalloc.start()
        evaluate(net, data, inference=asked, batch_size=3)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        most.append(data.most)
        assert len(data.alive) == 0
    assert max(most) <= 4 + 3 + 3, "four read ahead, a batch that is collected, and one that goes"
    assert peaks[1] - peaks[0] < 8 * 48 * 96 * 4, "less than a third of what the 24 further images would take"


def test_predict_keeps_no_images(tmp_path):
    data = Drawn(30, CITYSCAPES)
    predict(nn.Conv2d(3, 19, 1), data, CITYSCAPES, tmp_path, kinds=["ids"], batch_size=3, progress=False)
    assert data.most <= 10


def test_reading_ahead_stops_with_the_reader():
    seen = []

    def read(i):
        seen.append(i)
        if i == 3:
            raise DataError("image 3 is damaged")
        return i

    with pytest.raises(DataError, match="image 3"):
        list(read_ahead(read, 100))
    assert max(seen) <= 3 + 4


# the official evaluation ----------------------------------------------------------------------------------------------


def official_scores(folder, labels, monkeypatch, capsys):
    """What cityscapesscripts says about a folder of label-id PNGs."""
    for name, value in {
        "predictionPath": str(folder),
        "predictionWalk": None,
        "groundTruthSearch": "",
        "evalInstLevelScore": False,
        "evalPixelAccuracy": False,
        "JSONOutput": False,
        "quiet": True,
        "bold": "",
        "nocol": "",
        "colorized": False,
    }.items():
        monkeypatch.setattr(official.args, name, value)
    result = official.evaluateImgLists(
        [official.getPrediction(official.args, path) for path in labels], labels, official.args
    )
    capsys.readouterr()
    return result


@pytest.mark.parametrize(
    "asked", [Inference(), Inference(mode="sliding", crop=64, scales=(1.0, 1.5), flip=True), Inference(scale=0.5)]
)
def test_scores_agree_with_the_official_evaluation(val, tmp_path, asked, monkeypatch, capsys):
    report = evaluate(Looking(), val, inference=asked, batch_size=4, predictions=tmp_path / "ids")
    result = official_scores(tmp_path / "ids", [str(sample.mask) for sample in val.samples], monkeypatch, capsys)
    assert len({tuple(row) for row in report.confusion}) > 5, "a network that says many things"
    for ours, name in zip(report.iou, report.classes, strict=True):
        theirs = result["classScores"][name]
        assert np.isnan(theirs) if ours is None else abs(ours - theirs) < 1e-6
    assert abs(report.miou - result["averageScoreClasses"]) < 1e-6
    groups = cityscapes_categories()
    joined = join_classes(torch.tensor(report.confusion), groups)
    for ours, name in zip(class_iou(joined), groups, strict=True):
        theirs = result["categoryScores"][name]
        assert np.isnan(theirs) if ours is None else abs(ours - theirs) < 1e-6
    assert abs(mean_iou(joined) - result["averageScoreCategories"]) < 1e-6


def test_groups_are_complete_and_disjoint():
    for groups in ({"a": (0, 1)}, {"a": (0, 1), "b": (1, 2)}, {"a": (0, 1, 2, 3)}):
        with pytest.raises(ConfigError, match="in one group"):
            join_classes(torch.eye(3, dtype=torch.long), groups)


# boundary IoU ---------------------------------------------------------------------------------------------------------


def near_the_outline(mask, distance):
    """By definition: pixels of the mask that see something else, or the outside, in the square around them."""
    height, width = mask.shape
    out = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        ys, xs = np.arange(y - distance, y + distance + 1), np.arange(x - distance, x + distance + 1)
        outside = ys[0] < 0 or xs[0] < 0 or ys[-1] >= height or xs[-1] >= width
        out[y, x] = outside or not mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].all()
    return out


@pytest.mark.parametrize("distance", [1, 2, 4])
def test_the_band_agrees_with_its_definition(distance):
    blobs = cv2.GaussianBlur(np.random.default_rng(0).random((30, 40)), (0, 0), 3)
    mask = blobs > np.median(blobs)
    assert np.array_equal(boundary_band(mask, distance), near_the_outline(mask, distance))


def test_erosion_step_by_step_gives_the_same_band():
    """The paper's code erodes d times by 3 x 3 in a frame of zeros."""
    blobs = cv2.GaussianBlur(np.random.default_rng(1).random((60, 80)), (0, 0), 4)
    mask = blobs > np.median(blobs)
    framed = cv2.erode(np.pad(mask.astype(np.uint8), 1), np.ones((3, 3), np.uint8), iterations=5)[1:-1, 1:-1]
    assert np.array_equal(boundary_band(mask, 5), mask & ~framed.astype(bool))


def test_boundary_iou_by_hand():
    true, found = torch.zeros(40, 40, dtype=torch.uint8), torch.zeros(40, 40, dtype=torch.uint8)
    true[10:20, 10:20], found[10:20, 12:22] = 1, 1
    assert band_width(40, 40) == 1
    assert boundary_iou(found, true, 2)[1] == 16 / (36 + 36 - 16)  # 8 columns in common, two rows
    assert boundary_iou(true, true, 3) == (1.0, 1.0, None)
    assert boundary_iou(torch.zeros_like(true), true, 2)[1] == 0.0
    assert boundary_iou(found, true, 2, dilation=0.9)[1] == 80 / 120  # bands as wide as the image: IoU


def test_boundary_iou_ignores_void():
    true = torch.zeros(40, 40, dtype=torch.uint8)
    true[10:20, 10:20] = 1
    found = true.clone()
    true[:, 20:] = 255
    found[:, 20:] = 7
    assert boundary_iou(found, true, 8) == (1.0, 1.0, *[None] * 6)
    meter = BoundaryMeter(2)
    meter.update(true[None], true[None])
    assert meter.union[1] == 10 * 10 - 8 * 9, "no band along void"


def test_boundary_iou_adds_up_over_images(val):
    net = Looking().eval()
    report = evaluate(net, val, boundary=True, batch_size=4)
    meter = BoundaryMeter(19)
    for i in range(len(val)):
        image, label = val.read(i)
        meter.update(predict_ids(net, torch.from_numpy(image).permute(2, 0, 1)[None])[0], torch.from_numpy(label))
    assert report.boundary_iou == meter.iou() and report.boundary_miou < report.miou
    assert evaluate(net, val).boundary_iou is None
    with pytest.raises(ConfigError, match="share of the image's diagonal"):
        BoundaryMeter(19, dilation=20)


# arrays, images, videos -----------------------------------------------------------------------------------------------


@pytest.fixture
def film(tmp_path):
    """A film of nine frames, 64 x 96, 12 a second."""
    return write_video(
        tmp_path / "drive.avi", [some_images(1, seed=i)[0].permute(1, 2, 0).numpy() for i in range(9)], fps=12
    )


def test_arrays_images_and_frames_say_the_same(tmp_path, film):
    net, asked = Looking(), Inference(mode="sliding", crop=48)
    frames = list(read_frames(film))
    answers = [predict(net, frame, CITYSCAPES, inference=asked) for frame in frames]
    assert answers[0].shape == (64, 96) and answers[0].dtype == np.uint8
    (done,) = predict(
        net, film, CITYSCAPES, tmp_path / "video", kinds=["ids", "color"], inference=asked, batch_size=4, progress=False
    )
    kept = [np.asarray(Image.open(path)) for path in sorted(done.files["ids"].iterdir())]
    assert len(kept) == 9 and all(
        (CITYSCAPES.decode(a) == k).mean() > 0.999 for a, k in zip(answers, kept, strict=True)
    )
    np.save(tmp_path / "frame.npy", frames[3])
    (done,) = predict(
        net, tmp_path / "frame.npy", CITYSCAPES, tmp_path / "array", kinds=["ids"], inference=asked, progress=False
    )
    assert np.array_equal(np.asarray(Image.open(done.files["ids"])), CITYSCAPES.decode(answers[3]))


def test_a_video_has_a_time_line_and_is_decoded_ahead(tmp_path, film):
    assert all(np.array_equal(a, b) for a, b in zip(frames_ahead(film), read_frames(film), strict=True))
    kinds = ["ids", "timeline"]
    (done,) = predict(Looking(), film, CITYSCAPES, tmp_path / "video", kinds=kinds, batch_size=2, progress=False)
    masks = [np.asarray(Image.open(path)) for path in sorted(done.files["ids"].iterdir())]
    rows = list(csv.DictReader(done.files["timeline"].open()))
    still = [(one == other).mean() for one, other in zip(masks, masks[1:], strict=False)]
    assert [float(row["stability"]) for row in rows[1:]] == pytest.approx(still, abs=1e-5) and rows[0][
        "stability"
    ] == ""
    assert done.frames == 9 and done.stability == pytest.approx(sum(still) / 8) and done.seconds > 0
    assert done.film_text().startswith("9 frames, ") and f"{done.stability:.2%} of the labels as in" in done.film_text()
    shares = [sum(float(row[name]) for name in CITYSCAPES.classes if name in row) for row in rows]
    assert shares == pytest.approx([1.0] * 9, abs=1e-4) and float(rows[8]["second"]) == pytest.approx(8 / 12, abs=1e-4)


@pytest.mark.parametrize("name", ["seen.mp4", "seen.avi"])
def test_a_video_becomes_an_overlay_of_the_same_rate(tmp_path, film, name):
    (done,) = predict(Looking(), film, CITYSCAPES, tmp_path / name, alpha=1.0, progress=False)
    assert done.files == {"overlay": tmp_path / name} and video_facts(tmp_path / name) == (12.0, 64, 96, 9)
    ids = predict(Looking(), next(read_frames(film)), CITYSCAPES)
    painted = next(read_frames(tmp_path / name)).astype(int)
    assert np.abs(painted - CITYSCAPES.colorize(ids)).mean() < 40, "the colours, as far as the codec keeps them"
    before = (tmp_path / name).read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        predict(Looking(), film, CITYSCAPES, tmp_path / name, progress=False)
    assert (tmp_path / name).read_bytes() == before
    predict(Looking(), film, CITYSCAPES, tmp_path / name, alpha=0.0, overwrite=True, progress=False)
    assert (tmp_path / name).read_bytes() != before


class Counting:
    """How often pictures are decoded, and the pixels that `normalize` makes."""

    def __init__(self, monkeypatch):
        decode, self.decoded, self.normalized = cv2.imdecode, 0, []

        def counted(*words):
            self.decoded += 1
            return decode(*words)

        def kept(images):
            self.normalized.append(normalize(images))
            return self.normalized[-1]

        monkeypatch.setattr(cv2, "imdecode", counted)
        monkeypatch.setattr(inference, "normalize", kept)


@pytest.fixture
def counting(monkeypatch):
    return Counting(monkeypatch)


class Handed(Looking):
    """Keeps where the batches lie that it is handed, and whether their channels are last."""

    def __init__(self):
        super().__init__()
        self.places = []

    def forward(self, x):
        self.places.append((x.data_ptr(), x.is_contiguous(memory_format=torch.channels_last)))
        return super().forward(x)


def test_images_are_decoded_once_and_handed_on_as_they_lie(tmp_path, val, counting):
    """What `normalize` has made of the pixels as they were read is what the network sees: no second decoding, no second layout."""
    for look in (lambda net: evaluate(net, val, batch_size=2), lambda net: predict(net, val, CITYSCAPES, tmp_path)):
        counting.decoded, counting.normalized, net = 0, [], Handed()
        look(net)
        assert counting.decoded == len(val) and len(net.places) == len(counting.normalized) > 1
        assert net.places == [(made.data_ptr(), True) for made in counting.normalized]
    net = Handed()
    class_scores(net, some_images(), inference=Inference(mode="sliding", crop=32, scales=(0.5, 1.0), flip=True))
    assert all(last for _, last in net.places)


def test_a_folder_is_predicted_in_batches(tmp_path):
    for i, size in enumerate([(96, 64), (96, 64), (96, 64), (80, 64), (96, 64)]):
        Image.new("RGB", size, (40 * i, 90, 20)).save(tmp_path / f"{i}.png")
    net = Looking()
    done = predict(net, tmp_path, CITYSCAPES, tmp_path / "out", batch_size=2, kinds=["overlay"], progress=False)
    assert [shape[0] for shape in net.shapes] == [2, 1, 1, 1] and [p.name for p in done] == list("01234")


@pytest.mark.parametrize(
    "wrong", [np.zeros((64, 64), np.uint8), np.zeros((3, 64, 64), np.uint8), np.zeros((64, 64, 3), np.float32)]
)
def test_arrays_that_are_no_images_are_refused(tmp_path, wrong):
    with pytest.raises(DataError, match="H x W x 3"):
        predict(Looking(), wrong, CITYSCAPES)
    np.save(tmp_path / "x.npy", wrong)
    with pytest.raises(DataError, match="x.npy"):
        predict(Looking(), tmp_path / "x.npy", CITYSCAPES, tmp_path / "out", progress=False)


def test_where_it_goes_has_to_be_said(tmp_path, film):
    with pytest.raises(ConfigError, match="out= is missing"):
        predict(Looking(), film, CITYSCAPES)
    with pytest.raises(ConfigError, match="leave out= away"):
        predict(Looking(), np.zeros((64, 64, 3), np.uint8), CITYSCAPES, tmp_path)
    with pytest.raises(ConfigError, match="one film"):
        predict(Looking(), film, CITYSCAPES, tmp_path / "x.mp4", kinds=["ids"])
    with pytest.raises(ConfigError, match="opacity"):
        predict(Looking(), film, CITYSCAPES, tmp_path / "x.mp4", alpha=2)
    assert not (tmp_path / "x.mp4").exists()


# faults ---------------------------------------------------------------------------------------------------------------


def everything_in(folder):
    """Names of all files below a folder, temporary ones too."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


@pytest.mark.parametrize("damage", ["text", "half", "empty"])
def test_a_broken_video_leaves_nothing(tmp_path, film, damage):
    data = film.read_bytes()
    broken = tmp_path / f"{damage}.avi"
    broken.write_bytes({"text": b"not a film", "half": data[: len(data) // 2], "empty": b""}[damage])
    with pytest.raises(DataError, match=f"{damage}.avi") as error:
        predict(Looking(), broken, CITYSCAPES, tmp_path / "out", progress=False)
    assert "\n" not in str(error.value) and everything_in(tmp_path / "out") == []


class Stops(Looking):
    """A network during whose third batch something happens."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        if len(self.shapes) == 2:
            raise self.error
        return super().forward(x)


def test_ctrl_c_leaves_no_half_written_file(tmp_path, film, val):
    with pytest.raises(KeyboardInterrupt):
        predict(
            Stops(KeyboardInterrupt()), film, CITYSCAPES, tmp_path / "video", kinds=["overlay", "ids"], progress=False
        )
    assert everything_in(tmp_path / "video") == ["000000.png", "000001.png"], "whole pictures, and no film"
    with pytest.raises(KeyboardInterrupt):
        evaluate(Stops(KeyboardInterrupt()), val, predictions=tmp_path / "ids")
    kept = everything_in(tmp_path / "ids")
    assert len(kept) == 2 and all(name.endswith(".png") and not name.startswith(".") for name in kept)


@contextmanager
def largest_file(size):
    """No file may grow beyond `size` bytes: what a full disk does to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line(tmp_path, film, val):
    for folder, work in (
        ("pictures", lambda out: predict(Looking(), val, CITYSCAPES, out, kinds=["overlay"], progress=False)),
        ("video", lambda out: predict(Looking(), film, CITYSCAPES, out, progress=False)),
        ("scores", lambda out: evaluate(Looking(), val, predictions=out)),
    ):
        with largest_file(700), pytest.raises(ArtifactError, match="make room") as error:
            work(tmp_path / folder)
        assert "\n" not in str(error.value) and everything_in(tmp_path / folder) == []


def test_no_space_left_names_the_file(tmp_path, val, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ArtifactError, match=f"{tmp_path}.*No space left on device"):
        evaluate(Looking(), val, predictions=tmp_path / "ids")


def test_a_corrupt_image_is_named(tmp_path, val):
    (tmp_path / "bad.png").write_bytes(val.samples[0].image.read_bytes()[:500])
    samples = [*val.samples[:2], Sample(tmp_path / "bad.png", val.samples[0].mask, "bad")]
    for batch_size in (1, 3):
        with pytest.raises(DataError, match="bad.png") as error:
            evaluate(Looking(), SegDataset("x", samples, split="val", labels=val.labels), batch_size=batch_size)
        assert "\n" not in str(error.value)


# the command line -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of an untrained network."""
    torch.manual_seed(0)
    network = create_model("fastscnn", 19)
    info = WeightsInfo(spec_of(network), CITYSCAPES, InputSpec((64, 128)))
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    return save_trained(path, network.state_dict(), epoch=3, which="best", seed=0, info=info)


def test_evaluate_is_typed(typed, tmp_path, scenes, weights, counting, monkeypatch):
    read = []
    for name, does in (("rtseg.core.files.load_file", load_file), ("hashlib.file_digest", hashlib.file_digest)):
        monkeypatch.setattr(name, lambda *words, name=name, does=does: read.append(name) or does(*words))
    code, out, _ = typed(
        f"evaluate {weights} --model fastscnn --dataset synthetic --data {scenes} --split test --inference sliding --crop 64 --scales 1.0,1.5 --flip "
        f"--boundary --precision bf16 --force --device cpu --batch-size 4 --out {tmp_path}/r.json --predictions {tmp_path}/ids"
    )
    report = EvalReport.load(tmp_path / "r.json")
    assert code == 0 and "windows of 64 x 64, scale 1, 1.5, mirrored too, bf16" in out and "categories: flat" in out
    assert (
        report.inference["flip"]
        and report.boundary_miou is not None
        and len(everything_in(tmp_path / "ids")) == 1
        and report.origin.epoch == 3
        and counting.decoded == report.images == 1
        and read == ["rtseg.core.files.load_file", "hashlib.file_digest"]
    )


def test_predict_is_typed(typed, tmp_path, film, weights):
    line = f"predict {weights} {film} --out {tmp_path}/seen.mp4 --alpha 0.3 --device cpu --batch-size 4"
    assert typed(line)[0] == 0 and video_facts(tmp_path / "seen.mp4").frames == 9
    code, _, err = typed(line)
    assert code == 1 and "exists" in err and "--overwrite" in err and err.count("\n") == 1
    assert typed(f"{line} --overwrite")[0] == 0
    np.save(tmp_path / "a.npy", np.zeros((64, 96, 3), np.uint8))
    assert typed(f"predict {weights} {tmp_path}/a.npy --out {tmp_path}/a --kinds ids --flip")[0] == 0
    assert everything_in(tmp_path / "a") == ["a.png"]


@pytest.mark.parametrize(
    "words, said",
    [
        ("--crop 512", "--inference sliding"),
        ("--inference slidnig", "did you mean 'sliding'"),
        ("--scales 1,x", "0.5,1.0,1.5"),
        ("--device cuda:77", "not here"),
        ("--precision fp8", "precision 'fp8'"),
        ("--inference sliding --overlap 1.5", "overlap"),
        ("--scale 0", "scale"),
    ],
)
def test_mistyped_ways_of_asking(typed, scenes, weights, words, said):
    code, out, err = typed(f"evaluate {weights} --model fastscnn --dataset synthetic --data {scenes} {words}")
    assert code == 1 and out == "" and said in err.splitlines()[-1] and "Traceback" not in err


def test_help_shows_the_ways(typed):
    for command, words in (
        ("evaluate", ("--scale 0.5", "--flip", "--boundary", "--inference sliding")),
        ("predict", ("drive.mp4", "--alpha", "--overwrite")),
    ):
        code, out, _ = typed(f"{command} --help")
        assert code == 0 and all(word in out for word in words)


def test_the_labels_of_a_clip_are_as_steady_as_its_frames(tmp_path):
    frames = [np.zeros((8, 16, 3), np.uint8) for _ in range(3)]
    for number, frame in enumerate(frames):
        frame[:, 4 * number : 4 * number + 4] = 255  # a bar that moves by its width: 8 of 16 columns change
        Image.fromarray(frame).save(tmp_path / f"f{number + 9}.png")
    net = torch.nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0] * 3, [1.0] * 3])[..., None, None])
        net.bias.zero_()
    net.num_classes = 2
    report = evaluate(net, [(frames[0], np.zeros((8, 16), np.uint8))], clip=tmp_path)
    assert (report.clip.frames, report.clip.stability) == (3, 0.5) and EvalReport.from_dict(report.to_dict()) == report
    assert f"clip {tmp_path.name}: 50.00% of the labels as in the frame before, 3 frames" in report_table(report)
    Image.fromarray(frames[0][:5]).save(tmp_path / "f12.png")
    with pytest.raises(DataError, match="frame 3 of .* is 5 x 16, the first 8 x 16"):
        evaluate(net, [(frames[0], np.zeros((8, 16), np.uint8))], clip=tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        evaluate(net, [(frames[0], np.zeros((8, 16), np.uint8))], clip=tmp_path / "none.mp4")
