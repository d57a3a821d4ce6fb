"""With and without, on CamVid: distillation, detail guidance and compression, three seeds each, the same budget for both sides.

    python benchmarks/camvid_training.py --data ../shared/camvid --models ddrnet        # the teacher
    python benchmarks/camvid_comparisons.py --data ../shared/camvid                     # all arms, seeds 0, 1, 2
    python benchmarks/camvid_comparisons.py --data ../shared/camvid --arms plain,detail --seeds 0

Fast-SCNN from scratch, one thread. `plain`: 20 epochs. `distilled` and `detail`: the same 20 epochs with the term added. From each plain network go on `longer` (10 epochs more), `pruned-once`
(half of the channels at once, then 10 epochs) and `pruned-steps` (half of the channels in five steps, 2 epochs after each). Killed, it goes on where it stopped.
Writes results/camvid-comparisons/ARM-seedN.json: scores on the test images of the last weights' average, parameters, GMAC, processor minutes.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import nn

from camvid_training import ROOT, WEIGHTS
from rtseg.compression import prune
from rtseg.core.environment import environment_record, git_state
from rtseg.core.errors import RtsegError
from rtseg.core.files import read_json, write_json
from rtseg.data import SegDataset, open_dataset
from rtseg.evaluation import evaluate
from rtseg.evaluation.evaluator import load_trained
from rtseg.models import count_macs, count_parameters, create_model
from rtseg.training import TrainConfig, Trainer

RESULTS = ROOT / "results" / "camvid-comparisons"
STUDENT, TEACHER, CLASSES = "fastscnn", "ddrnet", 11
ARMS = ("plain", "distilled", "detail", "longer", "pruned-once", "pruned-steps")


def settings(epochs: int, seed: int, *, lr: float = 0.04, warmup: int = 200, **more: dict) -> TrainConfig:
    return TrainConfig.parse(
        {
            "epochs": epochs,
            "steps_per_epoch": None,
            "batch_size": 8,
            "lr": lr,
            "weight_decay": 2e-4,
            "decay_norms": False,
            "schedule": {"kind": "polynomial", "warmup_steps": warmup},
            "loss": {"kind": "cross_entropy", "class_weights": WEIGHTS, "aux_weight": 0.4},
            "augmentation": {
                "crop": [240, 320],
                "scale_range": [0.75, 1.5],
                "brightness": 0.2,
                "contrast": 0.2,
                "saturation": 0.2,
            },
            "ema_decay": 0.998,
            "evaluate_every": epochs,
            "eval_batch_size": 4,
            "seed": seed,
            "device": "cpu",
            **more,
        }
    )


def plain_network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return create_model(STUDENT, CLASSES)


def teacher(runs: Path) -> nn.Module:
    network = create_model(TEACHER, CLASSES)
    network.load_weights(load_trained(runs.parent / "camvid-training" / f"{TEACHER}-seed0", "best").weights)
    return network


def trained(network: nn.Module, folder: Path, which: str = "ema") -> nn.Module:
    network.load_weights(load_trained(folder, which).weights)
    return network


def fit(
    network: nn.Module, splits: dict[str, SegDataset], folder: Path, config: TrainConfig, **more: object
) -> nn.Module:
    Trainer(
        network,
        splits["train"],
        config=config,
        folder=folder,
        resume=(folder / "state.pt").exists(),
        progress=False,
        **more,
    ).fit()
    return trained(network, folder)


def run_arm(arm: str, seed: int, splits: dict[str, SegDataset], runs: Path) -> nn.Module:
    folder = runs / f"{arm}-seed{seed}"
    if arm == "plain":
        return fit(plain_network(seed), splits, folder, settings(20, seed))
    if arm == "distilled":
        return fit(
            plain_network(seed),
            splits,
            folder,
            settings(20, seed, distillation={"kind": "kl", "temperature": 4.0, "weight": 1.0}),
            teacher=teacher(runs),
        )
    if arm == "detail":
        return fit(plain_network(seed), splits, folder, settings(20, seed, detail={"strides": [8]}))
    begun = trained(plain_network(seed), runs / f"plain-seed{seed}")
    again = settings(10, seed, lr=0.01, warmup=20)
    if arm == "longer":
        return fit(begun, splits, folder, again)
    if arm == "pruned-once":
        return fit(prune(begun, ratio=0.5, example_size=(240, 320)).model, splits, folder, again)
    for step in range(5):
        begun = prune(begun, ratio=1 - 0.5**0.2, example_size=(240, 320)).model
        begun = fit(begun, splits, folder / f"step{step}", settings(2, seed, lr=0.01, warmup=20))
    return begun


def measure(arm: str, seed: int, splits: dict[str, SegDataset], runs: Path) -> None:
    done = RESULTS / f"{arm}-seed{seed}.json"
    if done.exists():
        return
    clock = runs / f"{arm}-seed{seed}-seconds.json"
    spent, started = read_json(clock)["seconds"] if clock.exists() else 0.0, time.process_time()
    try:
        network = run_arm(arm, seed, splits, runs)
    finally:
        write_json(clock, {"seconds": spent + time.process_time() - started})
    report = evaluate(network, splits["test"], batch_size=4)
    write_json(
        done,
        {
            "arm": arm,
            "seed": seed,
            "student": STUDENT,
            "teacher": TEACHER if arm == "distilled" else None,
            "report": report.to_dict(),
            "params": count_parameters(network),
            "gmacs": count_macs(network, (1, 3, 360, 480)) / 1e9,
            "processor_minutes": read_json(clock)["seconds"] / 60,
            "git": git_state(),
            "environment": environment_record(),
        },
    )
    print(arm, seed, f"{report.miou:.4f}", f"{read_json(clock)['seconds'] / 60:.1f} min", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CamVid's folder")
    parser.add_argument(
        "--runs",
        type=Path,
        default=ROOT / "runs" / "camvid-comparisons",
        help="checkpoints, to go on from; the teacher's lie beside it",
    )
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", default="0,1,2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    splits = {split: open_dataset("camvid", args.data, split, cache="memory") for split in ("train", "test")}
    for seed in map(int, args.seeds.split(",")):
        for arm in args.arms.split(","):
            measure(arm, seed, splits, args.runs)


if __name__ == "__main__":
    try:
        main()
    except RtsegError as error:
        raise SystemExit(str(error)) from None
