"""Bench: cases, rows on disk at once, going on, comparing within one machine, and the command."""

import json

import pytest
import torch
from torch import nn

from rtseg.core.errors import ArtifactError, ConfigError, DeviceMismatch
from rtseg.core.files import read_json, write_json
from rtseg.shipping import bench as bench_module
from rtseg.shipping.bench import (
    Bench,
    BenchCase,
    BenchRecord,
    BenchSettings,
    bench_cases,
    bench_rows,
    compare_bench,
    open_bench,
    run_bench,
)
from rtseg.core.weights import WeightsInfo
from rtseg.evaluation.evaluator import save_trained
from rtseg.models import create_model
from rtseg.models.contract import SegNetwork
from rtseg.models.loading import spec_of
from rtseg.cli.bench import bench_figure, bench_table, content_of, read_models

QUICK = BenchSettings(max_seconds=0.1, rounds=1, end_to_end=False, memory=False)


class Small(SegNetwork):
    """Three layers that end at an eighth."""

    def __init__(self, num_classes=5):
        super().__init__(num_classes)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, num_classes, 3, 2, 1)
        )

    def predict(self, x):
        return self.layers(x)


class Broken(Small):
    def predict(self, x):
        raise RuntimeError("weights are on fire\nand more")


@pytest.fixture
def build():
    """A builder that remembers what it built."""

    def make(name):
        make.calls.append(name)
        return {"small": Small, "broken": Broken}[name]()

    make.calls = []
    return make


def cases(models=("small",), runtimes=("torch",), precisions=("fp32",), sizes=((64, 96),)):
    return bench_cases(models, runtimes=runtimes, precisions=precisions, sizes=sizes, threads=1)


def test_cases_are_all_combinations_network_by_network():
    found = cases(("a", "b"), ("torch", "onnxruntime"), ("fp32", "bf16"), ((64, 96), (128, 64)))
    assert (
        len(found) == len(set(found)) == 16
        and [c.model for c in found] == ["a"] * 8 + ["b"] * 8
        and found[0].height == 64
    )
    assert all(BenchCase.from_dict(json.loads(json.dumps(c.to_dict()))) == c for c in found)
    everything = bench_cases(["a"], precisions=["all"])
    assert {(c.runtime, c.precision) for c in everything} >= {
        ("torch", "fp32"),
        ("torch", "bf16"),
        ("onnxruntime", "fp32"),
        ("openvino", "int8"),
    }


@pytest.mark.parametrize(
    "wrong",
    [dict(models=()), dict(sizes=()), dict(precisions=()), dict(runtimes=("torhc",)), dict(precisions=("fp31",))],
)
def test_impossible_cases(wrong):
    with pytest.raises(ConfigError):
        cases(**wrong)


def test_each_row_is_on_disk_before_the_next_is_begun(tmp_path, build, monkeypatch):
    path, seen = tmp_path / "bench.json", []
    measure = Bench.measure

    def watch(self, case):
        seen.append(len(read_json(path)["rows"]) if path.exists() else 0)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return measure(self, case)

    monkeypatch.setattr(Bench, "measure", watch)
    wanted = cases(sizes=((64, 64), (64, 96), (96, 96), (96, 64)))
    with pytest.raises(KeyboardInterrupt):
        run_bench(wanted, path, build=build, settings=QUICK)
    assert (
        seen == [0, 1, 2]
        and len(BenchRecord.load(path).rows) == 2
        and {p.name for p in tmp_path.glob(".*")} <= {".lock"}
    )
    before = path.read_text()
    record = run_bench(wanted, path, build=build, settings=QUICK)
    assert seen == [0, 1, 2, 2, 3] and [row.case for row in record.rows] == wanted
    assert record.rows[:2] == BenchRecord.from_dict(json.loads(before)).rows and build.calls == ["small"] * 2


def test_a_finished_bench_measures_nothing_again(tmp_path, build):
    first = run_bench(cases(), tmp_path / "b.json", build=build, settings=QUICK)
    assert run_bench(cases(), tmp_path / "b.json", build=build, settings=QUICK) == first and build.calls == ["small"]


def test_what_cannot_be_measured_has_its_reason(tmp_path, build, monkeypatch):
    monkeypatch.setattr(
        bench_module,
        "why_absent",
        lambda runtime: "needs openvino, which is not installed" if runtime == "openvino" else None,
    )
    record = run_bench(
        cases(("broken", "small"), ("torch", "openvino", "onnxruntime"), ("fp32", "int8")),
        tmp_path / "b.json",
        build=build,
        settings=QUICK,
    )
    found = {str(row.case).rsplit(" ", 1)[0]: (row.status, row.reason) for row in record.rows}
    assert found["small torch fp32"][0] == found["small onnxruntime fp32"][0] == "measured"
    assert found["broken torch fp32"] == ("failed", "RuntimeError: weights are on fire")
    assert (
        found["small openvino fp32"] == ("absent", "needs openvino, which is not installed")
        and "has no int8" in found["small torch int8"][1]
    )
    text = str(bench_table(record))
    assert "weights are on fire" in text and "which is not installed" in text


def test_what_was_absent_is_tried_again(tmp_path, build, monkeypatch):
    monkeypatch.setattr(bench_module, "why_absent", lambda runtime: "not installed")
    assert (
        run_bench(cases(), tmp_path / "b.json", build=build, settings=QUICK).rows[0].status == "absent"
        and build.calls == []
    )
    monkeypatch.undo()
    record = run_bench(cases(), tmp_path / "b.json", build=build, settings=QUICK)
    assert [row.status for row in record.rows] == ["measured"]


def test_one_export_serves_every_graph_runtime(tmp_path, build, monkeypatch):
    exports, real = [], bench_module.model_bytes
    monkeypatch.setattr(bench_module, "model_bytes", lambda *a, **k: exports.append(1) or real(*a, **k))
    bench = Bench(build, QUICK)
    for case in cases(runtimes=("onnxruntime", "openvino"), sizes=((64, 96), (96, 96))):
        bench.source(case, served=False)
    assert len(exports) == 2 and build.calls == ["small"]


def test_a_row_has_parts_and_memory_where_they_are_asked_for(build):
    torch.manual_seed(0)
    row = Bench(build, BenchSettings(max_seconds=0.2, rounds=1, memory=False)).measure(
        cases(runtimes=("onnxruntime",))[0]
    )
    assert (
        row.status == "measured"
        and row.memory is None
        and row.end_to_end.inside["network"] == ["normalisation", "network", "upsampling", "argmax"]
    )
    line = bench_rows(BenchRecord({}, "", {}, (row,)))[0]
    assert (
        line["ms"] == row.latency.median_ms
        and line["end to end ms"] == row.end_to_end.whole.median_ms
        and line["peak MB"] is None
        and line["fps"] == pytest.approx(1000 / line["ms"])
    )


def test_int8_is_quantised_and_says_what_it_is_worth(build):
    row = Bench(build, BenchSettings(max_seconds=0.2, rounds=1, memory=False)).measure(
        cases(runtimes=("onnxruntime",), precisions=("int8",))[0]
    )
    assert (
        row.status == "measured"
        and row.latency.precision == "int8"
        and row.latency.includes[0] == "preprocessing"
        and "masks are not judged" in row.reason
    )


def test_a_row_without_memory_is_measured_again_once_memory_is_asked_for(tmp_path, build):
    first = run_bench(cases(), tmp_path / "b.json", build=build, settings=QUICK)
    whole = run_bench(
        cases(),
        tmp_path / "b.json",
        build=build,
        settings=BenchSettings(max_seconds=0.2, rounds=1, end_to_end=True, memory=False),
    )
    assert first.rows[0].end_to_end is None and whole.rows[0].end_to_end is not None
    assert run_bench(cases(), tmp_path / "b.json", build=build, settings=QUICK) == whole


@pytest.fixture
def record(tmp_path, build):
    return run_bench(cases(sizes=((64, 64), (64, 96))), tmp_path / "made.json", build=build, settings=QUICK)


def scaled(record, factor, **changes):
    data = record.to_dict()
    for row in data["rows"]:
        row["latency"]["median_ms"] *= factor
    return BenchRecord.from_dict({**json.loads(json.dumps(data)), **changes})


def test_ratios_within_one_machine(record):
    assert list(compare_bench(scaled(record, 1.5), record).values()) == pytest.approx([1.5, 1.5])
    other_threads = scaled(record, 1.0)
    object.__setattr__(other_threads.rows[0].case, "threads", 7)
    assert len(compare_bench(record, other_threads)) == 1
    assert "x earlier" in str(bench_table(record, compare_bench(record, record))) and "x earlier" not in str(
        bench_table(record)
    )


def test_other_machines_are_refused_unless_it_is_said(record, tmp_path):
    there = scaled(record, 2.0, machine={**record.machine, "cpu": "Cray-1"})
    with pytest.raises(DeviceMismatch) as error:
        compare_bench(record, there, name="old.json")
    assert all(
        word in str(error.value) for word in ("old.json", "Cray-1", record.machine["cpu"], "--other-machine")
    ) and "\n" not in str(error.value)
    assert list(compare_bench(record, there, other_machine=True).values()) == pytest.approx([0.5, 0.5])
    there.save(tmp_path / "there.json")
    with pytest.raises(DeviceMismatch, match="choose another --out"):
        open_bench(tmp_path / "there.json")


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        '{"rows": [], "machine": 3}',
        '{"rows": [{"case": 1}], "machine": {}, "created": "", "versions": {}}',
        "{",
    ],
)
def test_files_that_are_no_record(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ArtifactError):
        BenchRecord.load(tmp_path / "x.json")


def test_the_picture_has_a_view_for_each_size(record):
    figure = bench_figure(record)
    buttons = figure.layout.updatemenus[0].buttons
    assert [b.label for b in buttons] == ["64x64, network alone", "64x96, network alone"] and len(figure.data) == 2
    assert [sum(b.args[0]["visible"]) for b in buttons] == [1, 1] and [trace.visible for trace in figure.data] == [
        True,
        False,
    ]
    assert figure.data[0].x[0] == record.rows[0].latency.median_ms
    with pytest.raises(ConfigError, match="nothing was measured"):
        bench_figure(BenchRecord(record.machine, "", {}))


def named(content):
    return bench_cases(["small"], runtimes=["torch"], sizes=[(64, 96)], threads=1, contents={"small": content})


def test_a_row_belongs_to_the_weights_it_was_measured_with(tmp_path, build):
    path, how = tmp_path / "b.json", {"build": build, "settings": QUICK}
    first = run_bench(named("aaa"), path, **how)
    assert run_bench(named("aaa"), path, **how) == first and build.calls == ["small"]
    second = run_bench(named("bbb"), path, **how)
    assert build.calls == ["small", "small"] and [row.case.content for row in second.rows] == ["bbb"]
    assert compare_bench(second, first) == {} and len(compare_bench(second, second)) == 1
    unsaid = run_bench(cases(), tmp_path / "old.json", **how)
    assert len(compare_bench(second, unsaid)) == 1  # a record from before contents were kept
    assert run_bench(named("bbb"), tmp_path / "old.json", **how).rows[0].case.content == "bbb" and len(build.calls) == 4


def test_what_a_name_stands_for(tmp_path):
    torch.manual_seed(0)
    told = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = create_model("enet", 3)
        info = WeightsInfo(spec_of(network))
        save_trained(tmp_path / "best.safetensors", network.state_dict(), epoch=1, which="best", seed=0, info=info)
        told |= {content_of(str(tmp_path), 19), content_of(str(tmp_path / "best.safetensors"), 19)}
    assert len(told) == 2 and all(len(text) == 12 for text in told)
    assert content_of("enet", 19) != content_of("enet", 3)
    for text in ("{}", "[]"):
        (tmp_path / "a.json").write_text(text)
        told.add(content_of(str(tmp_path / "a.json"), 19))
    assert len(told) == 4


@pytest.mark.slow
def test_the_command(typed, tmp_path):
    line = f"bench --model fastscnn --runtime torch,openvino --precision fp32,fp16 --size 64x96 --threads 1 --seconds 0.1 --no-memory --no-end-to-end --out {tmp_path}/b"
    code, out, _ = typed(line)
    assert (
        code == 0
        and "fastscnn" in out
        and "has no fp16" in out
        and (tmp_path / "b/bench.html").read_text().startswith("<!doctype html>")
    )
    made = read_json(tmp_path / "b/bench.json")
    write_json(tmp_path / "old.json", made)
    code, out, _ = typed(f"{line} --against {tmp_path}/old.json")
    assert (
        code == 0
        and "x earlier" in out
        and "1.000" in out
        and [row for row in read_json(tmp_path / "b/bench.json")["rows"] if row["status"] == "measured"]
        == [row for row in made["rows"] if row["status"] == "measured"]
    )
    write_json(tmp_path / "there.json", {**made, "machine": {**made["machine"], "cores": 640}})
    code, out, err = typed(f"{line} --against {tmp_path}/there.json")
    assert code == 1 and "640 cores" in err and err.count("\n") == 1 and not out
    code, out, _ = typed(f"{line} --against {tmp_path}/there.json --other-machine")
    assert code == 0 and "another machine" in out


def test_models_are_read(tmp_path):
    assert len(read_models("all")) > 40 and read_models("stdc,fastscnn,stdc") == ["stdc", "fastscnn"]
    with pytest.raises(ConfigError, match="did you mean 'stdc'"):
        read_models("stdcc")
    with pytest.raises(ArtifactError, match="holds no weights"):
        read_models(str(tmp_path))
    with pytest.raises(ArtifactError, match="does not exist"):
        read_models("none.json")
