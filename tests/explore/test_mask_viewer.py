"""The mask viewer: orders, linked views, answers of every kind of model, photographs of one's own."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rtseg.core.errors import ConfigError, DataError
from rtseg.core.values import LabelSet
from rtseg.data import SegDataset, make_scenes, open_dataset
from rtseg.deployment import load_runtime
from rtseg.data.layouts import Sample
from rtseg.evaluation import evaluate, predict
from rtseg.evaluation.video import write_video
from rtseg.explore import explore_masks
from rtseg.explore.answers import (
    Asked,
    Photos,
    image_confusion,
    image_score,
    open_photo,
    photo_sizes,
    segment,
    worst_first,
)
from rtseg.explore.panels import picture_uri
from rtseg.viz.masks import PALETTES, confidence_map, with_palette

TOY = LabelSet(
    "toy", ("road", "car", "sky"), ((128, 64, 128), (0, 0, 142), (70, 130, 180)), ((0, 0), (1, 1), (2, 2), (255, 255))
)


class Colours(nn.Module):
    """Logits straight from the pixels: a network whose answers are known."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.head = nn.Conv2d(3, classes, 1)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(classes, 3).reshape(classes, 3, 1, 1))
            self.head.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


def pair(share: float, height: int = 64, width: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """An image whose left `share` is class 0 and the rest class 1, and its label."""
    mask = np.ones((height, width), np.uint8)
    mask[:, : round(share * width)] = 0
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.where(mask == 0, 250, 0), np.where(mask == 1, 250, 0)
    return image, mask


def half(image: np.ndarray) -> np.ndarray:
    """Labels: the left half is road, the right one car, whatever is shown."""
    found = np.ones(image.shape[:2], np.uint8)
    found[:, : image.shape[1] // 2] = 0
    return found


@pytest.fixture
def viewer():
    """Four images with 1/4, 1/2, 3/4 and no valid pixels of road, seen by a rule and by a network that is always right."""
    pairs = [pair(0.25), pair(0.5), pair(0.75), (pair(0.5)[0], np.full((64, 96), 255, np.uint8))]
    return explore_masks(pairs, {"half": half, "network": Colours()}, labels=TOY, width=600)


def test_the_order_is_that_of_the_scores_and_images_without_one_come_last(viewer):
    viewer.sort("miou", model="half")
    quarter = (0.25 / 0.5 + 0.5 / 0.75) / 2  # road: 24 of 48 columns are right; car: 48 of 72
    assert viewer.scores == [pytest.approx(quarter), 1.0, pytest.approx(quarter), None] and viewer.order == [0, 2, 1, 3]
    viewer.sort("road")
    assert (
        viewer.scores[:3] == [pytest.approx(1 / 2), 1.0, pytest.approx(2 / 3)]
        and viewer.order == [0, 2, 1, 3]
        and viewer.place == 0
    )
    viewer.sort("car")
    assert viewer.order == [2, 0, 1, 3] and viewer.name == "sample 2" and "car 50.0%" in viewer.facts.value
    viewer.sort("miou", model="network")
    assert viewer.scores == [1.0, 1.0, 1.0, None] and viewer.order == [0, 1, 2, 3]
    viewer.sort("sky")
    assert viewer.scores == [None] * 4
    viewer.sort("given")
    assert viewer.order == [0, 1, 2, 3] and viewer.scores == []


def test_scores_are_computed_once(viewer):
    asked = []
    viewer.models["half"] = lambda image: asked.append(1) or half(image)
    viewer.sort("miou", model="half")
    viewer.sort("road")
    assert len(asked) <= 3 + 2  # the first image was seen before; the one that is shown is asked again


def test_one_image_scores_as_the_evaluator_does(tmp_path):
    make_scenes(tmp_path, seed=1, counts={"val": 3}, size=(64, 128))
    val = open_dataset("synthetic", tmp_path, split="val")
    net = Colours(19).eval()
    viewer = explore_masks(val, {"net": net})
    assert viewer.image_scores() == [
        pytest.approx(evaluate(net, val.subset([i]), progress=False).miou, abs=1e-9) for i in range(3)
    ]
    predict(net, val, val.labels, tmp_path / "out", kinds=["ids"], progress=False)
    stored = explore_masks(val, {"stored": tmp_path / "out" / "ids"})
    assert stored.image_scores() == viewer.image_scores() and stored.answers["stored"].confidence is None
    with pytest.raises(ConfigError, match="no model to score"):
        explore_masks(val).image_scores()


def test_steps_stay_inside_and_controls_follow(viewer):
    viewer.step(-1)
    assert viewer.place == 0
    viewer.controls.on.click()
    assert viewer.place == 1 and viewer.controls.place.value == 2 and "sample 1" in viewer.facts.value
    viewer.go(99)
    assert viewer.place == 3 and viewer.controls.place.value == 4
    viewer.controls.back.click()
    assert viewer.place == 2


def axes(viewer, letter: str) -> set:
    layout = viewer.figure.layout
    return {tuple(layout[name].range) for name in layout if name.startswith(f"{letter}axis")}


def test_all_panels_share_one_view_which_outlives_a_step(viewer):
    layout = viewer.figure.layout
    assert {layout[n].matches for n in layout if n.startswith("xaxis")} == {"x"} and {
        layout[n].matches for n in layout if n.startswith("yaxis")
    } == {"y"}
    assert axes(viewer, "x") == {(-0.5, 95.5)} and axes(viewer, "y") == {(63.5, -0.5)}
    viewer.figure.plotly_relayout(
        {
            f"{axis}.range[{end}]": value
            for letter, ends in (("x", (10, 30)), ("y", (40, 8)))
            for axis in (f"{letter}axis", f"{letter}axis2")
            for end, value in enumerate(ends)
        }
    )  # what a browser reports of a drag
    viewer.step(1)
    assert viewer.view == (10, 30, 8, 40) and axes(viewer, "x") == {(10, 30)} and axes(viewer, "y") == {(40, 8)}
    viewer.paint(alpha=0.2)
    assert viewer.view == (10, 30, 8, 40)
    viewer.figure.layout.xaxis4.autorange = True  # a double click
    viewer.step(1)
    assert viewer.view == (-0.5, 95.5, 8, 40)
    viewer.zoom(None)
    assert axes(viewer, "x") == {(-0.5, 95.5)} and axes(viewer, "y") == {(63.5, -0.5)}


def test_a_view_is_not_taken_to_an_image_of_another_size():
    viewer = explore_masks([pair(0.5), pair(0.5, 80, 64)], {"half": half}, labels=TOY)
    viewer.zoom((10, 20, 10, 20))
    viewer.step(1)
    assert viewer.view is None and axes(viewer, "x") == {(-0.5, 63.5)}


def test_the_still_shows_what_is_in_view(viewer):
    viewer.paint(alpha=1.0, kinds=("label",))
    assert len(viewer.figure.data) == 2
    viewer.zoom((80, 95, 10, 20))
    still = np.asarray(viewer.still())
    assert (
        still.shape[1] == 600
        and (still[60:200, 100:400] == (0, 250, 0)).all(-1).any()
        and not (still[30:] == (250, 0, 0)).all(-1).any()
    )


def test_a_click_names_the_classes(viewer):
    viewer.go(2)
    found = viewer.at(60.4, 10)
    assert (
        found["label"] == "road"
        and found["half"] == "car"
        and found["network"].startswith("road, ")
        and found["network"].endswith("% sure")
    )
    assert viewer.at(-5, 900) == viewer.at(0, 63)
    viewer._clicked(None, SimpleNamespace(xs=[94], ys=[5]), None)
    assert "at (94, 5)" in viewer.pixel.value
    viewer.go(3)
    assert viewer.at(3, 3)["label"] == "ignored"


def test_what_is_impossible_changes_nothing_and_is_said(viewer):
    before = viewer.palette, viewer.alpha, viewer.kinds, viewer.order
    for change, words in (
        (lambda: viewer.paint(palette="gaudy"), "allowed are data set"),
        (lambda: viewer.paint(alpha=2), "opacity 2"),
        (lambda: viewer.paint(kinds=("labels",)), "did you mean 'label'"),
        (lambda: viewer.sort("rode"), "did you mean"),
        (lambda: viewer.sort("miou", "hlaf"), "did you mean"),
        (lambda: viewer.open("nowhere.png"), "nowhere.png does not exist"),
    ):
        change()
        assert words in viewer.message.value.replace("&#x27;", "'")
        assert (viewer.palette, viewer.alpha, viewer.kinds, viewer.order) == before and viewer.name == "sample 0"
    viewer.step(1)
    assert viewer.message.value == ""


def test_answers_of_every_kind_of_model_agree():
    image, mask = pair(0.4)
    network = Colours().eval()
    answers = [
        segment(model, image)
        for model in (
            network,
            load_runtime(network),
            load_runtime(network, runtime="onnxruntime", shape=(1, 3, 64, 96)),
        )
    ]
    assert all((said.labels == mask).all() for said in answers)
    assert 1 / 3 < answers[0].confidence.min() <= answers[0].confidence.max() < 1 and np.allclose(
        answers[0].confidence, answers[2].confidence, atol=1e-5
    )
    logits = segment(lambda photo: np.stack([photo[..., 0], photo[..., 1], photo[..., 2]]).astype(np.float32), image)
    assert (logits.labels == mask).all() and logits.confidence is not None and segment(half, image).confidence is None
    for wrong in (lambda photo: photo, lambda photo: half(photo)[:5], lambda photo: half(photo).astype(float)):
        with pytest.raises(DataError, match="expected labels H x W"):
            segment(wrong, image)


def test_a_class_that_the_set_lacks_is_refused():
    image, mask = pair(0.5)
    with pytest.raises(DataError, match="class 7"):
        image_confusion(mask, np.full_like(mask, 7), TOY)
    with pytest.raises(DataError, match="does not fit"):
        image_confusion(mask, mask[:10], TOY)
    assert image_score(image_confusion(mask, 1 - mask, TOY)) == 0.0 and worst_first([None, 0.0]) == [1, 0]


def jpeg(image: np.ndarray, orientation: int | None = None) -> bytes:
    exif, stored = Image.Exif(), io.BytesIO()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(image).save(stored, "JPEG", exif=exif)
    return stored.getvalue()


def test_an_uploaded_photograph_is_segmented_by_all_that_can_be_asked(viewer):
    viewer.models["stored"] = [half(pair(0.5)[0])] * 4
    content = memoryview(jpeg(pair(0.3, 256, 384)[0]))
    viewer.controls.upload.value = (
        {
            "name": "my <street>.jpg",
            "type": "image/jpeg",
            "size": len(content),
            "content": content,
            "last_modified": SimpleNamespace(timestamp=lambda: 0),
        },
    )
    assert viewer.image.shape == (64, 96, 3) and viewer.mask is None and set(viewer.answers) == {"half", "network"}
    assert (viewer.answers["network"].labels == 0).mean() == pytest.approx(
        0.3, abs=0.02
    ) and viewer.controls.upload.value == ()
    assert (
        "my <street>.jpg, seen whole, 256 x 384 reduced to 64 x 96" == viewer.name
        and "<street>" not in viewer.facts.value
    )
    notes = [a.text for a in viewer.figure.layout.annotations]
    assert "this image has no label" in notes and notes.count("no label to differ from") == 2
    viewer.step(0)
    assert viewer.name == "sample 0" and viewer.mask is not None


def test_a_runtime_of_one_size_gets_the_middle():
    runtime = load_runtime(Colours().eval(), runtime="onnxruntime", shape=(1, 3, 64, 96))
    viewer = explore_masks([pair(0.5)], {"onnxruntime": runtime}, labels=TOY)
    viewer.open(pair(0.5, 400, 300)[0], name="upright")
    assert (
        viewer.image.shape == (64, 96, 3) and "its middle seen at 64 x 96" in viewer.name and viewer.message.value == ""
    )
    assert (viewer.answers["onnxruntime"].labels == 0).mean() == pytest.approx(0.5, abs=0.03)


def test_photographs_are_upright_and_reduced():
    wide = pair(0.5, 40, 80)[0]
    assert open_photo(jpeg(wide, 6)).shape == (80, 40, 3) and open_photo(jpeg(wide)).shape == (40, 80, 3)
    assert [seen.shape[:2] for _, seen in photo_sizes(pair(0.5, 600, 300)[0], (128, 256))] == [(256, 128), (128, 256)]
    assert [seen.shape[:2] for _, seen in photo_sizes(wide, (40, 80))] == [(40, 80)]
    with pytest.raises(DataError, match="cannot be decoded|does not exist"):
        open_photo(b"GIF89a?")


def test_stored_predictions_alone_cannot_be_asked():
    viewer = explore_masks([pair(0.5)], {"stored": [half(pair(0.5)[0])]}, labels=TOY)
    viewer.open(pair(0.5)[0])
    assert "all predictions here are stored ones" in viewer.message.value
    short = explore_masks([pair(0.5)] * 2, {"stored": [half(pair(0.5)[0])]}, labels=TOY)
    short.step(1)
    assert "there is a sample 1" in short.message.value and short.place == 0 and short.name == "sample 0"


def test_data_without_models_labels_or_images():
    bare = explore_masks([pair(0.5)], labels=TOY)
    assert len(bare.figure.data) == 2
    bare.sort("miou")
    assert "no model was given" in bare.message.value
    with pytest.raises(ConfigError, match="labels="):
        explore_masks([pair(0.5)])
    with pytest.raises(DataError, match="no image"):
        explore_masks([], labels=TOY)
    alone = explore_masks(pair(0.5)[0], {"half": half}, labels=TOY)
    assert alone.mask is None and alone.controls.place.disabled


def test_palettes_keep_classes_apart_and_confidence_falls_in_lightness():
    many = LabelSet("many", tuple(f"c{i}" for i in range(19)), ((0, 0, 0),) * 19, tuple((i, i) for i in range(19)))
    assert len(set(with_palette(many, "colour-blind").palette)) == 19
    assert [len(set(with_palette(many, p, focus=2).palette)) for p in PALETTES] == [1, 19, 2]
    with pytest.raises(ConfigError, match="class 19"):
        with_palette(many, "one class", focus=19)
    light = confidence_map(np.linspace(1 / 19, 1, 50)[None], 19).astype(int).sum(-1)[0]
    assert (np.diff(light) <= 0).all() and light[0] - light[-1] > 400


def test_pictures_for_the_browser_are_small():
    noise = np.random.default_rng(0).integers(0, 255, (400, 800, 3), np.uint8)
    uri, step = picture_uri(noise, side=200)
    assert step == 4 and uri.startswith("data:image/jpeg") and len(uri) < 60_000
    flat, step = picture_uri(TOY.colorize(half(noise)), side=1000)
    assert step == 1 and flat.startswith("data:image/webp") and len(flat) < 10_000


def test_a_network_that_was_asked_is_not_asked_again_in_another_session(tmp_path):
    pairs = [pair(share) for share in (0.25, 0.5, 0.75)]
    net, said = Colours(), []
    asked = lambda model: Asked(Photos(pairs), {"net": model}, TOY, say=said.append, kept=tmp_path)  # noqa: E731
    first = asked(net).scores("net")
    assert said == ["net: image 1 of 3", "net: image 2 of 3", "net: image 3 of 3", ""]
    said.clear()
    again = asked(Colours())  # another object with the same contents
    again.about = None
    assert again.scores("net") == first == [1.0, 1.0, 1.0] and said == [""]
    other = Colours()
    with torch.no_grad():
        other.head.bias[1] = 9.0
    assert asked(other).scores("net")[0] < 1 and "net: image 1 of 3" in said


def test_an_interrupted_sorting_goes_on_where_it_stopped(tmp_path):
    pairs, seen = [pair(share) for share in (0.25, 0.5, 0.75)], []

    def stop(text: str) -> None:
        seen.append(text)
        if text.startswith("net: image 3") and len(seen) == 3:
            raise KeyboardInterrupt

    for _ in range(2):
        try:
            Asked(Photos(pairs), {"net": Colours()}, TOY, say=stop, kept=tmp_path).scores("net")
        except KeyboardInterrupt:
            assert len(seen) == 3
    assert seen[3:] == ["net: image 3 of 3", ""]


def test_a_cell_of_the_confusion_opens_its_images(viewer):
    viewer.controls.model.value = "half"
    viewer.controls.confusion.value = True
    (cells,) = viewer.confusion.children
    quarter = (
        64 * 24 / (64 * (24 + 48 + 72))
    )  # of the road, only what lies beyond the middle of one image is taken for car
    assert list(cells.data[0].x) == ["road", "car"] and cells.data[0].z[0][1] == pytest.approx(quarter, abs=1e-4)
    viewer._cell_clicked(None, SimpleNamespace(xs=["car"], ys=["road"]), None)
    assert viewer.order == [2, 0, 1, 3] and "most road taken for car first" in viewer.facts.value
    viewer._cell_clicked(None, SimpleNamespace(xs=["road"], ys=["car"]), None)
    assert viewer.order == [0, 1, 2, 3] and viewer.controls.sort.value == ("car", "road")
    viewer.sort(("road", "sea"))
    assert "is unknown: allowed are road, car" in viewer.message.value and viewer.by == ("car", "road")
    bare = explore_masks([(pair(0.5)[0], None)], {"half": half}, labels=TOY)
    bare.show_confusion(True)
    assert "no image has a label" in bare.message.value and bare.confusion.children == ()


def test_a_video_plays_and_says_how_steady_its_labels_are(tmp_path):
    frames = [pair(share)[0] for share in (0.25, 0.25, 0.75)]
    film = write_video(tmp_path / "drive.avi", frames, fps=10)
    viewer = explore_masks(film, {"network": Colours()}, labels=TOY)
    assert len(viewer.order) == 3 and viewer.name == "frame 0, 0.00 s" and viewer.stays == {}
    viewer.press(" ")
    assert viewer.playing and viewer.shell.beat == 1 and viewer.controls.play.value
    viewer.press("beat")
    assert viewer.place == 1 and viewer.stays == {"network": 1.0} and viewer.shell.beat == 2
    viewer.press("beat")
    assert viewer.place == 2 and viewer.stays["network"] == pytest.approx(0.5, abs=0.02)
    assert not viewer.playing and viewer.shell.beat == 2 and not viewer.controls.play.value
    viewer.press("Home")
    assert viewer.place == 0 and viewer.stays == {}


def test_frames_of_a_folder_and_of_a_data_set_say_how_steady_their_labels_are(tmp_path):
    shares = {"drive_9": 0.25, "drive_10": 0.75, "drive_11": 0.75, "walk_1": 0.5}
    for name, share in shares.items():
        Image.fromarray(pair(share)[0]).save(tmp_path / f"{name}.png")
    viewer = explore_masks(tmp_path, {"network": Colours()}, labels=TOY)
    assert viewer.pictures.film and viewer.name == "drive_9.png"
    viewer.go(1)
    assert viewer.name == "drive_10.png" and viewer.stays["network"] == pytest.approx(0.5)
    assert "network: 50.00% of the labels as in the frame before" in viewer.facts.value
    viewer.go(2)
    assert viewer.stays == {"network": 1.0}
    viewer.go(1)  # a step back is told, too
    assert viewer.stays["network"] == pytest.approx(0.5)
    viewer.go(3)
    assert viewer.stays == {}, "a jump asks no model about a picture that is not shown"
    samples = [Sample(tmp_path / f"{name}.png", None, name) for name in shares]
    data = SegDataset("toy", samples, split="val", labels=TOY)
    viewer = explore_masks(data, {"network": Colours()})
    steps = []
    for place in range(1, 4):
        viewer.go(place)
        steps.append(viewer.stays.get("network"))
    assert steps == [pytest.approx(0.5), 1.0, None], "the walk is another sequence"


def test_another_size_or_order_says_nothing_of_steadiness():
    viewer = explore_masks([pair(0.25), pair(0.5)], {"network": Colours()}, labels=TOY)
    viewer.go(1)
    assert viewer.stays == {}, "a list of pictures is no clip"
    viewer.stays = {"network": 1.0}
    viewer.sort("miou")
    assert viewer.stays == {}
