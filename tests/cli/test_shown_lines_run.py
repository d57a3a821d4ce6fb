"""Every command that README, guides and helps show is run, up to its hours of work: parsed, its data opened, its networks built, its settings checked."""

import json
import os
import re
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path

import cv2
import nbformat
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from rtseg.cli import main as cli
from rtseg.core.files import read_yaml, write_yaml
from rtseg.core.run_folder import RunFolder
from rtseg.core.values import LabelSet
from rtseg.core.weights import InputSpec, WeightsInfo
from rtseg.data.labels import CAMVID, CITYSCAPES
from rtseg.compression import save_pruned
from rtseg.data.scenes import make_scenes
from rtseg.evaluation.evaluator import save_trained
from rtseg.models import create_model
from rtseg.models.contract import SegNetwork
from rtseg.models.fasterseg import STUDENT
from rtseg.models.loading import spec_of
from rtseg.models.registry import MODELS
from rtseg.runs.config import load_preset
from rtseg.runs.plans import plan_of
from rtseg.runs.steps import searched_space
from rtseg.search.inherit import derive
from rtseg.search.latency_table import LatencyTable, TableHeader
from rtseg.search.probes import Entry

from test_printed_lines import shown_lines

ROOT = Path(__file__).resolve().parents[2]
SHOWN = dict.fromkeys(line for _, line in shown_lines(ROOT))


class Reached(Exception):
    """The work would begin now."""


def reached(*words, **more):
    raise Reached


WORK = (  # where hours are spent
    "rtseg.training.trainer.Trainer.fit",
    "papermill.execute_notebook",
    "rtseg.runs.estimate.estimate_run",
    "rtseg.cli.recipes.compress",
    "rtseg.cli.tune.tune",
    "rtseg.cli.export.autotune",
    "rtseg.cli.export.ship_plain",
    "rtseg.cli.export.page_network",
    "rtseg.cli.view.write_page",
    "rtseg.cli.bench.run_bench",
    "rtseg.cli.frontier.run_frontier",
    "rtseg.cli.latency.measure_table",
    "rtseg.cli.latency.load_runtime",
    "rtseg.cli.nas.table_plan",
    "rtseg.cli.nas.device_table",
    "rtseg.cli.evaluate.evaluate",
    "rtseg.cli.evaluate.predict",
    "rtseg.cli.data.suggest_images",
    "rtseg.cli.data.make_scenes",
    "rtseg.cli.doctor.examine",
    "rtseg.cli.docs.build_site",
)


# what the lines read --------------------------------------------------------------------------------------------------


def draw(path, shape, value=90):
    """A picture, or a mask, of two halves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(shape, value, np.uint8)
    pixels[: shape[0] // 2] //= 2
    cv2.imwrite(str(path), pixels)


def halves(path, ids, size):
    """A mask with as many stripes as there are ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(
        str(path), np.repeat(np.array(ids, np.uint8), -(-size[1] // len(ids)))[: size[1]][None].repeat(size[0], 0)
    )


def draw_data(root):
    """Data sets in their own layouts and sizes."""
    for start, split, count in ((0, "train", 48), (60, "val", 2), (70, "test", 1)):
        for k in range(start, start + count):
            name = f"city_{k:06d}_000019"
            draw(root / f"cityscapes/leftImg8bit/{split}/city/{name}_leftImg8bit.png", (1024, 2048, 3), 90 + k)
            ids = [raw for raw, train in CITYSCAPES.ids if train < 19]
            halves(root / f"cityscapes/gtFine/{split}/city/{name}_gtFine_labelIds.png", ids, (1024, 2048))
            draw(root / f"camvid/{split}/{k}.png", (360, 480, 3), 100 + k)
            halves(root / f"camvid/{split}annot/{k}.png", range(11), (360, 480))
            draw(root / f"streets/images/{split}/{k}.png", (192, 384, 3), 120 + k)
            halves(root / f"streets/masks/{split}/{k}.png", range(6), (192, 384))
            draw(root / f"bdd100k/images/10k/{split}/{k}.jpg", (72, 128, 3), 140 + k)
            halves(root / f"bdd100k/labels/sem_seg/masks/{split}/{k}.png", range(19), (72, 128))
        pairs = "".join(f"{split}/{k}.png {split}annot/{k}.png\n" for k in range(start, start + count))
        (root / f"camvid/{split}.txt").write_text(pairs)
    streets = LabelSet(
        "streets", tuple("abcdef"), tuple((40 * k, 0, 9) for k in range(6)), tuple((k, k) for k in range(6))
    )
    streets.to_yaml(root / "streets/labels.yaml")
    streets.to_yaml(root / "streets.yaml")


def draw_annotations(root):
    """What tools leave: labelme's folder, with pairs by suffix beside it, and COCO's archive."""
    for k in range(4):
        for folder in ("annotated", "photos"):
            draw(root / f"{folder}/{k}.png", (64, 96, 3), 60 + 9 * k)
        split = "train" if k < 3 else "val"
        draw(root / f"suffixed/{split}/{k}_rgb.png", (64, 96, 3), 60 + 9 * k)
        halves(root / f"suffixed/{split}/{k}_mask.png", range(6), (64, 96))
        box = [[0, 0], [80, 60]]
        shapes = [
            {"label": "wall", "shape_type": "rectangle", "points": box},
            {"label": "door", "shape_type": "rectangle", "points": [[9, 9], [30, 50]]},
        ]
        told = {"shapes": shapes, "imagePath": f"{k}.png", "imageHeight": 64, "imageWidth": 96}
        for folder in ("annotated", "photos"):
            (root / f"{folder}/{k}.json").write_text(json.dumps(told))
    segments = [
        {"segmentation": [[0, 0, 80, 0, 80, 60, 0, 60]], "iscrowd": 0, "category_id": 1 + k % 2, "image_id": k, "id": k}
        for k in range(4)
    ]
    images = [{"id": k, "file_name": f"{k}.png", "height": 64, "width": 96} for k in range(4)]
    coco = {
        "info": {},
        "images": images,
        "annotations": segments,
        "categories": [{"id": 1, "name": "wall"}, {"id": 2, "name": "door"}],
    }
    with zipfile.ZipFile(root / "export.zip", "w") as archive:
        archive.writestr("annotations/instances_train.json", json.dumps(coco))
        for k in range(4):
            archive.write(root / f"photos/{k}.png", f"train/{k}.png")
    shutil.copy(root / "photos/0.png", root / "a.png")


class TwoPaths(SegNetwork):
    """The network that guide 09 adds."""

    def __init__(self, num_classes=19, *, in_channels=3, hidden=32):
        super().__init__(num_classes, in_channels)
        self.layers = nn.Sequential(
            nn.Conv2d(3, hidden, 3, 8, 1), nn.BatchNorm2d(hidden), nn.Conv2d(hidden, num_classes, 1)
        )

    def predict(self, x):
        return self.layers(x)


def keep(path, network, labels, size=(360, 480)):
    """Weights that say their network, their label set and their size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    info = WeightsInfo(spec_of(network), labels, InputSpec(size))
    save_trained(path, network.state_dict(), epoch=1, which="best", seed=0, info=info)


def make_weights(root):
    """The trained networks that lines begin with."""
    streets = LabelSet.from_yaml(root / "streets.yaml")
    fast = create_model("fastscnn", 11)
    for name in ("runs/camvid", "runs/taught"):
        keep(root / f"{name}/best.safetensors", fast, CAMVID)
    for name in ("runs/guided", "runs/teacher"):
        keep(root / f"{name}/best.safetensors", create_model("ddrnet", 11), CAMVID)
    keep(
        root / "runs/icnet/best.safetensors",
        create_model("icnet", 19, encoder="resnet18", pretrained=False),
        CITYSCAPES,
    )
    keep(root / "city.safetensors", create_model("fastscnn", 19), CITYSCAPES, (1024, 2048))
    torch.save(create_model("fastscnn", 19).state_dict(), root / "fastscnn.pth")
    shutil.copy(root / "fastscnn.pth", root / "w.pth")
    torch.save(create_model("stdcseg1", 19).state_dict(), root / "stdc.pth")
    keep(root / "w.safetensors", create_model("pspnet", 19, pretrained=False), CITYSCAPES)
    save_pruned(root / "runs/small/compressed.safetensors", create_model("enet", 19))
    keep(root / "bisenetv2.safetensors", create_model("bisenetv2", 19), CITYSCAPES)
    keep(root / "runs/twopaths/best.safetensors", create_model("twopaths", 11), CAMVID)
    return streets


def make_files(root):
    """Settings, an architecture, a table, a page, somebody's graph, a film."""
    write_yaml(root / "space.yaml", read_yaml(ROOT / "rtseg/tuning/spaces/default.yaml"))
    write_yaml(root / "camvid.yaml", {"epochs": 2})
    write_yaml(root / "runs/tune/best.yaml", {"epochs": 2, "lr": 0.02})
    (root / "student.json").write_text(json.dumps(STUDENT.to_dict()))
    page = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                "size: list[int] = [64, 128]  # height and width", metadata={"tags": ["parameters"]}
            )
        ]
    )
    (root / "my").mkdir()
    page.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(page, root / "my/page.ipynb")
    for name, size in (("network", [64, 96]), ("other", ["h", "w"])):
        ends = [helper.make_tensor_value_info(each, TensorProto.FLOAT, [1, 3, *size]) for each in ("image", "logits")]
        graph = helper.make_graph([helper.make_node("Identity", ["image"], ["logits"])], "net", ends[:1], ends[1:])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), root / f"{name}.onnx")
    (root / "drive.mp4").write_bytes(b"")


def make_run(root, name, preset, **settings):
    """A run folder whose stages up to the student say that they are done."""
    config = load_preset(preset).with_values(settings)
    stages = plan_of(config.plan)
    before = stages[: [stage.name for stage in stages].index("random")]
    run = RunFolder.create(root / name, config.to_dict())
    for stage in before:
        for file in stage.makes:
            run.path(file).parent.mkdir(parents=True, exist_ok=True)
            run.path(file).write_text("{}")
    classes = 19 if config.data.name == "synthetic" else 11
    space = searched_space(config)
    specs = space.table_specs(config.latency.size, classes)
    header = TableHeader("here", "torch", "fp32", 1, *config.latency.size, classes)
    LatencyTable(header, {spec.key(): Entry(1.0, 1.0, 1.0, 3) for spec in specs}).save(run.path("latency/table.json"))
    arch = space.sample(torch.Generator().manual_seed(0))
    arch.save(run.path("search/student.json"))
    labels = CITYSCAPES if classes == 19 else CAMVID
    keep(run.path("student/model.safetensors"), derive(arch, classes), labels)
    for stage in before:
        run.record(stage.name, params={}, outputs=list(stage.makes))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with everything that the lines read."""
    root = tmp_path_factory.mktemp("world")
    MODELS.register("twopaths", title="TwoPaths", paper="", year=2026)(TwoPaths)
    draw_data(root)
    make_scenes(root / "scenes", counts={"train": 12, "val": 2, "test": 1}, size=(256, 512), cast="plain")
    draw_annotations(root)
    make_weights(root)
    make_files(root)
    small = {"data.scene_size": [64, 128], "data.scenes.train": 2, "data.scenes.val": 1, "data.scenes.test": 1}
    make_run(root, "runs/demo", "demo", **small)
    make_run(root, "runs/smoke", "smoke", **small)
    make_run(root, "runs/camvid-cpu", "camvid-cpu", **{"data.root": str(root / "camvid")})
    shutil.copy(root / "runs/demo/latency/table.json", root / "table.json")
    train_one(root)
    yield root
    MODELS._entries.pop("twopaths", None)


def train_one(root):
    """The run of guide 02, one step long, by a command."""
    small = (
        "epochs=1 steps_per_epoch=1 batch_size=2 augmentation.crop=[64,64] device=cpu precision=fp32 channels_last=true"
    )
    words = f"train --model fastscnn --dataset folder --data {root}/streets --out {root}/runs/one".split()
    with pytest.raises(SystemExit) as end:
        cli.main([*words, *(word for one in small.split() for word in ("--set", one))])
    assert end.value.code in (0, None)


# the lines ------------------------------------------------------------------------------------------------------------


def fitted(line):
    """A line as it is typed here: its folders below the folder it is typed in, its device the processor."""
    for old, new in (
        ("/home/me/", ""),
        ("../shared/", ""),
        ("/data/", ""),
        ("~/", ""),
        ("--device cuda", "--device cpu"),
    ):
        line = re.sub(rf"(?<![\w]){re.escape(old)}", new, line)
    line = line.replace("--dataset synthetic --data streets", "--dataset synthetic --data scenes")
    line = line.replace("data.labels=streets/", "data.labels=streets/").replace("--data mine", "--data cityscapes")
    return line.replace("import folder photos", "import folder suffixed")


def played(name, line):
    """The run that stands for the one that a line calls `name`: a training, or a pipeline's, with the label set of its data."""
    if name == "camvid" and line.startswith("export"):
        return "camvid-cpu"
    return "camvid" if name == "one" and "--dataset camvid" in line else name


def copied(source, target):
    """A file of its own, but for weights, which are never written in place: a copy of those for every line would fill a disk."""
    return (
        os.link(source, target)
        if Path(source).suffix in (".safetensors", ".pt", ".onnx")
        else shutil.copy2(source, target)
    )


def link(world, here, line):
    """Everything that a line may read, in `here`; not the folder that it makes, unless it goes on in it."""
    words = shlex.split(line)
    preset = words[words.index("--preset") + 1] if "--preset" in words else ""
    made = words[words.index("--out") + 1] if "--out" in words else f"runs/{preset}"
    going_on = "--resume" in words or line.startswith("run --out")
    for path in world.iterdir():
        if path.name not in ("runs", made) and f"synthetic {path.name} " not in line:
            (here / path.name).symlink_to(path)
    if "--model icnet --weights city" in line:  # a city's weights are those of the network that is named
        (here / "city.safetensors").unlink()
        (here / "city.safetensors").symlink_to(world / "runs/icnet/best.safetensors")
    for run in sorted((world / "runs").iterdir()):
        if f"runs/{run.name}" != made or going_on:
            shutil.copytree(world / "runs" / played(run.name, line), here / "runs" / run.name, copy_function=copied)


@pytest.mark.parametrize("line", SHOWN)
def test_a_line_that_is_shown_runs_up_to_its_work(line, world, tmp_path, monkeypatch, capsys, one_thread):
    typed = fitted(line)
    link(world, tmp_path, typed)
    monkeypatch.chdir(tmp_path)
    for place in WORK:
        monkeypatch.setattr(place, reached)
    monkeypatch.setattr("rtseg.cli.evaluate.scoring_precision", lambda *words, **more: ("fp32", ""))
    settled = {"precision": "fp32", "channels_last": True, "compile": False}
    monkeypatch.setattr(
        "rtseg.training.trainer.settle_run", lambda config, *words, **more: (config.model_copy(update=settled), "")
    )
    monkeypatch.setattr(subprocess, "run", reached)
    try:
        cli.main(shlex.split(typed))
    except Reached:
        return
    except SystemExit as end:
        out, err = capsys.readouterr()
        assert end.code in (0, None), f"rtseg {typed}\n{err}"
        return
    raise AssertionError("a command always ends with its exit code")
