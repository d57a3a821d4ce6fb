"""Does the search by the table beat chance at three budgets? Searched networks with three seeds, and at least eight random ones of the same measured latency, all by the table's short recipe.

    OMP_NUM_THREADS=1 python benchmarks/three_budgets.py propose                                         # measures this device's operators and searches: a few quiet minutes
    OMP_NUM_THREADS=1 nice -n 19 python benchmarks/three_budgets.py train --data ../shared/camvid        # any number of workers; goes on where it was stopped
    OMP_NUM_THREADS=1 python benchmarks/three_budgets.py choose                                          # the best proposal by validation, and networks as fast as it
    OMP_NUM_THREADS=1 nice -n 19 python benchmarks/three_budgets.py train --data ../shared/camvid
    python benchmarks/three_budgets.py report

On a second data set, drawn streets with the full cast, searched by the table of plain ones: add `--table streets-demo --cast full --times 1 2 --out results/three-budgets-streets --work runs/three-budgets-streets` to every line, and no `--data`.

The budgets are the milliseconds of Fast-SCNN (ONNX Runtime fp32, one thread, 360 x 480), twice and four times that, on this device. At each, the search proposes networks within the budget: the best of several evolutions, the table's own networks among them, with what they have
reached without its luck. Each is trained with seeds 0 and 1 (where the table has not), and the best on the validation images is the searched one. It is judged by three trainings with seeds that nobody has seen before, so that the luck of those that chose it does not
count. Random networks take the same milliseconds within 3 %, the table's own where they fit, others drawn by the same ruler; all are timed in turns with Fast-SCNN, pair by pair. Writes results/three-budgets.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rtseg.cli.nas import table_data, table_splits
from rtseg.core.environment import device_record, library_versions
from rtseg.core.errors import ConfigError, RtsegError
from rtseg.core.files import read_json, write_json
from rtseg.core.values import Value
from rtseg.latency.measuring import measure_latency
from rtseg.models import create_model
from rtseg.search.finding import find_networks, table_accuracy
from rtseg.search.found_training import found_job
from rtseg.search.rulers import check_quiet, corrected, device_table, ruler_path
from rtseg.search.table_latencies import Target
from rtseg.search.table_plan import PlanEntry, draw_between
from rtseg.search.table_training import train_table
from rtseg.search.trained import TrainedNetwork, TrainedTable, load_table, read_lines, write_lines

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "three-budgets"
TARGET = Target()
KEPT = "measured.jsonl"  # latencies of whole networks, in the folder where workers train
CHOSEN_BY, JUDGED_BY = (0, 1), 3  # seeds of the proposals; number of trainings that judge


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["propose", "train", "choose", "report"])
    parser.add_argument("--table", default="camvid-street")
    parser.add_argument("--times", type=float, nargs="+", default=[1, 2, 4], help="budgets, in Fast-SCNN's ms")
    parser.add_argument("--data", type=Path, help="folder of the table's pictures, for `train`; drawn ones are drawn")
    parser.add_argument(
        "--cast", help="of drawn pictures, where it is not the table's: then none of the table's trainings counts"
    )
    parser.add_argument("--proposals", type=int, default=6, help="networks at each budget that are trained twice")
    parser.add_argument("--random", type=int, default=8, help="random networks at each budget, at least")
    parser.add_argument("--tolerance", type=float, default=0.03, help="of the searched network's milliseconds")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "three-budgets", help="where workers train")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def setting(args: argparse.Namespace, table: TrainedTable) -> tuple[TrainedTable, list[TrainedNetwork]]:
    """The table as it is about the pictures that are asked for, and those of its trainings that were made with them."""
    drawn = table.info.drawn or {}
    if args.cast is None or args.cast == drawn.get("cast"):
        return table, [t for records in table.of().values() for t in records]
    if not drawn:
        raise ConfigError(f"the pictures of {table.info.name} are not drawn: leave out --cast")
    return replace(table, info=replace(table.info, drawn={**drawn, "cast": args.cast})), []


@dataclass(frozen=True)
class Relative(Value):
    """How many times as long as Fast-SCNN a network takes: median and quartiles over pairs of runs, one after the other."""

    network: str
    architecture: dict
    ratio: float
    q1: float
    q3: float
    pairs: int


class Bench:
    """Whole networks of the table's space on this device, each timed once in turns with Fast-SCNN, so that a machine whose speed drifts says the same all day; and what they say of others."""

    def __init__(self, table: TrainedTable, kept: Path, reference_ms: float | None = None):
        self.table, self.kept = table, kept
        self.known = {m.network: m for m in read_lines(kept, Relative)} if kept.is_file() else {}
        self.question = (table.space, TARGET, table.info.timed_size, table.info.num_classes)
        self.shape = (1, 3, *table.info.timed_size)  # N x C x H x W of what is timed
        self.reference = TARGET.prepare(create_model("fastscnn", table.info.num_classes), self.shape)
        self.reference_ms = reference_ms or measure_latency(self.reference, self.shape).median_ms
        self.priced = device_table(*self.question, log=print)
        spread = check_quiet(self.priced, ruler_path(*self.question), limit=math.inf)
        print(f"quartiles of the operators: {spread:.0%} apart; what is proposed goes on the clock as a whole")
        self.fitted, self.predict = 0, self.priced.predict
        generator = torch.Generator().manual_seed(0)
        for arch in (table.space.sample(generator) for _ in range(6)):
            self.ms(arch)

    def ms(self, arch: Any) -> float:
        """Milliseconds of an architecture, while Fast-SCNN takes `reference_ms`."""
        if arch.id not in self.known:
            runtime = TARGET.prepare(self.table.space.build(arch, self.table.info.num_classes), self.shape)
            ratios = in_turns(runtime, self.reference, self.shape)
            q1, median, q3 = (round(float(q), 4) for q in np.percentile(ratios, (25, 50, 75)))
            plain = json.loads(json.dumps(arch.to_dict()))
            self.known[arch.id] = Relative(arch.id, plain, median, q1, q3, len(ratios))
            write_lines(self.kept, self.known.values())
            print(f"  {arch.id}: {median:.3f} of Fast-SCNN ({q1:.3f} to {q3:.3f}, {len(ratios)} pairs)", flush=True)
            self.refit()
        return self.known[arch.id].ratio * self.reference_ms

    def refit(self) -> None:
        """Correct the sum of operators by all networks that have been timed: by a factor, from thirty on by a regression, again after every ten."""
        if 30 <= len(self.known) < self.fitted + 10:
            return
        pairs = [(self.table.space.read(m.architecture), m.ratio * self.reference_ms) for m in self.known.values()]
        if len(pairs) < 30:
            factor = float(np.median([ms / self.priced.predict(arch) for arch, ms in pairs]))
            self.predict = lambda arch: factor * self.priced.predict(arch)
        else:
            self.fitted, fit = len(pairs), corrected(self.priced, pairs)
            self.predict = lambda arch: fit.predict(arch).ms
            print(f"  ruler corrected by {len(pairs)} networks: within {fit.half_width:.1%}", flush=True)


def in_turns(runtime: Any, reference: Any, shape: tuple[int, ...], *, seconds: float = 1.5) -> list[float]:
    """Time of one run over that of the reference's run after it, 15 pairs at least."""
    image, ratios = np.random.default_rng(0).standard_normal(shape).astype(np.float32), []
    with runtime.ready(image) as one, reference.ready(image) as other:
        for call in (one, other) * 3:
            call()
        begun = time.perf_counter()
        while len(ratios) < 15 or time.perf_counter() - begun < seconds:
            start = time.perf_counter()
            one()
            between = time.perf_counter()
            other()
            ratios.append((between - start) / (time.perf_counter() - between))
    return ratios


def candidates(bench: Bench, ms: float, window: float, taken: set[str]) -> Iterator[Any]:
    """The table's trained networks about as fast, nearest first, then others drawn by lot."""
    table = bench.table
    near = sorted((abs(bench.predict(table.architecture(n)) / ms - 1), n) for n in table.of() if n not in taken)
    yield from (table.architecture(n) for off, n in near if off <= 2 * window)
    generator, low, high = torch.Generator().manual_seed(round(1000 * ms)), ms * (1 - window), ms * (1 + window)
    while True:
        arch = draw_between(table.space, bench.predict, low, high, generator=generator, taken=taken)
        taken.add(arch.id)
        yield arch


def proposals(bench: Bench, accuracy: Any, budget_ms: float, count: int) -> list[dict]:
    """The best networks of `count` evolutions, all different, that meet the budget on the clock, too."""
    found: dict[str, dict] = {}
    for seed in range(3 * count):
        best, _ = find_networks(bench.table, bench.predict, budget_ms, best=2 * count, seed=seed, predictor=accuracy)
        for one in best:
            arch = bench.table.space.read(one.architecture)
            if arch.id not in found and bench.ms(arch) <= budget_ms:
                found[arch.id] = {**one.to_dict(), "measured_ms": bench.ms(arch)}
                break
        if len(found) == count:
            break
    return list(found.values())


def propose(args: argparse.Namespace, table: TrainedTable) -> dict:
    """Search and measure; what is written into proposals.json."""
    bench, accuracy = Bench(table, args.work / KEPT), table_accuracy(table)
    budgets = [times * bench.reference_ms for times in args.times]
    return {
        "table": args.table,
        "cast": args.cast,
        "trained": len(table.of()),
        "regression": accuracy.kind,
        "taus": accuracy.taus,
        "reference_ms": bench.reference_ms,
        "device": device_record(),
        "versions": library_versions(),
        "budgets": [{"budget_ms": ms, "proposed": proposals(bench, accuracy, ms, args.proposals)} for ms in budgets],
    }


def validation(trainings: Sequence[TrainedNetwork]) -> dict[str, dict[int, float]]:
    """Last validation mIoU of every training, by network and seed."""
    found: dict[str, dict[int, float]] = {}
    for t in trainings:
        found.setdefault(t.network, {})[t.seed] = t.val_miou[-1]
    return found


def choose(args: argparse.Namespace, table: TrainedTable, record: dict, trainings: Sequence[TrainedNetwork]) -> dict:
    """The best proposal of each budget by validation, and networks that take as long: what is written into plan.json."""
    bench, budgets, used = Bench(table, args.work / KEPT, record["reference_ms"]), [], set()
    seen = validation(trainings)
    for budget in record["budgets"]:
        missing = [p["network"] for p in budget["proposed"] if not set(CHOSEN_BY) <= set(seen.get(p["network"], {}))]
        if missing:
            raise ConfigError(f"{len(missing)} proposals are not trained yet ({missing[0]}): run `train` on")
        within = [p for p in budget["proposed"] if bench.ms(table.space.read(p["architecture"])) <= budget["budget_ms"]]
        if not within:
            raise ConfigError(f"no proposal meets {budget['budget_ms']:.1f} ms on this device: propose on it again")
        best = max(within, key=lambda p: float(np.mean(list(seen[p["network"]].values()))))
        first = 1 + max(seen[best["network"]])
        arch = table.space.read(best["architecture"])
        ms, alike = bench.ms(arch), []
        for other in candidates(bench, ms, args.tolerance, {p["network"] for p in budget["proposed"]}):
            alike += [other] if abs(bench.ms(other) / ms - 1) <= args.tolerance else []
            if len(alike) >= args.random:
                break
        used |= {arch.id, *(other.id for other in alike)}
        print(f"{budget['budget_ms']:.1f} ms: {arch.id}, {ms:.1f} ms, {len(alike)} alike", flush=True)
        chance = [json.loads(json.dumps(a.to_dict())) for a in alike]
        seeds = list(range(first, first + JUDGED_BY))
        found = {"searched": best, "validation": seen[best["network"]], "seeds": seeds, "ms": ms, "random": chance}
        budgets.append({"budget_ms": budget["budget_ms"], **found})
    measured = [m.to_dict() for m in bench.known.values() if m.network in used]
    return {"device": device_record(), "versions": library_versions(), "budgets": budgets, "measured": measured}


def entries(
    proposed: dict, chosen: dict | None, table: TrainedTable, known: Sequence[TrainedNetwork]
) -> tuple[PlanEntry, ...]:
    """Trainings that are not `known`: ruler 0 are proposed and searched networks, ruler 1 random ones; bins are budgets."""
    have = {(t.network, t.seed) for t in known}
    found = [
        PlanEntry(p["architecture"], seed, 0, place)
        for seed in CHOSEN_BY
        for place, budget in enumerate(proposed["budgets"])
        for p in budget["proposed"]
    ]
    for place, budget in enumerate(chosen["budgets"] if chosen else ()):
        found += [PlanEntry(budget["searched"]["architecture"], seed, 0, place) for seed in budget["seeds"]]
        found += [PlanEntry(a, 0, 1, place) for a in budget["random"]]
    return tuple(e for e in found if (table.space.read(e.architecture).id, e.seed) not in have)


def train(args: argparse.Namespace, table: TrainedTable, plan: tuple[PlanEntry, ...]) -> None:
    """Train what is left of the plan, in company of any other workers."""
    if args.data is None and not table.info.drawn:
        raise ConfigError(f"`train` needs the pictures of {table.info.name}: give their folder with --data")
    torch.set_num_threads(1)
    splits = table_splits(table_data(table.info, args.data), args.work)
    job = replace(found_job(table, [], splits, args.work), plan=plan)
    train_table(job, networks=len({e.name for e in job.plan}))


def scores(record: dict, table: TrainedTable, trainings: Sequence[TrainedNetwork]) -> list[dict]:
    """Test mIoU at each budget: the searched network's seeds and the random networks, with the difference of the means in standard errors."""
    test = {(t.network, t.seed): t.test_miou for t in trainings}
    rows = []
    for budget in record["budgets"]:
        searched = [test.get((budget["searched"]["network"], seed)) for seed in budget["seeds"]]
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
    table, known = setting(args, load_table(args.table))
    first, second = args.out / "proposals.json", args.out / "plan.json"
    path = {"propose": first, "choose": second}.get(args.step)
    if path is not None and path.is_file():
        raise ConfigError(f"{path} is there already, and trainings may follow it: remove it to search again")
    if args.step == "propose":
        write_json(first, propose(args, table))
        return
    if not first.is_file() or (args.step == "report" and not second.is_file()):
        raise ConfigError(
            f"{first if not first.is_file() else second} is not there: run `propose`, `train`, `choose` first"
        )
    proposed, chosen = read_json(first), read_json(second) if second.is_file() else None
    done = args.work / "trainings.jsonl"
    trainings = [*known, *(read_lines(done, TrainedNetwork) if done.is_file() else [])]
    if args.step == "train":
        train(args, table, entries(proposed, chosen, table, known))
    elif args.step == "choose":
        write_json(second, choose(args, table, proposed, trainings))
    else:
        rows = scores(chosen, table, trainings)
        write_json(args.out / "scores.json", rows)
        write_lines(args.out / "trainings.jsonl", trainings[len(known) :])
        print("\n".join(map(told, rows)))


if __name__ == "__main__":
    try:
        main()
    except RtsegError as error:
        raise SystemExit(f"{error}") from None
