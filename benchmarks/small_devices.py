"""Every network of the registry in the runtimes of small devices, compared with eager PyTorch and with ONNX Runtime's speed: writes benchmarks/results/small_devices.json.

    OMP_NUM_THREADS=1 python benchmarks/small_devices.py [--models fastscnn,stdc] [--size 256x512]

Weights are random and settled. `agreement` is the share of labels that are PyTorch's, `ms` the median of calls in turns on this processor, one thread, logits only.
A phone has other kernels and other ratios; what carries over is which networks convert, and that they give the same masks. A network with a row for every form in the record is not compared again.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np

from rtseg.core.environment import environment_record, seed_everything
from rtseg.core.errors import RtsegError
from rtseg.core.files import read_json, write_json
from rtseg.models import create_model
from rtseg.models.checking import smallest_of_families
from rtseg.runtimes.runtimes import load_runtime, why_absent
from rtseg.shipping.autotuning import time_in_turns
from rtseg.shipping.checking import settled

RESULT = Path(__file__).parent / "results" / "small_devices.json"
FORMS = (("onnxruntime", "fp32"), ("ncnn", "fp32"), ("ncnn", "bf16"), ("executorch", "fp32"), ("litert", "fp32"))
CLASSES = 11


def compare(model: str, size: tuple[int, int]) -> list[dict]:
    """A row for each form of a network: agreement and milliseconds, or the reason why there are none."""
    seed_everything(0)
    net, shape = settled(create_model(model, num_classes=CLASSES), (2, 3, *size)), (1, 3, *size)
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    wanted = load_runtime(net, threads=1).run(image).argmax(1)
    rows, calls = [], {}
    for runtime, precision in FORMS:
        row = {"model": model, "size": list(size), "runtime": runtime, "precision": precision}
        try:
            loaded = load_runtime(net, runtime=runtime, precision=precision, threads=1, shape=shape)
            row["agreement"] = float((loaded.run(image).argmax(1) == wanted).mean())
            calls[len(rows)] = lambda loaded=loaded: loaded.run(image)
        except RtsegError as error:
            row["error"] = str(error)
        rows.append(row)
    for place, times in time_in_turns(calls, rounds=5, calls_each=2, seconds=4).items():
        rows[place]["ms"] = round(statistics.median(times), 3)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="names with commas; the smallest of each family by default")
    parser.add_argument("--size", default="256x512", help="height x width")
    words = parser.parse_args()
    size = tuple(map(int, words.size.split("x")))
    record = read_json(RESULT) if RESULT.is_file() else {"environment": {}, "absent": {}, "rows": []}
    record["environment"] = environment_record()
    record["absent"] = {name: reason for name, _ in FORMS if (reason := why_absent(name))}
    for model in words.models.split(",") if words.models else smallest_of_families():
        mine = [row for row in record["rows"] if (row["model"], tuple(row["size"])) == (model, size)]
        if {(row["runtime"], row["precision"]) for row in mine} != set(FORMS):
            rows = compare(model, size)  # all of them: milliseconds are compared within one run
            record["rows"] = [row for row in record["rows"] if row not in mine] + rows
            write_json(RESULT, record)
            print(model, *(f"{r['runtime']} {r.get('agreement', 'failed')} {r.get('ms', '')}" for r in rows), sep="  ")


if __name__ == "__main__":
    main()
