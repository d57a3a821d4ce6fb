"""One setting of a recipe at a time, against the recipe itself: CamVid at half size, judged on the validation split and a drive that is held out of training.

    OMP_NUM_THREADS=1 nice -n 19 python benchmarks/recipe_arms.py --data ../shared/camvid [--models fastscnn,64b2bdd871] [--arms lovasz,dice] [--seeds 0,1,2]

A model is a name of the registry, or the id of a network of the table camvid-street. A training costs two to four core-minutes of an AMD EPYC (Zen 4); what results/recipe-study/arms.json has already is not trained again.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from recipe_study import splits
from torch import nn

from rtseg.core.environment import device_record, library_versions, seed_everything
from rtseg.core.errors import check_choice
from rtseg.core.files import read_json, write_json
from rtseg.data.datasets import SegDataset
from rtseg.evaluation.evaluator import evaluate, load_trained
from rtseg.models.registry import create_model, list_models
from rtseg.search.trained import load_table
from rtseg.training.recipes import load_recipe
from rtseg.training.trainer import Trainer

OUT = Path(__file__).resolve().parents[1] / "results" / "recipe-study" / "arms.json"
BASE, HELD_OUT = {"epochs": 12, "precision": "bf16", "evaluate_every": 4}, "0006R0"
ARMS: dict[str, dict] = {
    "base": {},
    "half the rate": {"lr": 0.005},
    "lovasz": {"loss": {"lovasz_weight": 1.0}},
    "dice": {"loss": {"dice_weight": 1.0}},
    "classes alike": {"loss": {"class_weights": None}},
    "batch of 8": {"batch_size": 8},
    "more scales": {"augmentation": {"scale_range": [0.5, 2.0]}},
    "no light": {"augmentation": {"brightness": 0.0, "saturation": 0.0}},
}


def network_of(name: str, classes: int) -> nn.Module:
    """A network of the registry or of the table."""
    if name in list_models():
        return create_model(name, classes)
    table = load_table("camvid-street")
    return table.space.build(table.architecture(name), classes)


def train_arm(name: str, arm: str, seed: int, train: SegDataset, judged: SegDataset) -> dict:
    """One training by the recipe camvid-brief with an arm's changes; scores of the running mean of the weights."""
    config = load_recipe("camvid-brief", **BASE, seed=seed, **ARMS[arm])
    seed_everything(seed)
    network, started = network_of(name, judged.labels.num_classes), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        Trainer(network, train, config=config, folder=folder, val=judged, progress=False).fit()
        minutes = (time.process_time() - started) / 60
        network.load_state_dict(load_trained(folder, "ema").weights)
    report = evaluate(network, judged, batch_size=8)
    return {
        "model": name,
        "arm": arm,
        "seed": seed,
        "miou": round(report.miou, 4),
        "sequences": {s.name: round(s.miou, 4) for s in report.sequences},
        "iou": [None if v is None else round(v, 4) for v in report.iou],
        "core_minutes": round(minutes, 2),
        "device": device_record(),
        "versions": library_versions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CamVid's folder")
    parser.add_argument("--models", default="fastscnn", help="names, separated by commas")
    parser.add_argument("--arms", default=",".join(ARMS), help="names, separated by commas")
    parser.add_argument("--seeds", default="0", help="numbers, separated by commas")
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, judged = splits(args.data, HELD_OUT)
    rows = read_json(OUT) if OUT.is_file() else []
    for seed in map(int, args.seeds.split(",")):
        for arm in args.arms.split(","):
            check_choice(arm, list(ARMS), what="arm")
            for name in args.models.split(","):
                if (name, arm, seed) not in {(r["model"], r["arm"], r["seed"]) for r in rows}:
                    rows.append(train_arm(name, arm, seed, train, judged))
                    write_json(OUT, rows)
                    print(
                        name, arm, seed, rows[-1]["miou"], rows[-1]["sequences"], rows[-1]["core_minutes"], flush=True
                    )


if __name__ == "__main__":
    main()
