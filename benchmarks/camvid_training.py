"""Train networks on CamVid from scratch, for a stated budget each, and keep what came out.

    python benchmarks/camvid_training.py --data ../shared/camvid                      # all of them, one after the other
    python benchmarks/camvid_training.py --data ../shared/camvid --models ddrnet,stdc --seed 1
    python benchmarks/camvid_training.py --data ../shared/camvid --budget short       # more networks, by the recipe camvid-short
    python benchmarks/camvid_training.py --data ../shared/camvid --budget half-hour   # small pictures first, whole ones last

`long`: about 25 core-minutes each, at 360 x 480; fp32 weights, bfloat16 convolutions (but for DABNet). `short`: 14 passes at half size in fp32, the recipe camvid-short, the same for every network;
PIDNet with its boundary loss. `half-hour`: at most 30 core-minutes each, AdamW with one cycle, pictures at half size for most of the steps and whole ones at the end. One thread. Killed, it goes on where it stopped. Writes results/camvid-training/NAME-seedN.json (short: results/camvid-short/): the settings, the scores on validation
and test of the epoch that was best on validation, the curve, and the processor time that it took (not the clock's: cores are shared).
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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
from rtseg.training.recipes import load_recipe
from rtseg.viz.figures import squeeze_png

ROOT = Path(__file__).resolve().parent.parent
LONG = {
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
SHORT = {
    "topformer_t": {},
    "seaformer_t": {},
    "fastscnn": {},
    "stdc": {"aux": True},
    "ddrnet_23_slim": {"aux": True},
    "sctnet_s": {},
    "pidnet_s": {"aux": True},
    "lmffnet": {},
    "segnext_t": {},
    "letnet": {},
}
HALF_HOUR = {"fastscnn": {"aux": True}, "stdc": {"aux": True}, "seaformer_t": {}}
HALF_HOUR_EPOCHS = {"fastscnn": 72, "stdc": 30, "seaformer_t": 48}
# square root of the median class's pixels over the class's own in the training split
WEIGHTS = (0.52, 0.44, 2.14, 0.38, 1.0, 0.68, 1.96, 2.0, 0.87, 2.65, 3.92)


class Budget(NamedTuple):
    """Networks with their options, where records go, the size of the pictures relative to CamVid's, and the settings of a network and a seed."""

    networks: dict[str, dict]
    results: Path
    scale: float
    settings: Callable[[str, int], TrainConfig]


def long_settings(name: str, seed: int) -> TrainConfig:
    epochs = EPOCHS[name]
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


def short_settings(name: str, seed: int) -> TrainConfig:
    own = {"detail": {"loss": "boundary"}} if name == "pidnet_s" else {}
    return load_recipe("camvid-short", seed=seed, evaluate_every=2, compile=False, **own)


def half_hour_settings(name: str, seed: int) -> TrainConfig:
    epochs = HALF_HOUR_EPOCHS[name]
    return load_recipe(
        "camvid-brief",
        epochs=epochs,
        seed=seed,
        lr=0.008,
        ema_decay=0.999,
        evaluate_every=max(1, epochs // 8),
        augmentation={"crop": [360, 480], "scale_range": [0.75, 1.5], "contrast": 0.2},
        progressive=[[0.7, 0.5], [0.85, 0.75]],
        precision="auto",
        channels_last="auto",
        compile=False,
    )


BUDGETS = {
    "long": Budget(LONG, ROOT / "results" / "camvid-training", 1.0, long_settings),
    "half-hour": Budget(HALF_HOUR, ROOT / "results" / "camvid-half-hour", 1.0, half_hour_settings),
    "short": Budget(SHORT, ROOT / "results" / "camvid-short", 0.5, short_settings),
}


def train(name: str, splits: dict[str, SegDataset], folder: Path, seed: int, budget: Budget) -> None:
    torch.manual_seed(seed)
    options = budget.networks[name]
    trainer = Trainer(
        create_model(name, 11, **options),
        splits["train"],
        config=budget.settings(name, seed),
        folder=folder,
        val=splits["val"],
        resume=True,
        progress=False,
    )
    clock = folder / "processor_seconds.json"
    kept = {"by_epoch": {}, **(read_json(clock) if clock.exists() else {"seconds": 0.0})}
    spent, by_epoch, started = kept["seconds"], kept["by_epoch"], time.process_time()
    for record in trainer.epochs():
        now = spent + time.process_time() - started
        by_epoch[str(record.epoch)] = round(now, 1)
        write_json(clock, {"seconds": now, "by_epoch": by_epoch})
        print(name, seed, record.epoch, record.losses, record.miou, f"{now / 60:.1f} min", flush=True)
    network, origin = trained(name, folder, options)
    reports = {
        split: evaluate(network, splits[split], batch_size=4, origin=origin).to_dict() for split in ("val", "test")
    }
    write_json(
        budget.results / f"{name}-seed{seed}.json",
        {
            "model": name,
            "options": options,
            "seed": seed,
            "config": trainer.config.to_dict(),
            "reports": reports,
            "curve": read_metrics(folder),
            "processor_minutes": read_json(clock)["seconds"] / 60,
            "processor_seconds_by_epoch": by_epoch,
            "pretrained_on": "none",
            "git": git_state(),
            "environment": environment_record(),
        },
    )


def trained(name: str, folder: Path, options: dict) -> tuple[SegNetwork, ScoreOrigin]:
    best = load_trained(folder, "best")
    network = create_model(name, 11, **options)
    network.load_weights(best.weights)
    return network, best.origin


def draw_masks(name: str, splits: dict[str, SegDataset], folder: Path, budget: Budget) -> None:
    network, _ = trained(name, folder, budget.networks[name])
    with atomic_write(budget.results / f"masks-{name}.png") as temporary:
        temporary.write_bytes(squeeze_png(masks_of(network, splits["test"], count=4), limit=300_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CamVid's folder")
    parser.add_argument("--budget", choices=BUDGETS, default="long")
    parser.add_argument(
        "--runs", type=Path, help="checkpoints, to go on from; runs/camvid-training or runs/camvid-short without it"
    )
    parser.add_argument("--models", help="names, separated by commas; all of the budget without it")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    budget = BUDGETS[args.budget]
    runs = args.runs or ROOT / "runs" / budget.results.name
    splits = {
        split: open_dataset("camvid", args.data, split, scale=budget.scale, cache="memory")
        for split in ("train", "val", "test")
    }
    for name in args.models.split(",") if args.models else budget.networks:
        folder = runs / f"{name}-seed{args.seed}"
        if not (budget.results / f"{name}-seed{args.seed}.json").exists():
            train(name, splits, folder, args.seed, budget)
        if not (budget.results / f"masks-{name}.png").exists():
            draw_masks(name, splits, folder, budget)


if __name__ == "__main__":
    try:
        main()
    except RtsegError as error:
        raise SystemExit(str(error)) from None
