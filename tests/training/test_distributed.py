"""The same code in two processes: the same curve, the same bits after a resume, and a clean end when one of them is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import nn

from rtseg.core.errors import RtsegError
from rtseg.core.values import SegOutput
from rtseg.data.augmentation import Augmentation
from rtseg.data.datasets import open_dataset
from rtseg.data.scenes import make_scenes
from rtseg.training.config import LossConfig, TrainConfig
from rtseg.training.logging import read_metrics
from rtseg.training.schedules import ScheduleConfig
from rtseg.training.setup import load_state
from rtseg.training.trainer import Trainer, run_steps


class Net(nn.Module):
    """Convolutions with batch norm and an auxiliary head; dropout on request."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.drop, self.head, self.aux = nn.Dropout2d(dropout), nn.Conv2d(8, 19, 1), nn.Conv2d(8, 19, 1)

    def forward(self, x):
        features = self.drop(self.body(x))
        logits = nn.functional.interpolate(self.head(features), size=x.shape[-2:], mode="bilinear")
        return SegOutput(logits, (self.aux(features),)) if self.training else logits


BASE = TrainConfig(
    precision="fp32",
    channels_last=True,
    epochs=3,
    steps_per_epoch=4,
    batch_size=4,
    lr=0.05,
    device="cpu",
    augmentation=Augmentation(crop=(64, 64)),
    evaluate_every=3,
    loss=LossConfig(kind="cross_entropy"),
    schedule=ScheduleConfig(kind="polynomial"),
    clip_norm=5.0,
)
CASES = {
    "synchronised": BASE.model_copy(update={"sync_bn": True, "ema_decay": 0.9}),
    "frozen norm, three images": BASE.model_copy(update={"freeze": ("body.1",), "batch_size": 3}),
    "accumulated": BASE.model_copy(update={"freeze": ("body.1",), "batch_size": 2, "accumulate": 2}),
    "aux off": BASE.model_copy(
        update={"sync_bn": True, "epochs": 1, "loss": LossConfig(kind="cross_entropy", aux_weight=0.0)}
    ),
}
LONG = BASE.model_copy(update={"epochs": 100, "checkpoint_steps": 2, "sync_bn": True, "evaluate_every": 100})
RESUMED = BASE.model_copy(update={"epochs": 2, "checkpoint_steps": 3})


def trainer(root, folder, config, *, dropout=0.0, **more):
    torch.manual_seed(0)
    data, val = (open_dataset("synthetic", root, split, cache="memory") for split in ("train", "val"))
    return Trainer(Net(dropout), data, config=config, folder=folder, val=val, progress=False, **more)


def work(job, root, out):
    """What each worker process does."""
    torch.set_num_threads(1)
    if job == "curves":
        for name, config in CASES.items():
            trainer(root, out / name, config).fit()
        whole = trainer(root, out / "whole", RESUMED, dropout=0.3)
        whole.fit()
        cut = trainer(root, out / "cut", RESUMED, dropout=0.3)
        with patch("rtseg.training.trainer.run_steps", lambda run, log: islice(run_steps(run, log), 4)):
            list(cut.epochs())
        rest = trainer(root, out / "cut", RESUMED, dropout=0.3, resume=True)
        start = rest.files.step
        rest.fit()
        same = all(torch.equal(a, b) for a, b in zip(rest.model.parameters(), whole.model.parameters(), strict=True))
        draws = torch.rand(2).tolist()
        (out / f"rank{rest.train.accelerator.process_index}.json").write_text(
            json.dumps({"start": start, "same": same, "draws": draws})
        )
    else:
        trainer(root, out / "long", LONG, resume=True).fit()


def main():
    try:
        work(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    except RtsegError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(3)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


QUIET = dict(
    os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", PYTHONWARNINGS="ignore", TORCH_CPP_LOG_LEVEL="ERROR"
)


@contextmanager
def two_workers(job, root, out):
    """Two processes with torchrun's variables and no torchrun above them: what they do when the other dies, they do by themselves."""
    port, workers = free_port(), []
    for rank in range(2):
        env = QUIET | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        workers.append(
            subprocess.Popen(
                [sys.executable, __file__, job, str(root), str(out)], env=env, stderr=subprocess.PIPE, text=True
            )
        )
    try:
        yield workers
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_scenes(
        tmp_path_factory.mktemp("scenes"), seed=0, counts={"train": 9, "val": 2, "test": 1}, size=(64, 128)
    )


@pytest.fixture(scope="module")
def curves(scenes, tmp_path_factory):
    """The cases, trained by two processes under torchrun."""
    out = tmp_path_factory.mktemp("two")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
        __file__,
        "curves",
        str(scenes),
        str(out),
    ]
    done = subprocess.run(command, env=QUIET, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_curve_of_one(scenes, curves, tmp_path, name):
    one = trainer(scenes, tmp_path / "one", CASES[name])
    one.fit()
    ours, theirs = read_metrics(tmp_path / "one"), read_metrics(curves / name)
    assert len(ours) == len(theirs) == CASES[name].epochs
    for a, b in zip(ours, theirs, strict=True):
        assert a["losses"].keys() == b["losses"].keys() and a["lr"] == b["lr"]
        assert all(abs(a["losses"][key] - b["losses"][key]) < 1e-5 * a["losses"][key] for key in a["losses"])
        assert (a["miou"] is None) == (b["miou"] is None) and abs((a["miou"] or 0) - (b["miou"] or 0)) < 1e-3
    state = load_state(curves / name)["model"]
    for key, value in one.model.state_dict().items():
        assert torch.allclose(value, state[key], atol=1e-5), key


@pytest.mark.slow
def test_a_resumed_run_of_two_has_the_same_bits_and_two_random_streams(curves):
    ranks = [json.loads((curves / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert [rank["start"] for rank in ranks] == [4, 4] or [rank["start"] for rank in ranks] == [3, 3]
    assert [rank["same"] for rank in ranks] == [True, True] and ranks[0]["draws"] != ranks[1]["draws"]
    assert len(load_state(curves / "cut")["rng"]) == 2


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_and_it_resumes(scenes, tmp_path):
    with two_workers("long", scenes, tmp_path) as workers:
        deadline = time.monotonic() + 120
        while not (tmp_path / "long" / "state.pt").exists() and time.monotonic() < deadline:
            assert all(worker.poll() is None for worker in workers), workers[0].stderr.read()
            time.sleep(0.02)
        workers[1].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        code = workers[0].wait(timeout=20)
        seconds, said = time.monotonic() - killed, workers[0].stderr.read()
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    assert (
        code == 3
        and seconds < 10
        and len(lines) == 1
        and "one of the 2 processes of this run has gone" in lines[0]
        and "Traceback" not in said
    )
    done = load_state(tmp_path / "long")["step"]
    with pytest.warns(UserWarning, match="saved by 2 processes and goes on with 1"):
        rest = trainer(scenes, tmp_path / "long", LONG, resume=True)
    assert rest.files.step == done >= 2
    assert next(rest.epochs()).step > done


if __name__ == "__main__":
    main()
