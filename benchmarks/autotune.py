"""How much faster the fastest faithful form is than ONNX Runtime fp32 and PyTorch eager, on two CPU cores, over networks trained on CamVid.

    python benchmarks/autotune.py --data ../shared/camvid --runs ../runs/camvid_training
    python benchmarks/autotune.py --data ../shared/camvid --runs ../runs/camvid_training --models fastscnn,stdc --student ../runs/camvid-cpu
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/autotune.py ... --precisions fp32,int8 --runtimes onnxruntime,openvino --out benchmarks/results/autotune_avx2.json
    python benchmarks/autotune.py --report

Work that is compared: the bytes of a photograph in, the bytes of its labels out. The baseline is what a plain export gives: ONNX Runtime fp32 from normalised floats to full-size logits,
the host normalises before and takes the best class after it. All forms of a network take turns within one process. `network_only` is the same export and the chosen form without a host's work
(logits of a normalised image; labels of a photograph), again in turns. `served_ms` is what the shipped serve.py prints in a Python that can import neither torch nor rtseg. Calibration: training images; masks are compared, and mIoU taken, on validation images that calibration has not seen.
Wanted: median speed-up >= 2.2 over ONNX Runtime fp32 and >= 4 over eager (without bf16 instructions 1.3 and 1); agreement >= 0.99 and mIoU drop <= 0.005 everywhere; no network slower than with ONNX Runtime fp32.
The two variables limit PyTorch and OpenVINO to AVX2. ONNX Runtime's own kernels know no such switch: its figures there are those of the whole processor, the baseline as well as int8 (with VNNI where it has that).
Run on a quiet machine. Rows already in results/autotune.json are kept, so that a killed run goes on; --again NAME measures one anew. Networks without trained weights are left out, by name.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rtseg.core.architecture import Architecture
from rtseg.core.environment import environment_record, git_state
from rtseg.core.errors import RtsegError
from rtseg.core.files import read_json, sha256_file, write_json
from rtseg.core.machine import bf16_instructions, processor_record
from rtseg.data import open_dataset
from rtseg.shipping.autotuning import autotune, ship, time_in_turns
from rtseg.shipping.outcomes import Tuned
from rtseg.shipping.candidates import BASELINE, EAGER, Builder, list_candidates
from rtseg.shipping.faithful import read_examples
from rtseg.runtimes.runtimes import to_floats
from rtseg.evaluation.evaluator import load_trained
from rtseg.models import create_model
from rtseg.models.contract import SegNetwork
from rtseg.models.fasterseg import FasterSeg

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results" / "autotune.json"
NETWORKS = {
    "fastscnn": {},
    "bisenetv2": {},
    "stdc": {"aux": True},
    "ddrnet": {},
    "regseg": {},
    "ppliteseg": {},
    "dabnet": {},
}
STUDENT, CLASSES = "searched student", 11
FAITHFUL = {"agreement": 0.99, "drop": 0.005}
BARS = (
    {"over_onnxruntime": 2.2, "over_eager": 4.0, **FAITHFUL}
    if bf16_instructions()
    else {"over_onnxruntime": 1.3, "over_eager": 1.0, **FAITHFUL}
)


def networks(
    runs: Path, names: list[str], seed: int, student: Path | None, untrained: bool
) -> dict[str, tuple[SegNetwork, Path | None]]:
    found = {}
    for name in names:
        weights = runs / f"{name}-seed{seed}" / "best.safetensors"
        torch.manual_seed(seed)
        network = create_model(name, CLASSES, **NETWORKS[name]).eval()
        if weights.is_file():
            network.load_weights(load_trained(weights).weights)
            found[name] = network, weights
        elif untrained:
            found[name] = network, None
        else:
            print(f"{name}: left out, {weights} does not exist", flush=True)
    if student is not None:
        weights = student / "student" / "model.safetensors"
        network = FasterSeg(Architecture.load(student / "search" / "student.json"), CLASSES).eval()
        network.load_weights(load_trained(weights).weights)
        found[STUDENT] = network, weights
    return found


def network_only(tuned: Tuned, builder: Builder, image: np.ndarray, rounds: int) -> dict:
    """The plain export on an image that is normalised already, and the chosen form as it is: milliseconds, in turns."""
    plain, floats = builder.runtime(BASELINE), to_floats(image[None])
    times = time_in_turns(
        {"onnxruntime fp32, logits": lambda: plain.run(floats), "chosen, labels": lambda: tuned.runtime(image)},
        rounds=rounds,
    )
    return {name: statistics.median(t) for name, t in times.items()}


def folder(words: argparse.Namespace, name: str) -> Path:
    return words.work / name.replace(" ", "-")


def measure(name: str, network: SegNetwork, weights: Path | None, splits: dict, words: argparse.Namespace) -> dict:
    shape, work = (1, 3, *words.size), folder(words, name)
    runtimes = words.runtimes.split(",") if words.runtimes else None
    tuned = autotune(
        network,
        splits["train"],
        judged=splits["val"],
        shape=shape,
        threads=words.threads,
        images=words.images,
        candidates=list_candidates("cpu", runtimes=runtimes, precisions=words.precisions.split(",")),
        files_only=True,
        rounds=words.rounds,
        seconds=words.seconds,
        folder=work,
        say=lambda text: print("   ", text, flush=True),
    )
    judged, best = read_examples(splits["val"], words.size, count=words.images), tuned.best
    ship(
        tuned,
        work / "network.onnx",
        model=name,
        labels=splits["val"].labels,
        source_sha256=sha256_file(weights) if weights else None,
    )
    builder = Builder(network, judged, shape=shape, threads=words.threads)
    return {
        "chosen": best.candidate.name,
        "ms": best.median_ms,
        "over_onnxruntime": tuned.speedup(),
        "over_eager": tuned.speedup(EAGER),
        "agreement": best.agreement,
        "miou_before": best.miou_before,
        "miou_after": best.miou_after,
        "drop": best.miou_before - best.miou_after,
        "judged_on": f"{len(judged)} validation images",
        "int8": tuned.int8_verdict(),
        "network_only_ms": network_only(tuned, builder, judged[0].image, words.rounds),
        "rows": [row.to_dict() for row in tuned.rows],
        "facts": tuned.facts,
        "weights_sha256": sha256_file(weights) if weights else None,
        "trained": weights is not None,
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


WITHOUT_TORCH = "import sys, runpy\nfor name in ('torch', 'rtseg'):\n    sys.modules[name] = None\nsys.argv = sys.argv[1:]\nrunpy.run_path('serve.py', run_name='__main__')"


def served_ms(work: Path, photographs: list[np.ndarray]) -> float:
    """Milliseconds that the shipped network's own script needs for a photograph, without torch; its masks are written beside it."""
    (work / "photographs").mkdir(exist_ok=True)
    for i, photograph in enumerate(photographs):
        Image.fromarray(photograph).save(work / "photographs" / f"{i}.png")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "serve.py", "network.onnx", "photographs"],
        cwd=work,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RtsegError(f"serve.py in {work} failed: {(done.stderr.splitlines() or ['it said nothing'])[-1]}")
    return float(re.search(r"; ([\d.]+) ms", done.stdout)[1])


def summary(rows: dict[str, dict]) -> dict:
    over = {key: statistics.median(row[key] for row in rows.values()) for key in ("over_onnxruntime", "over_eager")}
    worst = {
        "agreement": min(row["agreement"] for row in rows.values()),
        "drop": max(row["drop"] for row in rows.values()),
        "slowest": min(row["over_onnxruntime"] for row in rows.values()),
    }
    met = {
        "over_onnxruntime": over["over_onnxruntime"] >= BARS["over_onnxruntime"],
        "over_eager": over["over_eager"] >= BARS["over_eager"],
        "agreement": worst["agreement"] >= BARS["agreement"],
        "drop": worst["drop"] <= BARS["drop"],
        "none_slower": worst["slowest"] >= 1.0,
    }
    return {
        "networks": len(rows),
        "median": over,
        "worst": worst,
        "bars": BARS,
        "met": met,
        "only_trained": all(row["trained"] for row in rows.values()),
    }


def keep(rows: dict[str, dict], words: argparse.Namespace) -> None:
    write_json(
        words.out,
        {
            "rows": rows,
            "summary": summary(rows),
            "size": words.size,
            "threads": words.threads,
            "git": git_state(),
            "environment": environment_record(),
            "processor": processor_record(),
        },
    )


def report(rows: dict[str, dict]) -> str:
    lines = [f"{'network':<18}{'ms':>8}{'x ORT':>8}{'x eager':>9}{'agree':>9}{'drop':>9}  chosen"]
    lines += [
        f"{name:<18}{r['ms']:8.2f}{r['over_onnxruntime']:8.2f}{r['over_eager']:9.2f}{r['agreement']:9.4f}{r['drop']:9.4f}  {r['chosen']}"
        for name, r in rows.items()
    ]
    return "\n".join([*lines, str(summary(rows))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="CamVid's folder")
    parser.add_argument(
        "--runs",
        type=Path,
        default=ROOT.parent / "runs" / "camvid-training",
        help="folder of NAME-seedN/best.safetensors",
    )
    parser.add_argument("--student", type=Path, help="run folder whose student is the searched one")
    parser.add_argument("--models", default=",".join(NETWORKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=lambda text: tuple(int(n) for n in text.split("x")), default=(512, 1024))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--runtimes", help="only these, separated by commas; all of this machine by default")
    parser.add_argument("--precisions", default="fp32,bf16,int8", help="only these, separated by commas")
    parser.add_argument("--again", default="", help="measure these networks anew")
    parser.add_argument(
        "--untrained",
        action="store_true",
        help="take random weights where there are no trained ones: a trial of the tool, no result",
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT.parent / "runs" / "autotune", help="quantised graphs and shipped files"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="print what is in the results")
    words = parser.parse_args()
    known = read_json(words.out) if words.out.is_file() else {"rows": {}}
    rows = {name: row for name, row in known["rows"].items() if name not in words.again.split(",")}
    if not words.report:
        splits = {split: open_dataset("camvid", words.data, split, cache="memory") for split in ("train", "val")}
        for name, (network, weights) in networks(
            words.runs, words.models.split(","), words.seed, words.student, words.untrained
        ).items():
            if name in rows:
                continue
            print(name, flush=True)
            rows[name] = measure(name, network, weights, splits, words)
            keep(rows, words)
        photographs = [example.image for example in read_examples(splits["val"], words.size, count=32)]
        for name in [
            name
            for name, row in rows.items()
            if "served_ms" not in row and (folder(words, name) / "network.onnx").is_file()
        ]:
            rows[name]["served_ms"] = served_ms(folder(words, name), photographs)
            keep(rows, words)
    print(report(rows) if rows else "nothing is measured yet")


if __name__ == "__main__":
    try:
        main()
    except RtsegError as error:
        raise SystemExit(f"error: {error}") from None
