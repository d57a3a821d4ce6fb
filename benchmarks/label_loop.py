"""Labels chosen by uncertainty and diversity against labels chosen by chance, on CamVid, over three seeds.

    python benchmarks/label_loop.py --data shared/camvid --out results/label-loop

Per seed: 1/8 of the 367 training images by chance, and a network trained on them. It chooses images up to 1/4; the network
of that quarter chooses images up to 1/2. Chance takes supersets of the same eighth. Every network is trained from scratch
with the same number of steps, and scored on the test split, which nothing was chosen by.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from rtseg.core.errors import ConfigError
from rtseg.core.files import read_json, write_json
from rtseg.core.machine import processor_text
from rtseg.data import open_dataset
from rtseg.evaluation import evaluate
from rtseg.evaluation.suggestion import choose_images, look_at
from rtseg.models import create_model
from rtseg.runs.training_runs import run_training, training_settings

FIRST, FRACTIONS = 1 / 8, (0.25, 0.5)


def settings(steps: int, seed: int):
    """A short training at a quarter of the size, the same for every set of labels."""
    return training_settings(
        changes={
            "epochs": 1,
            "steps_per_epoch": steps,
            "batch_size": 8,
            "augmentation.crop": [80, 112],
            "lr": 0.05,
            "schedule.kind": "polynomial",
            "loss.kind": "cross_entropy",
            "precision": "fp32",
            "compile": False,
            "workers": 0,
            "seed": seed,
        }
    )


def trained(train, val, indices: list[int], *, steps: int, seed: int, folder: Path) -> torch.nn.Module:
    """Fast-SCNN from scratch on the given images."""
    torch.manual_seed(seed)
    network = create_model("fastscnn", train.labels.num_classes)
    splits = {"train": train.subset(indices).cached("memory"), "val": val}
    run_training(network, splits, settings(steps, seed), folder, progress=False)
    return network.eval()


def chosen_next(network, train, indices: list[int], count: int) -> list[int]:
    """`indices` and the images that the network would have labelled next, `count` in all."""
    rest = [i for i in range(len(train)) if i not in set(indices)]
    views = look_at(network, lambda k: train.read(rest[k])[0], len(rest))
    known = look_at(network, lambda k: train.read(indices[k])[0], len(indices)).content
    return indices + [rest[k] for k in choose_images(views, count - len(indices), known=known)]


def run_seed(train, val, test, *, seed: int, steps: int, work: Path) -> list[dict]:
    """The rows of one seed: fraction, way, images, mIoU on the test split, seconds of training."""
    order = np.random.default_rng(seed).permutation(len(train)).tolist()
    sets = {"chosen": order[: round(FIRST * len(train))]}
    rows, network = [], trained(train, val, sets["chosen"], steps=steps, seed=seed, folder=work / f"{seed}-first")
    for fraction in FRACTIONS:
        count = round(fraction * len(train))
        sets = {"chosen": chosen_next(network, train, sets["chosen"], count), "chance": order[:count]}
        for way, indices in sets.items():
            start = time.process_time()
            one = trained(train, val, indices, steps=steps, seed=seed, folder=work / f"{seed}-{fraction}-{way}")
            score = evaluate(one, test)
            network = one if way == "chosen" else network
            row = {"seed": seed, "fraction": fraction, "way": way, "images": count, "miou": score.miou}
            sequences = sorted({train.samples[i].name.split("_")[0] for i in indices})
            shares = {s: sum(train.samples[i].name.startswith(s) for i in indices) for s in sequences}
            rows.append(row | {"iou": score.iou, "sequences": shares, "core_seconds": time.process_time() - start})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Run the seeds that are missing in the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="new folder for the training runs")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--scale", type=float, default=0.25)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    splits = [
        open_dataset("camvid", asked.data, s, scale=asked.scale, cache="memory") for s in ("train", "val", "test")
    ]
    record = asked.out / "label_loop.json"
    facts = {
        "steps": asked.steps,
        "scale": asked.scale,
        "first": FIRST,
        "network": "fastscnn",
        "processor": processor_text(),
    }
    known = read_json(record) if record.exists() else {**facts, "rows": []}
    if {k: known[k] for k in facts} != facts:
        raise ConfigError(f"{record} was made with other settings: give another --out")
    for seed in asked.seeds:
        if seed not in {row["seed"] for row in known["rows"]}:
            known["rows"] += run_seed(*splits, seed=seed, steps=asked.steps, work=asked.work)
            write_json(record, known)


if __name__ == "__main__":
    main()
