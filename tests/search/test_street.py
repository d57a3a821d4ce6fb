"""The space `street`: parts, networks under the contract, prices that add up, tables of trained networks and what they refuse."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from rtseg.cli import nas
from rtseg.compression import prune
from rtseg.core.architecture import OpSpec
from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.data.datasets import open_dataset
from rtseg.data.scenes import make_scenes
from rtseg.runtimes.export import to_onnx
from rtseg.runtimes.runtimes import load_runtime, why_absent
from rtseg.models.contract import count_macs, count_parameters
from rtseg.search.arena import TableArena, read_scores
from rtseg.search.costs import Cost, network_cost, part_cost, part_weights
from rtseg.search.finding import table_accuracy
from rtseg.search.latency_table import LatencyTable, TableHeader
from rtseg.search.parts import PARTS, PIECES, ROLES, Part, Picture, build_part, get_part, list_parts, register_part
from rtseg.search.prediction import resizes_of, terms_of, weights_of
from rtseg.search.probes import Entry, Probe, joins_maps
from rtseg.search.space import InfeasibleError
from rtseg.search.spaces import SPACES, open_space
from rtseg.search.street import (
    StreetStage,
    StreetArchitecture,
    StreetSpace,
    inputs_of,
    receptive_field,
    street_table_specs,
)
from rtseg.search.table_latencies import Target, measure_latencies, parse_target
from rtseg.search.table_plan import PlanEntry, bin_edges, draw_between, make_plan, seen_ranges, with_repeats
from rtseg.search.table_training import TableJob, entry_of, planned, train_table, wanted
from rtseg.search.trained import TableInfo, TrainedNetwork, TrainedTable, load_table, read_lines
from rtseg.shipping.quantization import layers_of, quantize_onnxruntime
from rtseg.training.config import TrainConfig
from rtseg.training.recipes import load_recipe
from rtseg.tuning.study import open_storage
from rtseg.viz.streets import plot_street

ROOT = Path(__file__).resolve().parents[2]
spec = spec_from_file_location("ship_table", ROOT / "benchmarks" / "ship_table.py")
ship_table = module_from_spec(spec)
spec.loader.exec_module(ship_table)

FAST = StreetArchitecture(
    "separable_stem",
    64,
    (
        StreetStage(64, ("inverted2",)),
        StreetStage(96, ("inverted4",) * 2),
        StreetStage(128, ("inverted4", "separable5")),
    ),
    "pyramid",
    "fusion_head",
    128,
)


def drawn(count: int, seed: int = 0) -> list[StreetArchitecture]:
    space, generator = StreetSpace(), torch.Generator().manual_seed(seed)
    return [space.sample(generator) for _ in range(count)]


def with_everything() -> list[StreetArchitecture]:
    """A network for each operator, stem, context and head, with two and with three stages."""
    found = [
        replace(FAST, stages=(StreetStage(32, (name, name)), StreetStage(64, (name, name)), StreetStage(96, (name,))))
        for name in list_parts("operator")
    ]
    found += [replace(FAST, stem=s) for s in list_parts("stem")] + [
        replace(FAST, context=c) for c in list_parts("context")
    ]
    return found + [replace(FAST, head=h, stages=FAST.stages[:n]) for h in list_parts("head") for n in (2, 3)]


# --- parts ------------------------------------------------------------------------------------------------------------


def test_every_part_has_name_role_picture_and_prices():
    for name in PARTS.names():
        part = PARTS.get(name)
        assert (
            part.name == name
            and part.role in ROLES
            and part.picture.label
            and part.picture.color.startswith("#")
            and part.__doc__
        )
    assert {role: len(list_parts(role)) for role in ROLES} == {"operator": 10, "stem": 3, "context": 2, "head": 3}


def test_every_piece_is_built_from_its_key_alone():
    for key in {spec.key() for spec in street_table_specs(StreetSpace(widths=((32,), (64,), (128,))), (64, 96), 11)}:
        spec = OpSpec.parse(key)
        out = build_part(spec).eval()(torch.randn(1, spec.in_channels, spec.height, spec.width))
        assert torch.isfinite(out).all() and out.shape[1] == spec.out_channels, key


def test_a_part_with_a_taken_name_or_an_unknown_role_is_refused():
    def make(name: str, role: str) -> type[Part]:
        return type(
            "Made", (Part,), {"name": name, "role": role, "picture": Picture("x", "#000000"), "__doc__": "Made."}
        )

    with pytest.raises(ConfigError, match="registered already"):
        register_part(make("stdc", "operator"))
    with pytest.raises(ConfigError, match="did you mean 'head'"):
        register_part(make("fresh", "heads"))
    assert "fresh" not in PARTS
    with pytest.raises(ConfigError, match="did you mean 'separable3'"):
        get_part("separable33", "operator")
    with pytest.raises(ConfigError, match="stem 'stdc' is unknown"):
        get_part("stdc", "stem")


def test_facts_of_pieces_reach_probe_and_correction():
    zoom, level, fuse = (
        OpSpec("res_zoom", 8, 12, 32, 32),
        OpSpec("plain_level", 4, 6, 64, 32, 2),
        OpSpec("attention_fuse", 8, 12, 96, 64),
    )
    assert [
        resizes_of(s)
        for s in (zoom, level, fuse, OpSpec("conv_bn_act", 8, 8, 8, 8, 1, 1), OpSpec("conv_2x_downup", 8, 8, 8, 8))
    ] == [2, 1, 0, 1, 2]
    assert (
        joins_maps(fuse)
        and not joins_maps(zoom)
        and len(Probe(fuse, work=True).sources) == 2
        and Probe(OpSpec("classify", 8, 12, 32, 11), work=True).whole
    )
    assert weights_of(zoom) == 4e-6 * 9 * 32 * 32 and set(PIECES.names()) > {"skip", "head", "classify"}


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arch", with_everything(), ids=lambda a: f"{a.stem} {a.stages[0].operators[0]} {len(a.stages)} {a.context} {a.head}"
)
def test_networks_keep_the_contract(arch):
    network = arch.build(7).eval()
    for size in ((64, 64), (65, 91), (96, 64)):
        out = network(torch.randn(1, 3, *size))
        assert out.shape == (1, 7, *size) and torch.isfinite(out).all()
    assert network_cost(arch, (96, 160), num_classes=7) == Cost(
        count_parameters(network), count_macs(network, (1, 3, 96, 160))
    )
    trained = arch.build(7, aux=True).train()
    found = trained(torch.randn(2, 3, 64, 96))
    (found.logits.mean() + found.aux[0].mean()).backward()
    assert all(p.grad is not None for p in trained.parameters()) and count_parameters(trained) == count_parameters(
        network
    )


def shipped() -> list[StreetArchitecture]:
    """Five networks that have every stem, context and head, and every operator with stride 1 and 2."""
    operators, found = list_parts("operator"), []
    for i, (one, two) in enumerate(zip(operators[::2], operators[1::2], strict=True)):
        stages = (StreetStage(32, (one,)), StreetStage(48, (one, two)), StreetStage(64, (two,)))
        stem, context, head = (list_parts(role)[i % len(list_parts(role))] for role in ("stem", "context", "head"))
        found.append(StreetArchitecture(stem, 32, stages, context, head, 64))
    return found


def test_five_networks_have_every_part():
    """Operators with stride 1 and with stride 2."""
    made = [
        (role, name) for arch in shipped() for role in ("stem", "context", "head") for name in [getattr(arch, role)]
    ]
    assert set(made) == {(role, name) for role in ("stem", "context", "head") for name in list_parts(role)}
    strides = {(name, stride) for arch in shipped() for _, name, _, _, stride in inputs_of(arch)}
    assert strides == {(name, stride) for name in list_parts("operator") for stride in (1, 2)}


@pytest.mark.parametrize(
    "arch", shipped(), ids=lambda a: f"{a.stages[0].operators[0]} {a.stages[2].operators[0]} {a.head}"
)
def test_every_part_is_exported_quantised_pruned_and_drawn(arch):
    torch.manual_seed(0)
    image = np.random.default_rng(0).standard_normal((1, 3, 72, 104), dtype=np.float32)
    network = arch.build(5)
    with torch.no_grad():
        network.train()(torch.from_numpy(image).repeat(2, 1, 1, 1))  # norms that are not the identity
        wanted_logits = network.eval()(torch.from_numpy(image)).numpy()
    graph = to_onnx(network, image.shape, dynamic_batch=False)
    for runtime in ("onnxruntime", "openvino"):
        if runtime == "openvino" and why_absent(runtime):
            continue
        found = load_runtime(graph, runtime=runtime, threads=1).run(image)
        assert np.abs(found - wanted_logits).max() < 1e-3 * np.abs(wanted_logits).max(), runtime
    rough = quantize_onnxruntime(graph, [image], keep=())
    assert sum(node.op_type == "QuantizeLinear" for node in rough.graph.node) >= len(layers_of(graph)) - 1
    found = load_runtime(rough, runtime="onnxruntime", threads=1).run(image)
    assert 0 < np.abs(found - wanted_logits).max() < 0.5 * np.abs(wanted_logits).max()
    if not find_spec("torch_pruning"):
        return
    before, drawn_boxes = count_parameters(network), plot_street(arch).layout.shapes
    pruned = prune(network, ratio=0.4, example_size=(64, 96)).model.eval()
    assert count_parameters(pruned) < 0.8 * before and pruned(torch.randn(1, 3, 64, 96)).shape == (1, 5, 64, 96)
    assert sum(shape.type == "rect" for shape in drawn_boxes) == 6 + (arch.context != "no_context")


def test_architectures_are_values():
    for arch in drawn(20):
        again = StreetArchitecture.from_dict(json.loads(json.dumps(arch.to_dict())))
        assert again == arch and again.id == arch.id and hash(again) == hash(arch) and arch.id in str(arch)
    assert len({a.id for a in drawn(50)}) == 50
    for data, words in (
        ({"branches": []}, "no stages"),
        (None, "no stages"),
        ({**FAST.to_dict(), "stemm": 3}, "did you mean 'stem'"),
    ):
        with pytest.raises(ArtifactError, match=words):
            StreetArchitecture.from_dict(data)
    for wrong, words in (
        (dict(head="fusion"), "did you mean 'fusion_head'"),
        (dict(stages=()), "two or three stages"),
        (dict(stages=(*FAST.stages[:2], StreetStage(64, ()))), "each with an operator"),
        (dict(stem_width=0), "multiples of 16"),
        (dict(stem_width="64"), "multiples of 16"),
        (dict(head_width=64.0), "multiples of 16"),
        (dict(stages=("abc", "abc")), "no StreetStage"),
    ):
        with pytest.raises(ConfigError, match=words):
            replace(FAST, **wrong)


def test_the_field_of_view_is_what_gradients_see():
    arch = StreetArchitecture(
        "plain_stem",
        32,
        (StreetStage(32, ("res_conv_2x",)), StreetStage(64, ("separable5",))),
        "no_context",
        "plain_head",
        64,
    )
    network = arch.build(3).eval()
    for m in network.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.constant_(m.weight, 1e-2)
    image = torch.ones(1, 3, 192, 192, requires_grad=True)
    x = (
        network.stages(network.stem(image))
        if isinstance(network.stages, nn.Sequential)
        else network.stages[1](network.stages[0](network.stem(image)))
    )
    x[0, 0, 6, 6].backward()
    seen = (image.grad[0, 0].abs().sum(0) > 0).sum().item()
    assert seen == receptive_field(arch) == 15 + 8 * 4 + 8 * 4


# --- the space --------------------------------------------------------------------------------------------------------


def test_the_space_walks_samples_and_mutates_within_itself():
    tiny = StreetSpace(
        operators=("stdc", "separable3"),
        stems=("plain_stem",),
        stem_widths=(32,),
        widths=((32,), (64,), (96, 128)),
        depths=((1,), (1, 3), (0, 2)),
        contexts=("no_context",),
        heads=("plain_head",),
        head_widths=(64,),
    )
    everyone = set(tiny.enumerate())
    assert len(everyone) == tiny.count() == 2 * (2 + 8) * (1 + 2 * 4)
    generator, arch = torch.Generator().manual_seed(1), next(iter(everyone))
    for _ in range(300):
        arch = tiny.mutate(arch, generator)
        assert arch in everyone and arch in tiny and tiny.sample(generator) in everyone
    assert (
        FAST not in tiny
        and FAST in StreetSpace()
        and len({tuple(tiny.encode(a).tolist()) for a in everyone}) == len(everyone)
    )


def test_spaces_are_found_by_name_and_refuse_unknown_settings():
    assert SPACES.names() == ["fasterseg", "street"]
    for name, settings, words in (
        ("stret", {}, "did you mean 'street'"),
        ("street", {"operators": ["sdtc"]}, "did you mean 'stdc'"),
        ("street", {"depth": 3}, "did you mean 'depths'"),
        ("street", {"depths": [[0], [1], [1]]}, "at least one operator"),
        ("street", {"widths": [[32], [64, 100], [128]]}, r"widths \[100\] are not multiples of 16"),
        ("street", {"stem_widths": [0]}, "multiples of 16"),
        ("street", {"heads": ["stdc"]}, "head 'stdc' is unknown"),
    ):
        with pytest.raises(ConfigError, match=words):
            open_space(name, settings)


def test_latency_is_predicted_with_stem_and_head():
    """A table whose rows are proportional to the work predicts each network's work exactly."""
    space = StreetSpace(stem_widths=(32,), widths=((32,), (64, 96), (128,)))
    specs, generator = street_table_specs(space, (96, 128), 11), torch.Generator().manual_seed(3)
    table = LatencyTable(
        TableHeader("d", "onnxruntime", "fp32", 1, 96, 128, 11),
        {s.key(): Entry(1e-6 * part_cost(s).macs, 0, 0, 1) for s in specs},
    )
    for arch in (space.sample(generator) for _ in range(10)):
        assert abs(table.predict(arch) - 1e-6 * network_cost(arch, (96, 128), num_classes=11).macs) < 1e-9
        terms = terms_of(arch.op_specs(96, 128, 11), table.predict(arch))
        assert abs(terms[5] - 4e-7 * sum(map(part_weights, arch.op_specs(96, 128, 11)))) < 1e-12
    with pytest.raises(ArtifactError, match="has no entry"):
        table.predict(replace(FAST, stem_width=80))


# --- plans and tables -------------------------------------------------------------------------------------------------


def work_of(arch) -> float:
    return network_cost(arch, (96, 128), num_classes=5).macs / 1e6


def test_plans_are_spread_and_repeatable():
    space = open_space("street")
    plan = make_plan(space, [work_of, lambda a: 3 * work_of(a)], [(25, 200), (75, 600)], networks=16, repeats=4, bins=4)
    assert plan == make_plan(
        space, [work_of, lambda a: 3 * work_of(a)], [(25, 200), (75, 600)], networks=16, repeats=4, bins=4
    )
    edges = bin_edges(25, 200, 4)
    for entry in plan:
        assert (
            edges[entry.bin]
            <= work_of(space.read(entry.architecture)) * (1 + 1e-12)
            < edges[entry.bin + 1] * (1 + 1e-9)
        )
    assert (
        sorted(e.bin for e in plan if e.seed == 2) == [0, 1, 2, 3]
        and len({space.read(e.architecture).id for e in plan}) == 16
    )
    with pytest.raises(InfeasibleError, match="change the range"):
        draw_between(space, work_of, 0.01, 0.02, generator=torch.Generator(), taken=set(), patience=20)
    for low, high, bins in ((0, 5, 3), (5, 5, 3), (5, float("inf"), 3), (1, 2, 0)):
        with pytest.raises(ConfigError, match="range"):
            bin_edges(low, high, bins)


TINY = {
    "operators": ["separable3"],
    "stem_widths": [32],
    "widths": [[32], [64], [96]],
    "depths": [[1], [1, 2], [0, 1]],
    "heads": ["plain_head"],
    "head_widths": [64],
}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    root = make_scenes(tmp_path_factory.mktemp("scenes"), counts={"train": 4, "val": 2, "test": 2}, size=(64, 96))
    return {name: open_dataset("synthetic", root, name, cache="memory") for name in ("train", "val", "test")}


def plain_plan(plan):
    """A plan as it comes out of a file."""
    return tuple(PlanEntry.from_dict(json.loads(json.dumps(e.to_dict()))) for e in plan)


def make_job(folder, splits, **config) -> TableJob:
    space = open_space("street", TINY)
    plan = make_plan(space, [work_of], [(1, 1000)], networks=3, repeats=1, bins=1)
    plan = plain_plan(plan)
    settings = TrainConfig.parse(
        {"epochs": 2, "steps_per_epoch": 2, "batch_size": 2, "device": "cpu", "augmentation": None, **config}
    )
    info = TableInfo(
        "tiny",
        "street",
        TINY,
        "synthetic",
        splits["train"].labels.num_classes,
        (64, 96),
        (64, 96),
        {"brief": settings.to_dict()},
        {k: len(v) for k, v in splits.items()},
    )
    return TableJob(info, plan, "brief", settings, splits, folder)


def test_a_table_is_trained_loaded_and_measured(tmp_path, splits):
    job = make_job(tmp_path, splits)
    records = train_table(job, networks=1, progress=False)
    assert [(r.entry, r.seed) for r in records] == [(0, 0)]
    records = train_table(job, networks=3, progress=False)
    assert len(records) == 5 and all(
        len(r.val_miou) == len(r.losses) == 2 and 0 <= r.test_miou <= 1 and r.receipt["commit"] is not False
        for r in records
    )
    assert {r.network for r in records if r.seed} == {records[i].network for i in range(5) if records[i].seed} and len(
        {r.network for r in records}
    ) == 3
    assert measure_latencies(tmp_path, [Target()], max_seconds=0.05) == 0
    table = load_table(tmp_path)
    assert (
        table.trainings == tuple(records)
        and table.devices() == ["onnxruntime fp32 1"]
        and set(table.ms("onnxruntime fp32 1")) == {r.network for r in records}
    )
    again = table.architecture(records[0].network).build(job.info.num_classes)
    assert count_parameters(again) == records[0].parameters and table.recipes() == ["brief"]
    shipping_brings_what_is_finished(tmp_path, job)


def shipping_brings_what_is_finished(tmp_path, job):
    """The journal's trainings and the latencies that nobody disturbed; a shipped training that the folder lacks is an error."""
    table, package, results = load_table(job.folder), tmp_path / "package", tmp_path / "results" / job.info.name
    TrainedTable(table.info, table.trainings[:1], ()).save(package / job.info.name)
    results.mkdir(parents=True)
    (results / "README.md").write_text("before <!-- counts --><!-- end --> after")
    busy = {"load": {"busy": True, "before": 1.0, "during": 1.5, "cores": 2, "waited_s": 0.0, "attempts": 1}}
    first, *others = table.latencies
    disturbed = replace(first, latency=replace(first.latency, protocol=busy))
    TrainedTable(table.info, (), (disturbed, *others)).save(job.folder)
    shipped = ship_table.ship(job.folder, package=package, results=tmp_path / "results")
    assert load_table(package / job.info.name).trainings == table.trainings == shipped.trainings
    assert first.network not in {m.network for m in shipped.latencies if m.device == first.device}
    told = (results / "README.md").read_text()
    assert f"\nDone: {len(table.trainings)} trainings by brief, of {len(table.of())} networks" in told
    assert "The plan: 5 trainings of 3 networks" in told
    assert told.startswith("before") and told.endswith("after") and (results / "study.journal").is_file()
    lost = replace(table.trainings[0], seed=7)
    TrainedTable(table.info, (*table.trainings, lost), ()).save(package / job.info.name)
    with pytest.raises(ConfigError, match="lacks 1 trainings that are shipped"):
        ship_table.ship(job.folder, package=package, results=tmp_path / "results")
    with pytest.raises(ConfigError, match="no study.journal: give the folder where workers train"):
        ship_table.ship(package / job.info.name, package=package, results=tmp_path / "results")


def test_a_journal_of_something_else_is_refused(tmp_path, splits):
    job = make_job(tmp_path, splits)
    train_table(job, networks=1, progress=False)
    for other, word in (
        (make_job(tmp_path, splits, lr=0.3), "recipe"),
        (replace(job, plan=job.plan[1:]), "plan"),
        (replace(job, info=replace(job.info, space="fasterseg", settings={})), "space"),
        (replace(job, info=replace(job.info, num_classes=3)), "classes"),
        (replace(job, info=replace(job.info, data="camvid")), "data"),
    ):
        with pytest.raises(ConfigError, match=f"holds another search .{word}|another {word}"):
            train_table(other, networks=1, progress=False)
    with pytest.raises(ConfigError, match="3 networks, not 9"):
        wanted(job.plan, 9)
    assert planned(open_storage(None, tmp_path)) == list(job.plan)


def test_a_plan_grows_by_new_networks_behind_its_own(tmp_path, monkeypatch):
    space = open_space("street", TINY)
    begun = plain_plan(make_plan(space, [work_of], [(1, 1000)], networks=3, repeats=1, bins=1))
    grown = make_plan(space, [work_of], [(1, 1000)], networks=6, repeats=2, bins=1, begun=begun)
    assert tuple(grown[: len(begun)]) == begun and [e.seed for e in grown[len(begun) :]] == [0, 0, 0, 1, 2]
    assert len({space.read(e.architecture).id for e in grown}) == 6
    ((low, high),) = seen_ranges(space, [work_of], begun)
    assert all(low <= work_of(space.read(e.architecture)) < high for e in begun)
    with pytest.raises(ConfigError, match="made for 1 targets, and 0 are given"):
        seen_ranges(space, [], begun)
    monkeypatch.setattr(nas, "device_table", lambda *a, **k: SimpleNamespace(predict=work_of))
    how = {"size": (64, 96), "classes": 3, "repeats": None, "folder": tmp_path}
    begun = list(begun)
    assert nas.table_plan(begun, space, [Target()], [], networks=2, **how) == begun
    more = nas.table_plan(begun, space, [Target()], [], networks=4, **how)
    assert more[: len(begun)] == begun and len({space.read(e.architecture).id for e in more}) == 4
    assert all(low <= work_of(space.read(e.architecture)) < high for e in more)


def test_repetitions_that_nobody_began_can_be_left_out(tmp_path, splits):
    job = make_job(tmp_path, splits, epochs=1)
    assert [e.seed for e in job.plan] == [0, 0, 0, 1, 2]
    first = train_table(job, networks=1, progress=False)
    fewer = replace(job, plan=tuple(with_repeats(job.plan, 0)))
    records = train_table(fewer, networks=3, progress=False)
    assert records[: len(first)] == first and [r.seed for r in records] == [0, 0, 0]
    storage = open_storage(None, tmp_path)
    assert planned(storage) == planned(storage, job.recipe) == list(fewer.plan)
    assert planned(storage, "of another recipe") == list(fewer.plan)
    with pytest.raises(ConfigError, match="plan"):  # three are handed out by now, and this one has another third
        train_table(replace(job, plan=(*job.plan[:2], *job.plan[3:], job.plan[2])), networks=1, progress=False)
    trial = SimpleNamespace(
        suggest_int=lambda *a: 3,
        number=9,
        study=SimpleNamespace(get_trials=lambda **k: [], user_attrs={"plan": [e.to_dict() for e in fewer.plan]}),
        user_attrs={},
    )
    with pytest.raises(ConfigError, match="entry 3 is none of the plan's 3: another worker has shortened it"):
        job(trial)


def test_a_grown_table_trains_its_new_networks_only(tmp_path, splits):
    job = make_job(tmp_path, splits, epochs=1)
    job = replace(job, plan=job.plan[:1])
    first = train_table(job, networks=1, progress=False)
    space = open_space("street", TINY)
    plan = make_plan(space, [work_of], [(1, 1000)], networks=2, repeats=0, bins=1, begun=job.plan)
    larger = replace(job, plan=plain_plan(plan))
    records = train_table(larger, networks=2, progress=False)
    assert records[:1] == first and [(r.entry, r.seed) for r in records] == [(0, 0), (1, 0)]
    assert planned(open_storage(None, tmp_path)) == list(larger.plan)
    assert train_table(larger, networks=2, progress=False) == records
    with pytest.raises(ConfigError, match="plan"):
        train_table(job, networks=1, progress=False)  # whoever asks for the shorter plan is told
    assert measure_latencies(tmp_path, [Target()], max_seconds=0.02) == 0
    timed = load_table(tmp_path).latencies
    assert measure_latencies(tmp_path, [Target()], max_seconds=0.02) == 0 and load_table(tmp_path).latencies == timed


WORKER = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from test_street import make_job, open_dataset, train_table
splits = {{n: open_dataset("synthetic", {root!r}, n, cache="memory") for n in ("train", "val", "test")}}
train_table(make_job(Path({folder!r}), splits, epochs=12), networks=3)
"""


def test_a_worker_killed_at_any_time_loses_nothing_and_nothing_is_done_twice(tmp_path, splits, one_thread):
    folder, root = tmp_path / "table", str(splits["train"].samples[0].image.parents[3])
    code = WORKER.format(tests=str(os.path.dirname(__file__)), root=root, folder=str(folder))
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    started = time.time()
    while not any(len(p.read_text().splitlines()) >= 3 for p in folder.glob("unfinished/brief/trials/*/metrics.jsonl")):
        assert process.poll() is None and time.time() - started < 120
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    job = make_job(folder, splits, epochs=12)
    begun = [
        json.loads(line)
        for p in folder.glob("unfinished/brief/trials/*/metrics.jsonl")
        for line in p.read_text().splitlines()
        if line.endswith("}")
    ]
    records = train_table(job, networks=3, progress=False)
    assert [r.entry for r in records] == [0, 1, 2, 3, 4]
    resumed = [
        r
        for r in records
        if any(abs(r.losses[line["epoch"] - 1] - sum(line["losses"].values())) < 1e-4 for line in begun)
    ]
    assert resumed, "the killed training was begun anew"
    fresh = replace(job, folder=tmp_path / "other").train(resumed[0].entry, tmp_path / "again")
    assert fresh.losses == resumed[0].losses and fresh.test_miou == resumed[0].test_miou


def test_entries_are_handed_out_once():
    class Told:
        def __init__(self, number, **attrs):
            self.number, self.user_attrs = number, attrs

    trials = [Told(0), Told(1, retry_of=0), Told(2), Told(3, reason="surplus"), Told(4, reason="diverged"), Told(5)]
    assert [entry_of(n, trials) for n in (0, 2, 4, 5)] == [0, 1, 2, 3]


def test_damaged_tables_and_unknown_targets_are_refused(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"network": "a"}\n')
    with pytest.raises(ArtifactError, match="line 1"):
        read_lines(tmp_path / "t.jsonl", TrainedNetwork)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_lines(tmp_path / "absent.jsonl", TrainedNetwork)
    with pytest.raises(ConfigError, match="table"):
        load_table("no-such-table")
    for text, words in (
        ("openvno", "did you mean 'openvino'"),
        ("onnxruntime:fp33", "allowed are fp32, fp16, int8"),
        ("onnxruntime::1", "precision of runtime"),
        ("onnxruntime:fp32:0", "write runtime:precision:threads|is none"),
        ("onnxruntime:fp32:1.5", "is none"),
    ):
        with pytest.raises(ConfigError, match=words):
            parse_target(text)
    for text in ("80,10", "-1,5", "nan,5", "1,inf", "0,0", "10", "a,b"):
        with pytest.raises(ConfigError, match="lower and the upper latency"):
            nas.read_range(text)


def test_a_table_with_nothing_in_it_or_with_scores_that_are_none(tmp_path):
    whole = load_table("streets-demo")
    empty = TrainedTable(whole.info, (), ()).save(tmp_path / "empty")
    assert load_table(empty).of() == {} and load_table(empty).devices() == []
    with pytest.raises(ConfigError, match="has 0 trained networks: a prediction needs 20"):
        table_accuracy(load_table(empty))
    with pytest.raises(ConfigError, match="holds no latency: measure its networks"):
        TableArena(load_table(empty), device="onnxruntime fp32 1", budget_ms=10)
    for name, value in (("test_miou", float("nan")), ("val_miou", []), ("val_miou", [0.1, float("inf")])):
        lines = [json.dumps(t.to_dict()) for t in whole.trainings[:2]]
        lines[1] = json.dumps({**json.loads(lines[1]), name: value})
        (empty / "trainings.jsonl").write_text("\n".join(lines))
        with pytest.raises(ArtifactError, match="line 2 is damaged .*not numbers between 0 and 1"):
            load_table(empty)
    for damage in ("[]", '{"supernet": 3}', '{"supernet": {"price": 1}}'):
        (empty / "scores.json").write_text(damage)
        with pytest.raises(ArtifactError):
            read_scores(empty)


def test_the_recipes_of_the_table_are_frozen():
    """What tables in use were trained with: a change here needs a new name."""
    frozen = {
        "camvid-short": (14, 8, "adamw", 0.003, "fp32", None, "one_cycle"),
        "camvid-brief": (10, 4, "adamw", 0.01, "fp32", 0.997, "one_cycle"),
    }
    for name, facts in frozen.items():
        r = load_recipe(name)
        known = (r.epochs, r.batch_size, r.optimizer, r.lr, r.precision, r.ema_decay, r.schedule.kind)
        assert known == facts, name
    brief, long = load_recipe("camvid-brief"), load_recipe("camvid-long")
    changed = {k for k, v in brief.to_dict().items() if long.to_dict()[k] != v}
    assert changed == {"epochs", "schedule"} and long.epochs == 4 * brief.epochs
