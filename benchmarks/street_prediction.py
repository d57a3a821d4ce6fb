"""How far the latency table's sum, and the sum corrected by measured networks, lie from the measured latency of whole networks of the space street.

    python benchmarks/street_prediction.py --runtime openvino

Times nothing: takes measured networks of the table's plan (one thread, stem and head included; those that others disturbed are left out and counted) and the ruler that the plan was drawn by.
`six networks` is what `rtseg nas search` does: a constant from six networks that are measured beside the table; judged on all others, over many deals. `two thirds` fits every term on two thirds of them and is judged on the rest.
Networks that were measured beside another process, on different days, say how far a measurement lies from itself. Writes results/street_prediction.json.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rtseg.core.environment import library_versions
from rtseg.core.files import read_json, write_json
from rtseg.search.latency_table import read_table
from rtseg.search.rulers import corrected
from rtseg.search.trained import MeasuredNetwork, load_table, read_lines

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "results" / "camvid-street"


def summary(errors: np.ndarray) -> dict:
    """Relative errors in numbers."""
    size = np.abs(errors)
    return {
        "errors": len(errors),
        "median": round(float(np.median(size)), 4),
        "90 %": round(float(np.quantile(size, 0.9)), 4),
        "worst": round(float(size.max()), 4),
        "bias": round(float(np.median(errors)), 4),
        "within 5 %": round(float(np.mean(size <= 0.05)), 4),
    }


def held_out(pairs: list, fit: int, deals: int, predict: Callable) -> np.ndarray:
    """Relative errors of the networks that a deal keeps out of the fit, over many deals by lot."""
    generator, errors = np.random.default_rng(0), []
    for _ in range(deals):
        dealt = [pairs[i] for i in generator.permutation(len(pairs))]
        fitted = predict(dealt[:fit])
        errors += [fitted.predict(arch).ms / ms - 1 for arch, ms in dealt[fit:]]
    return np.array(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default="camvid-street")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument(
        "--ruler", type=Path, help="the table of pieces; the runtime's in results/camvid-street unless given"
    )
    parser.add_argument(
        "--beside", type=Path, default=RECORDS / "latencies-beside.jsonl", help="some, measured beside another process"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "street_prediction.json")
    args = parser.parse_args()
    trained, ruler = load_table(args.table), read_table(args.ruler or RECORDS / f"ruler-{args.runtime}.json")
    every = [m for m in trained.latencies if m.latency.runtime == args.runtime]
    measured = [m for m in every if not m.latency.disturbance]
    pairs = [(trained.space.read(m.architecture), m.latency.median_ms) for m in measured]
    two_thirds = 2 * len(pairs) // 3
    earlier = read_lines(args.beside, MeasuredNetwork) if args.beside.is_file() else []
    now = {m.network: m.latency.median_ms for m in measured}
    twice = [
        m.latency.median_ms / now[m.network] - 1 for m in earlier if m.network in now and m.device == measured[0].device
    ]
    record = {
        "machine": measured[0].latency.device,
        "size": list(ruler.header.size),
        "networks": len(pairs),
        "left out, disturbed": len(every) - len(pairs),
        "sum": summary(np.array([ruler.predict(a) / ms - 1 for a, ms in pairs])),
        "overhead ms": round(corrected(ruler, pairs[:29]).coefficients[1], 3),
        "six networks": summary(held_out(pairs, 6, 100, lambda fit: corrected(ruler, fit))),
        "two thirds": summary(held_out(pairs, two_thirds, 10, lambda fit: corrected(ruler, fit)))
        if two_thirds >= 30
        else {},
        "measured beside another process": summary(np.array(twice)) if twice else {},
        "versions": library_versions(),
    }
    kept = read_json(args.out) if args.out.is_file() else {}
    write_json(args.out, {**{k: v for k, v in kept.items() if " " in k}, measured[0].device: record})
    for name in ("sum", "six networks", "two thirds", "measured beside another process"):
        print(f"{name}: {record[name]}")


if __name__ == "__main__":
    main()
