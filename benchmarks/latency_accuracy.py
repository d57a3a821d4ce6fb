"""Predicted against measured latency of random networks in any runtime: the plain sum of a table, the sum with a fitted correction, and its interval.

    python benchmarks/latency_accuracy.py --runtime onnxruntime --threads 1 --networks 30 --size 128x256
    python benchmarks/latency_accuracy.py --runtime openvino --precision bf16 --threads 2 --networks 30 --size 128x256 --zoo

Wanted: Pearson correlation >= 0.99 and mean absolute error <= 5 % over at least 30 networks that neither the fit nor the interval has seen, and intervals that hold what they promise.
Networks and operators are measured in turns, in several passes of different order; of each the quietest value counts, so that a neighbour who comes and goes adds nothing. Exported graphs are kept in
--cache and shared by all runtimes. Every row is written at once: killed, the same command goes on. Run it on a quiet machine (`flock` where several people share one; the load is in the record).
--zoo measures the registry's networks too and predicts them from the table's rows and from one another: the out-of-domain case.
Writes results/latency_accuracy_<runtime>_<precision>_<threads>.json, the table beside it, and scatter plots (HTML).
"""

import argparse
import os
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch

from rtseg.core.architecture import Architecture, OpSpec
from rtseg.core.environment import environment_record, make_generator
from rtseg.core.errors import ConfigError, RtsegError
from rtseg.core.files import atomic_write, read_json, write_json, write_text
from rtseg.deployment import RUNTIMES, load_runtime
from rtseg.runtimes.export import to_onnx
from rtseg.latency.measuring import clock_of
from rtseg.runtimes.runtimes import device_name
from rtseg.models import create_model, list_models
from rtseg.models.fasterseg import FasterSeg
from rtseg.search.latency_table import LatencyTable, make_header
from rtseg.search.layerwise import from_networks, from_records, layer_features
from rtseg.search.prediction import deal_again, fit_predictor, judge
from rtseg.search.probes import CacheStirrer, Entry, Probe, ProbeProtocol, probe_sources, time_quietest
from rtseg.search.space import SearchSpace, sample
from rtseg.viz.latency import plot_agreement
from rtseg.viz.predictions import plot_intervals

BRANCHES = ((2, 1), (2, 0), (2,), (1,), (1, 0), (0,), (2, 1, 0))
CLASSES, BATCH = 19, 25
RESULTS = Path(__file__).parent / "results"
PROTOCOL = ProbeProtocol(max_seconds=0.6)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", default="onnxruntime", choices=RUNTIMES.names())
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", type=int, default=30, help="networks kept out, on which everything is judged")
    parser.add_argument("--fit", type=int, default=15, help="further networks for the correction")
    parser.add_argument("--calibration", type=int, default=19, help="further networks for the interval")
    parser.add_argument("--coverage", type=float, default=0.9)
    parser.add_argument("--size", default="128x256", help="HEIGHTxWIDTH")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--zoo", action="store_true", help="measure and predict the registry's networks as well")
    parser.add_argument("--export-only", action="store_true", help="fill the cache of exported graphs, measure nothing")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "rtseg-latency-accuracy")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


class Bench:
    """Everything that one run of this script knows: what is asked, the exported graphs, and the record that grows."""

    def __init__(self, args: argparse.Namespace):
        height, width = (int(side) for side in args.size.split("x"))
        self.args, self.size = args, (height, width)
        count = args.networks + args.fit + args.calibration
        self.archs = {
            f"net{i:03d}": sample(SearchSpace(), make_generator(args.seed, i), lasts=BRANCHES[i % len(BRANCHES)])
            for i in range(count)
        }
        self.specs = list(
            dict.fromkeys(spec for arch in self.archs.values() for spec in arch.op_specs(height, width, CLASSES))
        )
        self.zoo = (
            [name for name in list_models() if name != "fasterseg" and not name.startswith("smp")] if args.zoo else []
        )
        self.cache = args.cache / f"{args.size}-seed{args.seed}"
        self.path = args.out / f"latency_accuracy_{args.runtime}_{args.precision}_{args.threads}.json"
        self.modules = RUNTIMES.metadata(args.runtime)["package"] == "torch"
        self.stir, self.record = CacheStirrer(PROTOCOL.cache_mb, args.threads), self.begin()

    def begin(self) -> dict:
        asked = {
            "device": device_name(),
            "runtime": self.args.runtime,
            "precision": self.args.precision,
            "threads": self.args.threads,
            "size": list(self.size),
            "seed": self.args.seed,
        }
        if self.path.exists():
            found = read_json(self.path)
            if found["asked"] != asked:
                raise ConfigError(f"{self.path} holds a record of {found['asked']}, not of {asked}: give another --out")
            return found
        return {
            "asked": asked,
            "protocol": PROTOCOL.to_dict(),
            "networks": {},
            "operators": {},
            "zoo": {},
            "loads": [],
            "environment": environment_record(),
        }

    def network(self, name: str) -> torch.nn.Module:
        torch.manual_seed(0)
        return (
            FasterSeg(self.archs[name], CLASSES, aux=False) if name in self.archs else create_model(name, CLASSES)
        ).eval()

    def exported(self, name: str, make: Callable[[], onnx.ModelProto]) -> Path:
        path = self.cache / f"{name}.onnx"
        if not path.exists():
            with atomic_write(path) as temporary:
                onnx.save(make(), temporary)
        return path

    def source(self, name: str) -> Path | torch.nn.Module:
        if self.modules:
            return self.network(name)
        return self.exported(name, lambda: to_onnx(self.network(name), (1, 3, *self.size), dynamic_batch=False))

    def pair(self, spec: OpSpec) -> tuple:
        if self.modules:
            return tuple(Probe(spec, work=work).eval() for work in (False, True))
        paths = tuple(self.cache / f"{spec.key()}_{part}.onnx" for part in ("empty", "full"))
        if not all(path.exists() for path in paths):
            self.export_like(spec)
        return paths

    def export_like(self, spec: OpSpec) -> None:
        """Export a batch of operators of one input size at once, `spec` first."""
        alike = [
            s
            for s in self.specs
            if (s.height, s.width) == (spec.height, spec.width) and not (self.cache / f"{s.key()}_full.onnx").exists()
        ]
        batch = [spec, *(s for s in alike if s != spec)][:BATCH]
        for s, pair in zip(batch, probe_sources(batch, self.args.runtime), strict=True):
            for part, proto in zip(("empty", "full"), pair, strict=True):
                self.exported(f"{s.key()}_{part}", lambda proto=proto: proto)

    def load(self, source: object, shape: tuple[int, ...]):
        return load_runtime(
            source, runtime=self.args.runtime, threads=self.args.threads, precision=self.args.precision, shape=shape
        )


def time_network(bench: Bench, name: str) -> dict:
    """The quietest of six rounds of five calls (ms), and its middle; warm-up before."""
    shape = (1, 3, *bench.size)
    runtime = bench.load(bench.source(name), shape)
    with runtime.ready(np.random.default_rng(0).standard_normal(shape, dtype=np.float32)) as call:
        clock = clock_of(runtime.device)
        for _ in range(3):
            call()
        rounds = [[clock(call) for _ in range(5)] for _ in range(6)]
    return {
        "ms": round(min(map(statistics.median, rounds)), 5),
        "rounds": [round(statistics.median(r), 4) for r in rounds],
        "load": round(os.getloadavg()[0], 1),
    }


def time_operator(bench: Bench, spec: OpSpec) -> list[float]:
    """Median milliseconds of the quietest round, of the probe without the operator and with it."""
    shape = (1, 3, spec.height, spec.width)
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    empty, full = (bench.load(source, shape) for source in bench.pair(spec))
    with empty.ready(image) as without, full.ready(image) as work:
        rounds = time_quietest([without, work], PROTOCOL, clock=clock_of(full.device), stir=bench.stir)
    return [round(statistics.median(times), 5) for times in rounds]


def one_pass(bench: Bench, number: int) -> None:
    """Networks and operators in turns, in an order of this pass; what the record already holds of this pass is left out."""
    order = (
        [("networks", name) for name in bench.archs]
        + [("operators", spec) for spec in bench.specs]
        + [("zoo", name) for name in bench.zoo]
    )
    random.Random(number).shuffle(order)
    for done, (kind, what) in enumerate(order):
        key = what.key() if isinstance(what, OpSpec) else what
        rows = bench.record[kind].setdefault(key, [])
        if len(rows) < number:
            rows.append(time_operator(bench, what) if isinstance(what, OpSpec) else time_network(bench, what))
        if done % 10 == 0 or done + 1 == len(order):
            bench.record["loads"].append(round(os.getloadavg()[0], 1))
            write_json(bench.path, bench.record)
        if done % 100 == 0:
            print(f"pass {number}, {done}/{len(order)}, load {os.getloadavg()[0]:.1f}", flush=True)


def table_of(bench: Bench) -> LatencyTable:
    """The operators' quietest values as a table."""
    args = bench.args
    tiny = bench.load(bench.source(next(iter(bench.archs))), (1, 3, *bench.size))
    header = make_header(
        bench.size,
        num_classes=CLASSES,
        runtime=args.runtime,
        threads=args.threads,
        precision=args.precision,
        protocol=PROTOCOL,
        versions=tiny.versions(),
    )
    ms = {
        key: max(0.0, min(full for _, full in rows) - min(empty for empty, _ in rows))
        for key, rows in bench.record["operators"].items()
    }
    return LatencyTable(
        header, {key: Entry(round(v, 5), round(v, 5), round(v, 5), PROTOCOL.calls) for key, v in ms.items()}
    )


def quietest(rows: list[dict]) -> float:
    return min(row["ms"] for row in rows)


def zoo_verdict(bench: Bench, table: LatencyTable) -> dict:
    """The registry's networks, predicted from the table's rows and from one another."""
    row_features, row_ms = [], []
    for spec in bench.specs:
        empty, full = (layer_features(onnx.load(path)) for path in bench.pair(spec))
        if table.latency(spec) > 0:
            row_features.append(np.maximum(full - empty, 0))
            row_ms.append(table.latency(spec))
    zoo = {
        name: (layer_features(onnx.load(bench.source(name))), quietest(bench.record["zoo"][name])) for name in bench.zoo
    }
    return {
        "from_records": from_records(np.array(row_features), np.array(row_ms), zoo),
        "from_networks": from_networks(zoo),
    }


def verdict_of(bench: Bench, table: LatencyTable) -> dict:
    args = bench.args
    measured: list[tuple[Architecture, float]] = [
        (arch, quietest(bench.record["networks"][name])) for name, arch in bench.archs.items()
    ]
    fit, calibration, kept_out = (
        measured[: args.fit],
        measured[args.fit : args.fit + args.calibration],
        measured[args.fit + args.calibration :],
    )
    predictor = fit_predictor(table, fit, calibration, coverage=args.coverage)
    found = {
        "predictor": predictor.to_dict(),
        **judge(predictor, kept_out),
        "dealt_again": deal_again(table, measured, fit=args.fit, calibration=args.calibration, coverage=args.coverage),
    }
    names = [arch.id for arch, _ in kept_out]
    title = f"{args.runtime} {args.precision}, {args.threads} thread(s), {args.size}"
    predictions = [predictor.predict(arch) for arch, _ in kept_out]
    for name, figure in (
        ("scatter", plot_agreement([p.ms for p in predictions], [ms for _, ms in kept_out], names=names, title=title)),
        ("intervals", plot_intervals(predictions, [ms for _, ms in kept_out], names=names, title=title)),
    ):
        write_text(bench.path.with_name(f"{bench.path.stem}_{name}.html"), figure.to_html(include_plotlyjs="cdn"))
    return found


def main() -> None:
    bench = Bench(parse())
    if bench.args.export_only:
        for spec in bench.specs:
            bench.pair(spec)
        for number, name in enumerate([*bench.archs, *bench.zoo], start=1):
            bench.source(name)
            print(f"{number}/{len(bench.archs) + len(bench.zoo)} {name}", flush=True)
        return
    for number in range(1, bench.args.passes + 1):
        one_pass(bench, number)
    table = table_of(bench)
    table.save(bench.path.with_name(f"{bench.path.stem}_table.json"))
    found = verdict_of(bench, table)
    bench.record.update(verdict=found, zoo_verdict=zoo_verdict(bench, table) if bench.zoo and not bench.modules else {})
    write_json(bench.path, bench.record)
    for name in ("sum", "corrected"):
        print(
            f"{name:>9}: Pearson {found[name]['pearson']:.4f}, mean absolute error {found[name]['mean_absolute_error']:.2%}, mean error {found[name]['mean_error']:+.2%}, greatest {found[name]['greatest_error']:.1%}"
        )
    again = found["dealt_again"]
    print(
        f"interval ± {found['predictor']['half_width']:.1%}: promised {found['coverage_promised']:.0%}, held {found['coverage_measured']:.0%} of {found['networks']}, "
        f"{again['coverage_measured']:.1%} over {again['deals']} deals: {bench.path}"
    )


if __name__ == "__main__":
    try:
        main()
    except RtsegError as error:
        raise SystemExit(str(error)) from None
