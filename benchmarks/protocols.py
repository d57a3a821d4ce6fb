"""One network under the protocols that papers use, on every runtime of this machine: why published speeds disagree.

    python benchmarks/protocols.py --model ddrnet --size 512x1024 --threads 2

Writes benchmarks/results/protocols_MODEL_HxW.json, which results_page.py renders. Run it on a quiet machine.
"""

import argparse
from pathlib import Path

import torch

from rtseg.core.files import write_json
from rtseg.latency.machine_state import machine_record
from rtseg.latency.protocols import compare_protocols, protocol_table
from rtseg.runtimes.runtimes import default_threads, why_absent
from rtseg.models import create_model
from rtseg.cli.options import read_size
from rtseg.viz import table

ROOT = Path(__file__).resolve().parent.parent
PAIRS = (("torch", "fp32"), ("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ddrnet")
    parser.add_argument("--size", type=read_size, default=(512, 1024))
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=10.0, help="the longest that one measurement may take")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    torch.manual_seed(0)
    pairs = [pair for pair in PAIRS if why_absent(pair[0]) is None]
    rows = compare_protocols(
        create_model(given.model).eval(), given.size, runtimes=pairs, threads=given.threads, max_seconds=given.seconds
    )
    out = given.out or ROOT / "benchmarks" / "results" / f"protocols_{given.model}_{given.size[0]}x{given.size[1]}.json"
    write_json(
        out,
        {
            "model": given.model,
            "size": list(given.size),
            "threads": default_threads(given.threads),
            "machine": machine_record(),
            "rows": [row.to_dict() for row in rows],
        },
    )
    print(table(protocol_table(rows), formats={"ms": ".2f", "frames/s": ".1f", "times the fastest": ".2f"}))


if __name__ == "__main__":
    main()
