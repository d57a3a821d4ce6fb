"""Write RESULTS.md from finished runs and benchmark records; nothing on that page is typed.

    rtseg run --preset camvid-cpu --data ../shared/camvid --out runs/camvid-cpu
    python benchmarks/results_page.py runs/demo runs/camvid-cpu

Copies each run's results.json and its key figures (PNG; needs a browser for plotly's pictures) to results/NAME/, then writes the page from
results/ and benchmarks/results/. Without arguments the page is written again from what lies there. The figures that `rtseg models` shows (rtseg/models/measured.yaml) are written with it.
"""

import argparse
import base64
import io
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
from camvid_results import comparison_section, short_section, training_section, write_measured
from PIL import Image
from processor_results import PROCESSOR_SECTIONS
from search_results import search_sections
from shipping_results import (
    accuracy_section,
    agreement_section,
    autotune_section,
    bench_section,
    protocol_section,
    receipt,
    tails_section,
)

from rtseg.core.files import atomic_write, read_json, write_json, write_text
from rtseg.core.results import RunResults
from rtseg.shipping.bench import BenchRecord
from rtseg.viz import plot_agreement, render_png

ROOT = Path(__file__).resolve().parent.parent
KEY_FIGURES = (
    ("search", "student"),
    ("search", "teacher"),
    ("search", "health"),
    ("search", "logits"),
    ("latency", "table"),
    ("latency", "agreement"),
    ("student", "curves"),
    ("evaluate", "frontier"),
    ("evaluate", "iou"),
    ("evaluate", "masks-student"),
)


def picture(item: dict) -> bytes:
    """PNG of a figure or an image that a stage saved; images no wider than 900 pixels."""
    if item["kind"] == "figure":
        return render_png(go.Figure(item["figure"]))
    image, buffer = Image.open(io.BytesIO(base64.b64decode(item["png"]))), io.BytesIO()
    image.thumbnail((900, 900))
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def collect(run: Path) -> None:
    """Copy a run's numbers and key figures to results/NAME."""
    folder = ROOT / "results" / run.name
    captions = {}
    for stage, name in KEY_FIGURES:
        items = read_json(run / "figures" / f"{stage}.json")["items"]
        for item in (i for i in items if i["name"] == name):
            with atomic_write(folder / f"{stage}-{name}.png") as temporary:
                temporary.write_bytes(picture(item))
            captions[f"{stage}-{name}.png"] = item["caption"]
    seconds = {stage: entry["seconds"] for stage, entry in read_json(run / "manifest.json").items()}
    replace(RunResults.load(run / "results.json"), seconds=seconds).save(folder / "results.json")
    write_json(folder / "captions.json", captions)


def networks_table(results: RunResults) -> list[str]:
    """The comparison as lines of Markdown."""
    lines = [
        "| network | mIoU | pixel accuracy | parameters | GMAC | predicted ms | measured ms (quartiles) | weights |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for n in results.networks:
        low, high = n.quartiles_ms
        lines.append(
            f"| {n.name} | {n.miou:.4f} | {n.pixel_accuracy:.4f} | {n.params:,} | {n.gmac:.3f} | {n.predicted_ms:.2f} | "
            f"{n.measured_ms:.2f} ({low:.2f} to {high:.2f}) | {n.origin.which}, epoch {n.origin.epoch}, seed {n.origin.seed}, "
            f"sha256 {n.origin.checkpoint_sha256[:8]}, pretrained on: {n.origin.pretrained_on} |"
        )
    return lines


def run_section(folder: Path) -> list[str]:
    """One run: what it was, the table, the pictures."""
    results, captions = RunResults.load(folder / "results.json"), read_json(folder / "captions.json")
    config, machine, record = results.config, results.environment, f"results/{folder.name}/results.json"
    seconds, (height, width) = results.seconds, results.size
    data = "" if config["data"]["root"] is None else " --data ROOT"
    lines = [
        f"## {folder.name}",
        "",
        f"{results.dataset}, {results.split} split, {results.images} images, latency at {height} x {width}, {config['latency']['runtime']}, "
        f"{config['latency']['threads']} thread(s), {machine['device']['name']}, torch {machine['versions']['torch']}. "
        f"The stages' own work took {sum(seconds.values()) / 60:.1f} minutes ({', '.join(f'{k} {v:.0f} s' for k, v in seconds.items())}); "
        "starting ten notebooks comes on top.",
        "",
        "```sh",
        f"rtseg run --preset {config['preset']}{data} --out runs/{folder.name}",
        "```",
        "",
        *networks_table(results),
        receipt(*(f"{record}:networks.*.{key}" for key in ("predicted_ms", "measured_ms", "quartiles_ms"))),
        "",
    ]
    deployment = results.deployment
    lines += [
        f"Deployed with {deployment.runtime}, {deployment.threads} thread(s): {deployment.measured_ms:.2f} ms measured "
        f"({deployment.fps:.1f} frames/s), {deployment.predicted_ms:.2f} ms predicted for {deployment.predicted_for}; "
        f"{deployment.class_agreement:.2%} of the pixels get PyTorch's class.",
        receipt(*(f"{record}:deployment.{key}" for key in ("measured_ms", "fps", "predicted_ms"))),
        "",
    ]
    for name, caption in captions.items():
        explained = (
            [receipt(f"{record}:networks.*.predicted_ms", f"{record}:networks.*.measured_ms")]
            if " ms" in caption
            else []
        )
        lines += [f"![{name.removesuffix('.png')}](results/{folder.name}/{name})", "", caption, *explained, ""]
    return lines


def draw_scatter(path: Path, record: dict) -> None:
    """Write the scatter plot of an accuracy record, unless it is there and newer."""
    if path.exists() and path.stat().st_mtime > path.with_suffix(".json").stat().st_mtime:
        return
    with atomic_write(path) as temporary:
        temporary.write_bytes(render_png(plot_agreement(record["predicted_ms"], record["measured_ms"])))


def benchmark_lines(path: Path, record: dict) -> list[str]:
    """What a benchmark's record says, in a line or a small table."""
    if path.stem.startswith("bench"):
        return bench_section(f"benchmarks/results/{path.name}", BenchRecord.from_dict(record))
    if path.stem.startswith("protocols"):
        return protocol_section(f"benchmarks/results/{path.name}", record)
    for stem, section in PROCESSOR_SECTIONS.items():
        if path.stem.startswith(stem):
            return section(f"benchmarks/results/{path.name}", record)
    if path.stem.startswith("autotune"):
        return autotune_section(f"benchmarks/results/{path.name}", record)
    if path.name == "tails.json":
        return tails_section(f"benchmarks/results/{path.name}", record)
    if path.name == "runtime_agreement.json":
        return agreement_section(record)
    table = record.get("table")
    if path.stem.endswith("_accuracy"):
        draw_scatter(path.with_suffix(".png"), record)
        return [
            f"Prediction against measurement, {table['runtime']}, {table['height']} x {table['width']}, {table['threads']} thread(s), {len(record['networks'])} random networks: "
            f"Pearson {record['pearson']:.4f}, mean absolute error {record['mean_absolute_error']:.1%}.",
            "",
            f"![predicted and measured](benchmarks/results/{path.stem}.png)",
        ]
    if path.stem.endswith("_build"):
        return [
            f"Full latency table `{path.stem.removesuffix('_build')}`: {record['entries']} entries in {record['seconds'] / 60:.1f} minutes."
        ]
    return []


def benchmark_section() -> list[str]:
    """Whatever benchmarks/results holds, record by record."""
    lines = [
        "## Benchmarks",
        "",
        "The records lie in `benchmarks/results/`; the first lines of each script in `benchmarks/` say how to make them again.",
        "",
    ]
    records = {path: read_json(path) for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))}
    for path, record in records.items():
        found = benchmark_lines(path, record)
        lines += [*found, ""] if found else []
    return [*lines, *accuracy_section([record for record in records.values() if "verdict" in record])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="finished run folders")
    for run in parser.parse_args().runs:
        collect(run.resolve())
    folders = sorted(path.parent for path in (ROOT / "results").glob("*/results.json"))
    intro = [
        "# Results",
        "",
        "Measured figures, with the commands that make them again. This page is written by `benchmarks/results_page.py` from records.",
        "",
    ]
    sections = [line for folder in folders for line in run_section(folder)]
    write_measured(ROOT / "rtseg" / "models" / "measured.yaml")
    write_text(
        ROOT / "RESULTS.md",
        "\n".join(
            [
                *intro,
                *sections,
                *training_section(),
                *short_section(),
                *comparison_section(),
                *search_sections(),
                *benchmark_section(),
            ]
        ),
    )


if __name__ == "__main__":
    main()
