"""Show a finished run in the stages' pages: `nbs/stages/` gets the outputs that the run's executed notebooks hold.

    rtseg run --preset demo --out runs/demo
    python benchmarks/stage_pages.py runs/demo

A page is taken only where its code is the one that ran; the times and numbers on it are the run's.
"""

import argparse
from pathlib import Path

import nbformat
import plotly.graph_objects as go

from rtseg.core.errors import ArtifactError
from rtseg.core.files import write_text
from rtseg.viz.figures import mime_bundle

STAGES = Path(__file__).resolve().parent.parent / "nbs" / "stages"
WIDGET = "application/vnd.jupyter.widget-view+json"  # lives in a kernel; a page has none
PLOTLY = "application/vnd.plotly.v1+json"
LARGEST = 600_000  # bytes of a page, as the house has it


def cells_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The cells of a page, without the one in which papermill put the parameters."""
    return [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]


def without_places(output: nbformat.NotebookNode, root: Path) -> nbformat.NotebookNode | None:
    """An output as it is committed: the run's folder by its name alone, no widgets, no bars; None where nothing is left."""
    if output.output_type == "stream":
        if output.name == "stderr":
            return None
        output.text = output.text.replace(str(root.resolve()), root.name)
        return output
    if WIDGET in output.data:
        return None
    for kind, value in output.data.items():
        if isinstance(value, str) and kind.startswith("text/"):
            output.data[kind] = value.replace(str(root.resolve()), root.name)
    if PLOTLY in output.data:  # a code host runs no script: the figure's PNG stands beside it
        output.data |= mime_bundle(go.Figure(output.data[PLOTLY]))
    output.metadata = {}
    if "execution_count" in output:
        output.execution_count = None
    return output


def show(page: Path, executed: Path, root: Path) -> Path:
    """Write the outputs of the notebook `executed` of the run `root` into `page`; `ArtifactError` where another code ran."""
    shown, ran = (nbformat.read(path, as_version=4) for path in (page, executed))
    ours, theirs = shown.cells, cells_of(ran)
    if [cell.source for cell in ours] != [cell.source for cell in theirs]:
        raise ArtifactError(f"{executed} ran another code than {page} has: run the stage again, then this")
    for cell, other in zip(ours, theirs, strict=True):
        if cell.cell_type == "code":
            kept = (without_places(output, root) for output in other.outputs)
            cell.outputs = [output for output in kept if output is not None]
    text = nbformat.writes(shown) + "\n"
    if len(text.encode()) > LARGEST:
        raise ArtifactError(f"{page.name} would be {len(text.encode()):,} bytes: at most {LARGEST:,} are committed")
    return write_text(page, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    root = parser.parse_args().run
    for executed in sorted((root / "notebooks").glob("*.ipynb")):
        print(show(STAGES / executed.name, executed, root))


if __name__ == "__main__":
    main()
