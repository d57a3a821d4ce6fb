"""The whole pipeline through papermill, as the demo in small: every stage, what was learned, the report, the numbers, and what comes after."""

import json
import re

import pytest
from pytest import approx

from rtseg.core.architecture import Architecture
from rtseg.core.errors import DeviceMismatch
from rtseg.core.run_folder import RunFolder
from rtseg.core.values import EvalReport, Latency
from rtseg.runs.config import load_preset
from rtseg.runs.plan import STAGES
from rtseg.runs.runner import run
from rtseg.runs.stage import open_stage
from rtseg.runs.steps import stage_table
from rtseg.search.latency_table import LatencyTable


CROP = [64, 128]
SHORT = {  # everything that the demo does, on smaller pictures and for fewer steps
    "latency.accept_noisy": True,
    "data.scene_size": CROP,
    "data.scenes": {"train": 64, "val": 16, "test": 8},
    "space.layers": 6,
    "space.widths": [4, 8],
    "latency.size": CROP,
    "latency.entry_seconds": 0.02,
    "latency.network_seconds": 0.3,
    "latency.check_networks": 2,
    "latency.tolerance": 0.3,
    "deploy.tolerance": 0.3,
    "pretrain.epochs": 1,
    "pretrain.steps_per_epoch": 2,
    "pretrain.augmentation.crop": CROP,
    "search.epochs": 2,
    "search.steps_per_epoch": 2,
    "search.augmentation.crop": CROP,
    "search.score_images": 4,
    "teacher.augmentation.crop": CROP,
    "student.augmentation.crop": CROP,
    "random.twins": 2,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished short demo: its folder, its result, and a function that runs it again."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")

        def again(**options):
            config = load_preset("demo").with_values(SHORT)
            return run(config, folder / "run", say=lambda line: None, show_progress=False, **options)

        yield folder / "run", again(), again


@pytest.mark.slow
def test_every_stage_ran_and_left_what_it_declares(finished):
    folder, result, again = finished
    assert result.ran == tuple(stage.name for stage in STAGES) and result.report == folder / "report.html"
    for stage in STAGES:
        assert (folder / "notebooks" / stage.notebook).is_file()
        for name in stage.makes:
            assert RunFolder(folder).verify(name).is_file()
    assert again().skipped == result.ran
    assert not list((folder / ".work").glob("*")), "finished stages leave no checkpoints behind"


@pytest.mark.slow
def test_results_hold_the_comparison_and_where_it_comes_from(finished):
    folder, _, _ = finished
    results = json.loads((folder / "results.json").read_text())
    assert [row["name"] for row in results["networks"]] == ["teacher", "student", "random", "random-2"]
    assert results["networks"][1]["miou"] > 0.2, "the student learns"
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
    student, *chance = results["networks"][1:]
    assert all(abs(row["predicted_ms"] / student["predicted_ms"] - 1) <= 0.05 for row in chance)
    assert len({row["architecture"] for row in results["networks"]}) == 4
    assert results["config"]["preset"] == "demo" and results["environment"]["versions"]["torch"]
    assert set(results["stages"]) >= {stage.name for stage in STAGES[:-1]} and results["deployment"]["fps"] > 0
    scores = json.loads((folder / "evaluate/scores.json").read_text())
    report = EvalReport.from_dict(scores["networks"][1]["report"])
    assert report.origin.checkpoint_sha256 == results["networks"][1]["origin"]["checkpoint_sha256"]
    assert Latency.from_dict(scores["networks"][1]["measured"]).shape == (1, 3, 64, 128)


@pytest.mark.slow
def test_the_student_keeps_the_ceiling(finished):
    folder, _, _ = finished
    table = LatencyTable.load(folder / "latency/table.json")
    student, teacher = (Architecture.load(folder / f"search/{role}.json") for role in ("student", "teacher"))
    history = json.loads((folder / "search/history.json").read_text())
    results = json.loads((folder / "results.json").read_text())
    assert len(history) == SHORT["search.epochs"] and table.predict(student) <= results["target_ms"]
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
    assert body.count("data-plot=") >= 15 and len(re.findall("data:image/(?:png|jpeg|webp);base64,", body)) >= 6
    for stage in STAGES[:-1]:
        assert f"<section id='{stage.name}'>" in body, stage.name
    for word in (
        "teacher",
        "student",
        "random",
        "Configuration",
        "Machine and versions",
        "predicted ms",
        "measured ms",
    ):
        assert word in body


@pytest.mark.slow
def test_the_same_seed_finds_the_same_architecture(finished):
    folder, _, again = finished
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
