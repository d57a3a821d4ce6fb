"""The plan that searches by a table of trained networks: what it refuses, what it finds, and that files of its networks open again."""

import json
from types import SimpleNamespace

import pytest
import torch

from rtseg.core.errors import ConfigError, RtsegError
from rtseg.core.weights import NetworkSpec
from rtseg.explore.run_explorers import explore_run, run_architectures
from rtseg.models.loading import build_spec, spec_of
from rtseg.runs.config import StreetConfig, load_preset, parse_run, with_recipes
from rtseg.runs.estimate import FormulaTable
from rtseg.runs.lots import draw_random
from rtseg.runs.plans import STREET
from rtseg.runs.steps import fitting_table, searched_space
from rtseg.runs.table_search import search_budget, search_table
from rtseg.search.inherit import derive
from rtseg.search.spaces import load_architecture
from rtseg.search.trained import TrainedTable, load_table
from rtseg.training.config import TrainConfig
from rtseg.training.recipes import load_recipe
from rtseg.viz.latency import table_panels

CONFIG = load_preset("demo").with_values({"search.generations": 6, "search.size": 24, "random.tolerance": 0.1})
WORK = FormulaTable((128, 256), 19)


@pytest.fixture(scope="module")
def found():
    return search_table(CONFIG, WORK, search_budget(CONFIG, WORK), 19)


def test_the_found_network_keeps_the_budget_and_is_expected_above_networks_as_fast(found):
    assert WORK.predict(found.student) == pytest.approx(found.best.ms, abs=1e-3) and found.best.ms <= found.budget_ms
    assert found.student in searched_space(CONFIG).settings
    assert found.best.compared >= 5 and found.best.beats > 0.8
    assert found.best.low < found.best.miou < found.best.high and found.tau > 0.2


def test_networks_by_lot_are_of_the_space_and_as_fast(found):
    stage = SimpleNamespace(config=CONFIG)
    lots = draw_random(stage, WORK, found.student, count=2)
    assert lots == draw_random(stage, WORK, found.student, count=2) and len({*lots, found.student}) == 3
    assert all(abs(WORK.predict(arch) / found.best.ms - 1) <= 0.1 for arch in lots)
    assert all(arch in searched_space(CONFIG).settings for arch in lots)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"search.budget_ms": 0.001}, "no network of the space street within 0.001 ms.* raise the budget"),
        ({"search.table": "streets-dmeo"}, "did you mean 'streets-demo'"),
        ({"search.table": "camvid-street"}, "the data has 19 classes, the table camvid-street is about 11"),
    ],
)
def test_what_cannot_be_searched_is_told_in_one_line(change, words):
    config = CONFIG.with_values(change)
    with pytest.raises(RtsegError, match=words) as told:
        search_table(config, WORK, search_budget(config, WORK), 19)
    assert "\n" not in str(told.value)


def test_a_table_of_another_space_or_of_too_few_networks_is_refused(tmp_path):
    table = load_table("streets-demo")
    info = type(table.info).from_dict({**table.info.to_dict(), "space": "fasterseg", "settings": {}})
    other = TrainedTable(info, table.trainings, ()).save(tmp_path / "other")
    with pytest.raises(ConfigError, match="is about the space fasterseg: choose one of the space street"):
        fitting_table(str(other), 19)
    few = TrainedTable(table.info, table.trainings[:9], ()).save(tmp_path / "few")
    config = CONFIG.with_values({"search.table": str(few)})
    with pytest.raises(ConfigError, match="has 9 trained networks: a prediction needs 20 at least"):
        search_table(config, WORK, 5.0, 19)


def test_the_shipped_table_is_of_one_recipe_and_says_how_its_streets_are_drawn():
    table, demo = load_table("streets-demo"), load_preset("demo").data
    assert table.recipes() == ["streets-demo"] and len(table.of()) >= 30 and table.info.num_classes == 19
    drawn = {"scenes": demo.scenes.to_dict(), "size": [128, 256], "cast": "plain", "seed": 0}
    assert table.info.drawn == json.loads(json.dumps(drawn))
    assert TrainConfig.parse(table.info.recipes["streets-demo"]) == load_recipe("streets-demo")


def test_a_group_begins_with_its_recipe():
    data = with_recipes({"student": {"recipe": "streets-demo", "epochs": 3, "augmentation": {"flip": 0.0}}, "seed": 4})
    config = parse_run({"plan": "street", **data})
    assert isinstance(config, StreetConfig) and config.seed == 4
    assert (config.student.epochs, config.student.lr, config.student.augmentation.crop) == (3, 0.003, (128, 256))
    assert config.student.augmentation.flip == 0.0
    with pytest.raises(ConfigError, match="did you mean 'streets-demo'"):
        with_recipes({"student": {"recipe": "streets-dmeo"}})


def test_a_file_of_weights_names_its_network_and_any_json_is_built(tmp_path):
    arch = searched_space(CONFIG).sample(torch.Generator().manual_seed(5))
    (tmp_path / "student.json").write_text(json.dumps(arch.to_dict()))
    assert load_architecture(tmp_path / "student.json") == arch == derive(tmp_path / "student.json", 7).arch
    network = derive(arch, 7)
    spec = NetworkSpec.from_dict(json.loads(json.dumps(spec_of(network).to_dict())))
    again = build_spec(spec)
    assert spec.model == "street" and again.arch == arch and again.num_classes == 7
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}


def test_the_explorers_read_the_run_and_say_what_they_cannot_show(tmp_path):
    arch = searched_space(CONFIG).sample(torch.Generator().manual_seed(5))
    for name in ("config.yaml", "search/student.json", "latency/table.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "config.yaml").write_text("plan: street\n")
    (tmp_path / "search/student.json").write_text(json.dumps(arch.to_dict()))
    assert run_architectures(tmp_path) == {"student": arch}
    with pytest.raises(RtsegError, match="no space of FasterSeg's"):
        explore_run(tmp_path, "search")


def test_a_table_of_the_space_is_drawn_operator_by_operator():
    specs = searched_space(CONFIG).table_specs((128, 256), 19)
    panels = table_panels({spec.key(): 1.0 for spec in specs})
    assert {kind for rows in panels.values() for kind, _ in rows} >= set(searched_space(CONFIG).settings.operators)


def test_the_plan_needs_no_teacher_and_no_supernet():
    assert [stage.name for stage in STREET][2:5] == ["search", "student", "random"]
    assert not [name for stage in STREET for name in stage.needs if "teacher" in name or "pretrain" in name]
