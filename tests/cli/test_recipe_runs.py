"""Recipes as they are used: ICNet's plan from end to end, the pages of nbs/recipes, and the commands that train, teach and compress."""

import json
import re
from pathlib import Path

import nbformat
import papermill
import pytest
import torch

from rtseg.compression import PrunedRecord
from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.core.files import save_tensors
from rtseg.core.run_folder import RunFolder
from rtseg.data.scenes import make_scenes
from rtseg.evaluation.evaluator import load_trained, save_trained
from rtseg.models import count_parameters, create_model
from rtseg.models.icnet import start_from_pspnet
from rtseg.models.starting import start_from
from rtseg.runs.config import load_preset
from rtseg.runs.kernels import kernel_managers
from rtseg.runs.plans import ICNET
from rtseg.runs.runner import run
from rtseg.training.trainer import Trainer

RECIPES = Path(__file__).resolve().parents[2] / "nbs" / "recipes"
TINY = "--set epochs=1 --set steps_per_epoch=1 --set batch_size=2 --set augmentation.crop=[64,64] --set loss.kind=cross_entropy"
FAST = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2, "augmentation.crop": [64, 64], "loss.kind": "cross_entropy"}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """One thread here and in the kernels that a test starts."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_scenes(
        tmp_path_factory.mktemp("scenes"), counts={"train": 3, "val": 2, "test": 1}, size=(64, 64), cast="plain"
    )


def test_icnet_takes_over_all_of_pspnets_encoder_and_pyramid_or_nothing():
    pspnet, icnet = create_model("pspnet", 19, encoder="resnet50"), create_model("icnet", 19, encoder="resnet50")
    state = {f"module.{k}": torch.randn_like(v) if v.is_floating_point() else v for k, v in pspnet.state_dict().items()}
    start = start_from_pspnet(icnet, state)
    own = icnet.state_dict()
    shared = [k for k in own if k.startswith(("encoder.", "pyramid."))]
    assert set(start.copied) == set(shared) and len(shared) > 300
    assert all(torch.equal(own[k], state[f"module.{k}"]) for k in shared)
    assert start.fresh == ("shallow", "fusion16", "fusion8", "head", "aux_heads")
    untouched = create_model("icnet", 19, encoder="resnet18")
    before = {k: v.clone() for k, v in untouched.state_dict().items()}
    with pytest.raises(
        ArtifactError, match=r"encoder 'resnet18'.*encoder\.body\.\S+ \(.*train a PSPNet with encoder='resnet18'"
    ) as caught:
        start_from_pspnet(untouched, pspnet.state_dict())
    assert "\n" not in str(caught.value) and all(torch.equal(v, before[k]) for k, v in untouched.state_dict().items())
    half = {k: v for k, v in pspnet.state_dict().items() if k != "pyramid.mix.conv.weight"}
    with pytest.raises(ArtifactError, match=r"pyramid\.mix\.conv\.weight .* is not in it"):
        start_from_pspnet(icnet, half)


@pytest.mark.parametrize("name", ["fastscnn", "linknet", "enet", "bisenetv2", "ddrnet"])
def test_only_what_counts_classes_starts_fresh(name):
    old, new = create_model(name, 19), create_model(name, 5)
    start = start_from(new, old.state_dict(), name=name)
    own, theirs = new.state_dict(), old.state_dict()
    assert all(torch.equal(own[k], theirs[k]) for k in start.copied)
    fresh = [k for k in own if k not in start.copied and not k.endswith("num_batches_tracked")]
    assert fresh and all(5 in own[k].shape and 19 in theirs[k].shape for k in fresh)
    assert set(start.copied) | set(fresh) == {k for k in own if not k.endswith("num_batches_tracked")}


@pytest.mark.slow
def test_icnets_plan_from_end_to_end(tmp_path, typed):
    config, out = load_preset("icnet-demo"), tmp_path / "run"
    result = run(config, out, say=lambda line: None, show_progress=False)
    assert result.ran == tuple(stage.name for stage in ICNET) and result.report == out / "report.html"
    for stage in ICNET:
        assert (out / "notebooks" / stage.notebook).is_file()
        assert all(RunFolder(out).verify(name).is_file() for name in stage.makes)
    results = json.loads((out / "results.json").read_text())
    names = ["PSPNet", "ICNet", "cut, before training", "compressed"]
    assert (
        [row["name"] for row in results["networks"]] == names
        and results["hero"] == "compressed"
        and results["deployment"]["fps"] > 0
    )
    params = {row["name"]: row["params"] for row in results["networks"]}
    assert params["compressed"] == params[names[2]] and 0.2 < params["compressed"] / params["ICNet"] < 0.32
    origins = [row["origin"]["pretrained_on"] for row in results["networks"]]
    assert (
        origins[0] == "none"
        and origins[1].startswith("PSPNet resnet18")
        and "50% of the kernels" in origins[3]
        and origins[3].endswith(origins[1])
    )
    page = re.sub(r"<script>.*?</script>", "", (out / "report.html").read_text(), flags=re.DOTALL)
    assert all(f"<section id='{stage.name}'>" in page for stage in ICNET[:-1]) and results["verdict"] in page
    again = config.with_values({"retrain.lr": 0.002})
    assert run(config, out, say=lambda line: None, show_progress=False).skipped == result.ran
    (out / "deploy/network.onnx").unlink()
    rerun = run(again, out, resume=True, stages=["retrain"], say=lambda line: None, show_progress=False)
    assert rerun.ran == ("retrain",)
    data = next((out / "data").glob("scenes-*"))
    weights = f"{out}/retrain/model.safetensors --model {out}/retrain/model.json"
    code, text, _ = typed(f"evaluate {weights} --dataset synthetic --data {data}")
    assert code == 0 and "mIoU" in text
    image = next((data / "leftImg8bit/val").rglob("*.png"))
    assert (
        typed(
            f"predict {out}/retrain/model.safetensors {image} --model {out}/retrain/model.json --out {tmp_path}/masks"
        )[0]
        == 0
    )
    assert (
        typed(
            f"export {out}/retrain/model.safetensors {tmp_path}/small.onnx --model {out}/retrain/model.json --size 64x128"
        )[0]
        == 0
    )


PAGES = {
    "01_distillation.ipynb": {"teacher": "dabnet", "student": "fastscnn"},
    "02_detail_guidance.ipynb": {},
    "03_compression.ipynb": {"ratio": 0.5, "edits": {"downsample.0.conv": 0.25}},
    "04_fine_tuning.ipynb": {"model": "swiftnet"},
}


def test_every_recipe_page_is_tried():
    assert sorted(PAGES) == sorted(path.name for path in RECIPES.glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_recipe_page_runs(page, scenes, tmp_path):
    given = {"root": str(scenes), "out": str(tmp_path / "out"), "changes": FAST, **PAGES[page]}
    papermill.execute_notebook(
        RECIPES / page,
        tmp_path / page,
        parameters=given,
        kernel_name="python3",
        progress_bar=False,
        **kernel_managers(),
    )
    executed = nbformat.read(tmp_path / page, as_version=4)
    assert not any(output.output_type == "error" for cell in executed.cells for output in cell.get("outputs", []))
    if page == "03_compression.ipynb":
        record = PrunedRecord.load(tmp_path / "out/compressed.json")
        small = record.build()
        assert record.layers["downsample.0.conv"][1] == 24 and count_parameters(small) < 0.4 * count_parameters(
            create_model("fastscnn", 19)
        )
        assert "50% of the kernels cut" in load_trained(tmp_path / "out/small").origin.pretrained_on


def test_training_starts_from_weights_of_other_classes_and_says_so(typed, scenes, tmp_path):
    save_trained(
        tmp_path / "camvid.safetensors",
        create_model("fastscnn", 11).state_dict(),
        epoch=7,
        which="best",
        seed=0,
        pretrained_on="ImageNet",
    )
    code, out, err = typed(
        f"train --model fastscnn --dataset synthetic --data {scenes} --out {tmp_path}/t --weights {tmp_path}/camvid.safetensors --detail {TINY}"
    )
    assert code == 0, err
    assert (
        "taken over; fresh: head.2" in out and out.count("\n") == 3 and re.search(r": (fp32|bf16) [^\n]*\n1 steps", out)
    )
    origin = load_trained(tmp_path / "t").origin
    assert re.fullmatch(r"camvid.safetensors [0-9a-f]{8} \(best, epoch 7, from ImageNet\)", origin.pretrained_on)
    losses = json.loads((tmp_path / "t/metrics.jsonl").read_text().splitlines()[-1])["losses"]
    assert any(name.startswith("detail") for name in losses)
    code, _, err = typed(
        f"train --model dabnet --dataset synthetic --data {scenes} --out {tmp_path}/u --weights {tmp_path}/camvid.safetensors {TINY}"
    )
    assert code == 1 and "are no start for DABNet" in err and err.count("\n") == 1 and not (tmp_path / "u").exists()


def test_a_teacher_teaches_from_the_command_line(typed, scenes, tmp_path):
    save_trained(
        tmp_path / "teacher.safetensors", create_model("dabnet", 19).state_dict(), epoch=1, which="best", seed=0
    )
    line = f"distill --model fastscnn --teacher dabnet --teacher-weights {tmp_path}/teacher.safetensors --dataset synthetic --data {scenes} --out {tmp_path}/s {TINY}"
    code, _, err = typed(f"{line} --set distillation.kind=cwd --set distillation.temperature=4")
    assert code == 0, err
    assert json.loads((tmp_path / "s/metrics.jsonl").read_text().splitlines()[-1])["losses"]["distillation"] > 0
    code, _, err = typed(line.replace("--teacher dabnet", "--teacher enet").replace(f"{tmp_path}/s", f"{tmp_path}/v"))
    assert code == 1 and err.count("\n") == 1 and not (tmp_path / "v").exists()


def test_a_pretrained_student_says_what_it_started_from(typed, scenes, tmp_path, monkeypatch):
    import timm

    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "r18.pth")
    save_trained(
        tmp_path / "teacher.safetensors", create_model("dabnet", 19).state_dict(), epoch=1, which="best", seed=0
    )
    begun = []

    class Begun(Trainer):
        def fit(self):
            begun.append(self.files.pretrained_on)
            raise ConfigError("enough")

    monkeypatch.setattr("rtseg.runs.training_runs.Trainer", Begun)
    line = f"distill --model bisenetv1 --option pretrained={tmp_path}/r18.pth --teacher dabnet --teacher-weights {tmp_path}/teacher.safetensors"
    code, _, err = typed(f"{line} --dataset synthetic --data {scenes} --out {tmp_path}/s {TINY}")
    assert code == 1 and err.endswith("enough\n") and begun[0].startswith("encoder from r18.pth "), err


@pytest.mark.slow
def test_a_network_is_compressed_and_goes_on_being_a_network(typed, scenes, tmp_path):
    save_tensors(tmp_path / "whole.safetensors", create_model("fastscnn", 19).state_dict())
    line = f"compress --model fastscnn --weights {tmp_path}/whole.safetensors --dataset synthetic --data {scenes} --out {tmp_path}/c --steps 2 --size 64x64 {TINY}"
    code, out, err = typed(line)
    assert code == 0 and "step 2" in out and "rtseg evaluate" in out, err
    small = f"{tmp_path}/c/compressed.safetensors --model {tmp_path}/c/compressed.json"
    before = (tmp_path / "c/compressed.safetensors").read_bytes()
    assert typed(line)[0] == 0 and (tmp_path / "c/compressed.safetensors").read_bytes() == before
    assert typed(f"evaluate {small} --dataset synthetic --data {scenes}")[0] == 0
    told = next(text for text in out.splitlines() if text.startswith("evaluate it: "))
    assert typed(told.split("rtseg ")[1])[0] == 0  # the line that it prints
    code, _, err = typed(
        f"export {tmp_path}/c/compressed.safetensors {tmp_path}/x.onnx --model {tmp_path}/c/compressed.json --classes 5"
    )
    assert code == 1 and "19 classes" in err and err.count("\n") == 1
    again = f"compress --model {tmp_path}/c/compressed.json --weights {tmp_path}/c/compressed.safetensors --dataset synthetic --data {scenes} --out {tmp_path}/d --steps 1 --ratio 0.2 --size 64x64 {TINY}"
    code, _, err = typed(again)
    assert code == 0, err
    sizes = [count_parameters(PrunedRecord.load(tmp_path / f"{k}/compressed.json").build()) for k in "cd"]
    assert sizes[1] < 0.8 * sizes[0]
