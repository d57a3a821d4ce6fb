"""The runner on toy notebooks: caching, locks, damage, failures and kills; and the configuration's refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import nbformat
import pytest
import yaml

from rtseg.core import run_folder
from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.core.files import sha256_file, write_json
from rtseg.core.run_folder import RunBusy, RunFolder, holder
from rtseg.data.labels import CITYSCAPES
from rtseg.data.scenes import make_scenes
from rtseg.runs import opening
from rtseg.runs.config import list_presets, load_preset, parse_run
from rtseg.runs.plan import STAGES, StageSpec, check_plan, choose_stages, find_stage, notebooks_folder
from rtseg.runs.plans import ICNET, PLANS, STREET, plan_of
from rtseg.runs.notebooks import StageFailed
from rtseg.runs.runner import run
from rtseg.runs.stage import open_stage, stage_params
from rtseg.runs.steps import load_splits, open_splits, splits_record

TOYS = (
    StageSpec("count", "1_count.ipynb", "Count", ("seed",), (), ("count/n.json",)),
    StageSpec("double", "2_double.ipynb", "Double", ("seed",), ("count/n.json",), ("double/n.json",)),
)
OPENING = """from rtseg.runs.plan import StageSpec
from rtseg.runs.stage import open_stage, stage_params
from rtseg.core.files import read_json, write_json
stages = {toys!r}
stage = open_stage({name!r}, run, settings=settings, stages=stages)"""
COUNT = 'write_json(stage.output("count/n.json"), 21)'
DOUBLE = 'write_json(stage.output("double/n.json"), 2 * read_json(stage.input("count/n.json")))'
SLOW = """import time
log = stage.work / "steps.json"
steps = read_json(log) if log.exists() else []
for step in range(len(steps), 8):
    steps.append([step, len(steps) and steps[0][1] or time.time(), __import__("os").getpid()])
    write_json(log, steps)
    time.sleep(0.4)
write_json(stage.output("double/n.json"), steps)"""
SCRIPT = """import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_pipeline import TOYS
from rtseg.runs.config import load_preset
from rtseg.runs.runner import run
run(load_preset("smoke"), {out!r}, plan=TOYS, notebooks=Path({notebooks!r}), show_progress=False)"""


def write_toy(folder, spec, work):
    """A stage notebook of four cells."""
    parameters = nbformat.v4.new_code_cell('run = "runs/toy"\nsettings = {}', metadata={"tags": ["parameters"]})
    cells = [
        parameters,
        *map(nbformat.v4.new_code_cell, (OPENING.format(toys=TOYS, name=spec.name), work, "stage.finish()")),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / spec.notebook)


@pytest.fixture
def toys(tmp_path):
    """A folder with the two toy notebooks, and a function that runs them."""
    write_toy(tmp_path, TOYS[0], COUNT)
    write_toy(tmp_path, TOYS[1], DOUBLE)
    config = load_preset("smoke")

    def go(**options):
        changed = config.with_values(options.pop("settings", {}))
        return run(
            changed,
            tmp_path / "run",
            plan=TOYS,
            notebooks=tmp_path,
            say=lambda line: None,
            show_progress=False,
            **options,
        )

    return tmp_path, go


def start_script(folder):
    """The toy run in a process of its own."""
    text = SCRIPT.format(tests=os.path.dirname(__file__), out=str(folder / "run"), notebooks=str(folder))
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(condition, seconds=60):
    """Wait until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def test_unchanged_stages_are_skipped_and_changed_ones_run_again(toys):
    folder, go = toys
    assert go().ran == ("count", "double")
    assert go().skipped == ("count", "double")
    with pytest.raises(ConfigError, match="seed: 0 -> 3.*--resume"):
        go(settings={"seed": 3})
    assert go(settings={"seed": 3}, resume=True).ran == ("count", "double")
    (folder / "run/double/n.json").unlink()
    assert go(settings={"seed": 3}).ran == ("double",)
    assert json.loads((folder / "run/double/n.json").read_text()) == 42
    assert (folder / "run/notebooks/2_double.ipynb").is_file()


def test_one_configuration_goes_through_a_run_and_files_are_read_once(toys, monkeypatch):
    """From the preset to the stages nothing is parsed again, unless a stage settles something; what has not changed since it was hashed is not read again, by no process."""
    folder, go = toys
    parsed, read = [], []
    monkeypatch.setattr(opening, "parse_run", lambda data: parsed.append(data) or parse_run(data))
    monkeypatch.setattr(run_folder, "sha256_file", lambda path: read.append(path.name) or sha256_file(path))
    assert go().ran == ("count", "double") and parsed == []
    monkeypatch.setattr(run_folder, "written_lately", lambda stamp: False)  # a minute later
    assert go().skipped == ("count", "double") and parsed == []
    first = sorted(read)
    read.clear()
    assert go().skipped == ("count", "double") and read == [] and len(first) >= 4
    (folder / "run/count/n.json").write_text("22")
    with pytest.raises(ArtifactError, match="count/n.json is damaged"):
        go()
    assert read == ["n.json"]
    config = yaml.safe_load((folder / "run/config.yaml").read_text())
    config["student"]["precision"] = "bf16"  # as a stage does where the preset says 'auto'
    (folder / "run/config.yaml").write_text(yaml.safe_dump(config))
    assert go(stages=["count"]).ran == ("count",) and [data["student"]["precision"] for data in parsed] == ["bf16"]


def test_a_damaged_artifact_names_the_stage_to_run_again(toys):
    folder, go = toys
    go()
    (folder / "run/count/n.json").write_text("22")
    with pytest.raises(ArtifactError, match="count/n.json is damaged.*--stages count"):
        go()
    assert json.loads((folder / "run/double/n.json").read_text()) == 42
    assert go(stages=["count"]).ran == ("count",)
    assert go().skipped == ("count", "double")


def test_a_failure_names_stage_cell_and_notebook_and_keeps_what_is_done(toys):
    folder, go = toys
    write_toy(folder, TOYS[1], "first = 1\n[][first]")
    with pytest.raises(StageFailed) as caught:
        go()
    text = str(caught.value)
    assert "stage 'double' failed in cell [4]: IndexError: list index out of range" in text and "\n" not in text
    assert str(folder / "run/notebooks/2_double.ipynb") in text
    failed = nbformat.read(folder / "run/notebooks/2_double.ipynb", as_version=4)
    assert any(output.output_type == "error" for cell in failed.cells for output in cell.get("outputs", []))
    write_toy(folder, TOYS[1], DOUBLE)
    assert go().skipped == ("count",)


def test_our_own_errors_are_told_without_their_class(toys):
    folder, go = toys
    write_toy(
        folder,
        TOYS[1],
        'from rtseg.core.errors import DataError\nraise DataError("no images in /x: give a folder with images")',
    )
    with pytest.raises(StageFailed, match=r"failed in cell \[4\]: no images in /x: give a folder with images \(open"):
        go()


def test_a_stage_that_forgets_an_output_fails(toys):
    folder, go = toys
    write_toy(folder, TOYS[0], "1 + 1")
    with pytest.raises(StageFailed, match="ended without writing count/n.json"):
        go()


def test_a_run_folder_in_use_is_refused(toys):
    folder, go = toys
    write_toy(folder, TOYS[1], "import time\ntime.sleep(60)")
    other = start_script(folder)
    try:
        wait_for((folder / "run/.holder").is_file)
        with pytest.raises(RunBusy, match=f"in use by process {other.pid}"):
            go()
        with pytest.raises(RunBusy, match="in use"):
            wait_for((folder / "run/config.yaml").is_file)
            open_stage("count", folder / "run", stages=TOYS)
    finally:
        other.kill()
        other.wait()


def test_a_killed_run_goes_on_where_it_was(toys):
    folder, go = toys
    write_toy(folder, TOYS[1], SLOW)
    killed = start_script(folder)

    def steps():
        return list((folder / "run/.work").glob("double-*/steps.json"))

    wait_for(lambda: steps() and len(json.loads(steps()[0].read_text())) >= 3)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert holder(folder / "run")["pid"] == killed.pid, "a killed process leaves its note"
    time.sleep(2.5)  # the orphaned kernel notices within a second
    before = json.loads(steps()[0].read_text())
    assert len(before) < 8
    result = go()
    assert result.skipped == ("count",) and result.ran == ("double",)
    after = json.loads((folder / "run/double/n.json").read_text())
    assert after[: len(before)] == before and len(after) == 8 and len({pid for _, _, pid in after}) == 2
    assert not steps() and holder(folder / "run") is None


def test_work_of_other_settings_is_not_resumed(tmp_path):
    config = load_preset("smoke")
    RunFolder.create(tmp_path / "run", config.to_dict())
    first = open_stage("count", tmp_path / "run", stages=TOYS)
    works = [first.work]
    first.lock.close()
    second = open_stage("count", tmp_path / "run", settings={"seed": 9}, stages=TOYS)
    works.append(second.work)
    second.lock.close()
    assert works[0] != works[1]


def test_stages_are_up_to_date_only_while_labels_and_masks_are_what_they_were(tmp_path):
    """A label file outside of the data and a mask that is painted over in place, with its old size and time."""
    labels = tmp_path / "labels.yaml"
    CITYSCAPES.to_yaml(labels)
    scenes = make_scenes(tmp_path / "scenes", counts={"train": 2, "val": 1, "test": 1}, size=(32, 64))
    config = load_preset("smoke").with_values(
        {"data.name": "cityscapes", "data.root": str(scenes), "data.labels": str(labels)}
    )
    run = RunFolder.create(tmp_path / "run", config.to_dict())
    stage = open_stage("data", run.root)
    write_json(stage.output("data/splits.json"), splits_record(open_splits(config.data, run.root)))
    write_json(stage.output("data/report.json"), {})
    stage.finish()
    for name in ("latency", "pretrain", "student"):
        run.record(name, params=stage_params(find_stage(name), config))

    def current():
        names = ("data", "latency", "pretrain", "student")
        return [name for name in names if run.is_current(name, params=stage_params(find_stage(name), config))]

    assert current() == ["data", "latency", "pretrain", "student"]
    replace(CITYSCAPES, classes=CITYSCAPES.classes[::-1]).to_yaml(labels)
    assert current() == []
    CITYSCAPES.to_yaml(labels)
    mask, other = sorted((scenes / "gtFine/train").rglob("*labelIds.png"))
    kept, times = mask.read_bytes(), mask.stat().st_mtime_ns
    mask.write_bytes(other.read_bytes()[: len(kept)].ljust(len(kept), b"\0"))
    os.utime(mask, ns=(times, times))
    assert current() == ["latency", "pretrain", "student"]  # which need data/splits.json, and that is another now:
    student = open_stage("student", run.root)
    with pytest.raises(ArtifactError, match="splits.train.masks is .*--stages data"):
        load_splits(student)
    student.lock.close()
    mask.write_bytes(kept)
    assert current() == ["data", "latency", "pretrain", "student"]


def test_undeclared_files_are_refused(tmp_path):
    stage = open_stage("double", tmp_path / "run", preset="smoke", stages=TOYS)
    with pytest.raises(ConfigError, match="does not declare other.json"):
        stage.input("other.json")
    with pytest.raises(ConfigError, match="does not declare other.json"):
        stage.output("other.json")
    with pytest.raises(ArtifactError, match="has not been made yet.*--stages count"):
        stage.input("count/n.json")
    stage.lock.close()


def test_a_folder_with_other_things_is_left_alone(tmp_path, toys):
    _, go = toys
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").write_text("do not lose this")
    with pytest.raises(ConfigError, match="not empty and no run folder"):
        go()
    assert (tmp_path / "run/thesis.tex").read_text() == "do not lose this"


def test_the_plan_is_sound_and_its_notebooks_are_there():
    check_plan(STAGES)
    assert [spec.name for spec in choose_stages(["report", "data"])] == ["data", "report"]
    with pytest.raises(ConfigError, match="did you mean 'teacher'"):
        find_stage("teecher")
    for spec in dict.fromkeys((*STAGES, *ICNET, *STREET)):
        notebook = nbformat.read(notebooks_folder() / spec.notebook, as_version=4)
        tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        assert len(tagged) == 1 and 'run: str = "runs/demo"' in tagged[0].source, spec.notebook
        code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        assert max(len(source.splitlines()) for source in code) <= 15, spec.notebook


def test_a_preset_names_its_plan_and_a_folder_keeps_it(toys):
    assert plan_of(load_preset("demo-fasterseg").plan) is STAGES and plan_of(load_preset("icnet").plan) is ICNET
    assert plan_of(load_preset("demo").plan) is STREET
    for name in list_presets():
        config = load_preset(name)
        stages = plan_of(config.plan)
        check_plan(stages)
        for spec in stages:
            assert set(stage_params(spec, config)) >= set(spec.reads), f"{name}: {spec.name}"
    single = PLANS["icnet-single"]
    assert [s.name for s in ICNET if s not in single] == ["pspnet", "icnet", "evaluate"] and len(single) == len(
        ICNET
    ) - 1
    folder, go = toys
    go()
    with pytest.raises(ConfigError, match="holds a run of plan 'fasterseg', not of 'icnet'.*--out"):
        run(load_preset("icnet-demo"), folder / "run", resume=True, say=lambda line: None)
    with pytest.raises(ConfigError, match="stage 'search' is unknown"):
        run(load_preset("icnet-demo"), folder / "other", stages=["search"], say=lambda line: None)
    with pytest.raises(ConfigError, match="plan 'icnte' is unknown.*did you mean 'icnet'"):
        parse_run({"plan": "icnte"})


def test_every_preset_loads_and_unknown_names_are_refused_at_every_level():
    for name in list_presets():
        assert load_preset(name).preset == name
    assert set(list_presets()) == {
        "smoke",
        "demo",
        "demo-fasterseg",
        "camvid",
        "camvid-cpu",
        "cityscapes",
        "bdd100k",
        "icnet",
        "icnet-single",
        "icnet-demo",
    }
    with pytest.raises(ConfigError, match="preset 'dmeo' is unknown.*did you mean 'demo'"):
        load_preset("dmeo")
    with pytest.raises(ConfigError, match="'sede' is unknown.*did you mean 'seed'"):
        load_preset("demo").with_values({"sede": 1})
    with pytest.raises(ConfigError, match="'latency.tolerence' is unknown.*did you mean 'tolerance'"):
        load_preset("demo").with_values({"latency.tolerence": "0.1"})
    with pytest.raises(ConfigError, match="'latency.tolerance'"):
        load_preset("demo").with_values({"latency.tolerance": "high"})
    assert load_preset("demo").with_values({"latency.tolerance": "0.1"}).latency.tolerance == 0.1
