"""The latency table: enumeration, the published table, files, building, faults. No timings are asserted here."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from rtseg.core.architecture import Architecture, OpSpec
from rtseg.core.environment import make_generator
from rtseg.core.errors import ArtifactError, ConfigError, DeviceMismatch
from rtseg.core.files import load_foreign_npy
from rtseg.core.load import LoadWatch, Reading
from rtseg.deployment import load_runtime
from rtseg.models.fasterseg import STUDENT, FasterSeg
from rtseg.search import latency_table as module
from rtseg.search.expected import ExpectedLatency
from rtseg.search.latency_table import (
    Entry,
    LatencyTable,
    TableHeader,
    build_table,
    compare_predictions,
    published_spec,
    suspects,
)
from rtseg.search.table_specs import table_specs
from rtseg.search.probes import Probe, ProbeProtocol, as_sources, build_part, medians_agree, time_quietest
from rtseg.search.space import SearchSpace, sample

LASTS = ((2, 1), (2, 0), (1, 0), (2,), (1,), (0,), (2, 1, 0))
SIZE = (64, 128)
FAST = ProbeProtocol(calls=1, min_rounds=1, max_rounds=1, cache_mb=0)
TOY = SearchSpace(
    layers=5,
    base_width=4,
    widths=(6, 12),
    operators=("conv", "skip"),
    teacher_stem=12,
    teacher_head=12,
    student_stem=12,
    student_head=12,
)


@pytest.fixture(scope="session")
def published(shared):
    return load_foreign_npy(shared / "fasterseg" / "latency_lookup_table.npy")


def flat_table(specs, size=SIZE, classes=5, ms=1.0):
    header = TableHeader("a phone", "torch", "fp32", 2, *size, classes)
    return LatencyTable(header, {s.key(): Entry(ms, ms, ms, 5) for s in specs})


# --- which operators --------------------------------------------------------------------------------------------------


def test_the_space_gives_the_published_keys(published):
    ours, theirs = (
        {s.key() for s in table_specs(SearchSpace(), (1024, 2048), 19)},
        {published_spec(name).key() for name in published},
    )
    assert len(published) == len(theirs) == 667 and len(ours) == 665
    assert ours <= theirs
    assert {OpSpec.parse(k) for k in theirs - ours} == {
        OpSpec("conv_bn_act", 512, 1024, 32, 64, 2),
        OpSpec("conv_bn_act", 512, 1024, 48, 96, 2),
    }


@pytest.mark.parametrize(
    "space",
    [
        SearchSpace(),
        SearchSpace(layers=7, base_width=8, widths=(4, 8), student_stem=6, student_head=10),
        SearchSpace(layers=6, base_width=5, widths=(3, 7, 12), teacher_stem=9),
    ],
)
@pytest.mark.parametrize("size", [(256, 512), (360, 480), (90, 121)])
def test_every_sampled_architecture_is_covered(space, size):
    known = set(table_specs(space, size, 11))
    for i in range(42):
        role = "teacher" if i % 3 == 0 else "student"
        arch = sample(space, make_generator(i), role=role, lasts=LASTS[i % len(LASTS)])
        assert set(arch.op_specs(*size, 11)) <= known


# --- the published table ----------------------------------------------------------------------------------------------


def test_published_student(published):
    table = LatencyTable.from_published(published)
    assert table.header.size == (1024, 2048) and len(table.entries) == 667
    assert abs(table.predict(STUDENT) - 5.70184) < 5e-6


def test_published_names_round_trip(published):
    for name, ms in published.items():
        spec = published_spec(name)
        assert f"H{spec.height}_W{spec.width}_" in name and ms > 0
        assert ("downup" in name) == ("downup" in spec.kind) and ("stride2" in name) == (spec.stride == 2)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "conv",
        "ff_H1_W2",
        "ConvNorm_H1_W2_Cin3",
        "Other_H1_W2_Cin3_Cout4_stride1",
        "BasicResidual1x_H1_W2_Cin3_Cout4_stride1_dilation2",
    ],
)
def test_published_names_that_are_none(name):
    with pytest.raises(ArtifactError) as caught:
        published_spec(name)
    assert "\n" not in str(caught.value)


# --- probes -----------------------------------------------------------------------------------------------------------


def probe_specs():
    specs = table_specs(SearchSpace(base_width=4, widths=(6, 12)), SIZE, 5)
    return list({(s.kind, s.height, s.stride, s.kernel, s.in_channels == s.out_channels): s for s in specs}.values())


@pytest.mark.parametrize("spec", probe_specs(), ids=lambda s: s.key())
def test_every_kind_of_operator_can_be_probed(spec):
    x = torch.zeros(1, 3, spec.height, spec.width)
    for work in (False, True):
        y = Probe(spec, work=work).eval()(x)
        assert y.shape == (1, spec.out_channels if work else spec.in_channels, *y.shape[2:])


def test_the_parts_hold_the_whole_networks_parameters():
    for i, lasts in enumerate(LASTS):
        arch = sample(SearchSpace(), make_generator(i), lasts=lasts)
        network = FasterSeg(arch, 19, aux=False)
        idle = sum(p.numel() for p in network.fusion.attention.parameters())
        parts = sum(p.numel() for s in arch.op_specs(64, 128, 19) for p in build_part(s).parameters())
        assert parts == sum(p.numel() for p in network.parameters()) - idle


def test_cut_out_probes_compute_what_the_modules_do():
    specs = [s for s in probe_specs() if s.height == 8]
    probes = [Probe(s, work=True).eval() for s in specs]
    image = np.random.default_rng(0).standard_normal((1, 3, 8, 16), dtype=np.float32)
    assert len(specs) > 8
    for probe, source in zip(probes, as_sources(probes, image.shape, "onnxruntime"), strict=True):
        there, here = (
            load_runtime(s, runtime=r, threads=1).run(image) for s, r in ((source, "onnxruntime"), (probe, "torch"))
        )
        assert there.shape == here.shape and np.abs(there - here).max() < 1e-4


def test_unknown_kind():
    with pytest.raises(ConfigError, match="deconv"):
        build_part(OpSpec("deconv", 8, 8, 8, 8))


def test_rounds_end_when_two_agree_or_time_is_up():
    assert (
        medians_agree([3.0, 1.0, 1.02], 0.03) and not medians_agree([1.0], 0.03) and not medians_agree([1.0, 1.1], 0.03)
    )
    calls = []
    time_quietest(
        [lambda: None], ProbeProtocol(min_rounds=2), clock=lambda c: calls.append(1) or 1.0, stir=lambda: None
    )
    assert len(calls) == 6
    growing = iter(range(1, 10**6))
    (best,) = time_quietest(
        [lambda: None],
        ProbeProtocol(max_rounds=7, max_seconds=60),
        clock=lambda c: float(2 ** next(growing)),
        stir=lambda: None,
    )
    assert best == [2.0, 4.0, 8.0]


# --- the table --------------------------------------------------------------------------------------------------------


def test_prediction_is_the_sum_with_shared_cells_once():
    specs = table_specs(SearchSpace(), SIZE, 5)
    table = flat_table(specs)
    assert table.predict(STUDENT) == 3 + 16 + 3 * 2 + 2
    with pytest.raises(ArtifactError, match="head_h8_w16_i128_o7"):
        table.predict(STUDENT, num_classes=7)


def test_prediction_does_not_change_the_architecture_or_the_table():
    table = flat_table(table_specs(SearchSpace(), SIZE, 5))
    before, arch = dict(table.entries), Architecture.from_dict(STUDENT.to_dict())
    table.predict(arch)
    assert table.entries == before and arch == STUDENT


@pytest.mark.parametrize(
    "wanted",
    [
        {"device": "x"},
        {"runtime": "onnxruntime"},
        {"precision": "bf16"},
        {"threads": 1},
        {"height": 65},
        {"width": 1},
        {"num_classes": 19},
    ],
)
def test_another_device_or_resolution_is_refused(wanted):
    table = flat_table([])
    assert table.require(runtime="torch", height=64) is table
    with pytest.raises(DeviceMismatch) as caught:
        table.require(**wanted)
    assert "\n" not in str(caught.value) and next(iter(wanted)) in str(caught.value)


def test_require_knows_its_words():
    with pytest.raises(ConfigError, match="resolution"):
        flat_table([]).require(resolution=3)


def test_save_and_load(tmp_path):
    table = flat_table(table_specs(TOY, SIZE, 5))
    assert LatencyTable.load(table.save(tmp_path / "t.json")) == table
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.pop("header"),
        lambda d: d.update(entries=[]),
        lambda d: d["header"].pop("device"),
        lambda d: d["header"].update(gpu=1),
        lambda d: d.update(more=1),
        lambda d: d["entries"].update(conv={"ms": 1, "q1": 1, "q3": 1, "runs": 1}),
        lambda d: next(iter(d["entries"].values())).pop("ms"),
        lambda d: next(iter(d["entries"].values())).update(ms=None),
        lambda d: next(iter(d["entries"].values())).update(ms=-1),
        lambda d: d.update(entries={"a": 3}),
    ],
)
def test_damaged_tables(tmp_path, damage):
    path = flat_table(table_specs(TOY, SIZE, 5)).save(tmp_path / "t.json")
    data = json.loads(path.read_text())
    damage(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError) as caught:
        LatencyTable.load(path)
    assert "\n" not in str(caught.value)


def test_missing_and_truncated_files(tmp_path):
    with pytest.raises(ArtifactError, match="absent.json"):
        LatencyTable.load(tmp_path / "absent.json")
    path = flat_table(table_specs(TOY, SIZE, 5)).save(tmp_path / "t.json")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArtifactError, match="t.json"):
        LatencyTable.load(path)


# --- building ---------------------------------------------------------------------------------------------------------


def test_a_killed_build_continues(tmp_path, monkeypatch):
    path, timed = tmp_path / "t.json", []

    def fake(specs, **options):
        for spec in specs:
            timed.append(spec)
            if len(timed) == 30:
                raise KeyboardInterrupt
            yield spec, Entry(1.0, 1.0, 1.0, 5)

    monkeypatch.setattr(module, "time_probes", fake)
    options = dict(size=SIZE, num_classes=5, path=path, protocol=FAST, batch=8)
    with pytest.raises(KeyboardInterrupt):
        build_table(TOY, **options)
    survived = LatencyTable.load(path)
    assert 20 <= len(survived.entries) < 30
    table = build_table(TOY, **options)
    assert set(table.ms) == {s.key() for s in table_specs(TOY, SIZE, 5)}
    assert len(timed) < len(table.ms) + 16
    count = len(timed)
    assert build_table(TOY, **options) == table and len(timed) == count


def test_suspects_are_timed_again_and_the_smaller_value_stays(monkeypatch):
    passes = []

    def fake(specs, **options):
        passes.append(len(specs))
        for spec in specs:
            noisy = spec.key() == outlier.key() and sum(passes) <= len(specs_)
            ms = 1e-4 * spec.in_channels * spec.out_channels * (3 if noisy else 1)
            yield spec, Entry(ms, ms, ms, 5)

    specs_ = [OpSpec("conv", 8, 16, i, o) for i in (8, 16, 24, 32) for o in (8, 16, 24, 32)]
    outlier = specs_[5]
    monkeypatch.setattr(module, "time_probes", fake)
    table = build_table(specs_, size=SIZE, num_classes=5, batch=100)
    assert passes[1] >= 1 and abs(table.latency(outlier) - 1e-4 * outlier.in_channels * outlier.out_channels) < 1e-12
    assert suspects(table.ms) == []


def test_building_refuses_a_table_of_something_else(tmp_path, monkeypatch):
    path = flat_table(table_specs(TOY, SIZE, 5)).save(tmp_path / "t.json")
    before = path.read_bytes()
    with pytest.raises(DeviceMismatch, match="a phone"):
        build_table(TOY, size=SIZE, num_classes=5, path=path, threads=2)
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_real_build_of_a_toy_space(tmp_path, runtime):
    specs = table_specs(TOY, SIZE, 5)[::3]
    table = build_table(
        specs, size=SIZE, num_classes=5, runtime=runtime, threads=1, protocol=FAST, path=tmp_path / "t.json"
    )
    assert set(table.ms) == {s.key() for s in specs} and min(table.ms.values()) >= 0 and max(table.ms.values()) > 0
    assert table.header.runtime == runtime and table.header.device and table.header.created and table.header.versions
    assert LatencyTable.load(tmp_path / "t.json") == table


def test_compare_predictions():
    table = flat_table(table_specs(SearchSpace(), SIZE, 5))
    from rtseg.core.values import Latency

    archs = [sample(SearchSpace(), make_generator(i), lasts=LASTS[i % 7]) for i in range(7)]
    nets = [(a, Latency(table.predict(a) / 1.1, 1, 1, 5, (1, 3, *SIZE), "a phone", "torch", "fp32", 2)) for a in archs]
    report = compare_predictions(table, nets)
    assert abs(report["pearson"] - 1) < 1e-9 and abs(report["mean_error"] - 0.1) < 1e-4 and json.dumps(report)


@pytest.mark.parametrize("widths", [(4, 6, 10), (6,), (4, 8, 12)])
def test_the_table_answers_every_question_of_the_expected_latency(widths):
    space = SearchSpace(layers=6, base_width=4, widths=widths)
    known = set(table_specs(space, (64, 128), 19))

    def lookup(spec):
        assert spec in known, spec.key()
        return 1.0

    for role in ("teacher", "student"):
        assert ExpectedLatency(space, lookup, (64, 128), 19, role=role).constant[1] > 0


def test_a_finished_table_is_not_measured_again(tmp_path):
    """Times differ from one measurement to the next; a search with the same seed needs the same table."""
    spec = OpSpec("conv", 16, 16, 8, 8)
    options = dict(size=(128, 128), path=tmp_path / "table.json", protocol=ProbeProtocol(max_seconds=0.01))
    built = build_table([spec], **options)
    outlier = {**built.entries, spec.key(): Entry(1e6, 1e6, 1e6, 5)}
    LatencyTable(built.header, outlier).save(options["path"])
    assert build_table([spec], **options).ms == {spec.key(): 1e6}


def test_entries_added_to_a_finished_table_are_the_only_ones_measured(tmp_path, monkeypatch):
    """Also where old ones look out of line or were disturbed: they are final."""
    timed = []

    def fake(specs, **options):
        for spec in specs:
            timed.append(spec.key())
            ms = 1e-4 * spec.in_channels * spec.out_channels * (9 if spec.out_channels == 32 else 1)
            yield spec, Entry(ms, ms, ms, 5)

    monkeypatch.setattr(module, "time_probes", fake)
    old = [OpSpec("conv", 8, 16, i, o) for i in (8, 16, 24) for o in (8, 16, 24, 32)]
    new = [OpSpec("conv", 8, 16, 40, o) for o in (8, 16, 24)]
    options = dict(size=SIZE, num_classes=5, path=tmp_path / "t.json", protocol=FAST)
    built = build_table(old, **options)
    assert built.header.settled == len(old) and {s.key() for s in suspects(built.ms)}
    timed.clear()
    more = build_table([*old, *new], **options)
    assert set(timed) == {s.key() for s in new} and list(more.entries)[: len(old)] == list(built.entries)
    assert {key: more.ms[key] for key in built.ms} == built.ms and more.header.settled == len(old) + len(new)
    timed.clear()
    assert build_table([*old, *new], **options) == more == LatencyTable.load(options["path"]) and not timed


# --- beside others ----------------------------------------------------------------------------------------------------


class BusyMachine:
    """Others use what `taken` lists, one number (of two cores) for each step of the clock."""

    def __init__(self, *taken):
        self.taken, self.now, self.worked = list(taken), 0.0, 0.0

    def read(self):
        return Reading(self.now, self.worked, 0.0, 2)

    def sleep(self, seconds):
        self.now, self.worked = self.now + seconds, self.worked + seconds * (self.taken.pop(0) if self.taken else 0.0)


def timed_beside_others(monkeypatch, machine, wait_s=30.0):
    """A table of eight entries that take half a second each, and how often each was timed."""
    counts = Counter()

    def probes(specs, **options):
        for spec in specs:
            machine.sleep(0.5)
            counts[spec.key()] += 1
            yield spec, Entry(1.0 + 0.1 * counts[spec.key()], 1.0, 1.0, 3)

    monkeypatch.setattr(module, "time_probes", probes)
    specs = [OpSpec("conv", 8, 8, 8, 8 * (i + 1)) for i in range(4)]
    watch = LoadWatch(wait_s=wait_s, read=machine.read, clock=lambda: machine.now, sleep=machine.sleep)
    return (
        build_table(specs, size=SIZE, num_classes=5, protocol=FAST, watch=watch),
        [counts[s.key()] for s in specs],
        [s.key() for s in specs],
    )


def test_a_quiet_table_is_timed_once(monkeypatch):
    table, counts, _ = timed_beside_others(monkeypatch, BusyMachine())
    assert (
        counts == [1, 1, 1, 1]
        and table.header.load == {"busy": [], "most": 0.0, "cores": 2, "waited_s": 0.0}
        and "busy" not in str(table.header)
    )


def test_disturbed_entries_are_timed_again_when_it_is_quiet(monkeypatch):
    table, counts, keys = timed_beside_others(
        monkeypatch, BusyMachine(0.0, 0.0, 1.0)
    )  # a look, the first entry, the second entry
    assert counts == [1, 2, 1, 1] and table.header.load["busy"] == [] and table.header.load["most"] == 1.0
    assert table.ms[keys[1]] == 1.1  # the smaller of both


def test_entries_of_a_machine_that_never_gets_quiet_are_marked(monkeypatch, tmp_path):
    table, counts, keys = timed_beside_others(monkeypatch, BusyMachine(*[1.5] * 500), wait_s=3.0)
    assert (
        counts == [1, 1, 1, 1]
        and table.header.load["busy"] == keys
        and "busy: 4 entries were timed while others used the machine" in str(table.header)
    )
    table.save(tmp_path / "t.json")
    assert LatencyTable.load(tmp_path / "t.json").header.load["busy"] == keys
