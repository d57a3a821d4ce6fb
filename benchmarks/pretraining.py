"""What pretraining on drawn streets is worth on CamVid: with and without, at equal processor minutes, three seeds.

    python benchmarks/pretraining.py --data ../shared/camvid --model fastscnn
    python benchmarks/pretraining.py --data ../shared/camvid --model fastscnn --seeds 0 --arms scratch,streets
    python benchmarks/pretraining.py --report

`scratch`: the recipe camvid-short (half size, 14 passes). `streets`: the same after a pretraining on drawn scenes of the same size by the same recipe, its classifier fresh. `longer`: from scratch with as many more passes as the
pretraining took minutes. The pretraining is done once for all seeds and counted in full for each. One thread. Killed, it goes on where it stopped.
Writes results/pretraining/MODEL-ARM-seedN.json: scores on validation and test of the epoch that was best on validation, and the processor minutes of pretraining and training.
"""

import argparse
import time
from pathlib import Path

import torch

from rtseg.core.environment import environment_record, git_state
from rtseg.core.errors import RtsegError
from rtseg.core.files import read_json, write_json
from rtseg.data import SegDataset, open_dataset
from rtseg.data.scenes import make_scenes
from rtseg.evaluation import evaluate
from rtseg.evaluation.evaluator import load_trained
from rtseg.models import SegNetwork, create_model
from rtseg.models.starting import start_from
from rtseg.training import TrainConfig, Trainer
from rtseg.training.recipes import load_recipe

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "pretraining"
ARMS = ("scratch", "streets", "longer")
SIZE, SCENES, PASSES = (180, 240), 1500, 12


def fit(network: SegNetwork, data: SegDataset, val: SegDataset, folder: Path, config: TrainConfig, start: str) -> float:
    """Train to the end, or go on; the processor minutes that it took in all."""
    trainer = Trainer(
        network, data, config=config, folder=folder, val=val, resume=True, progress=False, pretrained_on=start
    )
    clock = folder / "processor_seconds.json"
    spent, started = read_json(clock)["seconds"] if clock.exists() else 0.0, time.process_time()
    for record in trainer.epochs():
        write_json(clock, {"seconds": spent + time.process_time() - started})
        print(folder.name, record.epoch, record.losses, record.miou, flush=True)
    return read_json(clock)["seconds"] / 60


def pretrain(model: str, runs: Path) -> tuple[Path, float]:
    """The folder of a network that was trained on drawn streets, and its processor minutes."""
    clock = time.process_time()
    root = make_scenes(runs / "scenes", size=SIZE, counts={"train": SCENES, "val": 60, "test": 1})
    drawing = time.process_time() - clock
    if not (runs / "drawing.json").exists():
        write_json(runs / "drawing.json", {"seconds": drawing})
    data, val = (open_dataset("synthetic", root, split, cache="memory") for split in ("train", "val"))
    loss = {"kind": "cross_entropy"}
    config = load_recipe("camvid-short", epochs=PASSES, evaluate_every=4, loss=loss, compile=False)
    torch.manual_seed(0)
    minutes = fit(create_model(model, 19), data, val, runs / f"{model}-pretraining", config, "none")
    return runs / f"{model}-pretraining", minutes + read_json(runs / "drawing.json")["seconds"] / 60


def train_arm(model: str, arm: str, seed: int, splits: dict[str, SegDataset], runs: Path) -> dict:
    """The record of one training."""
    base = load_recipe("camvid-short")
    folder, before = pretrain(model, runs) if arm != "scratch" else (None, 0.0)
    epochs = base.epochs
    if arm == "longer":
        epochs += round(before / (read_json(RESULTS / f"{model}-scratch-seed0.json")["minutes"] / base.epochs))
    torch.manual_seed(seed)
    network, start = create_model(model, 11), "none"
    if arm == "streets":
        start_from(network, load_trained(folder, "last").weights)
        start = f"{SCENES} drawn streets, {PASSES} passes"
    every = 2 if arm != "longer" else 4
    config = load_recipe("camvid-short", epochs=epochs, seed=seed, evaluate_every=every, compile=False)
    place = runs / f"{model}-{arm}-seed{seed}"
    minutes = fit(network, splits["train"], splits["val"], place, config, start)
    best = load_trained(place, "best")
    network.load_weights(best.weights)
    reports = {s: evaluate(network, splits[s], batch_size=8, origin=best.origin).to_dict() for s in ("val", "test")}
    facts = {"model": model, "arm": arm, "seed": seed, "minutes": minutes, "pretraining_minutes": before}
    facts |= {"epochs": epochs, "pretrained_on": start, "reports": reports}
    return facts | {"git": git_state(), "environment": environment_record()}


def report() -> None:
    """Print what is in the results, arm by arm."""
    rows = [read_json(path) for path in sorted(RESULTS.glob("*.json"))]
    for model, arm in sorted({(row["model"], row["arm"]) for row in rows}):
        mine = [row for row in rows if (row["model"], row["arm"]) == (model, arm)]
        test = torch.tensor([row["reports"]["test"]["miou"] for row in mine])
        val = torch.tensor([row["reports"]["val"]["miou"] for row in mine])
        minutes = max(row["minutes"] for row in mine)
        spread = f"{test.std().item():.4f}" if len(test) > 1 else "one seed"
        print(
            f"{model} {arm}: test {test.mean():.4f} ({spread}), val {val.mean():.4f}, {len(mine)} seeds, {minutes:.1f} min"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="CamVid's folder")
    parser.add_argument("--model", default="fastscnn", help="a name of the registry")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "pretraining", help="checkpoints, to go on from")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--report", action="store_true", help="print what is in the results")
    words = parser.parse_args()
    if words.report or words.data is None:
        return report()
    torch.set_num_threads(1)
    splits = {s: open_dataset("camvid", words.data, s, scale=0.5, cache="memory") for s in ("train", "val", "test")}
    for seed in map(int, words.seeds.split(",")):
        for arm in words.arms.split(","):
            done = RESULTS / f"{words.model}-{arm}-seed{seed}.json"
            if not done.exists():
                write_json(done, train_arm(words.model, arm, seed, splits, words.runs))
    report()


if __name__ == "__main__":
    try:
        main()
    except RtsegError as error:
        raise SystemExit(str(error)) from None
