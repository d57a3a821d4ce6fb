"""What cheap scores say of the networks of a table: zero-cost proxies, a supernet's children, learned choices; kept beside the table.

    OMP_NUM_THREADS=1 nice -n 19 python benchmarks/table_scores.py --data ../shared/camvid --steps 92

Scores every network of the plan in the journal, so that the files also fit the table when it has grown. Writes proxies.json and scores.json into the table's folder.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from rtseg.core.environment import device_record, library_versions, seed_everything
from rtseg.core.errors import RtsegError
from rtseg.core.files import write_json
from rtseg.data.augmentation import build_augmentation
from rtseg.data.datasets import SegDataset, open_dataset
from rtseg.data.loading import make_loader, normalize
from rtseg.search.arena import SCORE_FILE, NetworkScores
from rtseg.search.costs import network_cost
from rtseg.search.proxies import PROXY_FILE, compute_proxies
from rtseg.search.street_mixture import StreetLogits, cosearch_street, preference
from rtseg.search.street_supernet import StreetSupernet, SupernetScorer
from rtseg.search.table_training import planned
from rtseg.search.trained import TABLES, load_table
from rtseg.training.config import TrainConfig
from rtseg.training.recipes import load_recipe
from rtseg.tuning.study import open_storage

ROOT = Path(__file__).resolve().parents[1]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default="camvid-street")
    parser.add_argument("--journal", type=Path, default=ROOT / "results" / "camvid-street" / "study.journal")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", default="camvid-short")
    parser.add_argument("--steps", type=int, default=92, help="steps of the supernet's weights")
    parser.add_argument("--scored-on", type=int, default=24, help="validation pictures that children are scored on")
    parser.add_argument("--only", choices=["proxies", "supernet"], help="leave the other out")
    parser.add_argument("--out", type=Path, help="folder of the two files; the table's unless given")
    return parser.parse_args()


def plan_networks(journal: Path, read: Callable) -> dict:
    """The architectures of a journal's plan by id."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(journal, Path(folder) / "study.journal")
        entries = planned(open_storage(None, Path(folder)))
    return {arch.id: arch for arch in (read(e.architecture) for e in entries)}


def batch_of(data: SegDataset, config: TrainConfig, *, steps: int, seed: int = 0):
    """Batches as a training sees them."""
    return make_loader(
        data,
        batch_size=config.batch_size,
        augmentation=build_augmentation(config.augmentation),
        shuffle=True,
        steps=steps,
        seed=seed,
    )


def train_shared(table, splits, config, networks, *, steps: int) -> tuple[StreetSupernet, StreetLogits, dict]:
    """The trained supernet, the learned choices, and what either has cost, in trainings of the plan's mean network."""
    seed_everything(0)
    space, classes, crop = table.space.settings, table.info.num_classes, config.augmentation.crop
    supernet, logits = StreetSupernet(space, classes), StreetLogits(space)
    mean = np.mean([network_cost(a, crop, num_classes=classes).macs for a in networks.values()])
    images = config.epochs * (len(splits["train"]) // config.batch_size) * config.batch_size
    weights, choices = splits["train"].halves(0)
    others = batch_of(choices, config, steps=steps, seed=1)
    started = time.perf_counter()
    for now in cosearch_street(supernet, logits, weights, others, config, steps=steps):
        state, spent = now
        if state.step % 5 == 0 or state.step == 1:
            losses = ", ".join(f"{v:.3f}" for v in state.losses)
            print(f"step {state.step}/{steps}: {losses} after {time.perf_counter() - started:.0f} s", flush=True)
    one = mean * images
    return supernet, logits, {"supernet": state.macs / one, "differentiable": (state.macs + spent) / one}


def main() -> None:
    args, config = parse(), load_recipe(parse().recipe)
    torch.set_num_threads(1)
    table, folder = load_table(args.table), args.out or TABLES / args.table
    networks = plan_networks(args.journal, table.space.read)
    splits = {s: open_dataset(table.info.data, args.data, s, scale=0.5, cache="memory") for s in ("train", "val")}
    if args.only != "supernet":
        batch = batch_of(splits["train"], config, steps=1).batch(0)
        compute_proxies(
            table, normalize(batch.images), batch.masks, networks=networks, path=folder / PROXY_FILE, log=print
        )
    if args.only == "proxies":
        return
    schedule = config.schedule.model_copy(update={"warmup_epochs": 0.0, "warmup_steps": args.steps // 5})
    config = config.model_copy(update={"schedule": schedule})
    supernet, logits, price = train_shared(table, splits, config, networks, steps=args.steps)
    seen = [normalize(b.images) for b in batch_of(splits["train"], config, steps=2, seed=2)]
    held = splits["val"].subset(np.linspace(0, len(splits["val"]) - 1, args.scored_on).astype(int).tolist())
    pairs = [(normalize(b.images), b.masks) for b in make_loader(held, batch_size=8, shuffle=False)]
    scorer = SupernetScorer(supernet, seen, pairs, price["supernet"])
    how = {
        "steps": args.steps,
        "recipe": args.recipe,
        "scored on": args.scored_on,
        "unit": "forward multiply-accumulates of a training of the plan's mean network",
        "device": device_record(),
        "versions": library_versions(),
    }
    found: dict[str, dict[str, float]] = {"supernet": {}, "differentiable": {}}
    for done, (name, arch) in enumerate(networks.items(), 1):
        found["supernet"][name] = round(scorer.of(arch), 5)
        found["differentiable"][name] = round(preference(table.space.settings, logits, arch), 5)
        print(f"{done}/{len(networks)} {name}: {found['supernet'][name]:.4f}", flush=True)
    write_json(
        folder / SCORE_FILE,
        {n: NetworkScores(round(price[n], 3), scores, how).to_dict() for n, scores in found.items()},
    )


if __name__ == "__main__":
    try:
        main()
    except RtsegError as error:
        raise SystemExit(str(error)) from None
