"""Does the data path keep up? Images per second of loading alone, of the training step alone, and of both together.

    python benchmarks/loading.py                                  # fastscnn and bisenetv2 on CamVid (or drawn scenes), two minutes each
    python benchmarks/loading.py --models fastscnn --seconds 5    # shorter
    python benchmarks/loading.py --workers 4 --device cuda

Writes results/loading.json; a model and cache that were measured before on this machine are replaced, the others stay. The numbers that count are the ratios within one run: "kept" is both together over the slower of the two alone; the aim is 0.9.
Where loading has no core of its own, the two share the cores, and the time of both is the sum of their times; "kept_of_shared" compares with that.
The three are measured in turn, round after round, so that other work on the machine meets all alike. "cpu_ms_per_image" is processor time, which other work hardly changes.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from rtseg.core.environment import environment_record
from rtseg.core.files import read_json, write_json
from rtseg.core.machine import available_cores
from rtseg.data import (
    Augmentation,
    SegDataset,
    augmentation_preset,
    build_augmentation,
    make_loader,
    make_scenes,
    normalize,
    open_dataset,
)
from rtseg.data.loading import Batch
from rtseg.models import create_model
from rtseg.training import TrainConfig
from rtseg.training.ways import settle

PATH = Path(__file__).parent / "results" / "loading.json"
CAMVID = Path(__file__).resolve().parents[2] / "shared" / "camvid"


def training_set(folder: Path) -> SegDataset:
    if (CAMVID / "train.txt").exists():
        return open_dataset("camvid", CAMVID, "train")
    return open_dataset("synthetic", make_scenes(folder / "scenes", counts={"train": 100}, size=(360, 480)), "train")


def step_of(name: str, classes: int, device: torch.device, precision: str) -> Callable[[Batch], None]:
    """One training step: uint8 to the device, normalisation there, forward, backward, update."""
    torch.manual_seed(0)
    model = create_model(name, classes).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step(batch: Batch) -> None:
        images = normalize(batch.images.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
        masks = batch.masks.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = model(images)
        loss = torch.nn.functional.cross_entropy(getattr(output, "logits", output).float(), masks, ignore_index=255)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def rate(batches: Iterator[Batch], use: Callable[[Batch], None], seconds: float) -> tuple[int, float]:
    """Images, and the time they took: at least `seconds`."""
    images, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        batch = next(batches)
        use(batch)
        images += len(batch.names)
    return images, spent


def cpu_per_image(call: Callable[[], Batch], images: int) -> float:
    """Processor time of this process in ms per image, all of its threads together: other work on the machine hardly counts."""
    done, start = 0, time.process_time()
    while done < images:
        done += len(call().names)
    return 1000 * (time.process_time() - start) / done


def measure(data: SegDataset, name: str, args: argparse.Namespace) -> dict:
    """Rounds of loading, both, step. The workers live through all of them; a measurement begins when their stock is used up, or full and they rest."""
    device = torch.device(args.device)
    step = step_of(name, data.labels.num_classes, device, args.precision)
    augment = build_augmentation(augmentation_preset(args.augmentation, crop=(360, 480)))
    options = {
        "batch_size": args.batch_size,
        "augmentation": augment,
        "shuffle": True,
        "steps": 10**6,
        "device": device,
    }
    here, there = make_loader(data, **options), iter(make_loader(data, **options, workers=args.workers))
    fixed, steps = here.batch(0), iter(range(10**6))
    stock, rounds = 4 * args.workers + 2, {"loading": [], "both": [], "step": []}
    for _ in range(3):
        step(fixed)
    for _ in range(args.rounds):
        for _ in range(stock):
            next(there)
        rounds["loading"].append(rate(there, lambda batch: None, args.seconds))
        rounds["both"].append(rate(there, step, args.seconds))
        time.sleep(1 + 2 * stock * args.batch_size * rounds["loading"][-1][1] / rounds["loading"][-1][0])
        rounds["step"].append(rate(iter(lambda: fixed, None), step, args.seconds))
    cpu = {
        "loading": cpu_per_image(lambda: here.batch(next(steps)), 80),
        "step": cpu_per_image(lambda: step(fixed) or fixed, 3 * args.batch_size),
    }
    return {**summary(rounds), "cpu_ms_per_image": {kind: round(value, 2) for kind, value in cpu.items()}}


def summary(rounds: dict[str, list[tuple[int, float]]]) -> dict:
    """Images per second over all rounds together, their ratios, and the ratio of each round."""
    per_second = {kind: sum(n for n, _ in values) / sum(t for _, t in values) for kind, values in rounds.items()}
    loading, both, step = per_second["loading"], per_second["both"], per_second["step"]
    each = [b[0] / b[1] / min(a[0] / a[1], c[0] / c[1]) for a, b, c in zip(*rounds.values(), strict=True)]
    return {
        **{f"{kind}_images_per_second": round(value, 2) for kind, value in per_second.items()},
        "kept": round(both / min(loading, step), 3),
        "kept_of_shared": round(both * (1 / loading + 1 / step), 3),
        "loading_over_step": round(loading / step, 2),
        "kept_of_each_round": [round(value, 3) for value in each],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="fastscnn,bisenetv2", help="names, separated by commas")
    parser.add_argument("--caches", default="none,memory,disk")
    parser.add_argument("--augmentation", default="camvid", help="an augmentation preset; its crop becomes 360 x 480")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--threads", type=int, default=max(available_cores() - 1, 1), help="threads of the step on a CPU"
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="auto: the faster one here, by the first network's own step",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=PATH)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.precision == "auto":
        asked = TrainConfig(
            augmentation=Augmentation(crop=(360, 480)),
            channels_last=True,
            device="cpu" if args.device == "cpu" else "auto",
        )
        args.precision = settle(asked, create_model(args.models.split(",")[0], 11), device=args.device)[0].precision
    settings = {
        name: getattr(args, name)
        for name in ("augmentation", "batch_size", "workers", "threads", "precision", "device", "seconds", "rounds")
    }
    with tempfile.TemporaryDirectory() as work:
        data = training_set(Path(work))
        record: dict = {
            "environment": environment_record(),
            "data": data.name,
            "images": len(data),
            "size": [360, 480],
            "runs": [],
        }
        if args.out.exists() and read_json(args.out)["environment"]["device"] == record["environment"]["device"]:
            record["runs"] = read_json(args.out)["runs"]
        for cache in args.caches.split(","):
            kept = data.cached(None if cache == "none" else cache, Path(work) / "cache").preload()
            for name in args.models.split(","):
                load = os.getloadavg()[0]
                row = {
                    "model": name,
                    "cache": cache,
                    **measure(kept, name, args),
                    "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
                    "settings": settings,
                }
                record["runs"] = [r for r in record["runs"] if (r["model"], r["cache"]) != (name, cache)] + [row]
                print(
                    f"{name:12s} cache {cache:7s} loading {row['loading_images_per_second']:8.1f}  step {row['step_images_per_second']:7.1f}"
                    f"  both {row['both_images_per_second']:7.1f} images/s: {100 * row['kept']:.0f} % of the slower one;"
                    f" processor time {row['cpu_ms_per_image']['loading']:.1f} and {row['cpu_ms_per_image']['step']:.1f} ms an image",
                    flush=True,
                )
                write_json(args.out, record)


if __name__ == "__main__":
    main()
