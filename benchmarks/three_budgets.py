"""Does the search by the table beat chance at three budgets? Searched networks with three seeds, and at least eight random ones of the same measured latency, all by the table's short recipe.

    OMP_NUM_THREADS=1 python benchmarks/three_budgets.py plan                                            # searches and measures: a few quiet minutes
    OMP_NUM_THREADS=1 nice -n 19 python benchmarks/three_budgets.py train --data ../shared/camvid        # any number of workers; goes on where it was stopped
    python benchmarks/three_budgets.py report

The budgets are the milliseconds of Fast-SCNN (ONNX Runtime fp32, one thread, 360 x 480), twice and four times that. At each, the best network by the table's regression within the budget, measured; random
networks that take the same within 3 %, the table's own where they fit, others drawn by the same ruler and measured, too. Everything is measured in one run. Writes results/three-budgets.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rtseg.cli.nas import table_data, table_splits
from rtseg.core.environment import device_record, library_versions
from rtseg.core.errors import ConfigError, RtsegError
from rtseg.core.files import read_json, write_json
from rtseg.search.finding import find_networks, table_accuracy
from rtseg.search.found_training import found_job
from rtseg.search.latency_table import read_table
from rtseg.search.rulers import corrected, usual_range
from rtseg.search.table_latencies import Target, measured_network
from rtseg.search.table_plan import PlanEntry, draw_between
from rtseg.search.table_training import train_table
from rtseg.search.trained import TrainedNetwork, TrainedTable, load_table, read_lines

ROOT = Path(__file__).resolve().parents[1]
OUT, RULERS = ROOT / "results" / "three-budgets", ROOT / "results" / "camvid-street"
TARGET, TIMES, SEEDS = Target(), (1, 2, 4), (0, 1, 2)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["plan", "train", "report"])
    parser.add_argument("--table", default="camvid-street")
    parser.add_argument("--data", type=Path, help="CamVid, for `train`")
    parser.add_argument("--random", type=int, default=8, help="random networks at each budget, at least")
    parser.add_argument("--tolerance", type=float, default=0.03, help="of the searched network's milliseconds")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "three-budgets", help="where workers train")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


class Bench:
    """Whole networks of the table's space, measured on this device, each once."""

    def __init__(self, table: TrainedTable):
        self.table, self.known = table, {}

    def ms(self, arch: Any) -> float:
        """Median milliseconds of an architecture."""
        if arch.id not in self.known:
            info = self.table.info
            self.known[arch.id] = measured_network(
                self.table.space, arch, TARGET, info.timed_size, info.num_classes, max_seconds=3.0
            )
            print(f"  {arch.id}: {self.known[arch.id].latency}", flush=True)
        return self.known[arch.id].latency.median_ms


def reference_ms(table: TrainedTable) -> float:
    """Milliseconds of Fast-SCNN here."""
    return usual_range(TARGET, table.info.timed_size, table.info.num_classes, share=1.0, max_seconds=3.0)[0]


def candidates(table: TrainedTable, predict: Any, ms: float, window: float, taken: set[str]) -> Iterator[Any]:
    """The table's trained networks about as fast, nearest first, then others drawn by lot."""
    known = table.ms(str(TARGET))
    near = sorted((abs(known[n] / ms - 1), n) for n in table.of() if n in known and n not in taken)
    yield from (table.architecture(n) for off, n in near if off <= 2 * window)
    generator = torch.Generator().manual_seed(round(1000 * ms))
    while True:
        arch = draw_between(
            table.space, predict, ms * (1 - window), ms * (1 + window), generator=generator, taken=taken
        )
        taken.add(arch.id)
        yield arch


def plan(args: argparse.Namespace) -> dict:
    """Search, draw and measure; what is written into plan.json."""
    table = load_table(args.table)
    ruler, known = read_table(RULERS / f"ruler-{TARGET.runtime}.json"), table.ms(str(TARGET))
    predict = corrected(ruler, [(table.architecture(n), ms) for n, ms in known.items()]).predict
    bench, accuracy, base, budgets = Bench(table), table_accuracy(table), reference_ms(table), []
    for times in TIMES:
        found = find_networks(table, predict, times * base, best=1, predictor=accuracy)[0][0]
        arch = table.space.read(found.architecture)
        ms, alike = bench.ms(arch), []
        for other in candidates(table, predict, ms, args.tolerance, {arch.id}):
            alike += [other] if abs(bench.ms(other) / ms - 1) <= args.tolerance else []
            if len(alike) >= args.random:
                break
        print(f"{times * base:.1f} ms: {arch.id}, {ms:.1f} ms, {len(alike)} alike", flush=True)
        row = {"searched": found.to_dict(), "ms": ms, "random": [json.loads(json.dumps(a.to_dict())) for a in alike]}
        budgets.append({"budget_ms": times * base, **row})
    measured = [m.to_dict() for m in bench.known.values()]
    counts = {"table": args.table, "trained": len(table.of()), "tau": accuracy.taus[accuracy.kind]}
    return {
        **counts,
        "reference_ms": base,
        "device": device_record(),
        "versions": library_versions(),
        "budgets": budgets,
        "measured": measured,
    }


def entries(record: dict, table: TrainedTable) -> tuple[PlanEntry, ...]:
    """Trainings that the table does not have: ruler 0 are searched networks, ruler 1 random ones; bins are budgets."""
    have = {(t.network, t.seed) for trainings in table.of().values() for t in trainings}
    found = []
    for place, budget in enumerate(record["budgets"]):
        searched = budget["searched"]["architecture"]
        found += [PlanEntry(searched, seed, 0, place) for seed in SEEDS]
        found += [PlanEntry(a, 0, 1, place) for a in budget["random"]]
    return tuple(e for e in found if (table.space.read(e.architecture).id, e.seed) not in have)


def train(args: argparse.Namespace, record: dict, table: TrainedTable) -> None:
    """Train what is left of the plan, in company of any other workers."""
    if args.data is None:
        raise ConfigError("`train` needs the pictures: give --data with CamVid's folder")
    torch.set_num_threads(1)
    splits = table_splits(table_data(table.info, args.data), args.work)
    job = replace(found_job(table, [], splits, args.work), plan=entries(record, table))
    train_table(job, networks=sum(e.seed == 0 for e in job.plan))


def scores(record: dict, table: TrainedTable, trainings: list[TrainedNetwork]) -> list[dict]:
    """Test mIoU at each budget: the searched network's seeds and the random networks, with the difference of the means in standard errors."""
    known = (t for records in table.of().values() for t in records)
    test = {(t.network, t.seed): t.test_miou for t in (*known, *trainings)}
    rows = []
    for budget in record["budgets"]:
        searched = [test.get((budget["searched"]["network"], seed)) for seed in SEEDS]
        chance = [test.get((table.space.read(a).id, 0)) for a in budget["random"]]
        if None in (*searched, *chance):
            missing = (*searched, *chance).count(None)
            raise ConfigError(
                f"{missing} trainings of the budget of {budget['budget_ms']:.1f} ms are missing: run `train` on"
            )
        gain = float(np.mean(searched) - np.mean(chance))
        error = float(
            np.hypot(np.std(searched, ddof=1) / len(searched) ** 0.5, np.std(chance, ddof=1) / len(chance) ** 0.5)
        )
        how = {
            "searched": searched,
            "random": chance,
            "gain": round(gain, 4),
            "standard_errors": round(gain / error, 2),
        }
        rows.append({"budget_ms": round(budget["budget_ms"], 2), "ms": round(budget["ms"], 2), **how})
    return rows


def told(row: dict) -> str:
    """A budget in one line."""
    searched, chance = row["searched"], row["random"]
    return (
        f"{row['budget_ms']:.1f} ms: searched {np.mean(searched):.4f} ({min(searched):.4f} to {max(searched):.4f}, {len(searched)} seeds), random {np.mean(chance):.4f} "
        f"(best {max(chance):.4f} of {len(chance)}): {row['gain']:+.4f}, {row['standard_errors']:+.1f} standard errors, {'above' if np.mean(searched) > max(chance) else 'not above'} the best"
    )


def main() -> None:
    args = parse()
    path = args.out / "plan.json"
    if args.step == "plan":
        if path.is_file():
            raise ConfigError(f"{path} is there already, and trainings may follow it: remove it to search again")
        write_json(path, plan(args))
        return
    if not path.is_file():
        raise ConfigError(f"{path} is not there: run `plan` first")
    record, table = read_json(path), load_table(args.table)
    if args.step == "train":
        train(args, record, table)
        return
    trainings = args.work / "trainings.jsonl"
    rows = scores(record, table, read_lines(trainings, TrainedNetwork) if trainings.is_file() else [])
    write_json(args.out / "scores.json", rows)
    print("\n".join(map(told, rows)))


if __name__ == "__main__":
    try:
        main()
    except RtsegError as error:
        raise SystemExit(f"{error}") from None
