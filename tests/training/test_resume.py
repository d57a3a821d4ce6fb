"""Exact resume: real processes, real SIGKILLs, a full disk and torn images."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch

from rtseg.core.errors import ArtifactError, DataError
from rtseg.data.augmentation import Augmentation
from rtseg.data.datasets import open_dataset
from rtseg.data.scenes import make_scenes
from rtseg.evaluation.evaluator import load_trained
from rtseg.models.registry import create_model
from rtseg.training.config import LossConfig, TrainConfig
from rtseg.training.logging import read_metrics
from rtseg.training.schedules import ScheduleConfig
from rtseg.training.setup import load_state
from rtseg.training.trainer import Trainer

CONFIG = TrainConfig(
    precision="fp32",
    channels_last=True,
    epochs=5,
    steps_per_epoch=6,
    batch_size=2,
    lr=0.02,
    device="cpu",
    augmentation=Augmentation(crop=(64, 64)),
    ema_decay=0.9,
    loss=LossConfig(kind="ohem"),
    schedule=ScheduleConfig(kind="polynomial", warmup_steps=4),
    checkpoint_steps=2,
    clip_norm=5.0,
)
VARIANTS = {
    "plain": CONFIG,
    "workers": CONFIG.model_copy(
        update={
            "workers": 2,
            "precision": "bf16",
            "emulate_bf16": True,
            "optimizer": "adamw",
            "lr": 1e-3,
            "accumulate": 2,
            "batch_size": 1,
            "epochs": 3,
        }
    ),
}
KILLS = {"plain": 10, "workers": 2}


def run_of(root, folder, config, *, seed, **more):
    """A trainer of Fast-SCNN (dropout included) that resumes what is there."""
    torch.manual_seed(seed)
    data, val = (open_dataset("synthetic", root, split) for split in ("train", "val"))
    return Trainer(
        create_model("fastscnn", 19), data, config=config, folder=folder, val=val, resume=True, progress=False, **more
    )


def child(root, folder, config, seed):
    """Train in a forked process of its own group; its process id."""
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        status = 1
        try:
            run_of(root, folder, config, seed=seed).fit()
            status = 0
        finally:
            os._exit(status)
    return pid


def kill_at_random_moments(root, folder, config, kills, chance):
    """Start and kill until `kills` processes have died by SIGKILL, then let one finish; how far each had come."""
    reached, span = [], 0.3
    for number in range(4 * kills):
        pid = child(root, folder, config, seed=100 + number)
        if len(reached) < kills:
            time.sleep(chance.uniform(0.25, 1.0) * span)
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return reached
        step = load_state(folder)["step"] if (folder / "state.pt").exists() else 0
        span = min(3.0, span * 1.3) if reached and step == reached[-1] else span
        reached.append(step)
    raise AssertionError(f"never finished: {reached}")


def drive(root, out):
    """What the driver process does: imports once, then forks trainings; seeds decide when each is killed."""
    torch.set_num_threads(1)
    import_module("torchmetrics.classification")  # here once, and not in each of the children
    for name, config in VARIANTS.items():
        folder = out / name
        os.waitpid(child(root, folder / "whole", config, seed=0), 0)
        first = child(
            root, folder / "cut", config, seed=0
        )  # the weights of the start come from the seed until a state exists
        while not (folder / "cut" / "state.pt").exists():
            time.sleep(0.005)
        os.killpg(first, signal.SIGKILL)
        os.waitpid(first, 0)
        reached = kill_at_random_moments(root, folder / "cut", config, KILLS[name] - 1, random.Random(f"{name} 7"))
        (folder / "reached.txt").write_text(" ".join(map(str, reached)))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_scenes(
        tmp_path_factory.mktemp("scenes"), seed=0, counts={"train": 7, "val": 1, "test": 1}, size=(64, 128)
    )


@pytest.fixture(scope="module")
def killed(scenes, tmp_path_factory):
    """Folders of the runs that were never killed, and of those that were killed and resumed."""
    out = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, str(scenes), str(out)],
        capture_output=True,
        text=True,
        timeout=400,
        env=dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES=""),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_killed_runs_end_with_the_same_bits(killed, name):
    whole, cut = killed / name / "whole", killed / name / "cut"
    steps = VARIANTS[name].epochs * 6
    states = [load_state(folder) for folder in (whole, cut)]
    assert [state["step"] for state in states] == [steps, steps]
    reached = [int(word) for word in (killed / name / "reached.txt").read_text().split()]
    assert len(reached) == KILLS[name] - 1 and all(step < steps for step in reached)
    for part in ("model", "ema"):
        a, b = (state[part] for state in states)
        assert a.keys() == b.keys() and [key for key in a if not torch.equal(a[key], b[key])] == []
    a, b = (state["optimizer"]["state"] for state in states)
    assert all(
        torch.equal(torch.as_tensor(a[i][key]), torch.as_tensor(b[i][key]))
        for i in a
        for key in a[i]
        if a[i][key] is not None
    )
    assert (
        torch.equal(states[0]["rng"][0]["torch"], states[1]["rng"][0]["torch"])
        and states[0]["recent"] == states[1]["recent"]
    )
    for which in ("last", "best", "ema"):
        assert (whole / f"{which}.safetensors").read_bytes() == (cut / f"{which}.safetensors").read_bytes()
    lines = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder)] for folder in (whole, cut)
    ]
    assert lines[0] == lines[1] and not list(cut.glob(".*"))


# the disk is full -----------------------------------------------------------------------------------------------------

SHORT = CONFIG.model_copy(
    update={
        "epochs": 2,
        "steps_per_epoch": 2,
        "checkpoint_steps": 1,
        "ema_decay": None,
        "schedule": ScheduleConfig(kind="polynomial"),
    }
)


def test_full_disk_stops_with_one_line_and_leaves_the_checkpoint(scenes, tmp_path):
    """A limit on the size of files stands in for the disk: the system refuses the write, as it does on a full one."""
    whole = run_of(scenes, tmp_path / "whole", SHORT, seed=0)
    whole.fit()
    run = run_of(scenes, tmp_path / "run", SHORT, seed=0)
    epochs = run.epochs()
    next(epochs)
    before, old = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        with pytest.raises(ArtifactError) as error:
            list(epochs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert (
        "cannot be written" in str(error.value)
        and str(tmp_path / "run") in str(error.value)
        and "\n" not in str(error.value)
    )
    assert load_state(tmp_path / "run")["step"] == 2 and not list((tmp_path / "run").glob(".*"))
    rest = run_of(scenes, tmp_path / "run", SHORT, seed=3)
    assert rest.fit().steps == 4
    assert all(
        torch.equal(a, b)
        for a, b in zip(rest.model.state_dict().values(), whole.model.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", ["state.pt", "last.safetensors", "best.safetensors", "last.json", "metrics.csv"])
def test_no_space_for_any_file(scenes, tmp_path, monkeypatch, name):
    run = run_of(scenes, tmp_path / "run", SHORT, seed=0)
    real = os.replace

    def replace(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ArtifactError, match="No space left on device") as error:
        run.fit()
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    rest = run_of(scenes, tmp_path / "run", SHORT, seed=0)
    assert rest.fit().steps == 4 and load_trained(tmp_path / "run", "last").origin.epoch == 2


# torn images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_torn_image_is_named(tmp_path, workers):
    root = make_scenes(tmp_path / "scenes", seed=1, counts={"train": 3, "val": 1, "test": 1}, size=(64, 96))
    torn = sorted((root / "leftImg8bit" / "train").rglob("*.png"))[1]
    torn.write_bytes(torn.read_bytes()[:200])
    run = run_of(root, tmp_path / "run", SHORT.model_copy(update={"workers": workers}), seed=0)
    with pytest.raises(DataError) as error:
        run.fit()
    assert torn.name in str(error.value) and "\n" not in str(error.value)


if __name__ == "__main__":
    drive(Path(sys.argv[1]), Path(sys.argv[2]))
