"""Time of a search step at FasterSeg's size, against a naive computation of the same step in the same run.

    flock /tmp/bench.lock python benchmarks/search_step.py [--precision fp32] [--layers 16] [--base-width 12] [--repeat 3] [--json out.json]

A weight step is four passes (teacher, student, full width, least width) forward and backward, the limit on gradients, and SGD on all weights. An architecture step is the same four
passes with gradients for the logits, the latency terms, and Adam. The naive computation takes one operator and one input of a cell at a time, in float32, and sums gradients as autograd
does. The published implementation is quoted for context; it was measured on other cores of this kind.
"""

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from rtseg.core.environment import device_record
from rtseg.data.loading import Batch
from rtseg.layers.blocks import half, resize
from rtseg.search import pretraining, slimmable, supernet as supernet_module
from rtseg.search.cosearch import _Search, architecture_step, step_passes
from rtseg.search.config import PASSES, SearchConfig
from rtseg.search.expected import ExpectedLatency
from rtseg.search.pretraining import weight_step
from rtseg.search.space import SearchSpace
from rtseg.search.supernet import Supernet

PUBLISHED = {"weight": 8.2, "architecture": 9.2}
SIZE = (128, 256)


def naive_convolution(x, weight, corner, stride, accumulate):
    """The library's convolution with a slice of the weights; autograd makes the gradient, a tensor of the whole weight's size."""
    first, last, out, inputs = corner
    kernel = (
        weight[first:last, :out, :, :, :inputs]
        .flatten(0, 1)
        .permute(0, 3, 1, 2)
        .contiguous(memory_format=torch.channels_last)
    )
    return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)


def naive_mixed(op, x, small, width, active, coefficients, *, accumulate=False):
    """Every operator and every input by itself, nothing shared."""
    total = 0
    for p, part in enumerate(x.chunk(len(coefficients))):
        for k, name in enumerate(active):
            (y,) = slimmable.results(
                op, part, resize(part, half(part)) if name in slimmable.ZOOM else None, width, [name]
            )
            total = total + coefficients[p, k].to(y.dtype) * y
    return total


def seconds(call, repeat: int) -> list[float]:
    """Durations of `repeat` calls after one that warms up."""
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def steps(search: _Search, batch: Batch) -> dict:
    """The two steps as functions without arguments."""
    config = search.config

    def weight():
        passes = step_passes(search.supernet, search.logits, PASSES, search.generator, 1.0)
        weight_step(search.supernet, search.sgd, batch, list(passes.values()), config, 1e-4)

    def architecture():
        architecture_step(
            search.supernet, search.adam, batch, search.logits, search.latency, 0.01, config, search.generator
        )

    return {"weight": weight, "architecture": architecture}


def measure(search: _Search, batch: Batch, repeat: int) -> dict[str, float]:
    """Median seconds of both steps."""
    return {name: median(seconds(call, repeat)) for name, call in steps(search, batch).items()}


def convolution_gflop(search: _Search, batch: Batch) -> dict[str, float]:
    """Billions of operations of both steps' convolutions: forward and two gradients of a weight step, forward and one of an architecture step."""
    counts = []

    def count(module, inputs, result):
        if isinstance(module, slimmable.SlimConv):
            counts.append(2 * result.numel() * inputs[0].shape[1] * module.weight.shape[2] ** 2 / 1e9)

    hook, found = torch.nn.modules.module.register_module_forward_hook(count), {}
    for (name, call), products in zip(steps(search, batch).items(), (3, 2), strict=True):
        counts.clear()
        call()
        found[name] = products * sum(counts)
    hook.remove()
    return found


def product_gflops(precision: str, size: int = 2048) -> float:
    """Speed of one big matrix product in a precision, billions of operations a second: best of five."""
    a = torch.randn(size, size).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    return 2 * size**3 / min(seconds(lambda: a @ a, 5)) / 1e9


def as_naive(search: _Search) -> None:
    """Switch the search to the naive computation."""
    search.config = search.config.model_copy(update={"precision": "fp32"})
    supernet_module.mixed = naive_mixed
    slimmable.convolve = naive_convolution
    pretraining.network_input = lambda images, precision: pretraining.normalize(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--base-width", type=int, default=12)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    space = SearchSpace(layers=args.layers, base_width=args.base_width)
    latency = ExpectedLatency(
        space,
        lambda spec: 0.01 + spec.height * spec.width * spec.in_channels * spec.out_channels / 1e9,
        (1024, 2048),
        19,
    )
    search = _Search(Supernet(space, 19), SearchConfig(precision=args.precision), latency, 0)
    g = torch.Generator().manual_seed(0)
    batch = Batch(
        torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8, generator=g),
        torch.randint(0, 19, (1, *SIZE), generator=g),
        ("noise",),
    )
    product, work = product_gflops(args.precision), convolution_gflop(search, batch)
    ours = measure(search, batch, args.repeat)
    as_naive(search)
    naive = measure(search, batch, max(1, args.repeat - 1))
    share = {name: work[name] / ours[name] / product for name in ours}
    print(f"{args.precision}, a matrix product of 2048: {product:.0f} GFLOPS")
    print(
        f"1 x {SIZE[0]} x {SIZE[1]}, F = {args.base_width}, L = {args.layers}, {args.threads} threads, {sum(p.numel() for p in search.supernet.parameters()) / 1e6:.0f} M weights"
    )
    print(
        f"{'step':14}{'ours (s)':>10}{'naive (s)':>11}{'ratio':>8}{'published (s)':>15}{'GFLOP':>8}{'of product':>12}"
    )
    for name in ours:
        print(
            f"{name:14}{ours[name]:10.2f}{naive[name]:11.2f}{naive[name] / ours[name]:8.2f}{PUBLISHED[name]:15.1f}{work[name]:8.0f}{share[name]:12.0%}"
        )
    if args.json:
        record = {
            "precision": args.precision,
            "ours_s": ours,
            "naive_s": naive,
            "published_s": PUBLISHED,
            "gflop": work,
            "product_gflops": product,
            "share_of_product": share,
            "onednn_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),
            "layers": args.layers,
            "base_width": args.base_width,
            "threads": args.threads,
            "size": SIZE,
            "device": device_record(),
        }
        args.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
