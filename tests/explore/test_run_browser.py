"""The run browser: what folders say, orders, marked differences, and runs that are broken."""

import json

import pytest
import torch

from rtseg.core.errors import ConfigError
from rtseg.core.files import save_tensors, write_json, write_text, write_yaml
from rtseg.core.results import Evaluation, ScoredNetwork
from rtseg.core.values import EvalReport, Latency
from rtseg.training import TrainConfig
from rtseg.tuning.results import TrialRecord, TuneResult
from rtseg.tuning.space import Space
from rtseg.explore.run_browser import explore_runs, plot_runs, settings_table
from rtseg.explore.run_records import COLUMNS, find_runs, flat_settings, kind_of, sort_runs, stored_parameters


def training(folder, *, epochs=4, planned=4, best=0.5, alarm=None, **settings):
    """The files of a training that did `epochs` of `planned` epochs."""
    write_yaml(folder / "config.yaml", TrainConfig(epochs=planned, **settings).to_dict())
    rows = [
        {
            "epoch": e,
            "step": 5 * e,
            "lr": 0.01,
            "losses": {"main": 1 / e, "aux": 0.5},
            "seconds": 15.0,
            "miou": best if e == epochs else None,
            "alarm": alarm,
        }
        for e in range(1, epochs + 1)
    ]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_json(folder / "best.json", {"miou": best, "dataset": "camvid", "split": "val"})
    save_tensors(folder / "best.safetensors", {"a.weight": torch.zeros(4, 3, 3, 3), "a.running_var": torch.zeros(4)})


def pipeline(folder, *, stages=("data", "student", "evaluate", "report"), miou=0.6, ms=8.0, seed=0, hero=None):
    """The files of a run of the pipeline, evaluated unless `miou` is None."""
    write_yaml(folder / "config.yaml", {"preset": "demo", "seed": seed, "student": {"lr": 0.03, "crop": [96, 192]}})
    write_json(
        folder / "manifest.json",
        {stage: {"params": "", "seconds": 30.0, "finished": "", "inputs": {}, "outputs": {}} for stage in stages},
    )
    write_json(
        folder / "student/training.json",
        {"metrics": [{"epoch": 1, "step": 9, "lr": 0.1, "losses": {"main": 1.0}, "miou": 0.2}]},
    )
    if miou is not None:
        networks = tuple(
            ScoredNetwork(
                name=name,
                architecture="ab12",
                report=EvalReport(score, (score,), ("road",), 0.9, ((1,),), 4, "camvid", "test"),
                params=1000,
                gmac=0.5,
                predicted_ms=None,
                measured=Latency(ms, ms, ms, 9, (1, 3, 64, 128), "CPU", "torch", "fp32", 1),
            )
            for name, score in (("teacher", 0.9), ("student", miou))
        )
        Evaluation("camvid", "test", 4, (64, 128), networks, hero=hero or "student").save(
            folder / "evaluate/scores.json"
        )


@pytest.fixture
def folder(tmp_path):
    """Four trainings and two runs of the pipeline."""
    training(tmp_path / "camvid/a", best=0.5)
    training(tmp_path / "camvid/b", best=0.7, epochs=2, planned=8, lr=0.1, seed=3)
    training(tmp_path / "c", best=0.4, alarm="the loss is constant", optimizer="adamw")
    pipeline(tmp_path / "demo")
    pipeline(tmp_path / "young", stages=("data",), miou=None)
    return tmp_path


def by_name(records):
    return {record.name: record for record in records}


def test_numbers_come_from_the_files(folder):
    found = by_name(find_runs(folder))
    assert set(found) == {"camvid/a", "camvid/b", "c", "demo", "young"}
    assert found["camvid/b"].numbers == {"miou": 0.7, "parameters": 108, "minutes": 0.5, "epochs": 2, "seed": 3}
    assert (found["camvid/a"].state, found["camvid/b"].state, found["c"].note) == (
        "finished",
        "epoch 2 of 8",
        "the loss is constant",
    )
    assert (
        found["demo"].numbers == {"miou": 0.6, "ms": 8.0, "parameters": 1000, "minutes": 2.0, "epochs": 1, "seed": 0}
        and found["demo"].scored_on == "camvid test"
    )
    assert found["young"].state == "1 stages done" and found["young"].numbers.get("miou") is None
    pipeline(folder / "demo", hero="teacher")
    assert by_name(find_runs(folder))["demo"].numbers["miou"] == 0.9


def test_orders_go_both_ways_and_blanks_come_last(folder):
    found = find_runs(folder)
    names = lambda by, down: [r.name for r in sort_runs(found, by, descending=down)]  # noqa: E731
    assert names("miou", True) == ["camvid/b", "demo", "camvid/a", "c", "young"] and names("miou", False) == [
        "c",
        "camvid/a",
        "demo",
        "camvid/b",
        "young",
    ]
    assert names("ms", True)[0] == names("ms", False)[0] == "demo"
    assert names("name", False) == ["c", "camvid/a", "camvid/b", "demo", "young"]
    for by in COLUMNS:
        assert sorted(names(by, True)) == sorted(names(by, False)) == sorted(r.name for r in found)
    with pytest.raises(ConfigError, match="did you mean 'minutes'"):
        sort_runs(found, "minuts")


def test_differences_are_marked_by_a_sign(folder):
    found = by_name(find_runs(folder))
    a, b, demo = found["camvid/a"], found["camvid/b"], found["demo"]
    compared = settings_table([a, b])
    assert {row[1]: row[2:] for row in compared.cells} == {
        "epochs": ("4", "8"),
        "lr": (compared.cells[1][2], "0.1"),
        "seed": ("0", "3"),
    }
    assert (
        {row[0] for row in compared.cells} == {"≠"}
        and compared.bold == (0, 1, 2)
        and compared.headings == ("", "setting", "camvid/a", "camvid/b")
    )
    every = settings_table([a, b], only_differences=False)
    assert len(every.cells) == len(a.settings) > 40 and sum(row[0] == "≠" for row in every.cells) == 3
    other = settings_table([a, demo])
    assert ("≠", "student.lr", "–", "0.03") in other.cells and ("≠", "student.crop", "–", "[96, 192]") in other.cells
    assert settings_table([a]).caption == f"{len(a.settings)} settings"


def test_settings_get_the_names_of_the_command_line():
    assert flat_settings({"loss": {"kind": "ohem", "deep": {"x": None}}, "freeze": []}) == {
        "loss.kind": "ohem",
        "loss.deep.x": None,
        "freeze": "[]",
    }


@pytest.mark.parametrize(
    "harm, words",
    [
        (lambda run: write_text(run / "metrics.jsonl", '{"epoch": 1}\n{"epo\n'), "metrics.jsonl is damaged"),
        (lambda run: write_text(run / "metrics.jsonl", '{"step": 1}\n'), "KeyError 'epoch'"),
        (lambda run: write_text(run / "config.yaml", ""), "holds no settings"),
        (lambda run: write_text(run / "config.yaml", "a: [1"), "not valid YAML"),
        (lambda run: (run / "config.yaml").unlink(), "does not exist"),
        (lambda run: write_text(run / "best.json", '{"miou":'), "not valid JSON"),
        (lambda run: write_text(run / "best.json", "[]"), "not as rtseg writes them"),
        (lambda run: (run / "best.safetensors").write_bytes(b"\x08\x00\x00"), "best.safetensors cannot be read"),
        (lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe\x00"), "config.yaml"),
    ],
)
def test_a_broken_run_is_listed_with_the_reason(folder, harm, words):
    harm(folder / "camvid/a")
    found = by_name(find_runs(folder))
    assert (
        found["camvid/a"].state == "broken" and words in found["camvid/a"].note and "\n" not in found["camvid/a"].note
    )
    assert {name for name, run in found.items() if run.state == "broken"} == {"camvid/a"} and len(found) == 5
    browser = explore_runs(folder)
    browser.choose("camvid/a", "demo")
    assert words[:12] in browser.table().html.replace("&#x27;", "'") and len(browser.figure.data) == 3


@pytest.mark.parametrize(
    "name, text",
    [
        ("manifest.json", "{}"),
        ("results.json", '{"networks": []}'),
        ("results.json", "[1]"),
        ("bench.json", "{}"),
        ("result.json", '{"study": 1}'),
    ],
)
def test_foreign_and_half_written_files_are_listed_too(folder, name, text):
    write_text(folder / "odd" / name, text)
    assert by_name(find_runs(folder))["odd"].state == "broken"


def test_a_run_that_goes_on_may_end_in_half_a_line(folder):
    with open(folder / "camvid/b/metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "st')
    assert by_name(find_runs(folder))["camvid/b"].numbers["epochs"] == 2
    write_yaml(folder / "new/config.yaml", TrainConfig().to_dict())
    new = by_name(find_runs(folder))["new"]
    assert new.note == "no epoch has finished" and new.state.startswith("epoch 0 of") and new.curves == {}


def test_folders_below_a_run_and_hidden_ones_are_not_runs(folder):
    training(folder / "demo/student/inner")
    training(folder / ".trash/old")
    (folder / "empty").mkdir()
    assert len(find_runs(folder)) == 5 and kind_of(folder / "empty") is None
    assert [run.name for run in find_runs(folder / "camvid/a")] == ["a"]


def test_no_runs_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        find_runs(tmp_path)
    with pytest.raises(ConfigError, match="is no folder"):
        explore_runs(tmp_path / "nothing")


def test_a_published_record_is_a_run(root):
    found = by_name(find_runs(root / "results"))
    assert found["camvid-cpu"].kind == "record" and found["camvid-cpu"].state == "finished"
    results = json.loads((root / "results/camvid-cpu/results.json").read_text())
    student = next(n for n in results["networks"] if n["name"] == "student")
    assert (
        found["camvid-cpu"].numbers["ms"] == student["measured_ms"]
        and found["camvid-cpu"].numbers["parameters"] == student["params"]
    )


def test_a_study_is_a_run_with_a_curve_for_each_trial(tmp_path):
    trials = tuple(
        TrialRecord(n, state, {"lr": lr}, scores, ((1, lr), (2, 2 * lr)), 30.0)
        for n, (state, lr, scores) in enumerate(
            (
                ("complete", 0.1, {"miou": 0.3, "latency": 5.0}),
                ("complete", 0.2, {"miou": 0.6, "latency": 7.0}),
                ("running", 0.3, {}),
            )
        )
    )
    TuneResult(
        "s",
        ("miou", "latency"),
        Space.parse({"lr": {"kind": "float", "low": 0.01, "high": 0.5}}),
        TrainConfig(seed=4),
        trials,
    ).save(tmp_path / "s/result.json")
    (study,) = find_runs(tmp_path)
    assert (
        study.numbers["miou"] == 0.6
        and study.numbers["ms"] == 7.0
        and study.numbers["minutes"] == 1.5
        and study.settings["lr"] == 0.2
        and study.settings["seed"] == 4
    )
    assert (study.state, study.note, len(study.curves)) == ("unfinished", "2 complete, 1 running", 3)


def test_parameters_are_those_that_are_learnt(tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5))
    path = save_tensors(tmp_path / "x.safetensors", net.state_dict())
    assert stored_parameters(path) == sum(p.numel() for p in net.parameters()) == 5 * 27 + 5 + 10


def test_curves_lie_over_one_another_and_differ_by_dashes(folder):
    found = by_name(find_runs(folder))
    figure = plot_runs([found["camvid/a"], found["c"], found["demo"]])
    assert [(t.name, t.line.dash) for t in figure.data if t.showlegend is not False] == [
        ("camvid/a", "solid"),
        ("c", "dash"),
        ("demo student", "dot"),
    ]
    assert list(figure.data[0].y) == pytest.approx([1.5, 1.0, 1 / 3 + 0.5, 0.75])
    assert list(plot_runs([found["camvid/a"]], x="step").data[0].x) == [5, 10, 15, 20]


def test_controls_sort_choose_and_read_again(folder):
    browser = explore_runs(folder)
    assert browser.chosen == ("camvid/b", "demo") and browser.controls.names.options[0] == "camvid/b"
    browser.controls.column.value = "seed"
    assert browser.by == "seed" and "seed ▼" in browser.shown.value and browser.controls.names.options[0] == "camvid/b"
    browser.controls.direction.value = False
    assert (
        browser.controls.names.options[-2] != "camvid/b"
        and browser.sorted()[-1].numbers.get("seed") == 3
        and "seed ▲" in browser.shown.value
    )
    browser.controls.names.value = ("camvid/a", "camvid/b")
    assert (
        browser.compared().caption.startswith("3 of")
        and len(browser.figure.data) == 6
        and [row[0] for row in browser.table().cells].count("✓") == 2
    )
    browser.controls.differences.value = False
    assert len(browser.compared().cells) > 40
    browser.controls.axis.value = "step"
    assert list(browser.figure.data[0].x)[-1] in (10, 20)
    training(folder / "d", best=0.95)
    (folder / "camvid/a/metrics.jsonl").write_text("{\n")
    browser.controls.again.click()
    assert (
        len(browser.runs) == 6
        and browser.message.value == "6 runs, 1 of them broken"
        and browser.chosen == ("camvid/a", "camvid/b")
    )
    with pytest.raises(ConfigError, match="run 'x' is unknown"):
        browser.choose("x")
