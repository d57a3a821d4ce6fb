"""Receipts: every millisecond and every frame rate on a page is a number of a record file, and the page says of which.

    python benchmarks/receipts.py            # lists figures of README.md, RESULTS.md, other result pages, guides, stages and recipes that no record explains; exit code 1 if there are any

A block of Markdown (a paragraph, a list, a table) that holds such figures is followed by one comment, which readers do not see:

    <!-- receipt: results/demo/results.json:networks.*.measured_ms, fps(results/demo/results.json:deployment.measured_ms) -->

Each entry is FILE:PATH. PATH goes down by keys and list positions, `*` stands for all of them, and every number below its end counts; fps(...) turns milliseconds into frames per second. A figure is explained
if one of these numbers, rounded to the figure's decimals, is the figure. What is no measurement (a limit, a question) is named in words: <!-- not measured: 20 ms -->.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rtseg.core.errors import ArtifactError
from rtseg.core.files import read_json

ROOT = Path(__file__).resolve().parent.parent
NUMBER = r"(?<![\w.])\d[\d,]*(?:\.\d+)?"
UNIT = r"(?:ms|milliseconds?|fps|frames/s|images/s|(?:frames|images) (?:per|a|each) second)\b"
FIGURE = re.compile(rf"({NUMBER})(?:\s*(?:to|and|or|-|–)\s*({NUMBER}))?[\s-]*{UNIT}", re.I)
HEADING = re.compile(rf"(?<![\w]){UNIT}", re.I)
COMMENT = re.compile(r"<!--\s*(receipt|not measured):\s*(.*?)\s*-->", re.S)
ENTRY = re.compile(r"(fps\()?([^\s,()]+?\.json):([^\s,()]+)\)?")


@dataclass(frozen=True)
class Figure:
    """A millisecond or a frame rate on a page: its text, where it stands, and the line that shows it."""

    text: str
    position: int
    line: str


@dataclass(frozen=True)
class Block:
    """A paragraph, list or table with the comments that belong to it."""

    text: str
    start: int
    receipts: tuple[str, ...]
    exempt: str


def pages(root: Path = ROOT) -> list[Path]:
    """The pages on which figures have to be explained."""
    return [
        root / "README.md",
        root / "RESULTS.md",
        *sorted((root / "results").rglob("*.md")),
        *sorted((root / "benchmarks").rglob("*.md")),
        root / "nbs/index.ipynb",
        *(page for room in ("guides", "stages", "recipes") for page in sorted((root / "nbs" / room).glob("*.ipynb"))),
    ]


def page_text(page: Path) -> str:
    """A page as Markdown; of a notebook its prose, whose cells are blocks of their own."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")


def blocks(page: str) -> list[Block]:
    """The page's blocks in order; code between fences is none."""
    hidden = re.sub(r"^```.*?^```\s*?$", lambda found: re.sub(r"\S", " ", found[0]), page, flags=re.S | re.M)
    found: list[Block] = []
    for match in re.finditer(r"(?:[^\n]*\S[^\n]*(?:\n|$))+", hidden):
        comments = COMMENT.findall(match[0])
        text = COMMENT.sub(lambda c: " " * len(c[0]), match[0])
        receipts, exempt = (
            tuple(body for kind, body in comments if kind == "receipt"),
            " ".join(body for kind, body in comments if kind == "not measured"),
        )
        if text.strip() or not found:
            found.append(Block(text, match.start(), receipts, exempt))
        else:  # a comment alone belongs to the block before it
            last = found[-1]
            found[-1] = Block(last.text, last.start, last.receipts + receipts, f"{last.exempt} {exempt}")
    return found


def figures(block: Block) -> Iterator[Figure]:
    """The milliseconds and frame rates of a block: numbers with a unit, and all numbers of a table's column whose heading has one."""
    offset, measured = block.start, []
    for line in block.text.splitlines(keepends=True):
        seen = {match.start(group): match[group] for match in FIGURE.finditer(line) for group in (1, 2) if match[group]}
        if line.lstrip().startswith("|"):
            cells = [(cell.start(), cell[0]) for cell in re.finditer(r"[^|\n]+", line)]
            measured = measured or [i for i, (_, cell) in enumerate(cells) if HEADING.search(cell)] or [-1]
            for i, (start, cell) in enumerate(cells):
                if i in measured:
                    seen |= {start + number.start(): number[0] for number in re.finditer(NUMBER, cell)}
        else:
            measured = []
        yield from (Figure(text, offset + start, line.strip()) for start, text in sorted(seen.items()))
        offset += len(line)


def numbers_at(data: object, path: list[str]) -> Iterator[float]:
    """All numbers at a path of keys and positions (`*` for all), and below it."""
    if path and isinstance(data, dict | list):
        children = data if isinstance(data, dict) else dict(zip(map(str, range(len(data))), data, strict=True))
        for key in children if path[0] == "*" else [key for key in (path[0],) if key in children]:
            yield from numbers_at(children[key], path[1:])
    elif not path and isinstance(data, dict | list):
        yield from (n for child in (data.values() if isinstance(data, dict) else data) for n in numbers_at(child, []))
    elif not path and isinstance(data, int | float) and not isinstance(data, bool):
        yield float(data)


def promised(receipt: str, root: Path = ROOT) -> list[float]:
    """The numbers that a receipt's entries point to; `ArtifactError` for a file that is missing and a path that leads nowhere."""
    found: list[float] = []
    entries = ENTRY.findall(receipt)
    if not entries or ENTRY.sub("", receipt).strip(" ,\n"):
        raise ArtifactError(
            f"receipt '{receipt}' cannot be read: write FILE.json:path, or fps(FILE.json:path), with commas between"
        )
    for fps, file, path in entries:
        if not (root / file).resolve().is_relative_to(root.resolve()):
            raise ArtifactError(f"receipt '{file}' lies outside the repository: point to a committed record")
        values = list(numbers_at(read_json(root / file), path.split(".")))
        if not values:
            raise ArtifactError(f"receipt '{file}:{path}' leads to no number")
        found += [1000 / value for value in values if value] if fps else values
    return found


def is_explained(text: str, values: list[float]) -> bool:
    """Whether one of the values, rounded to the text's decimals, is the text."""
    shown, decimals = float(text.replace(",", "")), len(text.partition(".")[2])
    return any(abs(value - shown) <= 0.5000001 * 10**-decimals for value in values)


def unexplained(page: str, root: Path = ROOT) -> list[str]:
    """A line for each figure without a receipt, and for each picture without a record beside it."""
    missing = []
    for block in blocks(page):
        shown = [
            figure
            for figure in figures(block)
            if not re.search(rf"(?<![\w.]){re.escape(figure.text)}(?![\w.]*\d)", block.exempt)
        ]
        values = [value for receipt in block.receipts for value in promised(receipt, root)]
        missing += [
            f"{figure.text} in '{figure.line[:120]}'" for figure in shown if not is_explained(figure.text, values)
        ]
        for picture in re.findall(r"!\[[^\]]*\]\(([^)\s]+\.(?:png|svg|jpg|html))\)", block.text):
            if not any((root / picture).parent.glob("*.json")):
                missing.append(f"{picture} has no record (.json) beside it")
    return missing


def main() -> None:
    found = [f"{page.relative_to(ROOT)}: {line}" for page in pages() for line in unexplained(page_text(page))]
    print("\n".join(found) or "every millisecond and every frame rate has its record")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
