"""How fast is a training step, and how near to what the processor's matrix product could do? Ratios within one run.

    OMP_NUM_THREADS=2 python benchmarks/training_step.py                                  # stdc, ddrnet, bisenetv2, fastscnn: fp32 in both layouts, and bf16 where it has instructions
    OMP_NUM_THREADS=2 python benchmarks/training_step.py --compile --models fastscnn      # torch.compile too: a minute or two of compiling for each network
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/training_step.py   # as a processor without AVX-512 and bf16

A step is forward, loss, backward and update on 4 x 240 x 320 pixels with 11 classes, as `TrainStep` does it and with memory kept as `Trainer` keeps it. Each way of a network is a process of its own, as a training is; they take turns, twice, and each is judged by its fastest step.
`plain` is the same step in PyTorch's own words (its resize, cross entropy and SGD; fp32, contiguous, the C library's own thresholds, pages of 4 kB). Operations are two for each multiplication, three passes (forward, gradients of maps and of weights). Writes results/training_step_<instructions>.json; networks measured before stay. A busy machine is said in the record.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F

from rtseg.core.allocation import kept_memory
from rtseg.core.choosing import time_ways
from rtseg.core.environment import environment_record, seed_everything
from rtseg.core.files import read_json, write_json
from rtseg.core.machine import bf16_instructions, processor_record
from rtseg.core.precision import Way, cpu_ways
from rtseg.core.load import WATCH, busy_text
from rtseg.core.values import SegOutput
from rtseg.data.loading import Batch, normalize
from rtseg.models import count_macs, create_model
from rtseg.training import TrainConfig
from rtseg.training.step import TrainStep
from rtseg.training.ways import wrong_ways

SIZE, IMAGES, CLASSES = (240, 320), 4, 11
PLAIN, PLAIN_NAME = Way("fp32", False), "plain"  # what PyTorch does unless told otherwise


def product_gflops(side: int = 2048) -> float:
    """Giga-operations a second of a matrix product in fp32."""
    matrix = torch.randn(side, side)
    return 2 * side**3 / time_ways({"product": lambda: matrix @ matrix}, budget=1.0)["product"] / 1e9


def step_of(name: str, batch: Batch, way: Way, compiled: bool) -> Callable[[], object]:
    """One training step of a network, again and again."""
    seed_everything(0)
    config = TrainConfig(
        precision=way.precision,
        channels_last=way.channels_last,
        emulate_bf16=True,
        compile=compiled,
        device="cpu",
        augmentation=None,
        loss={"kind": "cross_entropy"},
    )
    train = TrainStep(create_model(name, CLASSES), config)

    def step() -> None:
        with train.training():
            train(batch, step=0, lr=1e-4)

    return step


def plain_step(name: str, batch: Batch) -> Callable[[], object]:
    """The same step in PyTorch's own words: its resize, its cross entropy, its optimiser, contiguous float32."""
    seed_everything(0)
    config, model = TrainConfig(), create_model(name, CLASSES).train()
    options = {"lr": 1e-4, "momentum": config.momentum, "weight_decay": config.weight_decay}
    sgd, labels = torch.optim.SGD(model.parameters(), **options), batch.masks.long()

    def step() -> None:
        out = model.predict(normalize(batch.images))
        out = out if isinstance(out, SegOutput) else SegOutput(out)
        terms = [
            F.cross_entropy(
                F.interpolate(x, SIZE, mode="bilinear", align_corners=model.align_corners), labels, ignore_index=255
            )
            for x in (out.logits, *out.aux)
        ]
        (terms[0] + config.loss.aux_weight * sum(terms[1:])).backward()
        sgd.step()
        sgd.zero_grad()

    return step


def pictures() -> Batch:
    """The batch that all steps see."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, *SIZE), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.randint(0, CLASSES, (IMAGES, *SIZE), generator=generator), tuple("abcd"))


def forms_of(name: str, compiled: bool) -> dict[str, tuple[Way, bool]]:
    """The ways that are measured by name, each with whether it is compiled: plain first."""
    ways = [
        w
        for w in cpu_ways(wrong=wrong_ways(create_model(name, CLASSES)))
        if w.precision == "fp32" or bf16_instructions()
    ]
    forms = {PLAIN_NAME: (PLAIN, False), **{str(way): (way, False) for way in ways}}
    return forms | {f"{way} compiled": (way, True) for way in ways if way.channels_last and compiled}


def seconds_here(name: str, form: str, budget: float) -> float:
    """The fastest step of a form in this process."""
    way, compiled = forms_of(name, True)[form]
    with nullcontext() if form == PLAIN_NAME else kept_memory():
        step = plain_step(name, pictures()) if form == PLAIN_NAME else step_of(name, pictures(), way, compiled)
        return time_ways({form: step}, budget=budget)[form]


def seconds_alone(name: str, form: str, budget: float) -> float:
    """The fastest step of a form in a process of its own; plain asks for no large pages."""
    command = [sys.executable, __file__, "--models", name, "--form", form, "--seconds", str(budget)]
    env = {**os.environ, **({"THP_MEM_ALLOC_ENABLE": "0"} if form == PLAIN_NAME else {})}
    return float(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()[-1])


def measure(name: str, args: argparse.Namespace) -> dict:
    """A network's row: seconds of each way, and what follows from them."""
    turns = [
        {form: seconds_alone(name, form, args.seconds) for form in forms_of(name, args.compile)}
        | {"product": product_gflops()}
        for _ in range(2)
    ]
    product = max(turn.pop("product") for turn in turns)
    taken = {form: min(turn[form] for turn in turns) for form in turns[0]}
    plain, gflop = taken.pop(PLAIN_NAME), 6 * count_macs(create_model(name, CLASSES), (IMAGES, 3, *SIZE)) / 1e9
    best = {
        precision: min(seconds for form, seconds in taken.items() if form.startswith(precision))
        for precision in {form.split()[0] for form in taken}
    }
    return {
        "model": name,
        "gflop": round(gflop, 1),
        "product_gflops": round(product, 1),
        "plain_ms": round(1000 * plain, 1),
        "ms": {form: round(1000 * seconds, 1) for form, seconds in taken.items()},
        "gflops": {form: round(gflop / seconds, 1) for form, seconds in taken.items()},
        "share_of_product": round(gflop / best["fp32"] / product, 3),
        "faster_than_plain": {precision: round(plain / seconds, 3) for precision, seconds in best.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="stdc,ddrnet,bisenetv2,fastscnn", help="names, separated by commas")
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each form and turn")
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--form", help="print the seconds of a step of this form (plain, 'fp32 channels_last', ...), and no more"
    )
    args = parser.parse_args()
    if args.form:
        print(seconds_here(args.models, args.form, args.seconds))
        return
    processor = processor_record()
    out = (
        args.out
        or Path(__file__).parent
        / "results"
        / f"training_step_{processor['capability'].lower()}{'_bf16' if processor['bf16'] else ''}.json"
    )
    rows = (
        {row["model"]: row for row in read_json(out)["rows"]}
        if out.exists() and read_json(out)["processor"] == processor
        else {}
    )
    for name in args.models.split(","):
        taken, cores = WATCH.look()
        rows[name] = {**measure(name, args), "load": busy_text(taken, cores)}
        print(
            name,
            rows[name]["ms"],
            f"{rows[name]['share_of_product']:.0%} of the matrix product;",
            rows[name]["faster_than_plain"],
            rows[name]["load"],
            flush=True,
        )
        write_json(
            out,
            {
                "processor": processor,
                "images": IMAGES,
                "size": SIZE,
                "classes": CLASSES,
                "ways_alone": True,
                "environment": environment_record(),
                "rows": list(rows.values()),
            },
        )


if __name__ == "__main__":
    main()
