"""Every network of the registry in every runtime that this machine has, compared with eager PyTorch: writes benchmarks/results/runtime_agreement.json.

    OMP_NUM_THREADS=1 nice -n 10 python benchmarks/runtime_agreement.py [--models fastscnn,stdc] [--compile fastscnn,linknet] [--sizes 64x96,256x512]

Where fp32 differs by more than the tolerance, eager fp32 is compared with eager fp64 as well: `rounding` says how much of it is the network's own sensitivity.
What is in the record already is not computed again. Weights are random, and settled: batch norms have seen random images, so that every layer counts (rtseg.shipping.checking.settled).
"""

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from rtseg.core.environment import environment_record, seed_everything
from rtseg.core.errors import RtsegError
from rtseg.core.files import read_json, write_json
from rtseg.deployment import why_absent
from rtseg.shipping.checking import check_runtime, norms_left, settled
from rtseg.runtimes.export import to_onnx
from rtseg.runtimes.openvino import capabilities
from rtseg.models import create_model
from rtseg.models.checking import smallest_of_families

RESULT = Path(__file__).parent / "results" / "runtime_agreement.json"
CLASSES, BATCH, SIZES = 11, 2, ((64, 96), (256, 512))


def forms(model: str, size: tuple[int, int], compiled: list[str]) -> Iterator[tuple[str, str]]:
    """Runtimes and precisions to try for a network at a size; compiling takes minutes, so only for those named, at the small size."""
    yield "onnxruntime", "fp32"
    if why_absent("openvino") is None:
        yield "openvino", "fp32"
        if "BF16" in capabilities():
            yield "openvino", "bf16"
    if model in compiled and min(size) <= 64 and why_absent("torch-compile") is None:
        yield "torch-compile", "fp32"


def complete(record: dict) -> bool:
    """Whether every network of the registry has been compared at both sizes in each runtime of this machine (compiled ones apart)."""
    done = {(r["model"], r["runtime"], r["precision"], tuple(r["size"])) for r in record["rows"]}
    return all(
        (model, *form, size) in done
        for model in smallest_of_families()
        for size in SIZES
        for form in forms(model, size, [])
    )


def row(net: nn.Module, graph, model: str, runtime: str, precision: str, size: tuple[int, int]) -> dict:
    """One comparison as plain data; a failure is a row with its error."""
    facts = {"model": model, "size": list(size), "runtime": runtime, "precision": precision, "error": None}
    try:
        check = check_runtime(net, runtime, shape=(1, 3, *size), graph=graph, precision=precision, threads=1)
    except RtsegError as error:
        return {**facts, "error": str(error)}
    kept = (
        "tolerance",
        "max_difference",
        "relative_difference",
        "label_agreement",
        "layers",
        "first_layer",
        "first_operator",
        "first_difference",
        "note",
        "versions",
    )
    return {**facts, "agrees": check.agrees, **{key: check.to_dict()[key] for key in kept}}


def trial(model: str) -> nn.Module:
    """The network as every comparison sees it."""
    seed_everything(0)
    return settled(create_model(model, CLASSES), (BATCH, 3, 128, 192))


def rounding(net: nn.Module, size: tuple[int, int], images: int = 8) -> float:
    """The largest relative difference of eager fp32 from eager fp64 over random images: what rounding alone makes of these weights."""
    double, found = copy.deepcopy(net).double(), []
    for seed in range(images):
        image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            rough, exact = (
                getattr(logits, "logits", logits).double() for logits in (net(image), double(image.double()))
            )
        found.append(float((rough - exact).abs().max() / exact.abs().max()))
    return max(found)


def write(record: dict) -> None:
    write_json(
        RESULT,
        {
            "complete": complete(record),
            "protocol": {"classes": CLASSES, "settled_on": [BATCH, 3, 128, 192], "seed": 0, "threads": 1},
            "environment": environment_record(),
            **{key: record[key] for key in ("norms", "rounding", "rows")},
        },
    )


def explain(record: dict) -> None:
    """Add `rounding` for every network and size at which a runtime in fp32 is further away than the tolerance."""
    for row in record["rows"]:
        key = f"{row['model']} {row['size'][0]}x{row['size'][1]}"
        if row["precision"] == "fp32" and row["error"] is None and not row["agrees"] and key not in record["rounding"]:
            record["rounding"][key] = rounding(trial(row["model"]), tuple(row["size"]))


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--models", default=",".join(smallest_of_families()))
    words.add_argument("--sizes", default=",".join(f"{h}x{w}" for h, w in SIZES))
    words.add_argument("--compile", default="fastscnn,contextnet,linknet,fasterseg")
    given = words.parse_args()
    torch.set_num_threads(1)
    record = read_json(RESULT) if RESULT.exists() else {"rows": [], "norms": {}}
    record.setdefault("rounding", {})
    done = {(r["model"], r["runtime"], r["precision"], tuple(r["size"])) for r in record["rows"]}
    for size in [tuple(int(n) for n in text.split("x")) for text in given.sizes.split(",")]:
        for model in given.models.split(","):
            todo = [form for form in forms(model, size, given.compile.split(",")) if (model, *form, size) not in done]
            if not todo:
                continue
            net = trial(model)
            graph = to_onnx(net, (1, 3, *size), dynamic_batch=False)
            record["norms"].setdefault(
                model, {"network": sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()), **norms_left(graph)}
            )
            for runtime, precision in todo:
                record["rows"].append(row(net, graph, model, runtime, precision, size))
                r = record["rows"][-1]
                print(
                    model,
                    size,
                    runtime,
                    precision,
                    r["error"] or f"{r['relative_difference']:.1e} {r['label_agreement']:.4f} {r['first_layer'] or ''}",
                    flush=True,
                )
            write(record)
    explain(record)
    write(record)


if __name__ == "__main__":
    main()
