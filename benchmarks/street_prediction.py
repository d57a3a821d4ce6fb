"""How far the latency table's sum, and the sum corrected by measured networks, lie from the measured latency of whole networks of the space street.

    python benchmarks/street_prediction.py

Times nothing: takes measured networks of the table's plan (ONNX Runtime fp32, one thread, stem and head included, one batch on a quiet machine) and the ruler that the plan was drawn by.
The correction is fitted on two thirds of the networks and judged on the last third. Writes results/street_prediction.json.
"""

import argparse
from pathlib import Path

import numpy as np

from rtseg.core.environment import library_versions
from rtseg.core.files import write_json
from rtseg.search.latency_table import read_table
from rtseg.search.rulers import corrected
from rtseg.search.trained import MeasuredNetwork, load_table, read_lines

ROOT = Path(__file__).resolve().parents[1]


def summary(errors: np.ndarray) -> dict:
    """Relative errors in numbers."""
    size = np.abs(errors)
    return {
        "networks": len(errors),
        "median": round(float(np.median(size)), 4),
        "90 %": round(float(np.quantile(size, 0.9)), 4),
        "worst": round(float(size.max()), 4),
        "bias": round(float(np.median(errors)), 4),
        "within 5 %": round(float(np.mean(size <= 0.05)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default="camvid-street")
    parser.add_argument("--ruler", type=Path, default=ROOT / "results" / "camvid-street" / "ruler-onnxruntime.json")
    parser.add_argument(
        "--latencies", type=Path, default=ROOT / "results" / "camvid-street" / "latencies-onnxruntime.jsonl"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "street_prediction.json")
    args = parser.parse_args()
    trained, ruler = load_table(args.table), read_table(args.ruler)
    measured = read_lines(args.latencies, MeasuredNetwork)
    pairs = [(trained.space.read(m.architecture), m.latency.median_ms) for m in measured]
    kept, last = [p for i, p in enumerate(pairs) if i % 3], [p for i, p in enumerate(pairs) if i % 3 == 0]
    fitted = corrected(ruler, kept)
    record = {
        "device": measured[0].device,
        "machine": measured[0].latency.device,
        "size": list(ruler.header.size),
        "sum": summary(np.array([ruler.predict(a) / ms - 1 for a, ms in pairs])),
        "corrected, on networks kept out": summary(np.array([fitted.predict(a).ms / ms - 1 for a, ms in last])),
        "versions": library_versions(),
    }
    write_json(args.out, record)
    print(record["sum"], record["corrected, on networks kept out"], sep="\n")


if __name__ == "__main__":
    main()
