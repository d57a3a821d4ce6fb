"""What cheap scores say of the networks of a table: zero-cost proxies, a supernet's children, learned choices; kept beside the table.

    OMP_NUM_THREADS=1 nice -n 19 python benchmarks/table_scores.py --data ../shared/camvid

Scores every network of the plan in the journal, so that the files also fit the table when it has grown. Writes proxies.json and scores.json into the table's folder.
Stopped at any time, the same line goes on: the supernet's training where it was two minutes before, the scores at the next network; a plan that has grown since trains nothing again.
Everything on the way lies in --work (the supernet with its optimiser: 320 MB); about 14 core-minutes of an AMD EPYC (Zen 4), a new network of the plan one second.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rtseg.core.environment import device_record, library_versions, seed_everything
from rtseg.core.errors import ConfigError, RtsegError
from rtseg.core.files import load_tensors, save_tensors, tensor_metadata, write_json
from rtseg.core.values import Value
from rtseg.data.augmentation import build_augmentation
from rtseg.data.datasets import SegDataset, open_dataset
from rtseg.data.loading import make_loader, normalize
from rtseg.search.arena import SCORE_FILE, NetworkScores
from rtseg.search.costs import network_cost
from rtseg.search.pretraining import without_prefix
from rtseg.search.proxies import PROXY_FILE, compute_proxies
from rtseg.search.street_mixture import StreetLogits, cosearch_street, preference
from rtseg.search.street_supernet import StreetSupernet, SupernetScorer
from rtseg.search.table_training import planned
from rtseg.search.trained import TABLES, load_table, read_lines, write_lines
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
    parser.add_argument("--steps", type=int, default=460, help="steps of the supernet's weights")
    parser.add_argument("--scored-on", type=int, default=24, help="validation pictures that children are scored on")
    parser.add_argument("--only", choices=["proxies", "supernet"], help="leave the other out")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "table-scores", help="folder of what goes on later"
    )
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


@dataclass(frozen=True)
class ChildScore(Value):
    """What the supernet and the learned choices say of a network."""

    network: str
    supernet: float
    differentiable: float


def kept_state(path: Path, facts: dict) -> dict | None:
    """The checkpoint of a training that was stopped; `ConfigError` where it is of another training."""
    if not path.is_file():
        return None
    was = json.loads(tensor_metadata(path).get("facts", "{}"))
    if was != facts:
        name = next(key for key in {**was, **facts} if was.get(key) != facts.get(key))
        raise ConfigError(
            f"{path.parent} holds a training with {name} {was.get(name)}, not {facts.get(name)}: give another --work"
        )
    return load_tensors(path)


def train_shared(table, splits, config, path: Path, facts: dict) -> tuple[StreetSupernet, StreetLogits, dict]:
    """The trained supernet, the learned choices, and the multiply-accumulates of either; saved as it goes, and gone on with."""
    seed_everything(0)
    space, steps = table.space.settings, facts["steps"]
    supernet, logits, begun = (
        StreetSupernet(space, table.info.num_classes),
        StreetLogits(space),
        kept_state(path, facts),
    )
    weights, choices = splits["train"].halves(0)
    others = batch_of(choices, config, steps=steps, seed=1)
    started = saved = time.perf_counter()
    first = int(begun["step"]) if begun else 0
    for state, spent in cosearch_street(supernet, logits, weights, others, config, steps=steps, begun=begun):
        losses = ", ".join(f"{v:.3f}" for v in state.losses)
        now = time.perf_counter()
        print(f"step {state.step}/{steps}: {losses}, {(now - started) / (state.step - first):.1f} s a step", flush=True)
        if now - saved > 120 or state.step == steps:
            save_tensors(path, state.checkpoint(), {"facts": json.dumps(facts)})
            saved, begun = now, {"macs": state.macs, "spent": spent, "step": state.step}
    if first == steps:
        supernet.load_state_dict(without_prefix(begun, "supernet"))
        logits.load_state_dict(without_prefix(begun, "logits"))
    return supernet, logits, {"macs": float(begun["macs"]), "spent": float(begun["spent"])}


def score_children(table, networks, scorer, logits, path: Path) -> list[ChildScore]:
    """A score of every network of the plan; those that `path` holds are not scored again."""
    found = {row.network: row for row in read_lines(path, ChildScore)} if path.is_file() else {}
    for name, arch in networks.items():
        if name not in found:
            liked = preference(table.space.settings, logits, arch)
            found[name] = ChildScore(name, round(scorer.of(arch), 5), round(liked, 5))
            write_lines(path, found.values())
            print(f"{len(found)}/{len(networks)} {name}: {found[name].supernet:.4f}", flush=True)
    return [found[name] for name in networks]


def score_by_supernet(args: argparse.Namespace, table, networks, splits, folder: Path) -> None:
    """Train the supernet and the choices, score the networks, write scores.json."""
    config = load_recipe(args.recipe)
    schedule = config.schedule.model_copy(update={"warmup_epochs": 0.0, "warmup_steps": args.steps // 5})
    config = config.model_copy(update={"schedule": schedule})
    facts = {"table": table.info.name, "steps": args.steps, "recipe": args.recipe, "scored on": args.scored_on}
    supernet, logits, macs = train_shared(table, splits, config, args.work / "supernet.safetensors", facts)
    crop, classes = config.augmentation.crop, table.info.num_classes
    images = config.epochs * (len(splits["train"]) // config.batch_size) * config.batch_size
    one = images * np.mean([network_cost(a, crop, num_classes=classes).macs for a in networks.values()])
    price = {"supernet": macs["macs"] / one, "differentiable": (macs["macs"] + macs["spent"]) / one}
    seen = [normalize(b.images) for b in batch_of(splits["train"], config, steps=2, seed=2)]
    held = splits["val"].subset(np.linspace(0, len(splits["val"]) - 1, args.scored_on).astype(int).tolist())
    pairs = [(normalize(b.images), b.masks) for b in make_loader(held, batch_size=8, shuffle=False)]
    scorer = SupernetScorer(supernet, seen, pairs, price["supernet"])
    rows = score_children(table, networks, scorer, logits, args.work / "children.jsonl")
    how = {
        **facts,
        "unit": "forward multiply-accumulates of a training of the plan's mean network",
        "device": device_record(),
        "versions": library_versions(),
    }
    scores = {name: {row.network: getattr(row, name) for row in rows} for name in price}
    write_json(folder / SCORE_FILE, {n: NetworkScores(round(price[n], 3), scores[n], how).to_dict() for n in price})
    print(f"{len(rows)} networks scored in {folder / SCORE_FILE}: the supernet costs {price['supernet']:.2f} trainings")


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    table, folder = load_table(args.table), args.out or TABLES / args.table
    networks = plan_networks(args.journal, table.space.read)
    splits = {s: open_dataset(table.info.data, args.data, s, scale=0.5, cache="memory") for s in ("train", "val")}
    if args.only != "supernet":
        batch = batch_of(splits["train"], load_recipe(args.recipe), steps=1).batch(0)
        compute_proxies(
            table, normalize(batch.images), batch.masks, networks=networks, path=folder / PROXY_FILE, log=print
        )
    if args.only != "proxies":
        score_by_supernet(args, table, networks, splits, folder)


if __name__ == "__main__":
    try:
        main()
    except RtsegError as error:
        raise SystemExit(str(error)) from None
