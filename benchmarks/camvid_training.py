"""Train networks on CamVid from scratch, for a stated number of core-minutes each, and keep what came out.

    python benchmarks/camvid_training.py --data ../shared/camvid                      # all of them, one after the other
    python benchmarks/camvid_training.py --data ../shared/camvid --models ddrnet,stdc --seed 1

One thread, fp32 weights, bfloat16 convolutions (but for DABNet). Killed, it goes on where it stopped. Writes results/camvid-training/NAME-seedN.json: the settings,
the scores on validation and test of the epoch that was best on validation, the curve, and the processor time that it took (not the clock's: cores are shared).
"""

import argparse
import time
from pathlib import Path

import torch

from rtseg.core.environment import environment_record, git_state
from rtseg.core.errors import RtsegError
from rtseg.core.files import atomic_write, read_json, write_json
from rtseg.core.values import ScoreOrigin
from rtseg.data import SegDataset, open_dataset
from rtseg.data.augmentation import Augmentation
from rtseg.evaluation import evaluate
from rtseg.evaluation.evaluator import load_trained
from rtseg.models import SegNetwork, create_model
from rtseg.runs.networks import masks_of
from rtseg.training import TrainConfig, Trainer
from rtseg.training.logging import read_metrics
from rtseg.viz.figures import squeeze_png

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "camvid-training"
NETWORKS = {
    "fastscnn": {},
    "dabnet": {},
    "bisenetv2": {},
    "ddrnet": {},
    "stdc": {"aux": True},
    "regseg": {},
    "ppliteseg": {},
}
EPOCHS = {
    "fastscnn": 100,
    "dabnet": 24,
    "bisenetv2": 36,
    "ddrnet": 76,
    "stdc": 60,
    "regseg": 30,
    "ppliteseg": 36,
}  # about 25 core-minutes each
# square root of the median class's pixels over the class's own in the training split
WEIGHTS = (0.52, 0.44, 2.14, 0.38, 1.0, 0.68, 1.96, 2.0, 0.87, 2.65, 3.92)


def settings(epochs: int, seed: int) -> TrainConfig:
    return TrainConfig.parse(
        {
            "epochs": epochs,
            "steps_per_epoch": None,
            "batch_size": 8,
            "lr": 0.04,
            "weight_decay": 2e-4,
            "decay_norms": False,
            "schedule": {"kind": "polynomial", "warmup_steps": 200},
            "loss": {"kind": "cross_entropy", "class_weights": WEIGHTS, "aux_weight": 0.4},
            "augmentation": Augmentation(
                crop=(240, 320), scale_range=(0.75, 1.5), brightness=0.2, contrast=0.2, saturation=0.2
            ).to_dict(),
            "ema_decay": 0.998,
            "evaluate_every": max(1, epochs // 8),
            "eval_batch_size": 4,
            "seed": seed,
            "device": "cpu",
        }
    )


def train(name: str, splits: dict[str, SegDataset], folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    network = create_model(name, 11, **NETWORKS[name])
    config = settings(EPOCHS[name], seed)
    trainer = Trainer(
        network, splits["train"], config=config, folder=folder, val=splits["val"], resume=True, progress=False
    )
    clock = folder / "processor_seconds.json"
    spent, started = read_json(clock)["seconds"] if clock.exists() else 0.0, time.process_time()
    for record in trainer.epochs():
        write_json(clock, {"seconds": spent + time.process_time() - started})
        print(
            name,
            seed,
            record.epoch,
            record.losses,
            record.miou,
            f"{(spent + time.process_time() - started) / 60:.1f} min",
            flush=True,
        )
    network, origin = trained(name, folder)
    reports = {
        split: evaluate(network, splits[split], batch_size=4, origin=origin).to_dict() for split in ("val", "test")
    }
    write_json(
        RESULTS / f"{name}-seed{seed}.json",
        {
            "model": name,
            "options": NETWORKS[name],
            "seed": seed,
            "config": trainer.config.to_dict(),
            "reports": reports,
            "curve": read_metrics(folder),
            "processor_minutes": read_json(clock)["seconds"] / 60,
            "pretrained_on": "none",
            "git": git_state(),
            "environment": environment_record(),
        },
    )


def trained(name: str, folder: Path) -> tuple[SegNetwork, ScoreOrigin]:
    best = load_trained(folder, "best")
    network = create_model(name, 11, **NETWORKS[name])
    network.load_weights(best.weights)
    return network, best.origin


def draw_masks(name: str, splits: dict[str, SegDataset], folder: Path) -> None:
    with atomic_write(RESULTS / f"masks-{name}.png") as temporary:
        temporary.write_bytes(squeeze_png(masks_of(trained(name, folder)[0], splits["test"], count=4), limit=300_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CamVid's folder")
    parser.add_argument(
        "--runs", type=Path, default=ROOT / "runs" / "camvid-training", help="checkpoints, to go on from"
    )
    parser.add_argument("--models", default=",".join(NETWORKS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    splits = {split: open_dataset("camvid", args.data, split, cache="memory") for split in ("train", "val", "test")}
    for name in args.models.split(","):
        folder = args.runs / f"{name}-seed{args.seed}"
        if not (RESULTS / f"{name}-seed{args.seed}.json").exists():
            train(name, splits, folder, args.seed)
        if not (RESULTS / f"masks-{name}.png").exists():
            draw_masks(name, splits, folder)


if __name__ == "__main__":
    try:
        main()
    except RtsegError as error:
        raise SystemExit(str(error)) from None
