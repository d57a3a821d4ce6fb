"""What the records of training steps, search steps and starting say in RESULTS.md; `results_page.py` calls this."""

from shipping_results import receipt


def processor_text(record: dict) -> str:
    """The kind of processor that a record was made on, in words."""
    told = record["processor"]
    kind = "AVX-512 with bf16" if told["bf16"] else told["capability"].replace("AVX512", "AVX-512")
    return f"{told['cpu']} ({kind}), {told['threads']} threads, torch {told['torch']}"


def startup_section(name: str, record: dict) -> list[str]:
    """Processor seconds and memory of command lines, and the overhead of a stage."""
    best = {kind: min(seconds[1:]) for kind, seconds in record["stage_s"].items()}
    rows = [
        f"| `{line}` | {cost['processor_s']:.2f} | {cost['memory_mb']} |" for line, cost in record["commands"].items()
    ]
    return [
        f"Starting, {processor_text(record)} (`python benchmarks/startup.py`):",
        "",
        "| command | processor time (s) | memory (MB) |",
        "|---|---|---|",
        *rows,
        "",
        f"A stage's overhead is {best['warm']:.2f} s with a warm kernel ({record['stage_s']['warm'][0]:.1f} s for the first) and {best['new']:.1f} s with a new one.",
    ]


ALONE = "`plain` is the same step in PyTorch's own words (its resize, cross entropy and SGD; fp32, contiguous); each way is a process of its own, as a training is."
TOGETHER = "Measured before the costs of pixels were computed by hand and logits enlarged by matrix products, all ways of rtseg in one process; `plain` is PyTorch as it comes (fp32, contiguous), with the losses that rtseg had."


def training_step_section(name: str, record: dict) -> list[str]:
    """Milliseconds of a training step in every way, and how near the best is to the matrix product."""
    ways = list(dict.fromkeys(way for row in record["rows"] for way in row["ms"]))
    rows = [
        f"| {row['model']} | {row['gflop']:.0f} | {row['plain_ms']:.1f} | "
        + " | ".join(f"{row['ms'][way]:.1f}" if way in row["ms"] else "" for way in ways)
        + f" | {row['share_of_product']:.0%} of {row['product_gflops']:.0f} |"
        for row in record["rows"]
    ]
    size = f"{record['images']} x {record['size'][0]} x {record['size'][1]}"
    return [
        f"A training step on {size} pixels with {record['classes']} classes, ms, {processor_text(record)} (`python benchmarks/training_step.py`). {ALONE if record.get('ways_alone') else TOGETHER} The last column: operations a second of the best fp32 way as a share of a matrix product's GFLOPS:",
        "",
        f"| network | GFLOP | plain | {' | '.join(ways)} | share |",
        "|---" * (len(ways) + 4) + "|",
        *rows,
        receipt(f"{name}:rows.*.ms", f"{name}:rows.*.plain_ms"),
    ]


def search_step_section(name: str, record: dict) -> list[str]:
    """Seconds of a search step beside the naive computation of the same run."""
    rows = [
        f"| {step} | {ours:.2f} | {record['naive_s'][step]:.2f} | {ours / record['naive_s'][step]:.2f} | {record['share_of_product'][step]:.0%} |"
        for step, ours in record["ours_s"].items()
    ]
    held = " held down to AVX2" if record["onednn_isa"] == "AVX2" else ""
    return [
        f"Search step of FasterSeg's space in {record['precision']}, {record['threads']} threads, F = {record['base_width']}, L = {record['layers']}, 1 x {record['size'][0]} x {record['size'][1]}, {record['device']['name']}{held} (`python benchmarks/search_step.py`):",
        "",
        "| step | ours (s) | naive, fp32, same run (s) | ours over naive | of the matrix product |",
        "|---|---|---|---|---|",
        *rows,
    ]


PROCESSOR_SECTIONS = {
    "startup": startup_section,
    "training_step": training_step_section,
    "search_step": search_step_section,
}
