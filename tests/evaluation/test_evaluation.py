"""Evaluation: scores against other counters, predictions, submissions, bad input."""

import copy
import json
import zipfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.classification import MulticlassJaccardIndex

from rtseg.core.errors import ArtifactError, ConfigError, DataError
from rtseg.core.files import save_tensors
from rtseg.core.values import EvalReport, LabelSet
from rtseg.data.datasets import SegDataset, open_dataset
from rtseg.data.images import image_files
from rtseg.data.layouts import Sample
from rtseg.data.labels import CITYSCAPES
from rtseg.data.scenes import make_scenes
from rtseg.core.environment import evaluating
from rtseg.evaluation.evaluator import evaluate, load_trained, save_trained
from rtseg.evaluation.inference import Inference
from rtseg.evaluation.metrics import ConfusionMeter, class_iou, mean_iou, pixel_accuracy, report_table
from rtseg.evaluation.painting import overlay
from rtseg.evaluation.prediction import predict, submission_name, write_submission
from rtseg.evaluation.sequences import sequence_of


@pytest.fixture(scope="module")
def val(tmp_path_factory):
    """Five synthetic scenes in Cityscapes' layout."""
    root = make_scenes(
        tmp_path_factory.mktemp("scenes"), seed=2, counts={"train": 1, "val": 5, "test": 1}, size=(64, 128)
    )
    return open_dataset("synthetic", root, "val")


def random_net(seed=0):
    """A 1 x 1 convolution whose answers vary over an image, different in training and evaluation."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 19, 1), nn.BatchNorm2d(19), nn.Dropout(0.5))
    nn.init.normal_(net[0].weight, std=3)
    return net


@pytest.mark.parametrize("seed", range(4))
def test_scores_agree_with_torchmetrics(seed):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 6, (4, 20, 30), generator=generator)
    guess = torch.where(
        torch.rand(target.shape, generator=generator) < 0.6,
        target,
        torch.randint(0, 6, target.shape, generator=generator),
    )
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    meter = ConfusionMeter(6)
    for g, t in zip(guess, target, strict=True):
        meter.update(g, t)
    expected = MulticlassJaccardIndex(6, ignore_index=255, average="none")(guess, target)
    assert np.allclose(class_iou(meter.matrix), expected.numpy(), atol=1e-6)
    valid = target != 255
    assert np.isclose(pixel_accuracy(meter.matrix), (guess == target)[valid].float().mean().item())


def test_union_rule():
    confusion = torch.tensor([[8, 0, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert class_iou(confusion) == (0.8, None, 0.0, None)
    assert mean_iou(confusion) == 0.4


def test_nothing_counted_is_an_error():
    meter = ConfusionMeter(3)
    meter.update(torch.zeros(1, 4), torch.full((1, 4), 255))
    for score in (mean_iou, pixel_accuracy):
        with pytest.raises(DataError):
            score(meter.matrix)


@pytest.mark.parametrize(
    "prediction, target",
    [
        (torch.zeros(1, 4), torch.zeros(1, 5)),
        (torch.full((1, 2), 3), torch.zeros(1, 2)),
        (torch.zeros(1, 2), torch.tensor([[3, 255]])),
    ],
)
def test_meter_refuses_what_does_not_fit(prediction, target):
    with pytest.raises(DataError) as error:
        ConfusionMeter(3).update(prediction, target)
    assert "\n" not in str(error.value)


def test_counts_beyond_float_precision():
    meter = ConfusionMeter(2)
    big = torch.ones(1, 1024, 2048, dtype=torch.uint8)
    for _ in range(20):
        meter.update(big, big)
    assert meter.matrix[1, 1] == 20 * 1024 * 2048


@pytest.mark.parametrize("batch_size", [2, 5, 7])
def test_batch_size_changes_nothing(val, batch_size):
    net = random_net()
    one = evaluate(net, val)
    assert evaluate(net, val, batch_size=batch_size).confusion == one.confusion
    assert one.images == 5 and 0 < one.miou < 1


def test_evaluation_changes_nothing(val):
    net = random_net().train()
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    evaluate(net, val)
    assert [m.training for m in net.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_modes_come_back_after_an_error():
    net = random_net().train()
    with pytest.raises(ZeroDivisionError), evaluating(net):
        _ = 1 / 0
    assert net.training and net[1].training


def test_report_survives_json_and_prints(val):
    report = evaluate(random_net(), val)
    again = EvalReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again == report
    table = report_table(report)
    assert len(table.splitlines()) == 19 + 5 and "mIoU" in table and "asked: whole image, scale 1, fp32" in table


def test_half_precision_is_close(val):
    full, half = (evaluate(random_net(), val, precision=precision) for precision in ("fp32", "bf16"))
    assert abs(full.pixel_accuracy - half.pixel_accuracy) < 0.02
    with pytest.raises(ConfigError):
        evaluate(random_net(), val, precision="int4")


def test_a_network_of_another_size_or_in_training_is_refused(val):
    with pytest.raises(ConfigError, match="size of its input"):
        evaluate(nn.Conv2d(3, 19, 3, stride=2), val)


def test_too_many_classes_are_refused(val):
    net = nn.Conv2d(3, 25, 1)
    nn.init.constant_(net.bias, 0)
    net.bias.data[24] = 1e4
    with pytest.raises(DataError, match="24"):
        evaluate(net, val)


def test_images_without_labels_have_no_score(val):
    blind = SegDataset("blind", [Sample(s.image, None, s.name) for s in val.samples], split="test", labels=val.labels)
    with pytest.raises(DataError, match="no valid pixel"):
        evaluate(random_net(), blind)


def test_images_of_several_sizes(tmp_path):
    samples, toy = [], LabelSet("toy", ("a", "b"), ((0, 0, 0), (9, 9, 9)), ((0, 0), (1, 1), (255, 255)))
    for i, (height, width) in enumerate([(64, 80), (64, 80), (65, 91), (64, 80)]):
        image, mask = tmp_path / f"{i}.png", tmp_path / f"{i}_mask.png"
        Image.fromarray(np.full((height, width, 3), 60 * i, np.uint8)).save(image)
        Image.fromarray(np.full((height, width), i % 2, np.uint8)).save(mask)
        samples.append(Sample(image, mask, str(i)))
    report = evaluate(nn.Conv2d(3, 2, 1), SegDataset("sizes", samples, split="val", labels=toy), batch_size=4)
    assert report.images == 4 and np.sum(report.confusion) == 3 * 64 * 80 + 65 * 91


# predictions ----------------------------------------------------------------------------------------------------------


def test_kept_predictions_give_the_same_score(val, tmp_path):
    report = evaluate(random_net(), val, predictions=tmp_path / "ids", batch_size=2)
    meter = ConfusionMeter(19)
    for i, sample in enumerate(val.samples):
        with Image.open(tmp_path / "ids" / f"{sample.name}.png") as picture:
            meter.update(torch.from_numpy(val.labels.encode(np.asarray(picture))), torch.from_numpy(val.read(i)[1]))
    assert meter.matrix.tolist() == [list(row) for row in report.confusion]
    assert report.predictions == str(tmp_path / "ids")
    with pytest.raises(ConfigError, match="not empty"):
        evaluate(random_net(), val, predictions=tmp_path / "ids")


def test_predict_and_evaluate_agree(val, tmp_path):
    evaluate(random_net(), val, predictions=tmp_path / "a")
    predict(random_net(), val, val.labels, tmp_path / "b", kinds=["ids", "color"], progress=False)
    for sample in val.samples:
        ids = np.asarray(Image.open(tmp_path / "b" / "ids" / f"{sample.name}.png"))
        assert np.array_equal(ids, np.asarray(Image.open(tmp_path / "a" / f"{sample.name}.png")))
        color = np.asarray(Image.open(tmp_path / "b" / "color" / f"{sample.name}.png"))
        assert np.array_equal(color, CITYSCAPES.colorize(CITYSCAPES.encode(ids)))


def test_overlay_keeps_void_and_checks_alpha():
    toy = LabelSet("toy", ("a", "b"), ((200, 100, 0), (9, 9, 9)), ((0, 0), (1, 1)))
    image = np.full((1, 2, 3), 100, np.uint8)
    mixed = overlay(image, np.array([[0, 255]], np.uint8), toy, alpha=0.25)
    assert mixed.tolist() == [[[125, 100, 75], [100, 100, 100]]]
    with pytest.raises(ConfigError):
        overlay(image, np.zeros((1, 2), np.uint8), toy, alpha=2)


@pytest.mark.parametrize("make", ["empty folder", "missing file", "broken file", "a fourth band"])
def test_predict_refuses_bad_input(tmp_path, make):
    source = tmp_path / "in"
    source.mkdir()
    if make == "missing file":
        source = source / "no.png"
    elif make == "broken file":
        (source / "x.png").write_bytes(b"\x89PNG no")
    elif make == "a fourth band":
        Image.new("RGBA", (64, 64), (9, 9, 9, 100)).save(source / "x.png")
    with pytest.raises(DataError) as error:
        predict(random_net(), source, CITYSCAPES, tmp_path / "out", progress=False)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_grey_and_transparent_images_are_read(tmp_path):
    Image.new("L", (70, 66), 9).save(tmp_path / "grey.png")
    Image.new("RGBA", (64, 64), (9, 9, 9, 255)).save(tmp_path / "alpha.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "alpha.jpg")
    written = predict(random_net(), tmp_path, CITYSCAPES, tmp_path / "out", progress=False)
    assert [p.name for p in written] == ["alpha.jpg", "alpha.png", "grey"]
    with pytest.raises(ConfigError, match="exists"):
        predict(random_net(), [tmp_path / "grey.png"], CITYSCAPES, tmp_path / "out", progress=False)
    predict(random_net(), [tmp_path / "grey.png"], CITYSCAPES, tmp_path / "out", progress=False, overwrite=True)
    assert image_files(tmp_path / "out" / "ids")[2][0] == "grey"


# submission -----------------------------------------------------------------------------------------------------------


def test_submission_agrees_with_the_official_evaluation(val, tmp_path, capsys):
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    report = evaluate(random_net(), val, predictions=tmp_path / "ids")
    archive = write_submission(tmp_path / "ids", tmp_path / "submission.zip")
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(tmp_path / "results")
    args = official.args
    args.predictionPath, args.predictionWalk, args.groundTruthSearch = str(tmp_path / "results"), None, ""
    args.evalInstLevelScore, args.evalPixelAccuracy, args.JSONOutput, args.quiet, args.bold, args.colorized = (
        False,
        False,
        False,
        True,
        "",
        False,
    )
    labels = [str(sample.mask) for sample in val.samples]
    found = [official.getPrediction(args, path) for path in labels]
    result = official.evaluateImgLists(found, labels, args)
    capsys.readouterr()
    theirs = [result["classScores"][name] for name in report.classes]
    for ours, other in zip(report.iou, theirs, strict=True):
        assert np.isnan(other) if ours is None else abs(ours - other) < 1e-9
    assert abs(report.miou - result["averageScoreClasses"]) < 1e-9


def test_submission_names():
    assert submission_name("lindau_000001_000019_leftImg8bit") == "lindau_000001_000019_pred_labelIds.png"
    for name in ("0001TP_008550", "ulm_00_000019", "ulm_000000_0000190"):
        with pytest.raises(DataError):
            submission_name(name)


def test_submission_bytes_depend_on_the_predictions_alone(val, tmp_path):
    predict(random_net(), val, val.labels, tmp_path, kinds=["ids"], progress=False)
    first, second = (write_submission(tmp_path / "ids", tmp_path / f"{i}.zip").read_bytes() for i in range(2))
    assert first == second
    with pytest.raises(ConfigError, match="exists"):
        write_submission(tmp_path / "ids", tmp_path / "0.zip")


# weights --------------------------------------------------------------------------------------------------------------


def test_load_trained_faults(tmp_path):
    save_trained(tmp_path / "last.safetensors", {"w": torch.ones(2)}, epoch=1, which="last", seed=0)
    assert load_trained(tmp_path, "last").origin.pretrained_on == "none"
    save_tensors(tmp_path / "plain.safetensors", {"w": torch.ones(2)})
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    for source, which in (
        (tmp_path, "best"),
        (tmp_path / "plain.safetensors", "best"),
        (tmp_path / "broken.safetensors", "best"),
        (tmp_path / "no", "last"),
    ):
        with pytest.raises(ArtifactError) as error:
            load_trained(source, which)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="did you mean"):
        load_trained(tmp_path, "lats")


def test_camvids_sequences(shared):
    """CamVid's validation is one drive; its test holds two, one of which is in training, too."""
    found = {}
    for split in ("train", "val", "test"):
        samples = open_dataset("camvid", shared / "camvid", split=split).samples
        found[split] = Counter(sequence_of(sample.name) for sample in samples)
    assert found["val"] == {"0016E5": 101} and found["test"] == {"0001TP": 62, "Seq05VD": 171}
    assert sum(found["train"].values()) == 367 and "0001TP" in found["train"] and "Seq05VD" not in found["train"]


def test_each_sequence_has_its_score_and_the_whole_stays_the_same(val):
    """Renamed into two sequences, the images score as before, and their parts as if they were alone."""
    drives = copy.copy(val)
    drives.samples = [replace(sample, name=f"{'ab'[i > 0]}_{i:04d}") for i, sample in enumerate(val.samples)]
    network = nn.Conv2d(3, 19, 1)
    whole, parted = evaluate(network, val), evaluate(network, drives, batch_size=2)
    assert parted.confusion == whole.confusion and [one.name for one in parted.sequences] == ["a", "b"]
    alone = copy.copy(val)
    alone.samples = val.samples[:1]
    first = evaluate(network, alone)
    assert parted.sequences[0].miou == first.miou and parted.sequences[1].images == len(val) - 1
    assert "a: 1 images, mIoU" in report_table(parted) and EvalReport.from_dict(parted.to_dict()) == parted


def test_calibration_does_not_change_the_score(val):
    """It is the same of one view asked twice as of one, and counts every labelled pixel once."""
    network = nn.Conv2d(3, 19, 1)
    plain, once = evaluate(network, val), evaluate(network, val, calibration=True)
    twice = evaluate(
        network, val, calibration=True, inference=Inference(flip=True)
    )  # a pointwise network sees the same
    assert plain.calibration is None and replace(once, calibration=None) == plain
    assert sum(once.calibration.pixels) == sum(map(sum, once.confusion))
    assert abs(once.calibration.ece - twice.calibration.ece) < 1e-4
    right = sum(n * a for n, a in zip(once.calibration.pixels, once.calibration.accuracy, strict=True) if n)
    assert abs(right / sum(once.calibration.pixels) - once.pixel_accuracy) < 1e-9
    assert "calibration: expected error" in report_table(once)
