"""`rtseg nas search`: what it refuses, in one line each, and the training of what it has found."""

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rtseg.cli import nas
from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.core.values import Latency
from rtseg.data.datasets import open_dataset
from rtseg.data.scenes import make_scenes
from rtseg.search.costs import network_cost
from rtseg.search import rulers
from rtseg.search.finding import find_networks
from rtseg.search.judging import recipe_tau
from rtseg.search.rulers import check_quiet
from rtseg.search.spaces import open_space
from rtseg.search.table_latencies import Target
from rtseg.search.table_plan import PlanEntry
from rtseg.search.table_training import TableJob, train_table
from rtseg.search.trained import MeasuredNetwork, TableInfo, TrainedNetwork, TrainedTable, load_table
from rtseg.training.config import TrainConfig

RECIPE = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2, "device": "cpu", "augmentation": None}


def work(arch) -> float:
    return network_cost(arch, (64, 96), num_classes=5).macs / 1e6


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("scenes"), counts={"train": 4, "val": 2, "test": 2}, size=(64, 96))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, scenes):
    """A table of 24 networks of the drawn streets, whose scores grow with their size."""
    space, generator = open_space("street"), torch.Generator().manual_seed(0)
    classes = open_dataset("synthetic", scenes, "train").labels.num_classes
    archs = [space.sample(generator) for _ in range(24)]
    plain = [json.loads(json.dumps(a.to_dict())) for a in archs]
    score = [0.2 + 0.05 * float(np.log(work(a))) for a in archs]
    trained = tuple(
        TrainedNetwork(a.id, d, 0, "brief", i, 0, (1.0,), (s,), s, (s,), 1000, work(a) / 1e3, 1.0)
        for i, (a, d, s) in enumerate(zip(archs, plain, score, strict=True))
    )
    ms = [Latency(work(a), work(a), work(a), 9, (1, 3, 64, 96), "m", "onnxruntime", "fp32", 1) for a in archs]
    info = TableInfo("drawn", "street", {}, "synthetic", classes, (64, 96), (64, 96), {"brief": RECIPE})
    measured = tuple(MeasuredNetwork(a.id, m, d) for a, m, d in zip(archs, ms, plain, strict=True))
    return TrainedTable(info, trained, measured).save(tmp_path_factory.mktemp("table"))


@pytest.fixture
def here(monkeypatch):
    """A device whose milliseconds are the work; `spread` is how far its quartiles lie apart, `checks` are networks that were measured as a whole."""
    device = SimpleNamespace(spread=0.0, checks=[])

    def made(*args, **options):
        entry = SimpleNamespace(ms=2.0, q1=2.0, q3=2.0 + 2 * device.spread)
        header = SimpleNamespace(size=(64, 96), num_classes=5, to_dict=dict)
        return SimpleNamespace(predict=work, entries={"one": entry}, header=header)

    monkeypatch.setattr(nas, "device_table", made)
    monkeypatch.setattr(nas, "find_networks", partial(find_networks, generations=4, size=24))
    monkeypatch.setattr(nas, "check_networks", lambda *args, **options: device.checks)
    return device


def test_the_best_are_trained_once_and_stand_in_the_table(typed, folder, scenes, here, tmp_path):
    line = f"nas search --table {folder} --budget-ms 60 --train 2 --data {scenes} --folder {tmp_path / 'found'}"
    code, out, err = typed(line)
    assert code == 0, err
    records = load_table(tmp_path / "found").trainings
    assert len(records) == 2 and {r.recipe for r in records} == {"brief"} and all(len(r.losses) == 1 for r in records)
    told = out[out.index("percentile among") :]
    assert all(r.network in told and f"{r.test_miou:.3f}" in told for r in records)
    code, out, err = typed(line.replace("--train 2", "--train 3"))
    again = load_table(tmp_path / "found").trainings
    assert code == 0 and again[:2] == records and len(again) == 3, "what is trained is not trained again"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--budget-ms 0.1", "no network of the space street within 0.1 ms .* raise the budget"),
        ("--budget-ms -3", "a budget of -3 ms is none"),
        ("--budget-ms nan", "a budget of nan ms is none"),
        ("--budget-ms inf", "a budget of inf ms is none"),
        ("--budget-ms 60 --train 2", "--train 2 has no pictures .* --data"),
        ("--budget-ms 60 --runtime onnxruntim", "did you mean 'onnxruntime'"),
    ],
)
def test_a_request_that_cannot_be_met_is_told_in_one_line(typed, folder, here, more, words):
    code, _, err = typed(f"nas search --table {folder} {more}")
    assert code not in (0, None)
    assert len(err.strip().splitlines()) == 1
    with pytest.raises(ConfigError, match=words):
        raise ConfigError(err)


def test_a_noisy_device_table_is_told_in_one_line_and_can_be_accepted(typed, folder, here):
    here.spread = 0.4
    code, _, err = typed(f"nas search --table {folder} --budget-ms 60")
    assert code not in (0, None) and len(err.strip().splitlines()) == 1
    assert "is noisy (quartiles 40% apart, at most 15%)" in err and "--accept-noisy" in err
    assert typed(f"nas search --table {folder} --budget-ms 60 --accept-noisy")[0] == 0
    entry = SimpleNamespace(ms=1.0, q1=1.0, q3=1.15)
    assert check_quiet(SimpleNamespace(entries={"a": entry}), folder) == pytest.approx(0.15), "the limit itself passes"


def test_latencies_are_corrected_by_networks_that_were_measured_as_a_whole(folder, here, monkeypatch):
    trained, priced, generator = load_table(folder), nas.device_table(), torch.Generator().manual_seed(8)
    arch, *others = (trained.space.sample(generator) for _ in range(7))
    pairs, said = [(a, work(a) + 30.0) for a in others], []
    slow = [replace(m, latency=replace(m.latency, median_ms=m.latency.median_ms + 10)) for m in trained.latencies]
    many = replace(trained, latencies=(*slow, *slow))
    monkeypatch.setattr(rulers, "device_name", lambda: "m")
    for checks, table, more, words in (
        (pairs, many, 30.0, "corrected by 6 whole networks measured here: within 0.0%, 86% of the time"),
        (pairs[:2], many, 10.0, "corrected by 48 whole networks of drawn"),
        (pairs[:2], trained, 0.0, "plain sums of operators: fewer than three"),
    ):
        latency = rulers.ruler(priced, table, Target(), checks, log=said.append)
        assert latency(arch) == pytest.approx(work(arch) + more, rel=1e-3) and words in said[-1]


def test_networks_are_measured_once_and_those_whose_core_was_taken_are_not_kept(monkeypatch, tmp_path):
    asked, load = [], {"busy": False}

    def measured(space, arch, target, size, num_classes):
        asked.append(arch.id)
        others = {"load": {"busy": True, "before": 1.0, "during": 1.5, "cores": 2, "waited_s": 0.0, "attempts": 1}}
        beside = {"load": {**others["load"], "during": 1.1}}  # the other core is taken, and this one is not
        protocol = others if load["busy"] and len(asked) % 2 else beside
        ms = Latency(7.0, 7.0, 7.0, 9, (1, 3, 64, 96), "m", "onnxruntime", "fp32", 1, ("network",), protocol, {})
        return MeasuredNetwork(arch.id, ms, json.loads(json.dumps(arch.to_dict())))

    monkeypatch.setattr(rulers, "measured_network", measured)
    options = {"count": 4, "folder": tmp_path}
    load["busy"] = True
    assert len(rulers.check_networks(open_space("street"), Target(), (64, 96), 5, **options)) == 2
    load["busy"] = False
    pairs = rulers.check_networks(open_space("street"), Target(), (64, 96), 5, **options)
    assert len(pairs) == 4 and {ms for _, ms in pairs} == {7.0} and len(asked) == 6
    assert rulers.check_networks(open_space("street"), Target(), (64, 96), 5, **options) == pairs and len(asked) == 6


def changed(folder, target, **values):
    """A copy of a table with another header."""
    table = load_table(folder)
    return TrainedTable(TableInfo.from_dict({**table.info.to_dict(), **values}), table.trainings, ()).save(target)


def test_a_table_of_other_classes_space_or_size_is_told_in_one_line(typed, folder, scenes, here, tmp_path):
    ask = f"--budget-ms 60 --train 1 --data {scenes} --folder {tmp_path / 'found'}"
    for values, words in (
        ({"num_classes": 3}, "classes, the table drawn is about 3"),
        ({"space": "streets"}, "did you mean 'street'"),
        ({"space": "fasterseg"}, "no branches|not an architecture|branches"),
        ({"trained_size": [32, 48], "timed_size": [64, 96], "data": "no-such-data"}, "no-such-data"),
    ):
        other = changed(folder, tmp_path / "_".join(values), **values)
        code, _, err = typed(f"nas search --table {other} {ask}")
        assert code not in (0, None) and len(err.strip().splitlines()) == 1
        with pytest.raises(ArtifactError, match=words):
            raise ArtifactError(err)
    assert not (tmp_path / "found").exists()


def test_a_second_recipe_trains_the_same_networks_and_tau_is_said_of_both(tmp_path, scenes):
    """`rtseg nas table --recipe camvid-long` on a table that the short recipe has begun."""
    space, generator = open_space("street"), torch.Generator().manual_seed(0)
    plan = tuple(PlanEntry(json.loads(json.dumps(space.sample(generator).to_dict())), 0, 0, 0) for _ in range(3))
    splits = {n: open_dataset("synthetic", scenes, n, cache="memory") for n in ("train", "val", "test")}
    for name, epochs in (("brief", 1), ("longer", 2)):
        config = TrainConfig.parse({**RECIPE, "epochs": epochs, "lr": 0.05})
        info = TableInfo(
            "t",
            "street",
            {},
            "synthetic",
            splits["train"].labels.num_classes,
            (64, 96),
            (64, 96),
            {name: config.to_dict()},
        )
        records = train_table(TableJob(info, plan, name, config, splits, tmp_path), networks=3, progress=False)
    table = load_table(tmp_path)
    assert len(records) == 6 and set(table.info.recipes) == {"brief", "longer"}
    assert set(table.of("brief")) == set(table.of("longer")) and len(table.of("longer")) == 3
    tau, count = recipe_tau(table, "brief", "longer")
    assert count == 3 and -1 <= tau <= 1


def test_a_table_of_drawn_streets_says_how_they_are_drawn_and_joins_no_other_streets(
    typed, here, tmp_path, monkeypatch
):
    monkeypatch.setattr(nas, "load_recipe", lambda name: TrainConfig.parse(RECIPE))
    scenes = "--dataset synthetic --set data.scene_size=[64,96] --set data.scenes.train=4 --set data.scenes.val=2"
    small = "--set data.scenes.test=2 --set space.stem_widths=[32] --set space.head_widths=[64]"
    line = f"nas table {scenes} {small} --networks 1 --target onnxruntime --range 1,1000 --out {tmp_path}"
    code, _, err = typed(line)
    assert code == 0, err
    table = load_table(tmp_path)
    assert table.info.drawn == {
        "scenes": {"train": 4, "val": 2, "test": 2},
        "size": [64, 96],
        "cast": "full",
        "seed": 0,
    }
    assert table.info.images == {"train": 4, "val": 2, "test": 2} and table.info.trained_size == (64, 96)
    assert table.space.settings.stem_widths == (32,) and len(table.trainings) == 1
    for more, words in (("data.scene_seed=1", "drawn"), ("spaces.x=1", "did you mean 'space'")):
        code, _, err = typed(f"{line} --set {more}")
        assert code not in (0, None) and len(err.strip().splitlines()) == 1 and words in err
