"""Defaults that the machine answers: what the processor is, the fastest way, what is remembered, refused and kept. All timings are invented here."""

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from rtseg.core.choosing import HOPELESS, choice_path, choose, pick, put_aside, time_ways, times
from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.core.machine import available_cores, bf16_instructions, cache_folder, instruction_sets, processor_record
from rtseg.core.precision import Way, answer, cpu_ways
from rtseg.core.run_folder import RunFolder
from rtseg.core.speed import SpeedScore, speed_score
from rtseg.data.augmentation import Augmentation
from rtseg.data.datasets import open_dataset
from rtseg.data.loading import Batch, reading_workers
from rtseg.data.scenes import make_scenes
from rtseg.runtimes.runtimes import RUNTIMES, why_absent
from rtseg.evaluation.ways import scoring_precision
from rtseg.models.registry import create_model
from rtseg.cli.main import app
from rtseg.runs.config import keep_settled, list_presets, load_preset, parse_run
from rtseg.cli.doctor import doctor_text, examine
from rtseg.runs.opening import open_run
from rtseg.runs.stage import Stage
from rtseg.runs.steps import cached_table, usable_cache
from rtseg.runs.plan import find_stage
from rtseg.search.pretraining import PretrainConfig, pass_precision, pretrain, settle_passes
from rtseg.search.space import SearchSpace
from rtseg.search.supernet import Supernet
from rtseg.training.config import TrainConfig
from rtseg.training.recipes import list_recipes, load_recipe
from rtseg.training.trainer import Trainer
from rtseg.training.ways import Rehearsal, as_begun, pays, probe_sizes, settle, settle_compile, settle_run, wrong_ways


class Clock:
    """A clock that only moves when a way runs."""

    def __init__(self):
        self.now, self.runs = 0.0, []

    def __call__(self):
        return self.now

    def way(self, name, *seconds):
        def run():
            done = self.runs.count(name)
            self.runs.append(name)
            self.now += seconds[min(done, len(seconds) - 1)]

        return run


def timer(**seconds):
    """Invented seconds by precision; contiguous takes a tenth more."""
    return lambda ways: {name: seconds[name.split()[0]] * (1.1 if "contiguous" in name else 1.0) for name in ways}


LAPTOP, SERVER = (
    dict(timer=timer(fp32=0.1, bf16=0.9), native=False),
    dict(timer=timer(fp32=0.24, bf16=0.1), native=True),
)


# ---- the processor


@pytest.mark.parametrize(
    "sets, ceiling, expected",
    [
        (("avx2",), "", False),
        (("avx512f", "avx512_vnni"), "", False),
        (("avx512_bf16",), "", True),
        (("amx_bf16",), "DEFAULT", True),
        (("bf16",), "", True),
        (("avx512_bf16",), "AVX2", False),
        (("avx512_bf16",), "avx512_core_vnni", False),
        (("avx512_bf16",), "AVX512_CORE_BF16", True),
        ((), "", False),
    ],
)
def test_bf16_needs_instructions_that_may_be_used(sets, ceiling, expected):
    assert bf16_instructions(sets, ceiling=ceiling) is expected


@pytest.mark.parametrize(
    "files, most",
    [
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({}, None),
        ({"cpu.max": "what"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_cores_are_those_of_the_container(tmp_path, files, most):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cores(tmp_path) == (most or available_cores(tmp_path / "none")) >= 1


def test_caches_have_one_home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("latency", "x.json") == tmp_path / "rtseg/latency/x.json"


@pytest.mark.parametrize(
    "device, processes, cores, expected",
    [("cpu", 1, 64, 0), (None, 1, 64, 0), ("cuda", 1, 2, 1), ("cuda", 1, 16, 8), ("cuda", 4, 16, 3), ("cuda", 8, 4, 1)],
)
def test_reading_processes_follow_the_machine(device, processes, cores, expected):
    assert reading_workers(device, processes, cores=cores) == expected


# ---- the choice


def test_a_disturbed_run_decides_nothing():
    clock = Clock()
    quick, slow = (1.0, 9.0, 0.2, 0.1), (1.0, 0.2, 0.3)
    taken = time_ways(
        {"quick": clock.way("quick", *quick), "slow": clock.way("slow", *slow)}, budget=0.0, rounds=(3, 9), clock=clock
    )
    assert taken["quick"] == pytest.approx(0.1) and taken["slow"] == pytest.approx(0.2)
    assert clock.runs == ["quick", "slow"] * 4, "in turns"


def test_small_steps_do_not_fill_the_budget():
    clock = Clock()
    time_ways({"fp32": clock.way("fp32", 0.001), "bf16": clock.way("bf16", 0.001)}, budget=1.0, clock=clock)
    assert clock.now == pytest.approx(2 * 0.001 * 16) and len(clock.runs) == 32


def test_a_hopeless_way_runs_twice_and_others_until_the_budget_is_spent():
    clock = Clock()
    ways = {"fp32": clock.way("fp32", 0.1), "bf16": clock.way("bf16", 1.01 * HOPELESS * 0.1)}
    taken = time_ways(ways, budget=2.0, clock=clock)
    assert clock.runs.count("bf16") == 2 and clock.now >= 2.0 and taken["bf16"] == pytest.approx(0.404)


@pytest.mark.parametrize(
    "seconds, taken",
    [
        ({"fp32": 1.0, "bf16": 0.96}, "fp32"),
        ({"fp32": 1.0, "bf16": 0.94}, "bf16"),
        ({"bf16": 1.0, "fp32": 1.0}, "bf16"),
    ],
)
def test_ties_go_to_the_way_that_is_named_first(seconds, taken):
    assert pick(seconds) == taken


@pytest.mark.parametrize("ratio, text", [(9.31, "9 times slower"), (2.44, "2.4 times slower"), (1.01, "no slower")])
def test_ratios_in_words(ratio, text):
    assert times(ratio, "slower") == text


@pytest.fixture
def asking(tmp_path):
    """A question with invented seconds, how often it was timed, and what was said."""
    said, timed = [], []

    def ask(seconds=(0.1, 0.9), words="a step"):
        def timing(ways):
            timed.append(list(ways))
            return dict(zip(ways, seconds, strict=True))

        return choose(
            {"fp32": print, "bf16": print}, asked={"step": words}, folder=tmp_path, say=said.append, timer=timing
        )

    return ask, said, timed, choice_path({"step": "a step"}, tmp_path)


def test_a_choice_is_timed_once(asking):
    ask, said, timed, path = asking
    first = ask()
    assert (
        ask(seconds=(0.9, 0.1)) == first and first.taken == "fp32" and len(timed) == 1 and path.is_file() and not said
    )
    assert ask(words="another step", seconds=(0.9, 0.1)).taken == "bf16" and len(timed) == 2
    assert json.loads(path.read_text())["processor"] == processor_record()


def other_machine(data):
    return data | {"processor": data["processor"] | {"cpu": "Another Processor"}}


DAMAGES = {
    "half a file": lambda text: text[: len(text) // 2],
    "nothing": lambda text: "",
    "no object": lambda text: "[1, 2]",
    "a field less": lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "taken"}),
    "a field more": lambda text: json.dumps(json.loads(text) | {"colour": "blue"}),
    "other ways": lambda text: json.dumps(json.loads(text) | {"seconds": {"int8": 1.0}}),
    "words for seconds": lambda text: json.dumps(json.loads(text) | {"seconds": ["fp32", "bf16"]}),
    "a way that was not timed": lambda text: json.dumps(json.loads(text) | {"taken": "int8"}),
    "another machine": lambda text: json.dumps(other_machine(json.loads(text))),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_cache_that_cannot_be_used_is_said_in_one_line_and_kept(asking, damage):
    ask, said, timed, path = asking
    ask()
    spoilt = DAMAGES[damage](path.read_text())
    path.write_text(spoilt)
    assert ask().taken == "fp32" and len(timed) == 2 and len(said) == 1 and "\n" not in said[0] and str(path) in said[0]
    assert path.with_suffix(".json.old").read_text() == spoilt
    assert ask().taken == "fp32" and len(timed) == 2, "whole again"
    if damage == "another machine":
        assert "Another Processor" in said[0]


def test_a_cache_that_cannot_be_written_loses_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    said = []
    found = choose(
        {"fp32": print, "bf16": print},
        asked={},
        folder=tmp_path / "file",
        say=said.append,
        timer=lambda ways: {"fp32": 1.0, "bf16": 2.0},
    )
    assert found.taken == "fp32" and len(said) == 1 and "\n" not in said[0] and "cannot be written" in said[0]


def test_two_processes_may_put_the_same_file_aside(tmp_path):
    said = []
    assert (
        put_aside(tmp_path / "gone.json", "gone.json is damaged", say=said.append) == tmp_path / "gone.json.old"
        and len(said) == 1
    )


# ---- precision


def idle(way):
    return lambda: None


def test_auto_is_what_is_fastest_here(tmp_path):
    assert answer("auto", "auto", idle, asked={"x": 1}, folder=tmp_path / "a", **LAPTOP) == (
        Way("fp32", True),
        "bf16 is 9 times slower here: fp32 channels-last",
    )
    assert answer("auto", "auto", idle, asked={"x": 1}, folder=tmp_path / "b", **SERVER) == (
        Way("bf16", True),
        "bf16 is 2.4 times faster here: bf16 channels-last",
    )
    assert answer("auto", False, idle, asked={"x": 1}, folder=tmp_path / "b", **SERVER)[0] == Way("bf16", False)
    assert answer("fp32", True, idle, asked={}, **LAPTOP) == (Way("fp32", True), "fp32 channels-last, as given")


@pytest.mark.parametrize(
    "emulate, native, seconds, accepted",
    [(False, False, 0.9, False), (True, False, 0.9, True), (False, True, 0.9, True), (False, False, 0.05, True)],
)
def test_a_precision_that_is_emulated_has_to_be_insisted_on(tmp_path, emulate, native, seconds, accepted):
    def ask():
        return answer(
            "bf16",
            "auto",
            idle,
            asked={},
            folder=tmp_path,
            emulate=emulate,
            native=native,
            timer=timer(fp32=0.1, bf16=seconds),
        )[0].precision

    if accepted:
        assert ask() == "bf16"
    else:
        with pytest.raises(
            ConfigError,
            match=r"^precision 'bf16' has no instructions on this processor and is 9 times slower than fp32 .*emulate_bf16=true",
        ) as error:
            ask()
        assert "\n" not in str(error.value)


def test_a_disturbed_clock_does_not_choose_what_is_emulated(tmp_path):
    asked = {"asked": {"step": "tiny"}, "folder": tmp_path, "timer": timer(fp32=0.2, bf16=0.1)}
    way, said = answer("auto", "auto", idle, native=False, **asked)
    assert way.precision == "fp32" and said.startswith("bf16 has no instructions here: fp32")
    assert answer("auto", "auto", idle, native=True, **asked)[0].precision == "bf16"
    assert answer("auto", "auto", idle, native=False, emulate=True, **asked)[0].precision == "bf16"


def test_a_way_that_is_wrong_is_never_taken(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=32))
    assert (
        wrong_ways(net) == (Way("bf16", True),) and wrong_ways(net[:1]) == wrong_ways(create_model("fastscnn", 5)) == ()
    )
    assert wrong_ways(create_model("dabnet", 5)) == (Way("bf16", True),)
    config, why = settle(TrainConfig(), net, cache=tmp_path, **SERVER)
    assert (config.precision, config.channels_last) == ("bf16", False) and "bf16 contiguous" in why
    assert settle(TrainConfig(channels_last=True), net, cache=tmp_path, **SERVER)[0].precision == "fp32"
    with pytest.raises(ConfigError, match="wrong results"):
        cpu_ways("bf16", True, wrong=wrong_ways(net))


# ---- training


SMALL = TrainConfig(
    epochs=1, steps_per_epoch=2, batch_size=2, augmentation=Augmentation(crop=(64, 64)), device="cpu", evaluate_every=2
)


class Tiny(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 19, 1))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = make_scenes(
        tmp_path_factory.mktemp("precision") / "scenes", counts={"train": 4, "val": 1, "test": 1}, size=(64, 64)
    )
    return open_dataset("synthetic", root, "train")


def test_probes_grow_to_the_crop():
    assert probe_sizes((240, 320)) == [(64, 96), (96, 128), (128, 160), (160, 224), (240, 320)]
    assert probe_sizes((64, 96)) == [(64, 96)] and probe_sizes((512, 1024))[:2] == [(64, 128), (96, 192)]
    for crop in ((33, 65), (768, 768), (1024, 1024), (64, 2048)):
        sizes = probe_sizes(crop)
        areas = [h * w for h, w in sizes]
        assert (
            sizes[-1] == crop and areas == sorted(areas) and all(side % 32 == 0 for size in sizes[:-1] for side in size)
        )


def test_a_rehearsal_leaves_no_trace():
    net = Tiny().eval()
    before, random = {n: t.clone() for n, t in net.state_dict().items()}, torch.get_rng_state()
    rehearsal = Rehearsal(net, (64, 64))
    for way in cpu_ways():
        rehearsal(way)()
    assert (
        torch.equal(torch.get_rng_state(), random)
        and not net.training
        and all(p.grad is None for p in net.parameters())
    )
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_a_rehearsal_takes_the_largest_size_that_is_quick_enough():
    ticking = Clock()

    def clock():
        ticking.now += 0.01  # every step seems to take a hundredth of a second
        return ticking.now

    for limit, size in ((0.001, (64, 64)), (10.0, (128, 128))):
        rehearsal = Rehearsal(Tiny(), (128, 128), seconds=limit, clock=clock)
        rehearsal(Way("fp32"))()
        assert tuple(rehearsal.images.shape) == (2, 3, *size)


def test_a_network_that_takes_no_other_size_is_timed_at_its_own():
    class Picky(Tiny):
        def forward(self, x):
            if x.shape[-1] != 128:
                raise ValueError("128 pixels, please")
            return super().forward(x)

    rehearsal = Rehearsal(Picky(), (128, 128))
    rehearsal(Way("fp32"))()
    assert tuple(rehearsal.images.shape) == (2, 3, 128, 128)


def test_the_answer_is_written_into_the_run_and_kept(scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = Trainer(Tiny(), scenes, config=SMALL, folder=tmp_path / "run", progress=False)
    first.fit()
    told = TrainConfig.parse(RunFolder(tmp_path / "run").config())
    assert told == first.config and told.precision in ("fp32", "bf16") and isinstance(told.channels_last, bool)
    monkeypatch.setattr("rtseg.core.precision.bf16_instructions", lambda: True)  # else auto would not take bf16
    other = {"precision": "fp32" if told.precision == "bf16" else "bf16", "channels_last": not told.channels_last}
    cached = next((tmp_path / "cache/rtseg/choices").glob("*.json"))
    cached.write_text(json.dumps(json.loads(cached.read_text()) | {"taken": str(Way(**other))}))
    fresh, _ = settle_run(SMALL, Tiny(), tmp_path / "elsewhere")
    assert (fresh.precision, fresh.channels_last) == tuple(other.values()), "a new run is answered by the cache"
    again = Trainer(
        Tiny(),
        scenes,
        config=SMALL.model_copy(update={"epochs": 1}),
        folder=tmp_path / "run",
        resume=True,
        progress=False,
    )
    assert again.config == told and as_begun(SMALL, tmp_path / "run") == told, (
        "a run that goes on keeps what it began with"
    )


def test_the_line_is_shown(scenes, tmp_path, capsys):
    Trainer(Tiny(), scenes, config=SMALL, folder=tmp_path / "run", progress=True)
    assert "here: " in capsys.readouterr().out


LONG = TrainConfig(precision="fp32", channels_last=True, augmentation=Augmentation(crop=(64, 64)), device="cpu")


@pytest.fixture
def trial(tmp_path):
    """Compiling decided with invented seconds, on a clock where everything takes a second; the number of trials."""
    trials, clock = [], iter(range(10**6))

    def decide(steps=10_000, eager=1.0, compiled=0.5, lacks=None, config=LONG, fails=None):
        def timing(ways):
            trials.append(list(ways))
            if fails:
                raise fails
            return {"eager": eager, "compiled": compiled}

        return settle_compile(
            config,
            Tiny(),
            steps,
            cache=tmp_path / f"{eager} {compiled}",
            clock=lambda: next(clock),
            lacks=lambda: lacks,
            timer=timing,
        )

    return decide, trials


@pytest.mark.parametrize(
    "compiled, wanted, line",
    [
        (0.5, True, "compiled 2.00 times as fast: compiled"),
        (0.94, False, "compiled 1.06 times as fast: eager"),
        (1.4, False, "compiled 0.71 times as fast: eager"),
    ],
)
def test_a_long_run_is_compiled_if_it_pays(trial, compiled, wanted, line):
    decide, trials = trial
    config, why = decide(compiled=compiled)
    assert (config.compile, why) == (wanted, line) and trials == [["eager", "compiled"]]


def test_compiling_is_not_even_tried_where_it_cannot_pay(trial):
    decide, trials = trial
    for changes in (
        {"steps": 499},
        {"lacks": "a C++ compiler"},
        {"config": LONG.model_copy(update={"compile": False})},
        {"config": LONG.model_copy(update={"checkpoint_modules": ("0",)})},
        {"config": LONG.model_copy(update={"batch_size": 1}), "steps": 1000},
    ):
        config, why = decide(**changes)
        assert config.compile is False and why == ""
    assert decide(config=LONG.model_copy(update={"compile": True}))[0].compile is True and not trials


def test_a_compiler_that_fails_is_said_and_not_needed(trial):
    decide, _ = trial
    config, why = decide(fails=RuntimeError("no vector type\nmore"))
    assert config.compile is False and why == "torch.compile cannot take this network (no vector type): eager"


@pytest.mark.parametrize(
    "steps, compiled, compiling, wanted",
    [(1000, 0.8, 100, True), (1000, 0.8, 150, False), (10_000, 0.94, 60, True), (10_000, 0.96, 0, False)],
)
def test_minutes_of_compiling_have_to_come_back(steps, compiled, compiling, wanted):
    assert pays(steps, {"eager": 1.0, "compiled": compiled}, compiling) is wanted


@pytest.mark.parametrize("value", ["bf17", "half", "", 16])
def test_unknown_precisions_are_refused(value):
    for data, parse in (
        ({"precision": value}, TrainConfig.parse),
        ({"precision": value}, PretrainConfig.parse),
        ({"teacher": {"precision": value}}, parse_run),
        ({"evaluate": {"precision": value}}, parse_run),
    ):
        with pytest.raises(ConfigError, match="precision.*'auto'") as error:
            parse(data)
        assert "\n" not in str(error.value)


def test_no_preset_and_no_recipe_presumes_a_processor():
    for name in list_presets():
        config = load_preset(name).to_dict()
        for group, values in config.items():
            if isinstance(values, dict) and group != "latency":
                assert (
                    values.get("precision", "auto") == "auto"
                    and values.get("channels_last", "auto") == "auto"
                    and values.get("workers", "auto") == values.get("compile", "auto") == "auto"
                ), (name, group)
        assert config["latency"]["threads"] <= available_cores()
    by_name = {
        "bisenetv2": "fp16"
    }  # published in fp16, which needs a GPU; the pinned recipes make rows of tables, which machines have to agree about
    for name in list_recipes():
        recipe = load_recipe(name)
        pinned = name in ("camvid-short", "camvid-brief", "camvid-long", "streets-demo")
        wanted = ("fp32", True, 0) if pinned else (by_name.get(name, "auto"), "auto", "auto")
        assert (recipe.precision, recipe.channels_last, recipe.workers) == wanted, name


# ---- search and evaluation


SPACE = SearchSpace(layers=5, base_width=2, widths=(4, 12))


def test_the_search_asks_with_its_own_passes(tmp_path):
    supernet = Supernet(SPACE, 4)
    before = {n: t.clone() for n, t in supernet.state_dict().items()}
    assert settle_passes(PretrainConfig(), supernet, cache=tmp_path / "a", **LAPTOP)[0].precision == "fp32"
    assert settle_passes(PretrainConfig(), supernet, cache=tmp_path / "b", **SERVER)[0].precision == "bf16"
    assert (
        settle_passes(PretrainConfig(), supernet, {"tensors": {}, "values": {"precision": "bf16"}}, **LAPTOP)[
            0
        ].precision
        == "bf16"
    ), "as it began"
    with pytest.raises(ConfigError, match="9 times slower"):
        settle_passes(PretrainConfig(precision="bf16"), supernet, cache=tmp_path / "a", **LAPTOP)
    assert (
        settle_passes(PretrainConfig(precision="bf16", emulate_bf16=True), supernet, cache=tmp_path / "a", **LAPTOP)[
            0
        ].precision
        == "bf16"
    )
    assert pass_precision(supernet, "auto", cache=tmp_path / "c")[0] in ("fp32", "bf16")
    assert all(torch.equal(t, before[n]) for n, t in supernet.state_dict().items()) and all(
        p.grad is None for p in supernet.parameters()
    )


def test_a_search_checkpoint_names_its_precision():
    class Noise:
        def batch(self, step):
            generator = torch.Generator().manual_seed(step)
            return Batch(
                torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=generator),
                torch.randint(0, 4, (1, 64, 64), generator=generator),
                ("a",),
            )

    config = PretrainConfig(epochs=1, steps_per_epoch=1, random_passes=0, precision="fp32")
    assert next(pretrain(Supernet(SPACE, 4), Noise(), config=config)).checkpoint()["values"]["precision"] == "fp32"


def test_scores_are_made_in_what_is_faster_and_say_so(tmp_path):
    net = create_model("fastscnn", 5)
    assert scoring_precision("auto", net, (64, 96), cache=tmp_path / "a", **LAPTOP) == (
        "fp32",
        "bf16 is 9 times slower here: fp32 channels-last",
    )
    assert scoring_precision("auto", net, (64, 96), cache=tmp_path / "b", **SERVER)[0] == "bf16"
    with pytest.raises(ConfigError, match="9 times slower .*--force"):
        scoring_precision("bf16", net, (64, 96), cache=tmp_path / "a", **LAPTOP)
    assert scoring_precision("bf16", net, (64, 96), cache=tmp_path / "a", emulate=True, **LAPTOP) == ("bf16", "")
    with pytest.raises(ConfigError, match="precision 'fp8' is unknown: allowed are auto, fp32, bf16, fp16"):
        scoring_precision("fp8", net, (64, 96))


# ---- the pipeline's run folder


def test_a_stage_writes_the_answer_into_the_run(tmp_path):
    config = load_preset("smoke")
    run, _ = open_run(config, tmp_path / "run")
    stage = Stage(find_stage("teacher"), run, config)
    before = stage.params
    stage.settle(
        {"teacher.precision": "bf16", "teacher.channels_last": False}, "bf16 is 2.4 times faster here: bf16 contiguous"
    )
    told = parse_run(run.config())
    assert (told.teacher.precision, told.teacher.channels_last, told.student.precision) == ("bf16", False, "auto")
    assert (
        stage.config == told
        and stage.params != before
        and stage.items[-1]["text"] == "Precision: bf16 is 2.4 times faster here: bf16 contiguous."
    )
    assert open_run(config, tmp_path / "run")[1] == told, "the same preset goes on with what was answered"
    with pytest.raises(ConfigError, match="teacher.precision: bf16 -> fp32"):
        open_run(config.with_values({"teacher.precision": "fp32"}), tmp_path / "run")
    stage.lock.close()


@pytest.mark.parametrize("text", ["{half", "[]", '{"header": {}, "entries": {}}'])
def test_a_damaged_latency_table_is_put_aside_and_measured_again(tmp_path, text):
    said, path = [], tmp_path / "table.json"
    path.write_text(text)
    assert (
        usable_cache(path, say=said.append) == path
        and not path.exists()
        and (tmp_path / "table.json.old").read_text() == text
    )
    assert len(said) == 1 and "\n" not in said[0] and str(path) in said[0] and "measured again" in said[0]
    assert usable_cache(path, say=said.append) == path and len(said) == 1


def test_latency_tables_belong_to_instructions(monkeypatch):
    config, here = load_preset("smoke"), cached_table(load_preset("smoke"))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert cached_table(config) != here


def test_only_open_questions_are_kept():
    begun = {"a": {"precision": "bf16", "lr": 1.0}, "device": "cpu"}
    assert keep_settled({"a": {"precision": "auto", "lr": 2.0}, "device": "auto", "new": "auto"}, begun) == {
        "a": {"precision": "bf16", "lr": 2.0},
        "device": "cpu",
        "new": "auto",
    }


def test_a_damaged_state_is_an_error_of_one_line(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"half")
    with pytest.raises(ArtifactError, match="damaged"):
        as_begun(SMALL, tmp_path)


# ---- the doctor


def test_the_score_counts_operations():
    score = speed_score(
        lambda ways: {name: {"memory": 0.01}.get(name, 0.1 if "bf16" in name else 0.01) for name in ways}
    )
    assert score.product_fp32 == round(2 * 1024**3 / 0.01 / 1e9, 1) and score.product_bf16 == round(
        2 * 1024**3 / 0.1 / 1e9, 1
    )
    assert score.convolution_fp32 == round(2 * 9 * 64 * 64 * 96 * 96 / 0.01 / 1e9, 1) and score.memory == round(
        2 * 2**26 / 0.01 / 1e9, 1
    )


def test_the_doctor_tells_in_words():
    words = doctor_text(examine(score=SpeedScore(155, 420, 140, 400, 17), taken=1.6))
    assert (
        "matrix product 155 fp32, 420 bf16" in words
        and "other processes use 1.6 of" in words
        and all(name in words for name in RUNTIMES.names())
    )


def test_the_doctor_tells_as_data():
    answered = CliRunner().invoke(app, ["doctor", "--json"])
    assert answered.exit_code == 0
    told = json.loads(answered.stdout)
    assert (
        told["processor"] == processor_record()
        and all(value > 0 for value in told["speed"].values())
        and told["busy"]["cores_taken"] >= 0
    )
    assert {state["runtime"] for state in told["runtimes"]} == set(RUNTIMES.names()) and set(
        told["instructions"]
    ) == set(instruction_sets())
    assert all((state["missing"] is None) == (why_absent(state["runtime"]) is None) for state in told["runtimes"])
    assert told["memory"]["total_gb"] >= told["memory"]["free_gb"] > 0 and all(
        free >= 0 for free in told["disk"].values()
    )
