"""How training is spread over the cuts of a pruning, on CamVid at a fraction of its size: Fast-SCNN, half of its channels (28 % of its parameters), equal total training.

    python benchmarks/pruning_steps.py --data ../shared/camvid --scale 0.5 --seeds 0,1,2

From each `plain` network (START epochs) go on, with the same number of epochs more: `longer` (whole), `once` (half of the channels at once), `even` (five cuts, a fifth of the epochs and a whole schedule after each: the
default until now), `late` (five cuts, a short calm training after each but the last, which gets the rest and the schedule: the default now) and `taught` (`late`, the whole network teaching). Scores are those of the last weights'
average on the test images. Killed, it goes on where it stopped. Writes results/pruning-steps/ARM-seedN.json.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import nn

from camvid_training import ROOT, WEIGHTS
from rtseg.compression import CompressConfig, compress
from rtseg.core.environment import environment_record, git_state
from rtseg.core.errors import RtsegError
from rtseg.core.files import read_json, write_json
from rtseg.data import open_dataset
from rtseg.evaluation import evaluate
from rtseg.evaluation.evaluator import load_trained
from rtseg.models import count_parameters, create_model
from rtseg.training import TrainConfig, Trainer

RESULTS = ROOT / "results" / "pruning-steps"
ARMS = ("plain", "once", "even", "late", "longer", "taught")
START, AGAIN, CUTS, LR = 12, 10, 5, 0.04


def settings(epochs: int, seed: int, size: tuple[int, int], *, lr: float = LR) -> TrainConfig:
    return TrainConfig.parse(
        {
            "epochs": epochs,
            "steps_per_epoch": None,
            "batch_size": 8,
            "lr": lr,
            "weight_decay": 2e-4,
            "decay_norms": False,
            "schedule": {"kind": "polynomial", "warmup_steps": 20},
            "loss": {"kind": "cross_entropy", "class_weights": WEIGHTS, "aux_weight": 0.4},
            "augmentation": {
                "crop": list(size),
                "scale_range": [0.75, 1.5],
                "brightness": 0.2,
                "contrast": 0.2,
                "saturation": 0.2,
            },
            "distillation": {"kind": "kl", "temperature": 2.0, "weight": 1.0},
            "ema_decay": 0.998,
            "evaluate_every": epochs,
            "precision": "bf16",
            "channels_last": True,
            "compile": False,
            "seed": seed,
            "device": "cpu",
        }
    )


def plan_of(arm: str, size: tuple[int, int]) -> tuple[CompressConfig, int]:
    """The settings of an arm's cuts, and the epochs of its whole trainings, so that all come to AGAIN."""
    how = {"ratio": 0.5, "example_size": size, "distill": arm == "taught"}
    if arm == "once":
        return CompressConfig.parse({**how, "steps": 1}), AGAIN
    if arm == "even":
        return CompressConfig.parse({**how, "steps": CUTS, "recovery_epochs": None}), AGAIN // CUTS
    return CompressConfig.parse({**how, "steps": CUTS}), AGAIN - (CUTS - 1)


def fit(network: nn.Module, data, folder: Path, config: TrainConfig) -> nn.Module:
    resume = (folder / "state.pt").exists()
    Trainer(network, data, config=config, folder=folder, resume=resume, progress=False).fit()
    network.load_weights(load_trained(folder, "ema").weights)
    return network


def run_arm(arm: str, seed: int, data, runs: Path, size: tuple[int, int]) -> nn.Module:
    torch.manual_seed(seed)
    begun = create_model("fastscnn", 11)
    if arm == "plain":
        return fit(begun, data, runs / f"plain-seed{seed}", settings(START, seed, size))
    begun.load_weights(load_trained(runs / f"plain-seed{seed}", "ema").weights)
    if arm == "longer":
        return fit(begun, data, runs / f"longer-seed{seed}", settings(AGAIN, seed, size))
    how, epochs = plan_of(arm, size)
    train = settings(epochs, seed, size)
    folder = runs / f"{arm}-seed{seed}"
    return compress(begun, data, config=how, train=train, folder=folder, name="fastscnn", progress=False).model


def measure(arm: str, seed: int, splits: dict, runs: Path, size: tuple[int, int], scale: float) -> None:
    done, clock = RESULTS / f"{arm}-seed{seed}.json", runs / f"{arm}-seed{seed}-seconds.json"
    if done.exists():
        return
    spent, started = read_json(clock)["seconds"] if clock.exists() else 0.0, time.process_time()
    try:
        network = run_arm(arm, seed, splits["train"], runs, size)
    finally:
        write_json(clock, {"seconds": spent + time.process_time() - started})
    report = evaluate(network, splits["test"], batch_size=4)
    facts = {"arm": arm, "seed": seed, "scale": scale, "epochs": {"start": START, "again": AGAIN}, "lr": LR}
    numbers = {"params": count_parameters(network), "processor_minutes": read_json(clock)["seconds"] / 60}
    made = {"git": git_state(), "environment": environment_record()}
    write_json(done, {**facts, **numbers, "report": report.to_dict(), **made})
    print(arm, seed, f"{report.miou:.4f}", count_parameters(network), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CamVid's folder")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "pruning-steps", help="checkpoints, to go on from")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--scale", type=float, default=0.5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    splits = {
        split: open_dataset("camvid", args.data, split, cache="memory", scale=args.scale) for split in ("train", "test")
    }
    size = tuple(int(side * args.scale) // 16 * 16 for side in (320, 448))
    for seed in map(int, args.seeds.split(",")):
        for arm in args.arms.split(","):
            measure(arm, seed, splits, args.runs, size, args.scale)


if __name__ == "__main__":
    try:
        main()
    except RtsegError as error:
        raise SystemExit(str(error)) from None
