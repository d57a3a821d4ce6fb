"""The three ways through the house: the program takes them as guide 12 tells and the record shows, and none runs to and fro."""

import ast
import importlib.util
from importlib import import_module
from pathlib import Path

import nbformat
import papermill
import pytest

from rtseg.core.files import read_json

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("journeys", ROOT / "benchmarks" / "journeys.py")
journeys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(journeys)
RECORD = {way["name"]: way for way in read_json(ROOT / "benchmarks/results/journeys.json")["journeys"]}


def told():
    """The stops of the three ways, as the page lists them."""
    page = nbformat.read(ROOT / "nbs/guides/12_where_things_live.ipynb", as_version=4)
    calls = [
        node
        for cell in page.cells
        if cell.cell_type == "code"
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "journey"
    ]
    found = [[ast.literal_eval(word.value) for word in call.keywords] for call in calls]
    return dict(zip(journeys.BEFORE, found, strict=True))


def places(way):
    """Module and function of all stops of a way, one after the other."""
    return [f"{file}.{name}" for file, functions in way for name in functions]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with what the journeys need."""
    folder = tmp_path_factory.mktemp("journeys")
    journeys.prepare(folder)
    return folder


@pytest.mark.parametrize("name", journeys.BEFORE)
def test_half_of_the_returns_are_gone_and_the_page_tells_the_way(name):
    way = RECORD[name]["stops"]
    assert journeys.returns(way) == RECORD[name]["returns"] <= journeys.BEFORE[name] / 2
    wanted = told()[name]
    assert [place for place in places(way) if place in wanted] == wanted


@pytest.mark.parametrize("name", RECORD)
def test_all_files_of_the_record_are_there(name):
    """Where one is gone: python benchmarks/journeys.py."""
    for file, functions in RECORD[name]["stops"]:
        assert import_module(f"rtseg.{file}") and functions


def test_a_prediction_goes_the_way_that_is_told(prepared):
    way = journeys.way_of("predict", prepared)
    assert journeys.returns(way) <= journeys.BEFORE["predict"] / 2
    wanted = told()["predict"]
    assert [place for place in places(way) if place in wanted] == wanted
    assert (prepared / "masks/ids/a.png").is_file()


def test_a_run_goes_the_way_that_is_told(prepared, monkeypatch):
    """All but the kernel, whose start is papermill's."""
    monkeypatch.setattr(papermill, "execute_notebook", lambda *words, **more: None)
    way, wanted = journeys.way_of("run", prepared), told()["run"]
    assert [place for place in places(way) if place in wanted] == wanted
    assert journeys.returns(way) <= journeys.BEFORE["run"] / 2


def test_first_calls_are_stops_and_values_are_none():
    calls = [
        ("cli.run", "before"),
        ("cli.run", "run_command"),
        ("core.files", "read_json"),
        ("runs.plan", "check_plan"),
    ]
    calls += [("runs.runner", "RunResult.ready"), ("runs.plan", "find_stage"), ("cli.run", "print_result")]
    way = journeys.stops(calls, "run_command")
    assert way == [
        ("cli.run", ["run_command"]),
        ("runs.plan", ["check_plan", "find_stage"]),
        ("cli.run", ["print_result"]),
    ]
    assert journeys.returns(way) == 1
