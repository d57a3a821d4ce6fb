"""The shipping part of RESULTS.md: benches, protocols, predicted latency, agreement of the runtimes, the fastest faithful forms, from their records.

python benchmarks/latency_accuracy.py --runtime onnxruntime
python benchmarks/runtime_agreement.py
python benchmarks/autotune.py --data ../shared/camvid --runs ../runs/camvid_training
python benchmarks/results_page.py
"""

from rtseg.shipping.bench import BenchRecord, bench_rows
from rtseg.latency.machine_state import machine_text
from rtseg.latency.protocols import ProtocolRow, protocol_table
from rtseg.viz.tables import cell_text


def receipt(*entries: str) -> str:
    """The comment that tells receipts.py which numbers the block above shows."""
    return f"<!-- receipt: {', '.join(entries)} -->"


def bench_section(name: str, record: BenchRecord) -> list[str]:
    """A bench's measured rows as a table, and what it could not measure in a line a reason."""
    rows = bench_rows(record)
    lines = [
        f"`rtseg bench`, {machine_text(record.machine)}, torch {record.versions['torch']}, onnxruntime {record.versions['onnxruntime']}; batch 1, median of the quietest round:",
        "",
        "| network | size | runtime | threads | network ms (quartiles) | fps | end to end ms | before ms | after ms | peak MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in (r for r in rows if r["ms"] is not None):
        whole = [cell_text(row[key], ".2f") for key in ("end to end ms", "before", "after")]
        lines.append(
            f"| {row['network']} | {row['size']} | {row['runtime']} {row['precision']} | {row['threads']} | {row['ms']:.2f} ({row['quartiles']}) | {row['fps']:.2f} | {' | '.join(whole)} | {cell_text(row['peak MB'], '.0f')} |"
        )
    keys = (
        "rows.*.latency.median_ms",
        "rows.*.latency.q1_ms",
        "rows.*.latency.q3_ms",
        "rows.*.end_to_end.whole.median_ms",
        "rows.*.end_to_end.before_ms",
        "rows.*.end_to_end.after_ms",
    )
    present = [key for key in keys if "end_to_end" not in key or any(row["end to end ms"] is not None for row in rows)]
    lines += [receipt(*(f"{name}:{key}" for key in present), f"fps({name}:rows.*.latency.median_ms)"), ""]
    notes = {
        ("" if row["ms"] is not None else "not measured, ") + f"{row['runtime']} {row['precision']}: {row['note']}"
        for row in rows
        if row["note"]
    }
    return lines + [f"- {note}" for note in sorted(notes)]


def protocol_section(name: str, record: dict) -> list[str]:
    """One network under several protocols, with the slowdown against the fastest."""
    rows = protocol_table([ProtocolRow.from_dict(row) for row in record["rows"]])
    lines = [
        f"One network under the protocols that papers use: {record['model']}, {record['size'][0]} x {record['size'][1]}, {record['threads']} threads, {machine_text(record['machine'])}:",
        "",
        "| protocol | runtime | ms | fps | times the fastest |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['protocol']} | {row['runtime']} | {row['ms']:.2f} | {row['frames/s']:.1f} | {row['times the fastest']:.2f} |"
        for row in rows
        if row["ms"] is not None
    ]
    return [*lines, receipt(f"{name}:rows.*.latency.median_ms", f"fps({name}:rows.*.latency.median_ms)")]


def accuracy_row(record: dict) -> str:
    """One runtime's predictions as a line of Markdown: the plain sum, the corrected one, the interval, the zoo."""
    asked, verdict, zoo = record["asked"], record["verdict"], record.get("zoo_verdict", {}).get("from_networks")
    plain, corrected, half = verdict["sum"], verdict["corrected"], verdict["predictor"]["half_width"]
    outside = (
        f"{zoo['mean_absolute_error']:.1%}, ±{zoo['half_width']:.0%}, held {zoo['coverage_measured']:.0%} of {zoo['coverage_promised']:.0%}"
        if zoo
        else "not measured"
    )
    height, width = asked["size"]
    return (
        f"| {asked['runtime']} {asked['precision']} | {asked['threads']} | {height} x {width} | {verdict['networks']} | {plain['pearson']:.4f}, {plain['mean_absolute_error']:.1%} | "
        f"{corrected['pearson']:.4f}, {corrected['mean_absolute_error']:.1%} | ±{half:.1%}, held {verdict['coverage_measured']:.0%} of {verdict['coverage_promised']:.0%} | {outside} | "
        f"{min(record['loads']):.1f} to {max(record['loads']):.1f} |"
    )


def accuracy_section(records: list[dict]) -> list[str]:
    """Latency predicted by tables through each runtime, judged on networks that nothing has seen; nothing where there are no finished records."""
    if not records:
        return []
    return [
        "### Latency predicted from a table, in each runtime",
        "",
        "Random networks of the search space, kept out of the fit and of the interval's calibration. Wanted: correlation at least 0.99, mean absolute error at most 5 %. Out of the domain: the registry's networks, "
        "predicted from one another's layers. The machine's load while measuring is in the last column (1 is this benchmark itself).",
        "",
        "```sh",
        "python benchmarks/latency_accuracy.py --runtime openvino --precision bf16 --threads 1 --zoo",
        "```",
        "",
        "| runtime | threads | size | networks | plain sum: r, error | corrected: r, error | interval | zoo: error, interval | load |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(accuracy_row, records),
        "",
    ]


def agreement_section(record: dict) -> list[str]:
    """How far the runtimes agree with eager PyTorch over the registry, a line each, and those that do not."""
    lines = [
        f"Every network of the registry in every runtime, against eager PyTorch ({'complete' if record['complete'] else 'not complete'}). The weights are random, so classes lie close together, "
        "and bf16 moves labels that trained weights keep; what is shipped is judged on trained ones, with real images:",
        "",
        "| runtime | comparisons | agree | least agreement of labels | greatest difference, relative | do not |",
        "|---|---|---|---|---|---|",
    ]
    rows = [row for row in record["rows"] if row["error"] is None]
    for form in sorted({(row["runtime"], row["precision"]) for row in rows}):
        mine = [row for row in rows if (row["runtime"], row["precision"]) == form]
        differ = (
            ", ".join(f"{row['model']} at {row['size'][0]} x {row['size'][1]}" for row in mine if not row["agrees"])
            or "none"
        )
        lines.append(
            f"| {' '.join(form)} | {len(mine)} | {sum(row['agrees'] for row in mine)} | {min(row['label_agreement'] for row in mine):.4f} | "
            f"{max(row['relative_difference'] for row in mine):.1e} | {differ} |"
        )
    failed = [
        f"- {row['model']}, {row['runtime']} {row['precision']}: {row['error']}"
        for row in record["rows"]
        if row["error"]
    ]
    known = [
        f"- {key}: these weights amplify rounding; PyTorch's fp32 is {value:.1e} from its own fp64"
        for key, value in record.get("rounding", {}).items()
    ]
    return [*lines, "", *known, *failed]


def tails_section(name: str, record: dict) -> list[str]:
    """What the ways from logits to labels cost: milliseconds by runtime, and mIoU of trained networks."""
    forms = list(dict.fromkeys(row["form"] for row in record["rows"]))
    runtimes = list(dict.fromkeys((row["runtime"], row["precision"]) for row in record["rows"]))
    ms = {(row["runtime"], row["precision"], row["form"]): row["ms"] for row in record["rows"]}
    height, width = record["size"]
    lines = [
        f"From logits at 1/{record['stride']} to labels, {record['classes']} classes, {height} x {width}, {record['threads']} threads, {machine_text(record['machine'])}; milliseconds of the whole graph:",
        "",
        "| form | " + " | ".join(f"{runtime} {precision} ms" for runtime, precision in runtimes) + " |",
        "|---" * (len(runtimes) + 1) + "|",
    ]
    lines += [f"| {form} | " + " | ".join(f"{ms[*pair, form]:.2f}" for pair in runtimes) + " |" for form in forms]
    lines += [
        receipt(f"{name}:rows.*.ms"),
        "",
        f"What the same forms are worth, on CamVid's {record['images']} test images (mIoU, and agreement with the first form):",
        "",
    ]
    networks = list(dict.fromkeys(row["network"] for row in record["trained"]))
    worth = {(row["network"], row["form"]): f"{row['miou']:.4f}, {row['agreement']:.2%}" for row in record["trained"]}
    lines += ["| form | " + " | ".join(networks) + " |", "|---" * (len(networks) + 1) + "|"]
    return lines + [
        f"| {form} | " + " | ".join(worth[network, form] for network in networks) + " |"
        for form in forms
        if (networks[0], form) in worth
    ]


def autotune_section(name: str, record: dict) -> list[str]:
    """The fastest faithful form of each network, against ONNX Runtime fp32 and eager PyTorch, and which bars that meets."""
    found, (height, width) = record["summary"], record["size"]
    kind = record["environment"]["device"]["name"] + ("" if "avx2" not in name else " held down to AVX2")
    lines = [
        f"The fastest faithful form, {kind}, {height} x {width}, {record['threads']} threads, from the bytes of a photograph to the bytes of its labels:",
        "",
        "| network | form | ms | served without torch, ms | times as fast as ONNX Runtime fp32 | as PyTorch eager | agreement of labels | mIoU before | drop |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {model} | {row['chosen']} | {row['ms']:.2f} | {cell_text(row.get('served_ms'), '.2f')} | {row['over_onnxruntime']:.2f} | {row['over_eager']:.2f} | {row['agreement']:.4f} | {row['miou_before']:.4f} | {row['drop']:.4f} |"
        for model, row in record["rows"].items()
    ]
    middle, met = (
        found["median"],
        ", ".join(key.replace("_", " ") for key, value in found["met"].items() if not value) or "none",
    )
    return [
        *lines,
        receipt(f"{name}:rows.*.ms", f"{name}:rows.*.served_ms"),
        "",
        f"Median speed-up {middle['over_onnxruntime']:.2f} over ONNX Runtime fp32 (wanted {found['bars']['over_onnxruntime']}) and {middle['over_eager']:.2f} over eager (wanted {found['bars']['over_eager']}); "
        f"bars that are not met: {met}.",
    ]
