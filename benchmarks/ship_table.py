"""Bring a shipped table up to date: from the folder where its workers train into the package and `results/`, and what prints its numbers with it.

    python benchmarks/ship_table.py runs/camvid-street

The journal goes to results/NAME; header, trainings and latencies into the package. A training that the shipped table has and the folder lacks is an error: copy its journal into the folder first.
Latencies that others disturbed stay out. Then the scores of networks that came along are said to be missing, if they are, the guide that asks whether the search beats chance is executed, and the table's README gets its counts.
"""

import argparse
import re
import shutil
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbdev.clean import nbdev_clean

from rtseg.core.errors import ConfigError, RtsegError
from rtseg.core.files import write_text
from rtseg.search.arena import read_scores
from rtseg.search.table_training import planned, write_records
from rtseg.search.trained import TABLES, TrainedTable, load_table
from rtseg.tuning.study import JOURNAL, open_storage

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "nbs" / "guides" / "13_does_the_search_beat_chance.ipynb"


def require_grown(shipped: TrainedTable, grown: TrainedTable) -> None:
    """Raise `ConfigError` where the grown table is another one, or lacks a training of the shipped one."""
    for name in ("name", "space", "settings", "data", "num_classes", "trained_size", "timed_size"):
        if getattr(shipped.info, name) != getattr(grown.info, name):
            raise ConfigError(f"the folder's {name} is {getattr(grown.info, name)}, the shipped table's is another one")
    key = lambda t: (t.network, t.seed, t.recipe)  # noqa: E731
    lost = {key(t) for t in shipped.trainings} - {key(t) for t in grown.trainings}
    if lost:
        raise ConfigError(
            f"the folder lacks {len(lost)} trainings that are shipped ({min(lost)}): join their journal first"
        )


def quiet_latencies(shipped: TrainedTable, grown: TrainedTable) -> list:
    """Latencies that nobody disturbed, the folder's before the shipped ones, in the plan's order."""
    found = {}
    for m in (*shipped.latencies, *grown.latencies):
        if not m.latency.disturbance:
            found[m.device, m.network] = m
    return list(found.values())


def execute(page: Path) -> None:
    """Run a notebook and keep its outputs, as nbdev_clean leaves them."""
    notebook = nbformat.read(page, as_version=4)
    client = NotebookClient(
        notebook, timeout=1200, store_widget_state=False, resources={"metadata": {"path": str(page.parent)}}
    )
    client.execute()
    nbformat.write(notebook, page)
    nbdev_clean(str(page))


def counted(table: TrainedTable, recipe: str) -> str:
    """How far a recipe's trainings are."""
    networks = table.of(recipe)
    several = sum(len(records) > 1 for records in networks.values())
    return f"{sum(map(len, networks.values()))} trainings by {recipe}, of {len(networks)} networks, {several} of them with several seeds"


def told(table: TrainedTable, plan: list) -> str:
    """What the README says of the table, from its records."""
    devices = ", ".join(f"{len(table.ms(device))} on {device}" for device in table.devices())
    done = "; ".join(counted(table, recipe) for recipe in table.recipes())
    planned_networks = len({str(e.architecture) for e in plan})
    return (
        f"<!-- counts: python benchmarks/ship_table.py -->\nDone: {done}. The plan: {len(plan)} trainings of {planned_networks} networks. "
        f"Measured: {devices or 'none'}.\n<!-- end -->"
    )


def ship(folder: Path, *, package: Path, results: Path) -> TrainedTable:
    """Copy what is finished, check it on the way; the shipped table."""
    if not (folder / JOURNAL).is_file():
        raise ConfigError(f"{folder} has no {JOURNAL}: give the folder where workers train")
    storage = open_storage(None, folder)
    write_records(storage, folder)
    grown = load_table(folder)
    name = grown.info.name
    shipped = load_table(package / name)
    require_grown(shipped, grown)
    latencies = quiet_latencies(shipped, grown)
    table = TrainedTable(grown.info, grown.trainings, tuple(latencies))
    table.save(package / name)
    shutil.copy(folder / JOURNAL, results / name / JOURNAL)
    plan = planned(storage) or []
    readme = results / name / "README.md"
    text = readme.read_text(encoding="utf-8")
    if "<!-- counts" not in text:
        raise ConfigError(f"{readme} has no place for the counts: put <!-- counts --> and <!-- end --> into it")
    write_text(readme, re.sub(r"<!-- counts.*?<!-- end -->", lambda _: told(table, plan), text, flags=re.S))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the workers train, with journal and records")
    parser.add_argument("--no-guide", action="store_true", help="do not execute the guide again")
    args = parser.parse_args()
    table = ship(args.folder, package=TABLES, results=ROOT / "results")
    print(
        f"{table.info.name}: {len(table.trainings)} trainings of {len(table.of())} networks, {len(table.latencies)} latencies"
    )
    for name, scores in read_scores(TABLES / table.info.name).items():
        missing = [network for network in table.of() if network not in scores.scores]
        if missing:
            print(f"{name} has no score of {len(missing)} networks: python benchmarks/table_scores.py --data FOLDER")
    if not args.no_guide:
        execute(GUIDE)
        print(f"executed {GUIDE.relative_to(ROOT)}")


if __name__ == "__main__":
    try:
        main()
    except RtsegError as error:
        raise SystemExit(str(error)) from None
