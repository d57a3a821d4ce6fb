"""Build the full latency table of FasterSeg's space on this machine: 665 entries (the published table's 667 less the unused stem).

    python benchmarks/latency_table.py --runtime torch
    python benchmarks/latency_table.py --runtime onnxruntime

Run on a quiet machine (`flock /tmp/bench.lock` where several people share one). Killed, it goes on where it stopped.
Writes results/latency_table_<runtime>_<H>x<W>.json, and how long that took beside it.
"""

import argparse
import time
from pathlib import Path

from rtseg.core.environment import environment_record
from rtseg.core.errors import RtsegError
from rtseg.core.files import read_json, write_json
from rtseg.core.machine import available_cores
from rtseg.search.latency_table import LatencyTable
from rtseg.search.table_specs import table_specs
from rtseg.search.probes import ProbeProtocol
from rtseg.search.space import SearchSpace

RESULTS = Path(__file__).parent / "results"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", default="torch", choices=["torch", "onnxruntime"])
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--cache-mb", type=int, default=ProbeProtocol().cache_mb, help="megabytes read between calls")
    parser.add_argument("--max-seconds", type=float, default=ProbeProtocol().max_seconds, help="time limit of an entry")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    args = parse()
    height, width = args.size
    path = args.out or RESULTS / f"latency_table_{args.runtime}_{height}x{width}.json"
    timing = path.with_name(f"{path.stem}_build.json")
    before = read_json(timing)["seconds"] if timing.exists() and path.exists() else 0.0
    start, space = time.perf_counter(), SearchSpace()

    def log(text: str) -> None:
        seconds = round(before + time.perf_counter() - start, 1)
        write_json(
            timing,
            {
                "seconds": seconds,
                "entries": len(table_specs(space, (height, width), args.classes)),
                "environment": environment_record(),
            },
        )
        print(text, flush=True)

    table = LatencyTable.build(
        space,
        size=(height, width),
        num_classes=args.classes,
        runtime=args.runtime,
        threads=args.threads,
        path=path,
        protocol=ProbeProtocol(cache_mb=args.cache_mb, max_seconds=args.max_seconds),
        log=log,
    )
    log(f"{len(table.entries)} entries in {before + time.perf_counter() - start:.0f} s: {path}")


if __name__ == "__main__":
    try:
        main()
    except RtsegError as error:
        raise SystemExit(str(error)) from None
