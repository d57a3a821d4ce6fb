"""What a finished run shows goes into the stages' pages, and nothing else does."""

import importlib.util
from pathlib import Path

import nbformat
import pytest

from rtseg.core.errors import ArtifactError

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("stage_pages", ROOT / "benchmarks" / "stage_pages.py")
stage_pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stage_pages)


@pytest.fixture
def pages(tmp_path):
    """A page without outputs, and the same page as a run has executed it."""
    page, executed = tmp_path / "01_a.ipynb", tmp_path / "run/notebooks/01_a.ipynb"
    executed.parent.mkdir(parents=True)
    text, code, out = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell, nbformat.v4.new_output
    nbformat.write(nbformat.v4.new_notebook(cells=[text("# A"), code("show()")]), page)
    given = code("run = 1")
    given.metadata["tags"] = ["injected-parameters"]
    ran = code(
        "show()",
        outputs=[
            out("stream", name="stdout", text=f"written to {tmp_path / 'run'}/a.json\n"),
            out("stream", name="stderr", text="100%"),
            out("display_data", data={stage_pages.WIDGET: {}, "text/plain": "bar"}),
            out("execute_result", data={"text/plain": "0.5"}, execution_count=3),
        ],
    )
    nbformat.write(nbformat.v4.new_notebook(cells=[text("# A"), given, ran]), executed)
    return page, executed


def test_outputs_come_without_bars_widgets_and_places(pages, tmp_path):
    page, executed = pages
    stage_pages.show(page, executed, tmp_path / "run")
    shown = nbformat.read(page, as_version=4)
    assert [cell.source for cell in shown.cells] == ["# A", "show()"]
    first, last = shown.cells[1].outputs
    assert first.text == "written to run/a.json\n" and last.data == {"text/plain": "0.5"}
    assert last.execution_count is None


def test_another_code_or_a_large_page_is_refused(pages, tmp_path, monkeypatch):
    page, executed = pages
    before = page.read_text()
    monkeypatch.setattr(stage_pages, "LARGEST", 100)
    with pytest.raises(ArtifactError, match="at most 100 are committed"):
        stage_pages.show(page, executed, tmp_path / "run")
    page.write_text(before.replace("show()", "show(1)"))
    with pytest.raises(ArtifactError, match="ran another code"):
        stage_pages.show(page, executed, tmp_path / "run")
