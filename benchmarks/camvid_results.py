"""The CamVid part of RESULTS.md: networks trained from scratch, and recipes with and without, from their records.

python benchmarks/camvid_training.py --data ../shared/camvid
python benchmarks/camvid_training.py --data ../shared/camvid --budget short
rtseg bench --model fastscnn,stdc,pidnet_s,... --runtime torch,onnxruntime,openvino --no-end-to-end --no-memory --out runs/bench     # its bench.json is benchmarks/results/bench_families_512x1024.json
python benchmarks/camvid_comparisons.py --data ../shared/camvid
python benchmarks/results_page.py
"""

import statistics
from pathlib import Path

import plotly.graph_objects as go
import yaml

from rtseg.core.files import atomic_write, read_json, write_text
from rtseg.core.values import EvalReport
from rtseg.explore.zoo_explorer import pareto
from rtseg.models import count_macs, count_parameters, create_model
from rtseg.viz import plot_iou, plot_training, render_png

ROOT = Path(__file__).resolve().parent.parent
TRAINING, COMPARISONS = ROOT / "results" / "camvid-training", ROOT / "results" / "camvid-comparisons"
SHORT, BENCH = ROOT / "results" / "camvid-short", "benchmarks/results/bench_families_512x1024.json"
RUNTIMES = ("torch", "onnxruntime", "openvino")
ARMS = {
    "plain": "20 epochs",
    "distilled": "20 epochs, DDRNet teaches (KL, T = 4)",
    "detail": "20 epochs with detail guidance",
    "longer": "plain, 10 epochs more",
    "pruned-once": "plain, half of the channels cut at once, 10 epochs more",
    "pruned-steps": "plain, half cut in five steps, 2 epochs after each",
}
PAIRS = (("distilled", "plain"), ("detail", "plain"), ("pruned-once", "longer"), ("pruned-steps", "pruned-once"))


def picture(name: str, figure: go.Figure) -> str:
    """Write a figure beside the records; its line of Markdown."""
    with atomic_write(TRAINING / f"{name}.png") as temporary:
        temporary.write_bytes(render_png(figure))
    return f"![{name}](results/camvid-training/{name}.png)"


def training_row(record: dict) -> str:
    """One network as a line of Markdown."""
    val, test, config = record["reports"]["val"], record["reports"]["test"], record["config"]
    origin = test["origin"]
    return (
        f"| {record['model']} | {test['miou']:.4f} | {test['pixel_accuracy']:.4f} | {val['miou']:.4f} | {config['epochs']} | {record['processor_minutes']:.0f} | "
        f"{origin['which']}, epoch {origin['epoch']}, seed {record['seed']}, sha256 {origin['checkpoint_sha256'][:8]}, pretrained on: {record['pretrained_on']} |"
    )


def class_rows(records: list[dict]) -> list[str]:
    """IoU of each class on the test images, a column a network."""
    reports = [EvalReport.from_dict(record["reports"]["test"]) for record in records]
    lines = ["| class | " + " | ".join(record["model"] for record in records) + " |", "|---|" + "---|" * len(records)]
    return lines + [
        f"| {name} | " + " | ".join(f"{report.iou[place]:.4f}" for report in reports) + " |"
        for place, name in enumerate(reports[0].classes)
    ]


def training_section() -> list[str]:
    """Table, curves, IoU by class and masks of the networks trained on CamVid; nothing where there are no records."""
    records = sorted(
        (read_json(path) for path in TRAINING.glob("*-seed*.json")), key=lambda r: -r["reports"]["test"]["miou"]
    )
    if not records:
        return []
    first = records[0]
    curves = {r["model"]: r["curve"] for r in records}
    reports = {r["model"]: EvalReport.from_dict(r["reports"]["test"]) for r in records}
    lines = [
        "## Networks trained on CamVid",
        "",
        f"From scratch on the 367 training images at 360 x 480, crops of 240 x 320, batch {first['config']['batch_size']}; the epoch is chosen on the 101 validation images; the 233 test images are looked at once. "
        f"One thread of {first['environment']['device']['name']}, bfloat16 convolutions (DABNet: fp32); the minutes are of processor time, on a machine that did other work beside, so they are an upper bound. One seed.",
        "",
        "```sh",
        "python benchmarks/camvid_training.py --data ../shared/camvid",
        "```",
        "",
        "| network | test mIoU | test pixel accuracy | validation mIoU | epochs | core-minutes | weights |",
        "|---|---|---|---|---|---|---|",
        *map(training_row, records),
        "",
        *class_rows(records),
        "",
        picture("curves", plot_training(curves, title="CamVid, from scratch")),
        "",
        picture("iou", plot_iou(reports, title="Test IoU by class")),
        "",
    ]
    for record in records:
        name = f"masks-{record['model']}"
        lines += (
            [
                f"![{name}](results/camvid-training/{name}.png)",
                "",
                f"{record['model']}: image, label, prediction, errors in red.",
                "",
            ]
            if (TRAINING / f"{name}.png").exists()
            else []
        )
    return lines


def milliseconds() -> dict[str, dict[str, float]]:
    """Median milliseconds by network and runtime (fp32) of the bench; nothing where there is no record."""
    found: dict[str, dict[str, float]] = {}
    for row in read_json(ROOT / BENCH)["rows"] if (ROOT / BENCH).exists() else ():
        if row["latency"] is not None and row["case"]["precision"] == "fp32":
            found.setdefault(row["case"]["model"], {})[row["case"]["runtime"]] = row["latency"]["median_ms"]
    return found


def short_row(record: dict, ms: dict[str, float], front: set[str]) -> str:
    """One network of the short budget as a line of Markdown."""
    val, test = record["reports"]["val"], record["reports"]["test"]
    network = create_model(record["model"], 11)
    times = " | ".join(f"{ms[name]:.2f}" if name in ms else "–" for name in RUNTIMES)
    return (
        f"| {record['model']} | {test['miou']:.4f} | {val['miou']:.4f} | {count_parameters(network):,} | {count_macs(network, (1, 3, 360, 480)) / 1e9:.3f} | "
        f"{record['processor_minutes']:.1f} | {times} | {'front' if record['model'] in front else ''} |"
    )


def short_section() -> list[str]:
    """Networks trained by one short recipe, with their time in three runtimes and which of them no other beats in both; nothing where there are no records."""
    records = sorted(
        (read_json(path) for path in SHORT.glob("*-seed*.json")), key=lambda r: -r["reports"]["test"]["miou"]
    )
    if not records:
        return []
    ms = milliseconds()
    points = [
        {"name": r["model"], "ms": min(ms[r["model"]].values()), "own": r["reports"]["test"]["miou"]}
        for r in records
        if r["model"] in ms
    ]
    front = {point["name"] for point in pareto(points, "ms", "own")}
    how = circumstances()
    return [
        "## Networks trained on CamVid by one short recipe",
        "",
        f"{how['camvid_short']}. {how['ms']}; `front` marks what no other network of the table beats in mIoU and fastest time at once.",
        "",
        "```sh",
        "python benchmarks/camvid_training.py --data ../shared/camvid --budget short",
        "```",
        "",
        f"| network | test mIoU | validation mIoU | parameters | GMAC | core-minutes | {' ms | '.join(RUNTIMES)} ms | |",
        "|---|---|---|---|---|---|" + "---|" * (len(RUNTIMES) + 1),
        *(short_row(record, ms.get(record["model"], {}), front) for record in records),
        *([f"<!-- receipt: {BENCH}:rows.*.latency.median_ms -->"] if ms else []),
        "",
        *(
            line
            for record in records
            if (SHORT / f"masks-{record['model']}.png").exists()
            for line in (
                f"![{record['model']}](results/camvid-short/masks-{record['model']}.png)",
                "",
                f"{record['model']}: image, label, prediction, errors in red.",
                "",
            )
        ),
    ]


def circumstances() -> dict[str, str]:
    """How the measured figures were taken, in one line each."""
    return {
        "camvid": "test mIoU on CamVid, from scratch, 360 x 480, about 25 core-minutes each, one seed",
        "camvid_short": "Test mIoU on CamVid at half size (180 x 240), from scratch by the recipe camvid-short (14 passes, fp32, AdamW), one seed",
        "ms": "The fastest of PyTorch eager, ONNX Runtime and OpenVINO, fp32, batch 1, two threads, 512 x 1024, 19 classes, on an AMD EPYC (two cores, Zen 4)",
    }


def write_measured(path: Path) -> None:
    """The figures that `rtseg models` shows, from the records, as YAML."""
    networks: dict[str, dict] = {}
    for column, folder in (("camvid", TRAINING), ("camvid_short", SHORT)):
        for record in (read_json(found) for found in sorted(folder.glob("*-seed0.json"))):
            networks.setdefault(record["model"], {})[column] = round(100 * record["reports"]["test"]["miou"], 2)
    for name, ms in milliseconds().items():
        networks.setdefault(name, {})["ms"] = {runtime: round(value, 2) for runtime, value in ms.items()}
    note = "# Written by benchmarks/results_page.py from results/camvid-training, results/camvid-short and a bench.\n"
    write_text(path, note + yaml.safe_dump({"circumstances": circumstances(), "networks": networks}, width=160))


def arm_row(name: str, records: list[dict]) -> str:
    """One arm: the mean over its seeds, the spread, and what it costs."""
    found = [r["report"]["miou"] for r in records]
    spread = f"{statistics.stdev(found):.4f}" if len(found) > 1 else "one seed"
    minutes = max(r["processor_minutes"] for r in records)
    return f"| {name} | {ARMS[name]} | {statistics.mean(found):.4f} | {spread} | {', '.join(f'{v:.4f}' for v in found)} | {records[0]['params']:,} | {records[0]['gmacs']:.3f} | {minutes:.1f} |"


def difference(arms: dict[str, list[dict]], name: str, base: str) -> str:
    """The paired difference of two arms, seed by seed, in words."""
    other = {r["seed"]: r["report"]["miou"] for r in arms[base]}
    found = [r["report"]["miou"] - other[r["seed"]] for r in arms[name] if r["seed"] in other]
    return f"- {name} against {base}: {statistics.mean(found):+.4f} mIoU on average ({', '.join(f'{v:+.4f}' for v in found)}, seed by seed)"


def comparison_section() -> list[str]:
    """The arms with mean and spread over seeds, and the paired differences; nothing where there are no records."""
    arms = {name: [read_json(path) for path in sorted(COMPARISONS.glob(f"{name}-seed*.json"))] for name in ARMS}
    arms = {name: records for name, records in arms.items() if records}
    if not arms:
        return []
    return [
        "## Recipes with and without, on CamVid",
        "",
        "Fast-SCNN from scratch, test mIoU of the averaged weights after the last epoch; the same images, order, steps and seed on both sides of a comparison.",
        "",
        "```sh",
        "python benchmarks/camvid_comparisons.py --data ../shared/camvid",
        "```",
        "",
        "| arm | training | mean mIoU | standard deviation | seeds 0, 1, 2 | parameters | GMAC | core-minutes, longest seed |",
        "|---|---|---|---|---|---|---|---|",
        *(arm_row(name, records) for name, records in arms.items()),
        "",
        *(difference(arms, a, b) for a, b in PAIRS if a in arms and b in arms),
        "",
    ]
