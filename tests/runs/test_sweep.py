"""Sweeps: the grid, resuming, failures that do not stop the others, stages in run folders of their own, the page."""

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser

import nbformat
import pytest

from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.core.files import read_json
from rtseg.core.run_folder import RunFolder
from rtseg.cli import main as cli
from rtseg.data.labels import CITYSCAPES
from rtseg.runs.config import load_preset
from rtseg.runs.sweep import NotebookTarget, StageTarget, find_target, grid_points, point_name, read_grid, sweep
from rtseg.cli.sweep import write_sweep_page

KERNEL = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
PARAMETERS = "top: int = 6  # what is divided\nby: int = 2  # by what\nmore: dict = {'note': 'x'}  # anything"


def page(path, *cells, parameters=PARAMETERS):
    """A notebook with parameters."""
    first = nbformat.v4.new_code_cell(parameters)
    first.metadata["tags"] = ["parameters"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_markdown_cell("# Dividing"), first, *map(nbformat.v4.new_code_cell, cells)],
            metadata=KERNEL,
        ),
        path,
    )
    return path


# numbers in the form in which key_numbers keeps them, without an import of rtseg, which takes a kernel seconds
DIVIDE = "from IPython.display import display\nlog = open(more['log'], 'a'); log.write(f'{by} '); log.close()\ndisplay({'application/vnd.rtseg.numbers+json': {'quotient': top / by}, 'text/plain': 'x'}, raw=True)"


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for key, value in attrs if key in ("href", "src")]


def test_a_sweep_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook, log = page(tmp_path / "dividing.ipynb", DIVIDE), tmp_path / "log"

    def go(grid):
        with pytest.raises(SystemExit) as end:
            cli.main(
                ["sweep", str(notebook), "--grid", grid, "--out", "out", "-p", "top", "12", "-p", "more.log", str(log)]
            )
        out, err = capsys.readouterr()
        return end.value.code, out, err

    code, out, err = go("by=3,0")
    assert (
        code == 1
        and "[1/2] by=3: done" in out
        and "[2/2] by=0: 'dividing' failed in cell [3]: ZeroDivisionError: division by zero" in out
    )
    assert err.count("error: 1 of 2 points failed (by-0_") == 1 and "tries them again" in err
    assert log.read_text() == "3 0 "
    records = {r["values"]["by"]: r for r in map(read_json, (tmp_path / "out/points").glob("*/point.json"))}
    assert (
        records["3"]["numbers"] == {"quotient": 4.0}
        and records["0"]["state"] == "failed"
        and records["0"]["numbers"] == {}
    )
    executed = nbformat.read(tmp_path / "out" / records["3"]["notebook"], as_version=4)
    assert any(
        cell.metadata.get("tags") == ["injected-parameters"] and "by = 3" in cell.source and "top = 12" in cell.source
        for cell in executed.cells
    )
    text = (tmp_path / "out/index.html").read_text()
    assert "1 of 2 points done" in text and "division by zero" in text and "top=12" in text
    links = Links()
    links.feed(text)
    assert len(links.found) == 5 and all((tmp_path / "out" / link).is_file() for link in links.found)
    assert not re.search(
        r"https?://(?!www\.w3\.org)", re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.S)
    )
    code, out, _ = go("by=3,0")  # what is done is skipped, what failed is tried again
    assert code == 1 and "[1/2] by=3: up to date" in out and log.read_text() == "3 0 0 "
    notebook = page(notebook, DIVIDE.replace("top / by", "top // (by + 1)"))
    assert go("by=3,0")[0] == 0 and log.read_text() == "3 0 0 3 0 "  # another notebook is another sweep's point


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sweep serach --grid seed=1,2", ["stage 'serach' is unknown", "did you mean 'search'"]),
        ("sweep data --grid seed", ["grid 'seed' cannot be read", "key=a,b,c"]),
        ("sweep data --grid data.scale=1 --grid data.scale=2", ["names something twice"]),
        ("sweep data --grid data.scael=1,0.5", ["'data.scael' is unknown", "did you mean 'scale'"]),
        (
            "sweep data --grid search.generations=2,3",
            ["stage 'data' does not read 'search.generations'", "it reads data"],
        ),
        ("sweep data --grid data.scale=large", ["'data.scale'"]),
        ("sweep data --grid data.scale=1,0.5 -p preset dmeo", ["did you mean 'demo'"]),
        ("sweep data --grid data.scale=1,0.5 -p data.scale 1", ["in the grid and given with -p"]),
        ("sweep student --grid student.lr=1,2 -p run runs/none", ["has not been made yet"]),
        ("sweep distillation --grid knd=kl,mse", ["parameter 'knd' is unknown", "did you mean 'kind'"]),
        ("sweep distillation --grid temperature=hot", ["parameter 'temperature' is 'hot'"]),
        ("sweep distillation --grid kind.x=kl", ["kind is a str and has no entries"]),
        ("sweep none.ipynb --grid a=1", ["none.ipynb does not exist"]),
        ("sweep data --grid data.scale=1 x", ["-p key value"]),
    ],
)
def test_a_mistyped_sweep_begins_nothing(line, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(line.split())
    out, err = capsys.readouterr()
    assert end.value.code == 1 and out == "" and err.count("\n") == 1
    for word in words:
        assert word in err
    assert not any(tmp_path.iterdir())


def test_points_have_names_of_their_own():
    grid = read_grid(["a.b=1,2", "size=[1,2],[1, 3]", "c=x/y,x_y"])
    names = [point_name(point) for point in grid_points(grid)]
    assert len(names) == len(set(names)) == 8 and all(
        re.fullmatch(r"[A-Za-z0-9_.+-]+", name) and len(name) < 70 for name in names
    )


STAGE = """from rtseg.runs.stage import open_stage
stage = open_stage("pretrain", run, preset=preset, settings=settings)
data = stage.input("data/splits.json").read_text()
if stage.config.seed == 7: raise ValueError("seven")
for name in stage.spec.makes: stage.output(name).write_text(data + str(stage.config.seed))
stage.fact("seed", stage.config.seed); stage.fact("word", "x")
stage.finish()"""


@pytest.fixture
def base(tmp_path):
    """A run folder whose stage `data` is done."""
    run = RunFolder.create(tmp_path / "base", load_preset("demo-fasterseg").to_dict())
    for name in ("data/splits.json", "data/report.json", "data/scenes-1/a.png"):
        run.path(name).parent.mkdir(parents=True, exist_ok=True)
        run.path(name).write_text("D")
    run.record("data", params={}, outputs=["data/splits.json", "data/report.json"])
    return run


def test_a_stage_runs_in_a_folder_of_its_own_at_each_point(tmp_path, base):
    page(
        tmp_path / "stages/03_pretraining.ipynb",
        STAGE,
        parameters='run: str = "r"  # folder\npreset: str = "demo-fasterseg"  # new\nsettings: dict = {}  # more',
    )
    target, said = StageTarget("pretrain", base.root, notebooks=tmp_path / "stages"), []
    before = sorted(p.relative_to(base.root) for p in base.root.rglob("*"))
    records = sweep(target, read_grid(["seed=3,7"]), out=tmp_path / "out", say=said.append, show_progress=False)
    assert (
        [r.state for r in records] == ["done", "failed"]
        and records[0].numbers == {"seed": 3.0}
        and "seven" in records[1].error
    )
    run = RunFolder.open(tmp_path / "out/points" / records[0].name / "run")
    assert run.config()["seed"] == 3 and list(run.manifest()) == ["data", "pretrain"]
    assert run.verify("pretrain/history.json").read_text() == "D3" and run.verify("data/splits.json").read_text() == "D"
    assert os.path.samefile(run.path("data/scenes-1/a.png"), base.path("data/scenes-1/a.png"))
    assert (
        sorted(p.relative_to(base.root) for p in base.root.rglob("*")) == before and not base.path("pretrain").exists()
    )
    again = sweep(target, read_grid(["seed=3"]), out=tmp_path / "out", say=said.append, show_progress=False)
    assert again == [records[0]] and said[-1].endswith("up to date")
    base.path("data/splits.json").write_text("E")
    with pytest.raises(ArtifactError, match="is damaged"):
        sweep(target, read_grid(["seed=3"]), out=tmp_path / "out", say=said.append, show_progress=False)


def test_a_changed_input_makes_another_point(tmp_path, base):
    target = StageTarget("pretrain", base.root)
    old = target.inputs({})
    base.path("data/splits.json").write_text("E")
    base.record("data", params={}, outputs=["data/splits.json", "data/report.json"])
    assert target.inputs({}) != old and target.inputs({"seed": "1"}) != target.inputs({})


def test_a_changed_label_file_makes_another_point(tmp_path):
    backwards = replace(CITYSCAPES, name="mine")
    backwards.to_yaml(tmp_path / "mine.yaml")
    config = load_preset("smoke").with_values({"data.labels": str(tmp_path / "mine.yaml")})
    base = RunFolder.create(tmp_path / "base", config.to_dict())
    target = StageTarget("data", base.root)
    old = target.inputs({})
    replace(backwards, classes=CITYSCAPES.classes[::-1]).to_yaml(tmp_path / "mine.yaml")
    assert target.inputs({}) != old


class Counted(NotebookTarget):
    """A target without a kernel."""

    ran: list

    def run(self, values, folder, *, show_progress=True):
        type(self).ran.append(dict(values))
        if len(type(self).ran) == 2:
            raise KeyboardInterrupt
        return folder / "x.ipynb", {"n": float(values["by"])}


def test_a_sweep_that_is_stopped_goes_on(tmp_path):
    Counted.ran = []
    target = Counted("counted", page(tmp_path / "x.ipynb"))
    grid = read_grid(["by=1,2,3"])
    with pytest.raises(KeyboardInterrupt):
        sweep(target, grid, out=tmp_path / "out", say=lambda _: None)
    records = sweep(target, grid, out=tmp_path / "out", say=lambda _: None)
    assert [v["by"] for v in Counted.ran] == ["1", "2", "2", "3"] and [r.numbers["n"] for r in records] == [
        1.0,
        2.0,
        3.0,
    ]


def test_a_longer_grid_runs_its_new_points_only(tmp_path):
    Counted.ran = [None] * 5
    target, said = Counted("counted", page(tmp_path / "x.ipynb")), []
    sweep(target, read_grid(["by=1,2"]), out=tmp_path / "out", say=said.append)
    records = sweep(target, read_grid(["by=9,1,2,4"]), out=tmp_path / "out", say=said.append)
    assert [v["by"] for v in Counted.ran[5:]] == ["1", "2", "9", "4"] and [r.numbers["n"] for r in records] == [
        9,
        1,
        2,
        4,
    ]
    assert [line.endswith("up to date") for line in said[2:]] == [False, True, True, False]


def test_a_folder_holds_one_sweep(tmp_path):
    Counted.ran = [None] * 5
    target = Counted("counted", page(tmp_path / "x.ipynb"))
    sweep(target, read_grid(["by=1"]), out=tmp_path / "out", say=lambda _: None)
    for other, grid, fixed, words in (
        (Counted("other", target.notebook), ["by=1"], {}, "target is other, it was begun with counted"),
        (target, ["top=1"], {}, "keys.0. is top, it was begun with by"),
        (target, ["by=1"], {"top": "7"}, "fixed.top is 7, it was begun with none"),
    ):
        with pytest.raises(ConfigError, match=f"another sweep .{words}"):
            sweep(other, read_grid(grid), out=tmp_path / "out", fixed=fixed, say=lambda _: None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="is not empty and holds no sweep"):
        sweep(target, read_grid(["by=1"]), out=tmp_path / "full", say=lambda _: None)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
    next((tmp_path / "out/points").glob("*/point.json")).write_text('{"name": "x"}')
    with pytest.raises(ArtifactError, match="is no record of a point"):
        sweep(target, read_grid(["by=1"]), out=tmp_path / "out", say=lambda _: None)


def test_recipes_are_found_by_name_and_out_belongs_to_the_point(tmp_path, monkeypatch):
    from rtseg.runs import sweep as module

    seen = {}
    monkeypatch.setattr(
        module,
        "run_notebook",
        lambda notebook, executed, *, parameters, **_: (seen.update(parameters), page(executed))[1],
    )
    target = find_target("fine_tuning")
    assert isinstance(target, NotebookTarget) and target.notebook.name == "04_fine_tuning.ipynb"
    target.run({"frozen": "['encoder', 'decoder']", "changes.lr": "1e-3"}, tmp_path / "p")
    assert seen["frozen"] == ["encoder", "decoder"] and seen["changes"]["lr"] == 1e-3 and seen["changes"]["epochs"] == 2
    assert seen["out"] == str(tmp_path / "p/results")


def test_the_page_of_a_sweep_without_a_finished_point(tmp_path):
    Counted.ran = [None] * 5
    target = Counted("counted", page(tmp_path / "x.ipynb"))
    record = sweep(target, read_grid(["by=1"]), out=tmp_path / "out", say=lambda _: None)[0]
    failed = type(record)(**{**vars(record), "state": "failed", "numbers": {}, "error": "<gone>"})
    text = write_sweep_page(tmp_path / "out", "counted", [failed], {}).read_text()
    assert "0 of 1 points done" in text and "&lt;gone&gt;" in text and "plot-data" not in text
    data = json.loads(
        re.search(
            r'class="plot-data">(.*?)</script>',
            write_sweep_page(tmp_path / "out", "counted", [record, failed], {}).read_text(),
            re.S,
        )[1]
    )
    assert data["data"][0]["y"] == [1.0, None]
