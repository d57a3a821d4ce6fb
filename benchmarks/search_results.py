"""The sections of RESULTS.md about searches against chance: a table and a picture of each record of `three_budgets.py`."""

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from shipping_results import receipt

from rtseg.core.files import atomic_write, read_json
from rtseg.viz import render_png
from rtseg.viz.figures import new_figure, series_color

ROOT = Path(__file__).resolve().parent.parent
TITLES = {"three-budgets": "on CamVid", "three-budgets-streets": "on drawn streets with the full cast"}


def against_chance(rows: list[dict], title: str) -> go.Figure:
    """Test mIoU of the searched network's seeds and of the random networks, a column a budget."""
    figure = new_figure(title, x="latency of searched and random networks alike", y="test mIoU", width=640, height=380)
    for i, (kind, name) in enumerate((("random", "random"), ("searched", "searched, one dot a seed"))):
        column = [j + 0.16 * i for j, row in enumerate(rows) for _ in row[kind]]
        color = series_color(i, "random" if kind == "random" else "student")
        scores = [score for row in rows for score in row[kind]]
        figure.add_scatter(x=column, y=scores, mode="markers", name=name, marker=dict(size=9, color=color, opacity=0.8))
    figure.update_xaxes(tickvals=[j + 0.08 for j in range(len(rows))], ticktext=[f"{row['ms']:.1f} ms" for row in rows])
    return figure.update_yaxes(tickformat=".0%")


def row_text(row: dict) -> str:
    """One budget as a row of the table."""
    searched, chance = row["searched"], row["random"]
    above = "yes" if np.mean(searched) > max(chance) else "no"
    return (
        f"| {row['budget_ms']:.2f} ms | {row['ms']:.2f} ms | {np.mean(searched):.4f} ({', '.join(f'{s:.4f}' for s in searched)}) "
        f"| {np.mean(chance):.4f} ({len(chance)} networks) | {max(chance):.4f} | {row['gain']:+.4f} | {row['standard_errors']:+.1f} | {above} |"
    )


def budgets_section(folder: Path) -> list[str]:
    """What a record of three_budgets.py says; nothing where it is not finished."""
    if not (folder / "scores.json").is_file():
        return []
    proposed, plan, rows = (read_json(folder / f"{name}.json") for name in ("proposals", "plan", "scores"))
    with atomic_write(folder / "scores.png") as temporary:
        temporary.write_bytes(render_png(against_chance(rows, f"Searched and random networks {TITLES[folder.name]}")))
    name = folder.relative_to(ROOT)
    return [
        f"## Does the search beat chance {TITLES[folder.name]}?",
        "",
        f"Searched by the table `{proposed['table']}` ({proposed['trained']} trained networks; the regression, {proposed['regression']}, orders networks that it has not seen with a Kendall's tau of {proposed['taus'][proposed['regression']]:.2f}). "
        f"At each budget {len(proposed['budgets'][0]['proposed'])} proposals were trained with two seeds, the best on the validation images was taken, and trained again with {len(rows[0]['searched'])} other seeds, which are below. "
        f"The random networks take as long as it, within 3 %, and are trained once. All by the table's short recipe; timed in turns on {plan['device']['name']} ({plan['device']['cores']} cores), ONNX Runtime fp32, one thread. `benchmarks/three_budgets.py` makes it again.",
        "",
        "| budget | searched network takes | its test mIoU (seeds) | random, mean | random, best | difference of means | in standard errors | above the best random one |",
        "|---|---|---|---|---|---|---|---|",
        *map(row_text, rows),
        "",
        receipt(f"{name}/scores.json:*.budget_ms", f"{name}/scores.json:*.ms"),
        "",
        f"![test mIoU of searched and random networks]({name}/scores.png)",
        "",
        *((proposed["note"], "") if "note" in proposed else ()),
    ]


def search_sections() -> list[str]:
    """Every finished comparison with chance."""
    return [line for name in TITLES for line in budgets_section(ROOT / "results" / name)]
