"""Predicted against measured latency of random networks, at a table's own resolution.

    python benchmarks/latency_accuracy.py benchmarks/results/latency_table_torch_512x1024.json
    python benchmarks/latency_accuracy.py benchmarks/results/latency_table_onnxruntime_512x1024.json

Wanted: Pearson correlation >= 0.98 and mean absolute error <= 10 % over at least 20 networks. Run on a quiet machine. Networks already measured are kept, so that a
killed run goes on. Writes <table>_accuracy.json and a scatter plot <table>_accuracy.html. `drift` re-times some entries: it says how much slower the machine is now than when the table was made.
"""
import argparse
import statistics
from pathlib import Path

import torch

from rtseg.core.architecture import Architecture, OpSpec
from rtseg.core.environment import environment_record, make_generator
from rtseg.core.errors import RtsegError
from rtseg.core.files import read_json, write_json, write_text
from rtseg.core.values import Latency
from rtseg.deployment import load_runtime, measure_latency
from rtseg.models.fasterseg import FasterSeg
from rtseg.search.latency_table import LatencyTable, build_table, compare_predictions
from rtseg.search.probes import Protocol
from rtseg.search.space import SearchSpace, sample
from rtseg.viz.latency import plot_agreement

BRANCHES = ((2, 1), (2, 0), (2,), (1,), (1, 0), (0,), (2, 1, 0))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--networks", type=int, default=28)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-seconds", type=float, default=6.0, help="time limit of a network")
    return parser.parse_args()


def measure(arch: Architecture, table: LatencyTable, max_seconds: float) -> Latency:
    head = table.header
    shape = (1, 3, *head.size)
    torch.manual_seed(0)
    network = FasterSeg(arch, head.num_classes, aux=False).eval()
    runtime = load_runtime(network, runtime=head.runtime, threads=head.threads, precision=head.precision, shape=shape)
    return measure_latency(runtime, shape, rounds=10, min_runs=5, max_seconds=max_seconds)


def drift(table: LatencyTable, count: int = 12) -> float:
    """Median ratio of entries timed now to those in the table."""
    large = sorted((key for key in table.ms if key.startswith("conv_")), key=table.ms.get)[-200::200 // count]
    head = table.header
    protocol = Protocol.from_dict(head.protocol)
    now = build_table([OpSpec.parse(k) for k in large], size=head.size, num_classes=head.num_classes, runtime=head.runtime, threads=head.threads,
                      precision=head.precision, protocol=protocol)
    return statistics.median(now.ms[key] / table.ms[key] for key in large)


def main() -> None:
    args = parse()
    table = LatencyTable.load(args.table)
    path = args.table.with_name(f"{args.table.stem}_accuracy.json")
    known = {item["arch"]: item for item in read_json(path)["measured"]} if path.exists() else {}
    space, networks, report = SearchSpace(), [], {}
    for index in range(args.networks):
        arch = sample(space, make_generator(args.seed, index), lasts=BRANCHES[index % len(BRANCHES)])
        latency = Latency.from_dict(known[arch.id]["latency"]) if arch.id in known else measure(arch, table, args.max_seconds)
        networks.append((arch, latency))
        predicted = table.predict(arch)
        print(f"{index + 1}/{args.networks} {arch}: predicted {predicted:.2f}, measured {latency.median_ms:.2f} ms, ratio {predicted / latency.median_ms:.3f}", flush=True)
        measured = [{"arch": a.id, "architecture": a.to_dict(), "latency": m.to_dict()} for a, m in networks]
        if len(networks) > 1:
            report = compare_predictions(table, networks)
            write_json(path, {"table": table.header.to_dict(), **report, "measured": measured, "environment": environment_record()})
    moved = drift(table)
    write_json(path, {**read_json(path), "drift": moved})
    names = [arch.id for arch, _ in networks]
    figure = plot_agreement(report["predicted_ms"], [m for _, m in networks], names=names, title=f"{table.header.runtime}, {table.header.height} x {table.header.width}")
    write_text(path.with_suffix(".html"), figure.to_html(include_plotlyjs="cdn"))
    print(f"Pearson {report['pearson']:.4f}, mean absolute error {report['mean_absolute_error']:.1%}, mean error {report['mean_error']:+.1%}, drift {moved:.3f}: {path}")


if __name__ == "__main__":
    try:
        main()
    except RtsegError as error:
        raise SystemExit(str(error)) from None
