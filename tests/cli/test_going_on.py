"""Commands that work in a folder: gone on with by its name alone, by one process at a time, and with nothing else."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from rtseg.core.files import read_yaml
from rtseg.core.run_folder import hold
from rtseg.data.labels import CITYSCAPES
from rtseg.data.scenes import make_scenes
from rtseg.training import trainer
from rtseg.training.logging import read_metrics

SMALL = "epochs=1 steps_per_epoch=2 batch_size=2 augmentation.crop=[64,64] device=cpu precision=fp32 channels_last=true"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("s") / "scenes", counts={"train": 2, "val": 1, "test": 1}, size=(64, 64))


@pytest.fixture
def line(scenes, tmp_path, one_thread):
    """A training of two steps, as somebody types it."""
    return f"train --model fastscnn --dataset synthetic --data {scenes} --out {tmp_path}/one"


def with_settings(words, settings=SMALL):
    """A command line with --set for each setting."""
    return " ".join([words, *(f"--set {setting}" for setting in settings.split())])


def test_a_training_is_gone_on_with_by_its_folder_alone(typed, line, tmp_path):
    assert typed(with_settings(line))[0] == 0
    for again in (f"train --out {tmp_path}/one --resume", f"{line} --resume"):  # the second is the line of guide 02
        code, said, err = typed(again)
        assert code == 0 and said.startswith("2 steps, in "), err
    code, said, err = typed(f"train --out {tmp_path}/one --resume --set epochs=3")
    assert code == 0 and said.startswith("6 steps, in "), err
    assert [record["epoch"] for record in read_metrics(tmp_path / "one")] == [1, 2, 3]
    assert read_yaml(tmp_path / "one/config.yaml")["epochs"] == 3
    code, said, _ = typed(f"train --out {tmp_path}/one --resume")
    assert code == 0 and said.startswith("6 steps, in ")


def test_another_network_or_label_set_is_one_line_and_another_folder(typed, line, scenes, tmp_path):
    assert typed(with_settings(line))[0] == 0
    backwards = replace(CITYSCAPES, classes=CITYSCAPES.classes[::-1], palette=CITYSCAPES.palette[::-1])
    backwards.to_yaml(tmp_path / "two.yaml")
    for words, told in (
        (f"--model enet --out {tmp_path}/one", "network.kind is ENet, it was begun with FastSCNN"),
        (f"--labels {tmp_path}/two.yaml --out {tmp_path}/one", "labels.classes[0] is bicycle, it was begun with road"),
        (f"--option aux=true --out {tmp_path}/one", "network.parameters is "),
        (f"--set lr=0.5 --out {tmp_path}/one", "config.lr is 0.5"),
    ):
        code, _, err = typed(f"train --resume {words}")
        assert code == 1 and told in err and err.count("\n") == 1 and "--out" in err
    assert typed(with_settings(f"{line} --option aux=true --out {tmp_path}/other"))[0] == 0


@pytest.mark.parametrize("name", ["train", "distill", "compress"])
def test_one_process_works_in_a_folder(typed, scenes, tmp_path, name):
    words = f"{name} --model fastscnn --dataset synthetic --data {scenes} --out {tmp_path}/one"
    words += {"train": "", "compress": " --weights w.pt", "distill": " --teacher enet --teacher-weights w.pt"}[name]
    with hold(tmp_path / "one"):
        code, out, err = typed(words)
    assert code == 1 and f"is in use by process {os.getpid()}" in err and err.count("\n") == 1 and not out


def test_ctrl_c_says_what_is_kept_and_the_line_that_goes_on(typed, line, tmp_path, monkeypatch):
    steps = []

    def stopping(train, batch, **how):
        steps.append(1)
        if len(steps) == 4:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return plain(train, batch, **how)

    plain = trainer.TrainStep.__call__
    monkeypatch.setattr(trainer.TrainStep, "__call__", stopping)
    code, _, err = typed(with_settings(f"{line} --set epochs=2", SMALL.replace("epochs=1 ", "")))
    told = [text for text in err.splitlines() if text.startswith("stopped: ")]
    assert code == 130 and told == [
        f"stopped: 1 epochs are kept in {tmp_path}/one; go on with: rtseg train --out {tmp_path}/one --resume"
    ]
    code, said, err = typed(told[0].split("rtseg ")[1])
    assert code == 0 and said.startswith("4 steps"), err


READS = [
    "train --out {0} --resume",
    "distill --out {0} --resume",
    "compress --out {0} --resume",
    "tune --out {0} --resume",
    "run --out {0} --resume",
    "export {0} {1}/x.onnx --auto",
    "export {0} {1}/x.onnx --model fastscnn",
    "evaluate {0} --model fastscnn --data {1}",
    "predict {0} {1} --model fastscnn --out {1}/masks",
    "bench --against {0}/bench.json --out {0} --model fastscnn",
    "bench --model {0}/student.json --out {0}",
    "latency show {0}/table.json",
    "nas search --table {0} --budget-ms 10",
]


def test_ctrl_c_in_any_command_is_said(typed, monkeypatch):
    """Typer turns it into an exit code, and says nothing."""

    def stop(*words, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("rtseg.cli.models.gallery", stop)
    code, _, err = typed("models")
    assert code == 130 and "stopped: what is finished is kept" in err


@pytest.mark.parametrize("words", READS)
def test_a_folder_that_is_not_there_is_not_made_by_asking_for_it(typed, tmp_path, words):
    code, _, err = typed(words.format(tmp_path / "nowhere", tmp_path))
    assert code in (1, 2) and err.count("\n") == 1, err
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_is_refused_leaves_no_folder(typed, line, tmp_path):
    for words in ("--set lrr=1", "--labels nothing.yaml", "--option axu=1", "--dataset folder"):
        code, _, err = typed(f"{line} {words}")
        assert code == 1 and not (tmp_path / "one").exists(), err
    code, _, err = typed("train --model fastscnn --out x")
    assert code == 2 and "Missing option '--data'" in err and not Path("x").exists()


def test_the_version_is_said(typed):
    code, said, _ = typed("--version")
    assert code == 0 and said.startswith("rtseg ")
