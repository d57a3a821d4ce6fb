"""The whole pipeline through papermill, as the demo in small: every stage, what was learned, the report, the numbers, and what comes after; FasterSeg's plan as its smallest preset."""

import json
import re

import pytest
from pytest import approx

from rtseg.core.architecture import Architecture
from rtseg.core.errors import DeviceMismatch
from rtseg.core.run_folder import RunFolder
from rtseg.core.values import EvalReport, Latency
from rtseg.models.loading import load_network
from rtseg.runs.config import load_preset
from rtseg.runs.plan import STAGES
from rtseg.runs.plans import STREET
from rtseg.runs.runner import run
from rtseg.runs.stage import open_stage
from rtseg.runs.steps import stage_table
from rtseg.runs.table_search import TableSearch
from rtseg.search.latency_table import LatencyTable
from rtseg.search.spaces import load_architecture


CROP, DEMO = [64, 128], "demo"
SHORT = {  # everything that the demo does, on smaller pictures and for fewer steps
    "latency.accept_noisy": True,
    "data.scene_size": CROP,
    "data.scenes": {"train": 64, "val": 16, "test": 8},
    "latency.size": CROP,
    "latency.entry_seconds": 0.02,
    "latency.network_seconds": 0.3,
    "latency.check_networks": 2,
    "latency.tolerance": 0.3,
    "deploy.tolerance": 0.3,
    "search.generations": 4,
    "search.size": 24,
    "student.augmentation.crop": CROP,
    "random.twins": 2,
}


def finish(folder, config):
    """A finished run: its folder, its result, and a function that runs it again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")

        def again(**options):
            return run(config, folder / "run", say=lambda line: None, show_progress=False, **options)

        yield folder / "run", again(), again


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short demo."""
    yield from finish(tmp_path_factory.mktemp("demo"), load_preset(DEMO).with_values(SHORT))


@pytest.fixture(scope="module")
def cosearched(tmp_path_factory):
    """FasterSeg's plan in its smallest preset."""
    yield from finish(tmp_path_factory.mktemp("smoke"), load_preset("smoke"))


@pytest.mark.slow
@pytest.mark.parametrize(("made", "plan"), [("finished", STREET), ("cosearched", STAGES)])
def test_every_stage_ran_and_left_what_it_declares(made, plan, request):
    folder, result, again = request.getfixturevalue(made)
    assert result.ran == tuple(stage.name for stage in plan) and result.report == folder / "report.html"
    for stage in plan:
        assert (folder / "notebooks" / stage.notebook).is_file()
        for name in stage.makes:
            assert RunFolder(folder).verify(name).is_file()
    assert again().skipped == result.ran
    assert not list((folder / ".work").glob("*")), "finished stages leave no checkpoints behind"


@pytest.mark.slow
def test_results_hold_the_comparison_and_where_it_comes_from(finished):
    folder, _, _ = finished
    results = json.loads((folder / "results.json").read_text())
    assert [row["name"] for row in results["networks"]] == ["student", "random", "random-2"]
    assert results["networks"][0]["miou"] > 0.2, "the student learns"
    for row in results["networks"]:
        assert (
            0 <= row["miou"] <= 1
            and row["params"] > 1000
            and row["gmac"] > 0
            and row["predicted_ms"] > 0
            and row["measured_ms"] > 0
        )
        assert (
            row["origin"]["which"] == "best" and row["origin"]["seed"] == 0 and row["origin"]["pretrained_on"] == "none"
        )
        assert len(row["origin"]["checkpoint_sha256"]) == 64
    student, *chance = results["networks"]
    assert all(abs(row["predicted_ms"] / student["predicted_ms"] - 1) <= 0.05 for row in chance)
    assert len({row["architecture"] for row in results["networks"]}) == 3
    assert results["config"]["preset"] == DEMO and results["environment"]["versions"]["torch"]
    assert set(results["stages"]) >= {stage.name for stage in STREET[:-1]} and results["deployment"]["fps"] > 0
    scores = json.loads((folder / "evaluate/scores.json").read_text())
    report = EvalReport.from_dict(scores["networks"][0]["report"])
    assert report.origin.checkpoint_sha256 == results["networks"][0]["origin"]["checkpoint_sha256"]
    assert Latency.from_dict(scores["networks"][0]["measured"]).shape == (1, 3, 64, 128)


@pytest.mark.slow
def test_the_found_network_keeps_the_budget(finished):
    folder, _, _ = finished
    table, results = (
        LatencyTable.load(folder / "latency/table.json"),
        json.loads((folder / "results.json").read_text()),
    )
    found = TableSearch.load(folder / "search/found.json")
    assert table.predict(found.student) <= found.budget_ms == results["target_ms"]
    assert found.student == load_architecture(folder / "search/student.json")
    assert results["networks"][0]["predicted_ms"] == approx(table.predict(found.student))
    assert results["networks"][0]["architecture"] == found.student.id
    loaded = load_network(folder)
    assert loaded.network.arch == found.student and loaded.labels.num_classes == 19


@pytest.mark.slow
def test_the_student_keeps_the_ceiling(cosearched):
    folder, _, _ = cosearched
    table = LatencyTable.load(folder / "latency/table.json")
    student, teacher = (Architecture.load(folder / f"search/{role}.json") for role in ("student", "teacher"))
    history = json.loads((folder / "search/history.json").read_text())
    results = json.loads((folder / "results.json").read_text())
    assert len(history) == load_preset("smoke").search.epochs and table.predict(student) <= results["target_ms"]
    predicted = [row["predicted_ms"] for row in results["networks"][:2]]
    assert predicted == [approx(table.predict(teacher)), approx(table.predict(student))]


@pytest.mark.slow
def test_the_report_is_one_file_that_opens_offline(finished):
    folder, _, _ = finished
    page = (folder / "report.html").read_text()
    assert len(page.encode()) < 3_000_000
    body = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)  # plotly's own source holds addresses as text
    body = body.replace('xmlns="http://www.w3.org/2000/svg"', "")  # the name of a language, which nobody fetches
    assert (
        not re.search(r"""(src|href)=['"](?!#|data:)""", body)
        and "<link" not in body
        and "http://" not in body
        and "https://" not in body
    )
    assert page.count('id="plotly"') == 1 and page.count("Plotly.newPlot(") >= 1
    assert body.count("data-plot=") >= 12 and len(re.findall("data:image/(?:png|jpeg|webp);base64,", body)) >= 5
    for stage in STREET[:-1]:
        assert f"<section id='{stage.name}'>" in body, stage.name
    for word in (
        "student",
        "random",
        "Configuration",
        "Machine and versions",
        "predicted ms",
        "measured ms",
    ):
        assert word in body


@pytest.mark.slow
def test_the_same_seed_finds_the_same_network(finished):
    folder, _, again = finished
    before = (folder / "search/found.json").read_text()
    (folder / "search/found.json").unlink()
    assert again(stages=["search"]).ran == ("search",)
    assert (folder / "search/found.json").read_text() == before


@pytest.mark.slow
def test_the_same_seed_finds_the_same_architecture(cosearched):
    folder, _, again = cosearched
    before = [(folder / f"search/{role}.json").read_text() for role in ("student", "teacher")]
    (folder / "search/history.json").unlink()
    assert again(stages=["search"]).ran == ("search",)
    assert [(folder / f"search/{role}.json").read_text() for role in ("student", "teacher")] == before


def test_a_table_of_another_device_or_size_is_refused(tmp_path):
    from rtseg.runs.steps import measure_table

    config = load_preset("smoke").with_values({"latency.entry_seconds": 0.001})
    table = measure_table(config, tmp_path / "table.json")
    for field, value in (("device", "Cray-1"), ("height", 640), ("runtime", "tensorrt")):
        opened = RunFolder.create(tmp_path / field, config.to_dict())
        opened.path("latency").mkdir()
        LatencyTable(type(table.header)(**{**table.header.to_dict(), field: value}), table.entries).save(
            opened.path("latency/table.json")
        )
        opened.record("latency", params={}, outputs=["latency/table.json"])
        stage = open_stage("search", tmp_path / field)
        with pytest.raises(DeviceMismatch, match=f"made for {field} .*{value}") as caught:
            stage_table(stage)
        assert "\n" not in str(caught.value)
        stage.lock.close()
