"""Tables through any runtime: a fake runtime with known costs is predicted exactly; extend, merge, compare; corrections and intervals on synthetic data."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from rtseg.compression.pruning import prune
from rtseg.core.architecture import OpSpec
from rtseg.core.environment import make_generator
from rtseg.core.errors import ArtifactError, ConfigError, DeviceMismatch
from rtseg.core.values import Latency
from rtseg.deployment import RUNTIMES, Runtime
from rtseg.latency import targets as targets_module
from rtseg.runtimes.export import to_onnx
from rtseg.latency.targets import latency_of
from rtseg.models import create_model
from rtseg.models.contract import count_macs
from rtseg.models.fasterseg import FasterSeg
from rtseg.search import probes as probes_module
from rtseg.search.latency_table import LatencyTable, TableHeader, build_table
from rtseg.search.table_specs import table_specs
from rtseg.search.layerwise import (
    FEATURES,
    LayerPrices,
    fit_prices,
    from_networks,
    from_records,
    layer_features,
    node_features,
    prices_of,
)
from rtseg.search.prediction import (
    LADDER,
    TERMS,
    PredictedLatency,
    Predictor,
    choose_strength,
    conformal_width,
    deal_again,
    fit_predictor,
    judge,
    shrunk_fit,
    terms_of,
    weights_of,
)
from rtseg.search.probes import Entry, ProbeProtocol, build_part
from rtseg.search.space import SearchSpace, sample
from rtseg.search.tables import Comparison, compare_tables, extend_table, merge_tables, rank_correlation, ranks
from rtseg.viz.predictions import plot_intervals, plot_tables

SIZE = (64, 128)
TOY = SearchSpace(
    layers=5,
    base_width=4,
    widths=(6, 12),
    operators=("conv", "skip", "conv_2x_downup"),
    teacher_stem=12,
    teacher_head=12,
    student_stem=12,
    student_head=12,
)
LASTS = ((2, 1), (2, 0), (2,), (1,), (1, 0), (0,), (2, 1, 0))
ONCE = ProbeProtocol(calls=1, min_rounds=1, max_rounds=1, cache_mb=0)
HEADER = TableHeader("a laptop", "onnxruntime", "fp32", 1, *SIZE, 5)


def table_from(ms, header=HEADER):
    return LatencyTable(header, {key: Entry(v, v, v, 5) for key, v in ms.items()})


def arithmetic(proto):
    """Milliseconds of a graph in the fake runtime: convolutions by their arithmetic, resizes by their output."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    return sum(
        1000 * sum(v for k, v in found.items() if k.endswith("_gmac")) + found.get("resize_mb", 0)
        for found in node_features(graph)
    )


class FakeRuntime(Runtime):
    """Runs nothing; a call returns the milliseconds that its graph is charged."""

    name = "fake"
    takes_pixels = False

    def __init__(self, source, *, threads=None, precision="fp32", shape=None):
        self.threads, self.precision = threads or 1, precision
        if isinstance(source, nn.Module) and RUNTIMES.metadata("fake")["package"] == "torch":
            self.cost = 0.7 + count_macs(source, shape) / 1e6
        else:
            self.cost = 0.7 + arithmetic(
                source if isinstance(source, onnx.ModelProto) else to_onnx(source, shape, dynamic_batch=False)
            )

    @contextmanager
    def ready(self, image):
        yield lambda: self.cost

    def run(self, image):
        return image

    def versions(self):
        return {"fake": "1"}


def enter(monkeypatch, package):
    monkeypatch.setitem(
        RUNTIMES._entries, "fake", (FakeRuntime, {"package": package, "extra": None, "precisions": ("fp32",)})
    )
    monkeypatch.setattr(probes_module, "clock_of", lambda device: lambda call: call())


@pytest.fixture
def fake(monkeypatch):
    """A runtime 'fake' that takes modules and charges their multiply-accumulates; its clock reads what a call returns."""
    enter(monkeypatch, "torch")


@pytest.fixture
def fake_graphs(monkeypatch):
    """The same for ONNX graphs, in which resizes are charged too."""
    enter(monkeypatch, "onnx")


# --- through a runtime ------------------------------------------------------------------------------------------------


def test_a_fake_runtime_is_predicted_exactly(fake):
    archs = [sample(TOY, make_generator(i), lasts=LASTS[i % 7]) for i in range(7)]
    specs = list(dict.fromkeys(s for a in archs for s in a.op_specs(*SIZE, 5)))
    table = build_table(specs, size=SIZE, num_classes=5, runtime="fake", protocol=ONCE)
    assert (
        table.header.runtime == "fake"
        and table.header.versions == {"fake": "1"}
        and set(table.ms) == {s.key() for s in specs}
    )
    for arch in archs:
        whole = FakeRuntime(FasterSeg(arch, 5, aux=False).eval(), shape=(1, 3, *SIZE)).cost - 0.7
        assert abs(table.predict(arch) / whole - 1) < 1e-4, (arch, table.predict(arch), whole)


@pytest.mark.slow
def test_graphs_of_a_fake_runtime_add_up_too(fake_graphs):
    arch = sample(TOY, make_generator(1), lasts=(1, 0))
    table = build_table(arch.op_specs(*SIZE, 5), size=SIZE, num_classes=5, runtime="fake", protocol=ONCE)
    whole = FakeRuntime(FasterSeg(arch, 5, aux=False).eval(), shape=(1, 3, *SIZE)).cost - 0.7
    assert abs(table.predict(arch) / whole - 1) < 2e-3


def test_the_head_is_timed_with_its_output():
    spec = OpSpec("head", 8, 16, 16, 5)
    x = torch.zeros(1, 3, 8, 16)
    assert probes_module.Probe(spec, work=True).eval()(x).shape == (1, 5, 64, 128)
    assert probes_module.Probe(spec, work=False).eval()(x).shape == (1, 16, 1, 1)


# --- extend, merge, compare -------------------------------------------------------------------------------------------


def test_extending_keeps_old_rows_and_adds_the_missing(fake, tmp_path):
    narrow = replace_space(TOY, operators=("conv",))
    first = build_table(narrow, size=SIZE, num_classes=5, runtime="fake", protocol=ONCE)
    marked = LatencyTable(first.header, {k: Entry(1e6, 1e6, 1e6, 1) for k in first.ms})
    grown = extend_table(marked, TOY, path=tmp_path / "t.json")
    assert set(grown.ms) == {s.key() for s in table_specs(TOY, SIZE, 5)} > set(first.ms)
    assert all(grown.ms[k] == 1e6 for k in first.ms) and max(v for k, v in grown.ms.items() if k not in first.ms) < 1e3
    assert LatencyTable.load(tmp_path / "t.json") == grown and len(marked.entries) == len(first.entries)


def replace_space(space, **changes):
    return SearchSpace(**{**space.to_dict(), **changes})


def test_a_second_resolution_in_one_table(fake):
    arch = sample(TOY, make_generator(0))
    table = build_table(arch.op_specs(*SIZE, 5), size=SIZE, num_classes=5, runtime="fake", protocol=ONCE)
    both = extend_table(table, arch.op_specs(128, 256, 5))
    assert (
        both.predict(arch) == table.predict(arch)
        and 3.9 < both.predict(arch, size=(128, 256)) / both.predict(arch) < 4.1
    )
    with pytest.raises(ArtifactError, match="no entry"):
        table.predict(arch, size=(128, 256))


def test_another_machine_cannot_extend():
    with pytest.raises(DeviceMismatch, match="a laptop"):
        extend_table(table_from({}), [OpSpec("conv", 8, 8, 8, 8)])


KEYS = [OpSpec("conv", 8, 8, c, 16).key() for c in (8, 16, 24, 32, 40)]


def test_merging_takes_over_and_keeps_the_quieter():
    a, b = (
        table_from(dict(zip(KEYS, (1, 2, 3), strict=False))),
        table_from(dict(zip(KEYS[1:], (2.1, 2.8, 4), strict=False))),
    )
    merged = merge_tables(a, b)
    assert merged.ms == dict(zip(KEYS, (1, 2, 2.8, 4), strict=False)) == merge_tables(b, a).ms
    assert merged.header.protocol["merged"]["in_both"] == 2 and merged.header.protocol["merged"]["conflicts"] == 0
    assert len(a.entries) == 3 and "merged" not in a.header.protocol


def test_merging_refuses_a_conflict_unless_asked():
    a, b = table_from({KEYS[0]: 1.0, KEYS[1]: 1.0}), table_from({KEYS[0]: 1.05, KEYS[1]: 2.0})
    with pytest.raises(ConfigError, match="1 of 2 rows.*i16") as caught:
        merge_tables(a, b)
    assert "\n" not in str(caught.value)
    merged = merge_tables(a, b, conflict="quieter")
    assert (
        merged.ms == a.ms
        and merged.header.protocol["merged"]["conflicts"] == 1
        and merged.header.protocol["merged"]["greatest_difference"] == 1.0
    )
    with pytest.raises(ConfigError, match="quiet"):
        merge_tables(a, b, conflict="quiet")


@pytest.mark.parametrize(
    "change",
    [
        {"device": "a phone"},
        {"runtime": "torch"},
        {"precision": "bf16"},
        {"threads": 2},
        {"height": 128},
        {"num_classes": 19},
        {"versions": {"onnxruntime": "0"}},
    ],
)
def test_merging_refuses_other_circumstances(change):
    with pytest.raises(DeviceMismatch) as caught:
        merge_tables(table_from({}), table_from({}, replace(HEADER, **change)))
    assert "\n" not in str(caught.value) and next(iter(change)) in str(caught.value)


def test_a_merged_table_can_be_extended_and_read_again(fake, tmp_path):
    one = build_table([OpSpec("conv", 8, 8, 8, 8)], size=SIZE, num_classes=5, runtime="fake", protocol=ONCE)
    two = build_table([OpSpec("conv", 8, 8, 8, 16)], size=SIZE, num_classes=5, runtime="fake", protocol=ONCE)
    merged = merge_tables(one, two)
    assert LatencyTable.load(merged.save(tmp_path / "m.json")).ms == merged.ms
    assert len(extend_table(merged, [OpSpec("conv", 8, 8, 16, 16)]).ms) == 3


def test_comparing_two_devices():
    a = table_from(dict(zip(KEYS, (1, 2, 3, 4, 5), strict=True)))
    b = table_from(dict(zip(KEYS, (2, 4, 6, 8, 1), strict=True)), replace(HEADER, device="a phone"))
    found = compare_tables(a, b)
    assert abs(found.rank_correlation - rank_correlation([1, 2, 3, 4, 5], [2, 3, 4, 5, 1])) < 1e-12 and found.ratio == (
        2.0,
        2.0,
        2.0,
    )
    assert found.by_kind() == {"conv": 2.0} and Comparison.from_dict(found.to_dict()) == found
    assert sum(len(t.x) for t in plot_tables(found).data[1:]) == 5
    with pytest.raises(DeviceMismatch, match="device"):
        compare_tables(a, b, same=("device",))
    with pytest.raises(ConfigError, match="share 0 rows"):
        compare_tables(a, table_from({OpSpec("conv", 9, 9, 8, 8).key(): 1.0}))
    with pytest.raises(ConfigError, match="speed"):
        compare_tables(a, b, same=("speed",))


def test_ranks_share_ties():
    assert ranks([5, 1, 5, 5]).tolist() == [2, 0, 2, 2]
    assert abs(rank_correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) - 0.8) < 1e-12
    with pytest.raises(ConfigError):
        rank_correlation([1, 1, 1], [1, 2, 3])


# --- the correction and its interval ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made_up():
    """A table of the full space, ninety networks, and their terms."""
    space = SearchSpace()
    table = table_from(
        {
            s.key(): 1e-8 * s.height * s.width * s.in_channels * s.out_channels / s.stride
            for s in table_specs(space, SIZE, 5)
        }
    )
    archs = [sample(space, make_generator(1, i), lasts=LASTS[i % 7]) for i in range(90)]
    return table, archs, np.array([terms_of(a.op_specs(*SIZE, 5), table.predict(a)) for a in archs])


def test_the_terms(made_up):
    table, archs, terms = made_up
    for arch, row in zip(archs[:5], terms, strict=False):
        specs = arch.op_specs(*SIZE, 5)
        weights = sum(m.weight.numel() for s in specs for m in build_part(s).modules() if isinstance(m, nn.Conv2d))
        assert row[0] == table.predict(arch) and row[1] == 1 and abs(row[2] - len(specs) / 10) < 1e-12
        assert abs(row[5] - 4e-7 * weights) < 1e-9 and abs(sum(map(weights_of, specs)) - 4e-6 * weights) < 1e-8
    assert len(TERMS) == terms.shape[1]


def test_an_exact_table_gets_no_correction(made_up):
    table, archs, terms = made_up
    assert choose_strength(terms[:12], terms[:12, 0]) == LADDER[-1]
    predictor = fit_predictor(
        table, list(zip(archs[:12], terms[:12, 0], strict=True)), list(zip(archs[12:31], terms[12:31, 0], strict=True))
    )
    assert not predictor.corrected and predictor.half_width < 1e-12 and predictor.to_dict()["strength"] == "none"
    assert abs(predictor.predict(archs[50]).ms - terms[50, 0]) < 1e-9


@pytest.mark.parametrize(
    "truth",
    [
        (1.2, 0, 0, 0, 0, 0),
        (1.0, 1.5, 0, 0, 0, 0),
        (1.05, 0, 0.5, 0, 0, 0),
        (1.0, 0, 0, 0, 0, 0.3),
        (0.9, 0.3, 0.1, 0.2, 0.1, 0.1),
    ],
)
def test_a_missing_overhead_is_found(made_up, truth):
    table, archs, terms = made_up
    measured = terms @ np.array(truth)
    predictor = fit_predictor(
        table, list(zip(archs[:20], measured[:20], strict=True)), list(zip(archs[20:39], measured[20:39], strict=True))
    )
    found = judge(predictor, list(zip(archs[39:], measured[39:], strict=True)))
    assert found["corrected"]["mean_absolute_error"] < 0.01 < found["sum"]["mean_absolute_error"]
    assert found["corrected"]["pearson"] > 0.999 and len(found["rows"]) == 51


def test_shrinking_ends_at_the_plain_sum(made_up):
    _, _, terms = made_up
    measured = terms @ np.array([1.1, 0.5, 0.2, 0, 0, 0])
    far = [np.abs(shrunk_fit(terms, measured, s) - np.eye(6)[0]).sum() for s in (1e-3, 10.0, 1e4, np.inf)]
    assert far[0] > far[2] > far[3] == 0


def test_conformal_width_is_the_promised_rank():
    assert conformal_width([-0.3, 0.1, 0.2] + [0.0] * 6, 0.9) == 0.3
    assert conformal_width([0.1] * 18 + [5.0], 0.9) == 0.1 and conformal_width([0.1] * 18 + [5.0], 0.95) == 5.0
    for errors, coverage in (([0.1] * 8, 0.9), ([0.1] * 18, 0.95), ([0.1], 1.0), ([0.1], 0.0)):
        with pytest.raises(ConfigError):
            conformal_width(errors, coverage)


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_intervals_hold_what_they_promise(made_up, coverage):
    table, archs, terms = made_up
    noise = np.random.default_rng(3).standard_t(4, len(archs)) * 0.03
    networks = list(zip(archs, (1.1 * terms[:, 0] + terms[:, 1]) * (1 + noise), strict=True))
    found = deal_again(table, networks, fit=15, calibration=19, coverage=coverage, deals=12)
    assert coverage - 0.04 < found["coverage_measured"] < coverage + 0.06 and found["mean_absolute_error"] < 0.05


def test_an_interval_is_relative_to_the_measured_time():
    p = Predictor(table_from({}), (1.0,), 0.25, 0.9, float("inf"))
    assert p.half_width == 0.25
    interval = PredictedLatency(10.0, 10 / 1.25, 10 / 0.75, 0.9)
    assert (
        8.0 in interval and 13.3 in interval and 7.9 not in interval and 13.4 not in interval and "90%" in str(interval)
    )


def test_fitting_refuses_shared_and_missing_networks(made_up):
    table, archs, terms = made_up
    networks = list(zip(archs, terms[:, 0], strict=True))
    for fit, calibration in (
        (networks[:12], networks[11:31]),
        (networks[:2], networks[12:31]),
        (networks[:12], networks[12:15]),
    ):
        with pytest.raises(ConfigError) as caught:
            fit_predictor(table, fit, calibration)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="leave none"):
        deal_again(table, networks[:31], fit=12, calibration=19)


def test_the_picture_counts_the_misses():
    predictions = [PredictedLatency(10.0, 9.0, 11.0, 0.9)] * 4
    figure = plot_intervals(predictions, [10.0, 9.5, 12.0, 11.0])
    assert [len(t.x) for t in figure.data] == [3, 1] and "3 of 4" in figure.layout.title.text


# --- outside the space ------------------------------------------------------------------------------------------------


def test_features_of_a_graph():
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 1, 1, groups=4),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8),
        nn.AvgPool2d(2),
    )
    found = dict(zip(FEATURES, layer_features(to_onnx(layers, (1, 3, 16, 16), dynamic_batch=False)), strict=True))
    assert (
        found["dense_gmac"] == pytest.approx(256 * 27 * 8e-9)
        and found["grouped_gmac"] == pytest.approx(256 * 18 * 8e-9)
        and found["depthwise_gmac"] == pytest.approx(256 * 9 * 8e-9)
    )
    assert (
        found["convs"] == pytest.approx(0.3) and found["others"] == pytest.approx(0.1) and found["pointwise_gmac"] == 0
    )


def test_prices_are_found_and_never_negative():
    rows = np.random.default_rng(0).gamma(2, 1, (80, len(FEATURES)))
    truth = np.array([5, 0, 30, 0, 1, 0.5, 0.2, 0, 0.4, 2.0])
    assert np.allclose(prices_of(rows, rows @ truth, ridge=0.0), truth, atol=1e-6)
    assert prices_of(rows, rows @ truth).min() >= 0


def test_a_layer_without_record_is_refused():
    seen = tuple(name != "depthwise_gmac" for name in FEATURES)
    model = LayerPrices((1.0,) * len(FEATURES), seen, 0.5, 0.9, "rows of the table")
    with pytest.raises(ConfigError, match="rows of the table hold nothing of depthwise_gmac"):
        model.predict(np.ones(len(FEATURES)))
    prediction = model.predict(np.array([float(s) for s in seen]))
    assert prediction.ms == len(FEATURES) - 1 and 2 * prediction.ms in prediction


def test_judgements_on_a_synthetic_zoo():
    generator = np.random.default_rng(0)
    rows, truth = generator.gamma(2, 1, (60, len(FEATURES))), np.arange(1.0, 11.0)
    zoo = {f"n{i}": (row, float(row @ truth * generator.normal(1, 0.1))) for i, row in enumerate(rows)}
    found = from_networks(zoo, coverage=0.8, deals=40)
    assert 0.74 < found["coverage_measured"] < 0.93 and found["mean_absolute_error"] < 0.2 and found["refused"] == 0
    exact = from_records(rows, rows @ truth, zoo)
    assert exact["refused"] == {} and exact["mean_absolute_error"] < 0.12 and len(exact["predicted"]) == 60
    with pytest.raises(ConfigError, match="too few"):
        from_networks(dict(list(zoo.items())[:9]))
    fitted = fit_prices(rows[:30], rows[:30] @ truth, (rows[30:], rows[30:] @ truth), coverage=0.9)
    assert fitted.half_width < 0.05 and all(fitted.seen)


# --- aiming at milliseconds -------------------------------------------------------------------------------------------


def test_latency_of_hands_on_what_it_was_asked(monkeypatch):
    asked = {}
    monkeypatch.setattr(targets_module, "load_runtime", lambda model, **options: asked.update(options) or model)
    monkeypatch.setattr(
        targets_module,
        "measure_latency",
        lambda held, shape, **options: Latency(float(held.out_channels), 1, 1, 3, shape, "d", "r", "fp32", 1),
    )
    found = latency_of(runtime="onnxruntime", threads=1, size=(32, 64))(nn.Conv2d(3, 7, 1), (1, 3, 512, 1024))
    assert (
        asked == {"runtime": "onnxruntime", "threads": 1, "precision": "fp32", "shape": (1, 3, 32, 64)}
        and found.median_ms == 7
        and found.shape == (1, 3, 32, 64)
    )
    assert latency_of(runtime="torch")(nn.Conv2d(3, 4, 1), (1, 3, 8, 8)).shape == (1, 3, 8, 8)
    for wrong in ({"runtime": "onyx"}, {"runtime": "onnxruntime", "precision": "int4"}, {"size": (0, 4)}):
        with pytest.raises(ConfigError):
            latency_of(**wrong)


@pytest.mark.slow
def test_pruning_aims_at_the_milliseconds_of_a_runtime(monkeypatch):
    monkeypatch.setattr(targets_module, "load_runtime", lambda model, **options: model)
    monkeypatch.setattr(
        targets_module,
        "measure_latency",
        lambda held, shape, **options: Latency(count_macs(held, shape) / 1e6, 1, 1, 3, shape, "d", "r", "fp32", 1),
    )
    measure = latency_of(runtime="onnxruntime", size=(128, 128))
    network = create_model("fastscnn", 5).eval()
    before = measure(network, (1, 3, 64, 64)).median_ms
    cut = prune(network, latency_ms=0.6 * before, measure=measure, example_size=(64, 64))
    assert 0.4 * before < measure(cut.model, (1, 3, 64, 64)).median_ms <= 0.6 * before
