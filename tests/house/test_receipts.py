"""Every millisecond and every frame rate on a page comes from a committed record, and a changed figure is found out."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from rtseg.core.errors import ArtifactError
from rtseg.core.files import write_json

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("receipts", ROOT / "benchmarks" / "receipts.py")
receipts = sys.modules["receipts"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(receipts)
PAGES = receipts.pages()


def committed(path: str) -> bool:
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files", "--error-unmatch", path], capture_output=True)
    return done.returncode == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_figure_has_its_receipt(page):
    missing = receipts.unexplained(receipts.page_text(page))
    assert not missing, f"{page.name}: no record explains {missing}; see the head of benchmarks/receipts.py"


def test_the_pages_have_figures_and_their_records_are_committed():
    shown = {
        str(page.relative_to(ROOT)): [
            f for block in receipts.blocks(receipts.page_text(page)) for f in receipts.figures(block)
        ]
        for page in PAGES
    }
    assert {
        "nbs/guides/03_which_network.ipynb",
        "nbs/recipes/01_distillation.ipynb",
        "nbs/stages/04_search.ipynb",
    } <= set(shown)
    assert len(shown["README.md"]) >= 4 and len(shown["RESULTS.md"]) >= 20
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: whether the records are committed cannot be asked")
    named = {
        file
        for page in PAGES
        for block in receipts.blocks(receipts.page_text(page))
        for r in block.receipts
        for _, file, _ in receipts.ENTRY.findall(r)
    }
    assert named and all(committed(file) for file in named), f"not committed: {[f for f in named if not committed(f)]}"


def mutated(text: str, factor: float) -> str:
    """The figure times a factor, with its decimals."""
    decimals = len(text.partition(".")[2])
    return f"{float(text.replace(',', '')) * factor + 3 * 10**-decimals:.{decimals}f}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_changed_figure_is_found_out(page):
    """Each figure is changed in turn; of three changes one at most may hit another number of the record by chance."""
    text = receipts.page_text(page)
    for block in receipts.blocks(text):
        values = [v for r in block.receipts for v in receipts.promised(r)]
        for figure in receipts.figures(block):
            assert text[figure.position :].startswith(figure.text)
            if receipts.is_explained(figure.text, values):
                caught = sum(
                    not receipts.is_explained(mutated(figure.text, factor), values) for factor in (1.37, 0.61, 2.13)
                )
                assert caught >= 2, f"{page.name}: changing {figure.text} in '{figure.line[:80]}' goes unnoticed"


def test_a_changed_page_names_the_figure(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    figure = next(f for block in receipts.blocks(text) for f in receipts.figures(block) if block.receipts)
    wrong = text[: figure.position] + mutated(figure.text, 1.37) + text[figure.position + len(figure.text) :]
    found = receipts.unexplained(wrong)
    assert len(found) == len(receipts.unexplained(text)) + 1 and mutated(figure.text, 1.37) in found[0]


@pytest.fixture
def box(tmp_path):
    """A small repository with one record."""
    write_json(
        tmp_path / "results/x.json",
        {"rows": [{"ms": 12.345, "q": [12.0, 12.9]}, {"ms": 2.0, "q": [1.9, 2.1]}], "big": 1234.4, "name": "x"},
    )
    (tmp_path / "results/x.png").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("page", "missing"),
    [
        ("It takes 12.35 ms.\n<!-- receipt: results/x.json:rows.0.ms -->", 0),
        ("It takes 12.35 ms.\n\n<!-- receipt: results/x.json:rows.0.ms -->", 0),
        ("It takes 12.36 ms.\n<!-- receipt: results/x.json:rows.0.ms -->", 1),
        ("It takes 12.35 ms.\n<!-- receipt: results/x.json:rows.1.ms -->", 1),
        ("It takes 12.35 ms.", 1),
        ("It takes 12.0 to 12.9 ms.", 2),
        ("It takes 12.0 to 12.9 ms.\n<!-- receipt: results/x.json:rows.*.q -->", 0),
        ("At 500 frames per second, 81.0 fps.\n<!-- receipt: fps(results/x.json:rows.*.ms) -->", 0),
        ("501 frames per second.\n<!-- receipt: fps(results/x.json:rows.*.ms) -->", 1),
        ("1,234 ms in all.\n<!-- receipt: results/x.json:big -->", 0),
        ("The best under 20 ms?", 1),
        ("The best under 20 ms?\n<!-- not measured: 20 ms, a question -->", 0),
        ("The best under 20 ms has 25 ms.\n<!-- not measured: 20 ms, a question -->", 1),
        ("```sh\nrtseg compress --latency-ms 10 # 10 ms\n```", 0),
        ("512 x 1024 pixels in 36.4 minutes, 0.41 mIoU, 11 classes, 5 forms", 0),
        (
            "| a | ms | n |\n|---|---|---|\n| x | 12.35 (12.0 to 12.9) | 7 |\n| y | 2.00 | 8 |\n<!-- receipt: results/x.json:rows.*.ms, results/x.json:rows.*.q -->",
            0,
        ),
        (
            "| a | ms | n |\n|---|---|---|\n| x | 12.35 (12.0 to 12.8) | 7 |\n| y | 2.01 | 8 |\n<!-- receipt: results/x.json:rows.*.ms, results/x.json:rows.*.q -->",
            2,
        ),
        ("| a | b |\n|---|---|\n| x, 2.0 ms | 3 |", 1),
        ("| a | frames/s |\n|---|---|\n| x | 500 |", 1),
        ("![a picture](results/x.png)", 0),
        ("![a picture](elsewhere/x.png)", 1),
    ],
)
def test_what_counts_as_explained(box, page, missing):
    assert len(receipts.unexplained(page, box)) == missing


@pytest.mark.parametrize(
    ("receipt", "words"),
    [
        ("results/y.json:ms", "does not exist"),
        ("results/x.json:rows.*.mz", "leads to no number"),
        ("results/x.json", "cannot be read"),
        ("../x.json:ms", "outside"),
        ("results/x.json:name", "no number"),
    ],
)
def test_a_receipt_that_leads_nowhere_is_an_error(box, receipt, words):
    with pytest.raises(ArtifactError, match=words):
        receipts.unexplained(f"It takes 2.0 ms.\n<!-- receipt: {receipt} -->", box)


def test_the_script_says_so():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "benchmarks/receipts.py")], capture_output=True, text=True
    )
    assert done.returncode == 0 and "has its record" in done.stdout, done.stdout + done.stderr[-500:]
