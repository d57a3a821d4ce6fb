"""Explorers: what they show are the numbers of the tables, networks, histories and records behind them, whatever is moved."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ipywidgets import Tab
from plotly.graph_objects import FigureWidget

from rtseg.core.editing import with_operator, with_step, with_width
from rtseg.core.environment import make_generator
from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.core.files import write_json, write_yaml
from rtseg.core.values import Latency
from rtseg.core.architecture import OPERATORS, OpSpec
from rtseg.shipping.bench import BenchCase, BenchRecord, BenchRow
from rtseg.models.contract import count_macs, count_parameters
from rtseg.models.fasterseg import FasterSeg
from rtseg.search import ArchLogits, LatencyTable, SearchSpace, compare_tables, decode, fit_predictor
from rtseg.search.costs import part_cost
from rtseg.search.expected import PAIRS
from rtseg.search.finding import Found, TableSearch
from rtseg.search.health import Health
from rtseg.search.latency_table import TableHeader
from rtseg.search.record import PairScore, SearchRecord
from rtseg.search.spaces import load_architecture
from rtseg.search.street import StreetSpace, street_table_specs
from rtseg.search.table_specs import table_specs
from rtseg.search.trained import load_table
from rtseg.search.probes import Entry
from rtseg.data import make_scenes, open_dataset
from rtseg.explore.architecture_explorer import explore_architecture
from rtseg.explore.front_explorer import explore_front
from rtseg.explore.latency_explorer import explore_latency
from rtseg.explore.latency_parts import choices, layer_times, operator_grid
from rtseg.explore.mask_viewer import explore_masks
from rtseg.explore.run_browser import explore_runs
from rtseg.explore.run_explorers import explore_run
from rtseg.explore.search_replay import explore_search
from rtseg.explore.search_record import probability_maps, read_search
from rtseg.explore.street_editing import with_channels, with_depth, with_part
from rtseg.explore.zoo_explorer import explore_zoo
from rtseg.explore.zoo_points import AXES, Budget, page_of, pareto, read_results

SPACE = SearchSpace(layers=6, base_width=4, widths=(4, 12))
SIZE, CLASSES = (64, 128), 5


def made_table(device: str = "here", rate: float = 20e6, call: float = 0.01) -> LatencyTable:
    """A table of times that follow from the operations."""
    ms = {
        s.key(): part_cost(s).macs / rate + call * (s.kind != "skip" or s.stride == 2)
        for s in table_specs(SPACE, SIZE, CLASSES)
    }
    return LatencyTable(
        TableHeader(device, "onnxruntime", "fp32", 1, *SIZE, CLASSES), {key: Entry(v, v, v, 3) for key, v in ms.items()}
    )


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return made_table()


@pytest.fixture(scope="module")
def networks() -> dict:
    generator = make_generator(0, "tests of explorers")
    return {f"n{i}": SPACE.sample(generator, lasts=PAIRS[i % 2]) for i in range(14)}


def random_edit(arch, generator):
    """A change of `core.editing` with arguments that are often possible."""

    def pick(values):
        return values[int(torch.randint(len(values), (), generator=generator))]

    branch = pick(range(len(arch.branches)))
    layers = len(arch.branches[branch].ops)
    change = pick((with_operator, with_width, with_step))
    more = {
        with_operator: lambda: {"layer": pick(range(layers)), "operator": pick(OPERATORS[1:])},
        with_width: lambda: {"layer": pick(range(layers - 1)), "width": pick(SPACE.widths)},
        with_step: lambda: {"step": 0, "layer": pick(range(layers - 1))},
    }
    return branch, change, more[change]()


def test_an_edited_architecture_costs_what_the_built_network_costs(table, networks):
    explorer, generator = (
        explore_architecture(networks["n1"], latency=table, folder="unused"),
        make_generator(1, "edits"),
    )
    changed = 0
    for _ in range(60):
        branch, change, what = random_edit(explorer.arch, generator)
        before = explorer.arch
        explorer.select(branch, 0)
        explorer.edit(change, **what)
        if explorer.arch == before:
            continue
        changed += 1
        with torch.device("meta"):
            network = FasterSeg(explorer.arch, CLASSES, aux=False)
        attention = sum(p.numel() for name, p in network.named_parameters() if "attention" in name)
        assert explorer.now.macs == count_macs(network, (1, 3, *SIZE))
        assert explorer.now.parameters == count_parameters(network, training=True) - attention
        assert explorer.now.ms == pytest.approx(table.predict(explorer.arch))
        if changed == 10:
            break
    assert changed == 10
    for _ in range(10):
        explorer.undo()
    assert explorer.arch == networks["n1"] and explorer.now == explorer.before


STREET = StreetSpace(
    stems=("plain_stem", "separable_stem"),
    stem_widths=(32,),
    operators=("inverted2", "res_zoom", "stdc"),
    widths=((32,), (32, 64), (64,)),
    depths=((1, 2), (1, 2), (0, 1)),
    heads=("fusion_head", "plain_head"),
    head_widths=(64,),
)


@pytest.fixture(scope="module")
def street_table() -> LatencyTable:
    ms = {s.key(): part_cost(s).macs / 20e6 + 0.01 for s in street_table_specs(STREET, SIZE, CLASSES)}
    header = TableHeader("here", "onnxruntime", "fp32", 1, *SIZE, CLASSES)
    return LatencyTable(header, {key: Entry(v, v, v, 3) for key, v in ms.items()})


@pytest.fixture
def street(street_table, tmp_path):
    arch = STREET.sample(make_generator(0, "street explorer"))
    return explore_architecture(arch, latency=street_table, space=STREET, folder=tmp_path / "saved")


def test_an_edited_street_costs_what_the_built_network_costs(street, street_table):
    """Every control in turn, by lot: cost and milliseconds are those of the network that is drawn."""
    generator, controls, first = make_generator(2, "edits"), street.controls, street.arch
    every = [*controls.frame.values(), *controls.depths, *controls.widths, controls.operator]
    for turn in range(24):
        street.select(turn % len(street.boxes))
        control = every[turn % len(every)]
        if not control.disabled:
            choices = [option for option in control.options if option is not None]
            control.value = choices[int(torch.randint(len(choices), (), generator=generator))]
        assert street.arch in STREET and street.message.value == "", street.message.value
        drawn = [shape.name for shape in street.still().layout.shapes if shape.type == "rect"]
        assert drawn == [box.name for box in street.boxes] and street.controls.part.value == street.place
    with torch.device("meta"):
        network = street.arch.build(CLASSES)
    assert street.now.macs == count_macs(network, (1, 3, *SIZE)) and len(street.history) > 5
    assert street.now.parameters == count_parameters(network)
    assert street.now.ms == pytest.approx(street_table.predict(street.arch))
    for _ in street.history[1:] * 2:
        street.undo()
    assert street.arch == first and street.now == street.before


def test_what_a_street_cannot_be_is_said_and_changes_nothing(street, table, networks):
    before = street.arch
    for change, what, words in (
        (replace, {"stem": "stdc_stem"}, "has no entry"),
        (replace, {"stem": "stdc"}, "did you mean 'stdc_stem'"),
        (replace, {"head_width": 65}, "multiples of 16"),
        (with_part, {"stage": 0, "layer": 7, "operator": "stdc"}, "has layers 0 to"),
        (with_part, {"stage": 0, "layer": 0, "operator": "sdtc"}, "did you mean 'stdc'"),
        (with_depth, {"stage": 1, "depth": 0}, "at least 1"),
        (with_channels, {"stage": 5, "width": 32}, "has stages 0 to"),
    ):
        street.edit(change, **what)
        assert words in street.message.value and street.arch == before and len(street.history) == 1, what
    for wrong in ({"widths": (4,)}, {"space": STREET}):
        arch = before if "widths" in wrong else networks["n1"]
        with pytest.raises(ConfigError, match="no choice of the space"):
            explore_architecture(arch, latency=None, **wrong)
    cells = explore_architecture(networks["n1"], latency=table, folder="unused")
    cells.edit(with_width, layer=0, width=2)  # the table has no so narrow one
    assert "has no entry" in cells.message.value and cells.arch == networks["n1"]


def test_a_saved_street_is_what_train_takes(street):
    street.press("o")
    assert load_architecture(street.save()) == street.arch and "rtseg train --model" in street.message.value
    street.select(1)
    for key, more in (("+", 1), ("-", -1)):
        depth = len(street.arch.stages[0].operators)
        street.press(key)
        assert len(street.arch.stages[0].operators) == max(depth + more, 1)


def test_the_front_of_a_search_is_walked_and_edited(tmp_path):
    arch = load_table("streets-demo").architecture(next(iter(load_table("streets-demo").of())))
    specs = street_table_specs(load_table("streets-demo").space.settings, SIZE, 19)
    header = TableHeader("here", "onnxruntime", "fp32", 1, *SIZE, 19)
    table = LatencyTable(header, {s.key(): Entry(part_cost(s).macs / 20e6 + 0.01, 0, 0, 1) for s in specs})
    archs = sorted((replace(arch, head=head) for head in ("plain_head", "fusion_head")), key=table.predict)
    front = tuple(
        Found(a.id, a.to_dict(), table.predict(a), 0.4 + 0.1 * i, 0.3, 0.6, beats, beats, 0 if beats is None else 9)
        for i, (a, beats) in enumerate(zip(archs, (None, 0.75), strict=True))
    )
    found = TableSearch(front[0].ms, "streets-demo", 46, 0.6, front[0], front)
    write_json(tmp_path / "search" / "found.json", found.to_dict())
    archs[0].save(tmp_path / "search" / "student.json")
    archs[1].save(tmp_path / "random" / "architecture.json")
    table.save(tmp_path / "latency" / "table.json")
    write_yaml(tmp_path / "config.yaml", {"plan": "street", "search": {"table": "streets-demo"}})
    walk = explore_run(tmp_path, "search")
    assert (
        walk.chosen.network == front[0].network
        and "chose" in walk.facts.value
        and "no trained network" in walk.facts.value
    )
    walk.press("ArrowRight")
    assert "above 75% of 9" in walk.facts.value and walk.slider.value == 1
    assert walk.front.data[-1].x == (front[1].ms,) and f"{front[1].ms:.2f} ms" in walk.network.layout.title.text
    walk.press("e")
    assert walk.editor.children and walk.edit().arch == archs[1]
    pair = explore_run(tmp_path, "architecture")
    assert pair.first.arch == archs[1] and pair.second.arch == archs[0]
    assert pair.second.now.ms == pytest.approx(front[0].ms) and "▼" in pair.difference.value
    with pytest.raises(ConfigError, match="give table"):
        explore_front(found)
    with pytest.raises(ArtifactError, match="does not exist"):
        explore_front(tmp_path / "search")


def test_every_row_of_a_table_is_in_one_grid(table):
    seen = 0
    for size, strides in choices(table).items():
        for stride, parts in strides.items():
            for part in parts:
                grid = operator_grid(table, part, size=size, stride=stride)
                for i, row in zip(grid.inputs, grid.ms, strict=True):
                    for o, ms in zip(grid.outputs, row, strict=True):
                        key = OpSpec(part[0], *size, i, o, stride, part[1]).key()
                        assert ms == table.ms.get(key)
                        seen += ms is not None
    assert seen == len(table.entries)


def test_the_heat_map_follows_its_controls(table):
    explorer = explore_latency(table)
    assert list(explorer.figures) == ["operators"]
    explorer.choose(size=(8, 16), part=("conv", 3), stride=2)
    controls, heat = explorer.controls, explorer.figures["operators"].data[0]
    wanted = operator_grid(table, ("conv", 3), size=(8, 16), stride=2)
    assert [list(row) for row in heat.z] == [list(row) for row in wanted.ms] and list(heat.y) == [
        str(i) for i in wanted.inputs
    ]
    controls.part.value = ("conv_2x", 3)
    controls.unit.value = "GMAC/s"
    two = operator_grid(table, ("conv_2x", 3), size=(8, 16), stride=2)
    assert heat.z[0][0] == pytest.approx(two.macs[0][0] / two.ms[0][0] / 1e6) and heat.zmax >= max(map(max, heat.z))
    with pytest.raises(ConfigError, match="holds nothing at"):
        explorer.choose(size=(7, 7))
    with pytest.raises(ConfigError, match="choices"):
        operator_grid(table, ("conv", 3), size=(8, 16), stride=4)


def test_the_bars_of_a_network_add_up_for_both_tables(table, networks):
    other = made_table("there", 60e6, 0.02)
    explorer = explore_latency(table, other=other, networks=networks)
    for name in ("n3", "n4"):
        explorer.controls.network.value = name
        bars = explorer.figures["layers"].data
        assert sum(bars[0].x) == pytest.approx(table.predict(networks[name])) and sum(bars[1].x) == pytest.approx(
            other.predict(networks[name])
        )
        assert len(bars[0].y) == len(set(bars[0].y)), "bars of one name would be drawn on one another"
    partly = LatencyTable(
        other.header, {key: entry for key, entry in other.entries.items() if not key.startswith("head")}
    )
    alone = explore_latency(table, other=partly, networks=networks)
    assert len(alone.figures["layers"].data) == 1 and "has no entry head" in alone.message.value


def test_predicted_against_measured_and_two_tables(table, networks):
    other = made_table("there", 60e6, 0.02)
    pairs = [
        (
            arch,
            Latency(
                1.1 * table.predict(arch),
                1.0,
                2.0,
                9,
                (1, 3, *SIZE),
                "here",
                "onnxruntime",
                "fp32",
                1,
                ("network",),
                {},
                {},
            ),
        )
        for arch in networks.values()
    ]
    predictor = fit_predictor(
        table, [(a, m.median_ms) for a, m in pairs[:5]], [(a, m.median_ms) for a, m in pairs[5:]], coverage=0.8
    )
    explorer = explore_latency(table, other=other, networks=networks, pairs=pairs, predictor=predictor)
    points = explorer.figures["measured"].data[-1]
    assert list(points.x) == [pytest.approx(table.predict(a)) for a in networks.values()] and list(points.y) == [
        pytest.approx(1.1 * x) for x in points.x
    ]
    assert "r = 1.000 · mean absolute error 9.1%" in explorer.figures["measured"].layout.title.text
    explorer.controls.corrected.value = True
    inside = sum(m.median_ms in predictor.predict(a) for a, m in pairs)
    assert (
        f"{inside} of 14 inside" in explorer.figures["measured"].layout.title.text
        and explorer.tab.children[2].children[-1] is explorer.figures["measured"]
    )
    found = compare_tables(table, other)
    explorer.show_view("two tables")
    assert (
        f"rank correlation {found.rank_correlation:.3f}" in explorer.still().layout.title.text
        and found.rank_correlation > 0.9
    )
    assert sum(len(trace.x) for trace in explorer.figures["two tables"].data[1:]) == len(found.keys)
    with pytest.raises(ConfigError, match="at least two pairs"):
        explore_latency(table, pairs=pairs[:1])
    with pytest.raises(ConfigError, match="fitted on the table"):
        explore_latency(other, pairs=pairs, predictor=predictor)
    assert layer_times(networks["n0"], table)[0].name == "stem"


def history(epochs: int = 3, *, scores: bool = True) -> list[SearchRecord]:
    """Records as the search stage writes them, with random logits."""
    records = []
    for epoch in range(1, epochs + 1):
        logits = {
            role: ArchLogits.random(
                6, 5, widths, torch.Generator().manual_seed(10 * epoch + widths), scale=2.0
            ).to_dict()
            for role, widths in (("student", 2), ("teacher", 1))
        }
        record = SearchRecord(
            epoch=epoch,
            step=10 * epoch,
            weight_losses={"student": 1.0},
            arch_losses={"student": 1.0},
            latency_weight=0.01 * 2**epoch,
            expected_ms=2.0,
            decoded_ms=1.9,
            health=Health(0.5, 0.5, 0.5, 0.2, 0.1, 2.0, 1.9, 0.4, f"verdict {epoch}"),
            logits=logits,
        )
        found = tuple(PairScore(pair, 0.1 * epoch + 0.01 * i, 1.0) for i, pair in enumerate(PAIRS))
        records.append(replace(record, scores=found, target_ms=1.5) if scores else record)
    return records


def test_the_replay_shows_what_each_epoch_decodes_to(table):
    records = history()
    replay = explore_search(records, space=SPACE, table=table)
    for index in (0, 2, 1):
        replay.controls.epoch.value = index
        for pair in PAIRS:
            replay.controls.pair.value = pair
            logits = records[index].role_logits("student")
            wanted = decode(logits, SPACE, lasts=pair, latency=table.latency, size=SIZE, num_classes=CLASSES)
            assert replay.decoded == wanted and wanted.latency_ms == pytest.approx(table.predict(wanted.arch))
            assert (
                f"{wanted.latency_ms:.2f} ms predicted" in replay.network.layout.title.text
                and f"verdict {index + 1}" in replay.facts.value
            )
            assert f"mIoU {0.1 * (index + 1) + 0.01 * PAIRS.index(pair):.1%}" in replay.facts.value
        for scale in range(3):
            shown = [[list(row) for row in replay.logits.data[3 * scale + i].z] for i in range(3)]
            assert shown == list(probability_maps(logits, scale).values())
        assert {line.x0 for line in replay.course.layout.shapes} == {index + 1}
    assert list(replay.course.data[-1].y) == [0.02, 0.04, 0.08]
    replay.controls.play.value = 2
    assert replay.epoch == 3 == replay.controls.epoch.value + 1


def test_the_replay_without_table_scores_or_a_target(table):
    replay = explore_search(history(scores=False), space=SPACE, num_classes=CLASSES)
    assert (
        replay.decoded.latency_ms is None
        and replay.controls.ceiling.disabled
        and "not in the history" in replay.course.layout.annotations[1].text
    )
    with pytest.raises(ConfigError, match="no ceiling"):
        replay.choose(ceiling=True)
    with pytest.raises(ConfigError, match="not searched"):
        replay.choose(lasts=(1, 0))
    with pytest.raises(ConfigError, match="need the space"):
        explore_search(history())
    with pytest.raises(ConfigError, match="without logits"):
        explore_search([replace(history()[0], logits={})], space=SPACE)


def test_a_run_folder_is_replayed(table, tmp_path):
    records = history()
    with pytest.raises(ArtifactError, match=r"config\.yaml does not exist"):
        read_search(tmp_path)
    write_yaml(
        tmp_path / "config.yaml",
        {"space": {**SPACE.to_dict(), "widths": list(SPACE.widths), "operators": list(SPACE.operators)}},
    )
    write_json(tmp_path / "search" / "history.json", [record.to_dict() for record in records])
    table.save(tmp_path / "latency" / "table.json")
    last = decode(
        records[-1].role_logits("student"),
        SPACE,
        lasts=PAIRS[0],
        latency=table.latency,
        size=SIZE,
        num_classes=CLASSES,
    )
    last.arch.save(tmp_path / "search" / "student.json")
    replay = explore_search(tmp_path)
    assert (
        replay.lasts == PAIRS[0]
        and replay.decoded.arch == last.arch
        and "the network that the run chose" in replay.facts.value
        and replay.name == tmp_path.name
    )
    replay.controls.epoch.value = 0
    assert "the network that the run chose" not in replay.facts.value
    cheapest = min(replay.recorded.decode(i, "student", PAIRS[0], None).latency_ms for i in range(3))
    replay.ceiling_ms = 0.9 * cheapest
    replay.choose(ceiling=True)
    assert replay.decoded.latency_ms <= 0.9 * cheapest
    replay.ceiling_ms = 1e-3
    replay.choose(ceiling=True)
    assert "shown without a ceiling" in replay.message.value and not replay.use_ceiling
    with pytest.raises(ConfigError, match="leave out space and table"):
        explore_search(tmp_path, space=SPACE)


def bench_row(model: str, ms: float | None, precision: str = "fp32") -> BenchRow:
    case = BenchCase(model, "onnxruntime", precision, 512, 1024, 1)
    if ms is None:
        return BenchRow(case, "absent", "not installed here")
    return BenchRow(
        case,
        "measured",
        "",
        Latency(ms, ms, ms, 9, (1, 3, 512, 1024), "here", "onnxruntime", precision, 1, ("network",), {}, {}),
    )


def test_the_front_holds_exactly_the_points_that_none_beats():
    explorer = explore_zoo()
    for x, y in (("gmacs", "miou"), ("params", "miou"), ("fps", "miou"), ("year", "gmacs")):
        points = [p for p in explorer.points if p[x] is not None and p[y] is not None]
        signs = [1 if AXES[axis].more else -1 for axis in (x, y)]

        def beaten(point, x=x, y=y, points=points, signs=signs):
            gains = [(signs[0] * (q[x] - point[x]), signs[1] * (q[y] - point[y])) for q in points]
            return any(a >= 0 and b >= 0 and a + b > 0 for a, b in gains)

        values = {(p[x], p[y]) for p in points if not beaten(p)}
        explorer.axes(x, y)
        assert {(p[x], p[y]) for p in pareto(points, x, y)} == values
        assert set(zip(explorer.figure.data[1].x, explorer.figure.data[1].y, strict=True)) == values and len(
            explorer.figure.data[0].x
        ) == len(points)


def test_the_budget_leaves_what_is_known_to_fit():
    explorer = explore_zoo(max_gmacs=10, since=2019)
    kept = {p["name"] for p in explorer.points if p["gmacs"] is not None and p["gmacs"] <= 10 and p["year"] >= 2019}
    assert {p["name"] for p in explorer.kept} == kept and "pspnet" not in kept and len(kept) > 5
    assert explorer.controls.limits["gmacs"].value == 10 and explorer.controls.since.value == 2019
    explorer.controls.limits["gmacs"].value = math.inf
    explorer.controls.limits["params"].value = 1.0
    assert {p["name"] for p in explorer.kept} == {
        p["name"] for p in explorer.points if p["params"] is not None and p["params"] <= 1 and p["year"] >= 2019
    }
    assert not Budget(gmacs=1.0).allows({"ms": None, "gmacs": None, "params": 1.0, "year": 2020})
    for wrong in (
        lambda: Budget(params=0),
        lambda: explore_zoo(max_ms=3.0),
        lambda: explore_zoo(x="speed"),
        lambda: explorer.limit(watts=3),
    ):
        with pytest.raises(ConfigError):
            wrong()


def test_measured_latency_and_own_results_become_axes(tmp_path):
    record = BenchRecord(
        {"cpu": "here"},
        "now",
        {},
        (bench_row("fastscnn", 20.0), bench_row("stdc", 90.0), bench_row("smp", None), bench_row("stdc", 40.0, "bf16")),
    )
    path = write_json(tmp_path / "bench.json", record.to_dict())
    for seed, miou in enumerate((0.5, 0.6)):
        write_json(
            tmp_path / "camvid" / f"stdc-seed{seed}.json", {"model": "stdc", "reports": {"test": {"miou": miou}}}
        )
    explorer = explore_zoo(latency=path, results=tmp_path / "camvid", y="own")
    assert list(explorer.figure.data[0].x) == [90.0] and list(explorer.figure.data[0].y) == [55.0]
    explorer.controls.where.value = "onnxruntime bf16, 512 x 1024, 1 thread"
    assert list(explorer.figure.data[0].x) == [40.0] and explorer.front == ["stdc"]
    with pytest.raises(ArtifactError, match="not installed here"):
        explore_zoo(latency=BenchRecord({}, "now", {}, (bench_row("smp", None),)))
    with pytest.raises(ArtifactError, match="no record of a training"):
        read_results(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'fastscnn'"):
        explore_zoo(results={"fastscn": 0.5})


def test_a_point_leads_to_a_page_that_exists(root):
    explorer = explore_zoo()
    for point in explorer.points:
        assert (root / "nbs" / point["page"]).is_file(), point["page"]
    index = list(explorer.figure.data[0].customdata).index("bisenetv2")
    explorer._clicked(None, SimpleNamespace(point_inds=[index]), None)
    assert (
        explorer.chosen == "bisenetv2" == explorer.controls.network.value
        and page_of("bisenetv2") in explorer.links.outputs[0]["data"]["text/html"]
    )
    assert "paper, val" in explorer.facts.value and "2.273" in explorer.facts.value


def test_every_explorer_has_keys_words_and_no_key_that_fails(table, networks, street, tmp_path):
    arch = networks["n1"]
    scenes = make_scenes(tmp_path / "scenes", counts={"val": 2}, size=(32, 64))
    write_yaml(tmp_path / "runs" / "a" / "config.yaml", {"lr": 0.1})
    explorers = {
        "masks": explore_masks(open_dataset("synthetic", scenes, split="val"), {"none": lambda p: p[..., 0] * 0}),
        "architecture": explore_architecture(arch, latency=table, folder=tmp_path / "saved"),
        "street": street,
        "latency": explore_latency(table, networks=networks),
        "search": explore_search(history(), space=SPACE, table=table),
        "runs": explore_runs(tmp_path / "runs"),
        "zoo": explore_zoo(),
    }
    for name, explorer in explorers.items():
        keys = {key: words for key, (words, _) in explorer.keys().items() if words}
        assert {"ArrowLeft", "ArrowRight"} <= set(keys) and explorer.shell.actions.items() >= keys.items(), name
        assert explorer.widget.children[-1] is explorer.shell or name == "masks"
        before = explorer.told()
        assert len(before) > 20 and "<" not in before and explorer.shell.told == before, name
        words = set()
        for key in keys:
            explorer.press(key)
            words.add(explorer.told())
            assert explorer.shell.told == explorer.told(), (name, key)
        assert len(words) > 1 or name == "runs", f"no key changes what {name} shows"
        explorer.press("F13")


def test_what_is_said_stands_beside_the_controls(table, networks):
    for explorer in (
        explore_architecture(networks["n1"], latency=table, folder="unused"),
        explore_latency(table),
        explore_search(history(), space=SPACE, table=table),
        explore_zoo(),
    ):
        parts = list(explorer.widget.children)
        pictures = [i for i, part in enumerate(parts) if isinstance(part, FigureWidget | Tab)]
        assert parts.index(explorer.message) < pictures[0], type(explorer).__name__


def test_sliders_offer_only_places_that_are_possible(table, networks):
    for arch in networks.values():
        explorer = explore_architecture(arch, latency=table, folder="unused")
        for branch, b in enumerate(arch.branches):
            explorer.select(branch, 0)
            for step, slider in enumerate(explorer.controls.steps):
                if step >= len(b.steps):
                    assert slider.layout.display == "none"
                    continue
                for place in slider.options:
                    assert with_step(arch, branch, step=step, layer=place).branches[branch].steps[step] == place
                for place in {*range(len(b.ops))} - {*slider.options}:
                    with pytest.raises(ConfigError):
                        with_step(arch, branch, step=step, layer=place)


def test_the_teacher_has_no_ceiling(table):
    replay = explore_search(history(), space=SPACE, table=table)
    assert replay.controls.ceiling.layout.display == "" and "target" in {
        t.name for t in replay.course.data if t.visible
    }
    replay.choose(role="teacher")
    assert replay.controls.ceiling.layout.display == "none" and "target" not in {
        t.name for t in replay.course.data if t.visible
    }
    with pytest.raises(ConfigError, match="the student's"):
        replay.choose(ceiling=True)
    replay.choose(role="student", ceiling=True)
    assert replay.use_ceiling


def test_links_are_relative_to_the_page_wherever_it_lies(tmp_path, monkeypatch):
    for folder in ("runs/demo/touch", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        monkeypatch.chdir(tmp_path / folder)
        explorer = explore_zoo()
        explorer.choose("fastscnn")
        html = explorer.links.outputs[0]["data"]["text/html"]
        href = html.split("href='", 1)[1].split("'", 1)[0]
        assert Path(href).resolve().is_file() and href.endswith("nbs/models/31_fastscnn.ipynb")
