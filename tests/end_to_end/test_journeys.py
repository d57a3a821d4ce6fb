"""The three ways through the house that guide 12 shows: the program takes the first one as it is told, and none runs to and fro."""

import ast
import sys
import threading
from itertools import groupby
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

import rtseg
from rtseg.cli.evaluate import predict_command
from rtseg.core.files import save_tensors
from rtseg.models import create_model

PACKAGE = Path(rtseg.__file__).parent
# returns to a file that was left before: when issue 12 was written, and the most there may be now
BEFORE = {"predict": 16, "export": 15, "run": 9}
RETURNS = {"predict": 1, "export": 0, "run": 1}


def journeys(root):
    """The stops of the three ways, as the page lists them."""
    page = nbformat.read(root / "nbs/guides/12_where_things_live.ipynb", as_version=4)
    calls = [
        node
        for cell in page.cells
        if cell.cell_type == "code"
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "journey"
    ]
    found = [[ast.literal_eval(word.value) for word in call.keywords] for call in calls]
    return dict(zip(("predict", "export", "run"), found, strict=True))


@pytest.mark.parametrize("way, files, stops", [("predict", 7, 8), ("export", 8, 8), ("run", 6, 7)])
def test_the_ways_are_short_and_do_not_run_to_and_fro(root, way, files, stops):
    walked = [file for file, _ in groupby(stop.rsplit(".", 1)[0] for stop in journeys(root)[way])]
    assert (len(set(walked)), len(walked)) == (files, stops)
    assert len(walked) - len(set(walked)) <= RETURNS[way] <= BEFORE[way] / 2


def test_the_program_comes_to_the_stops_of_a_prediction_in_their_order(root, tmp_path):
    network = create_model("fastscnn", 11)
    weights = save_tensors(tmp_path / "w.safetensors", network.state_dict())
    (tmp_path / "in").mkdir()
    Image.fromarray(np.full((64, 96, 3), 90, np.uint8)).save(tmp_path / "in/a.png")
    entered: dict[str, None] = {}

    def watch(frame, event, arg):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(PACKAGE)):
            module = ".".join(Path(code.co_filename).relative_to(PACKAGE).with_suffix("").parts)
            entered.setdefault(f"{module}.{code.co_name}")

    threading.setprofile(watch)  # pictures are read and written by threads
    sys.setprofile(watch)
    try:
        predict_command(
            weights,
            tmp_path / "in",
            model="fastscnn",
            labels="camvid",
            out=tmp_path / "out",
            precision="fp32",
        )
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    wanted = journeys(root)["predict"]
    assert [stop for stop in entered if stop in wanted] == wanted and (tmp_path / "out/ids/a.png").is_file()
