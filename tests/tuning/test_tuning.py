"""Hyper-parameter search: spaces, storages, workers that are killed, trials that fail, results, pictures."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

optuna = pytest.importorskip("optuna", reason="needs the extra 'tune'")

from rtseg.cli.tune import CommandNetwork  # noqa: E402
from rtseg.core.config import load_config  # noqa: E402
from rtseg.core.errors import ArtifactError, ConfigError, DataError, MissingExtra  # noqa: E402
from rtseg.core.files import write_text  # noqa: E402
from rtseg.core.identity import read_identity  # noqa: E402
from rtseg.data.augmentation import Augmentation  # noqa: E402
from rtseg.data.datasets import open_dataset  # noqa: E402
from rtseg.data.labels import CITYSCAPES  # noqa: E402
from rtseg.data.scenes import make_scenes  # noqa: E402
from rtseg.training import LossConfig, TrainConfig  # noqa: E402
from rtseg.training.guards import DivergenceError  # noqa: E402
from rtseg.training.ways import SETTLED
from rtseg.tuning import Space, TrialRecord, TuneResult, importance, list_spaces, load_space, tune  # noqa: E402
from rtseg.tuning import tuner  # noqa: E402
from rtseg.tuning.space import apply_values, check_space, network_builder  # noqa: E402
from rtseg.tuning.study import JOURNAL, load_optuna, make_pruner, make_sampler, open_storage, open_study, quiet_optuna  # noqa: E402
from rtseg.tuning.workers import SURPLUS, counted, killed, next_trial, work  # noqa: E402
from rtseg.viz.tuning import plot_front, plot_history, plot_importance, plot_parallel  # noqa: E402

LR = {"lr": {"kind": "float", "low": 1e-3, "high": 0.1, "log": True}}
TINY = TrainConfig(
    precision="fp32",
    channels_last=True,
    epochs=2,
    steps_per_epoch=2,
    batch_size=2,
    augmentation=Augmentation(crop=(64, 96)),
    loss=LossConfig(kind="cross_entropy"),
    device="cpu",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    scenes = make_scenes(tmp_path_factory.mktemp("scenes"), counts={"train": 4, "val": 2}, size=(64, 96))
    return [open_dataset("synthetic", scenes, split) for split in ("train", "val")]


@pytest.fixture(scope="module")
def searched(data, tmp_path_factory):
    """One real search of four trials."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("searches") / "one"
    return tune("fastscnn", *data, space=LR, config=TINY, folder=folder, trials=4, sampler="random", progress=False)


def fake_study(folder, *, storage=None, objectives=("miou",), pruner="none", sampler="random", name="fake"):
    return open_study(
        open_storage(storage, folder),
        name,
        identity={},
        objectives=objectives,
        sampler=make_sampler(sampler, 0),
        pruner=make_pruner(pruner),
        resume=True,
    )


def draw(trial):
    return (trial.suggest_float("x", 0, 1),)


# ---- the space


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lerning_rate: {kind: float, low: 0.1, high: 1}", ["'lerning_rate' is unknown"]),
        ("optimiser: {kind: choice, choices: [sgd]}", ["did you mean 'optimizer'"]),
        ("augmentation.flp: {kind: float, low: 0, high: 1}", ["did you mean 'flip'"]),
        ("augmentatoin.flip: {kind: float, low: 0, high: 1}", ["did you mean 'augmentation'"]),
        ("augmentation.flip: {kind: float, low: 0, high: 1.5}", ["cannot be 1.5", "less than or equal to 1"]),
        ("ema_decay: {kind: choice, choices: [null, 1.5]}", ["cannot be 1.5"]),
        ("batch_size: {kind: int, low: 0, high: 4}", ["cannot be 0"]),
        ("batch_size: {kind: float, low: 1.5, high: 4}", ["cannot be 1.5"]),
        ("loss.kind: {kind: choice, choices: [ohem, ohemm]}", ["cannot be ohemm"]),
        ("augmentation.scale_range: {kind: choice, choices: [[2.0, 1.0]]}", ["runs downwards"]),
        ("model.wdith: {kind: choice, choices: [32]}", ["did you mean 'width'"]),
        ("model.width: {kind: choice, choices: [32, 33]}", ["cannot be 33", "allowed are 32, 64"]),
        ("lr: {kind: float, low: 1, high: 0.1}", ["setting 'lr'", "low being the smaller"]),
        ("lr: {kind: float, low: 0, high: 0.1, log: true}", ["setting 'lr'", "begins above 0"]),
        ("lr: {kind: flaot, low: 0, high: 1}", ["setting 'lr'", "'flaot'"]),
        ("lr: {kind: float, lo: 0, high: 1}", ["setting 'lr'", "did you mean 'low'"]),
        ("lr: 0.1", ["setting 'lr'", "kind: choice"]),
        (
            "loss: {kind: choice, choices: [{kind: ohem}]}\nloss.kind: {kind: choice, choices: [ohem]}",
            ["'loss.kind' inside it"],
        ),
        ("{}", ["the space is empty"]),
    ],
)
def test_an_impossible_space_is_refused_in_one_line(tmp_path, line, words):
    path = write_text(tmp_path / "space.yaml", line)
    with pytest.raises(ConfigError) as error:
        check_space(load_space(path), TrainConfig(), network_builder("ddrnet", 19))
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), str(error.value)


def test_a_value_that_another_setting_makes_possible_is_let_through():
    space = Space.parse(
        {
            "nesterov": {"kind": "choice", "choices": [True]},
            "optimizer": {"kind": "choice", "choices": ["sgd", "adamw"]},
        }
    )
    check_space(space, TrainConfig(optimizer="adamw"), network_builder("fastscnn", 19))
    with pytest.raises(ConfigError, match="nesterov needs"):
        check_space(
            Space.parse({"nesterov": {"kind": "choice", "choices": [True]}}),
            TrainConfig(optimizer="adamw"),
            network_builder("fastscnn", 19),
        )


def test_values_of_every_kind_reach_the_configuration_and_come_back_from_the_storage(tmp_path):
    space = Space.parse(
        {
            **LR,
            "augmentation.crop": {"kind": "choice", "choices": [[64, 96], [32, 48]]},
            "ema_decay": {"kind": "choice", "choices": [None, 0.9]},
            "batch_size": {"kind": "int", "low": 2, "high": 8, "step": 2},
            "loss": {"kind": "choice", "choices": [{"kind": "ohem", "threshold": 0.6}, {"kind": "cross_entropy"}]},
            "nesterov": {"kind": "choice", "choices": [False, True]},
            "model.width": {"kind": "choice", "choices": [32, 64]},
        }
    )
    with quiet_optuna():
        study = fake_study(tmp_path)
        drawn = []
        for _ in range(8):
            trial = study.ask()
            drawn.append(space.suggest(trial))
            study.tell(trial, 0.5)
    assert Space.parse(space.to_dict()) == space
    for values in drawn:
        config, options = apply_values(values, TINY)
        assert (
            config.augmentation.crop == tuple(values["augmentation.crop"])
            and config.batch_size in (2, 4, 6, 8)
            and options == {"width": values["model.width"]}
        )
        assert config.loss.kind in ("ohem", "cross_entropy") and (config.ema_decay, config.lr, config.nesterov) == (
            values["ema_decay"],
            values["lr"],
            values["nesterov"],
        )
    from rtseg.tuning.results import read_study

    assert [t.values for t in read_study(study, space, ("miou",), TINY).trials] == drawn


def test_spaces_of_the_package_fit_the_defaults():
    assert "default" in list_spaces()
    for name in list_spaces():
        check_space(load_space(name), TrainConfig(), network_builder("fastscnn", 19))
    with pytest.raises(ConfigError, match="did you mean 'default'"):
        load_space("defualt")
    with pytest.raises(ArtifactError, match="does not exist"):
        load_space("nowhere.yaml")


# ---- storages and samplers


def test_without_optuna_one_line_names_the_extra(monkeypatch, data, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"optuna is not installed: .*tune"):
        tune("fastscnn", *data, space=LR, config=TINY, folder=tmp_path / "x", trials=1)
    with pytest.raises(MissingExtra):
        load_optuna()


@pytest.mark.parametrize("storage", [None, "sqlite:///{}/study.db", "{}/elsewhere/my.journal"])
def test_a_study_lives_in_a_journal_or_in_a_data_base(tmp_path, storage):
    storage = storage and storage.format(tmp_path)
    assert work(fake_study(tmp_path, storage=storage), draw, 3) == 3
    assert work(fake_study(tmp_path, storage=storage), draw, 5) == 2
    study = fake_study(tmp_path, storage=storage)
    assert [t.number for t in study.trials] == [0, 1, 2, 3, 4] and len({t.params["x"] for t in study.trials}) == 5
    assert (tmp_path / JOURNAL).exists() == (storage is None)


@pytest.mark.parametrize(
    "url", ["postgresql://me:secret@127.0.0.1:1/none", "sqlite:////does/not/exist/x.db", "nosql://me:secret@host/x"]
)
def test_a_data_base_that_does_not_answer_is_one_line_without_the_password(tmp_path, url):
    with pytest.raises(ConfigError, match="cannot be opened") as error:
        open_storage(url, tmp_path)
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


def test_half_a_line_at_the_end_of_the_journal_is_cut_off(tmp_path):
    work(fake_study(tmp_path), draw, 3)
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(b'{"op_code": 4, "worker')
    assert work(fake_study(tmp_path), draw, 4) == 1 and work(fake_study(tmp_path), draw, 5) == 1
    for line in (tmp_path / JOURNAL).read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_one_worker_and_one_seed_repeat_a_search_however_often_it_is_stopped(tmp_path, sampler):
    for name, stops in (("whole", [16]), ("parts", [1, 4, 11, 12, 16])):
        for total in stops:
            work(fake_study(tmp_path / name, sampler=sampler), lambda t: (-abs(draw(t)[0] - 0.3),), total)
    whole, parts = ([t.params["x"] for t in fake_study(tmp_path / name).trials] for name in ("whole", "parts"))
    assert whole == parts and len(set(whole)) == 16


# ---- workers

WORKER = """
import sys, time
from pathlib import Path
from rtseg.tuning.study import make_pruner, make_sampler, open_storage, open_study
from rtseg.tuning.workers import work
folder, seconds, total = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    with open(folder / "begun.txt", "a") as file:
        file.write(f"{trial.number}\\n")
    time.sleep(seconds)
    return (x,)

study = open_study(open_storage(None, folder), "fake", identity={}, objectives=("miou",), sampler=make_sampler("random", 0), pruner=make_pruner("none"), resume=True)
(folder / f"ready{len(list(folder.glob('ready*')))}").touch()
while len(list(folder.glob("ready*"))) < int(sys.argv[4]):
    time.sleep(0.02)
work(study, objective, total)
"""


def start_worker(folder, seconds, total, together=1):
    return subprocess.Popen([sys.executable, "-c", WORKER, str(folder), str(seconds), str(total), str(together)])


def wait_for(condition, seconds=60):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited too long"
        time.sleep(0.02)


def test_two_processes_share_a_journal_and_no_trial_is_done_twice(tmp_path):
    workers = [start_worker(tmp_path, 0.05, 16, together=2) for _ in range(2)]
    assert [worker.wait(90) for worker in workers] == [0, 0]
    trials = fake_study(tmp_path).trials
    done = [t for t in trials if t.state.name == "COMPLETE"]
    begun = (tmp_path / "begun.txt").read_text().split()
    assert len(done) == 16 == len(begun) == len(set(begun)) == len({t.params["x"] for t in done})
    shares = [sum(t.user_attrs["worker"].split()[1] == str(worker.pid) for t in done) for worker in workers]
    assert sum(shares) == 16 and min(shares) >= 3
    assert all(t.user_attrs["reason"] == SURPLUS for t in trials if t not in done) and len(counted(trials)) == 16


def test_a_killed_worker_loses_nothing_and_its_trial_is_repeated(tmp_path):
    work(fake_study(tmp_path), draw, 3)
    worker = start_worker(tmp_path, 60, 6)
    wait_for((tmp_path / "begun.txt").exists)
    worker.send_signal(signal.SIGKILL)
    worker.wait(10)
    before = fake_study(tmp_path).trials
    assert [t.state.name for t in before] == ["COMPLETE"] * 3 + ["RUNNING"]
    assert work(fake_study(tmp_path), draw, 6) == 3
    after = fake_study(tmp_path).trials
    assert [(t.number, t.values) for t in after[:3]] == [(t.number, t.values) for t in before[:3]]
    assert killed(after[3]) and after[4].user_attrs["retry_of"] == 3 and after[4].params == after[3].params
    assert len(counted(after)) == 6 and work(fake_study(tmp_path), draw, 6) == 0


def test_failed_trials_keep_their_reason_and_the_study_goes_on(tmp_path):
    faults = {
        1: DivergenceError("the loss is not finite\nat step 3"),
        2: ConfigError("nesterov needs sgd"),
        3: torch.OutOfMemoryError("CUDA out of memory"),
    }

    def objective(trial):
        value = draw(trial)
        if trial.number in faults:
            raise faults[trial.number]
        return value

    said = []
    assert work(fake_study(tmp_path), objective, 6, say=said.append) == 6
    trials = fake_study(tmp_path).trials
    assert [t.state.name for t in trials] == ["COMPLETE", "FAIL", "FAIL", "FAIL", "COMPLETE", "COMPLETE"] and not any(
        killed(t) for t in trials
    )
    assert (
        trials[1].user_attrs["reason"] == "the loss is not finite at step 3"
        and "trial 3: failed: CUDA out of memory" in said[3]
    )


def test_a_fault_of_the_data_stops_the_worker_and_the_trial_is_repeated_three_times_at_most(tmp_path):
    def objective(trial):
        draw(trial)
        raise DataError("image x.png cannot be decoded")

    for _ in range(3):
        with pytest.raises(DataError):
            work(fake_study(tmp_path), objective, 1)
    trials = fake_study(tmp_path).trials
    assert len(trials) == 3 and len({t.params["x"] for t in trials}) == 1
    assert work(fake_study(tmp_path), objective, 1) == 0  # given up: it counts, and is not begun again


def test_a_worker_that_was_taken_for_dead_drops_its_trial(tmp_path):
    study, said = fake_study(tmp_path), []

    def objective(trial):
        value = draw(trial)
        if trial.number == 0:
            fake_study(tmp_path).tell(0, state=optuna.trial.TrialState.FAIL)
        return value

    work(study, objective, 2, say=said.append)
    trials = fake_study(tmp_path).trials
    assert (
        said[0].startswith("trial 0: dropped")
        and trials[0].values is None
        and trials[1].user_attrs["retry_of"] == 0
        and trials[1].params == trials[0].params
    )
    assert len(counted(trials)) == 2 and len(trials) == 3


def test_trials_of_other_machines_are_theirs_as_long_as_they_give_a_sign_of_life(tmp_path):
    study = fake_study(tmp_path)
    with quiet_optuna():
        for age in (30, 3000):
            trial = study.ask()
            trial.suggest_float("x", 0, 1)
            trial.set_user_attr("worker", "elsewhere 1 1.0")
            trial.set_user_attr("alive", time.time() - age)
        mine = next_trial(study, 2)
    assert mine.number == 2 and mine.user_attrs["retry_of"] == 1
    assert [t.state.name for t in study.trials] == ["RUNNING", "FAIL", "RUNNING"]


# ---- real searches


def test_every_trial_is_a_run_in_its_own_folder(searched):
    assert searched.count() == {"complete": 4} and len({t.values["lr"] for t in searched.trials}) == 4
    for t in searched.trials:
        folder = searched.trial_folder(t.number)
        config, _ = searched.settings(t)
        written = load_config(
            TrainConfig, folder / "config.yaml"
        )  # with the machine's answer to what the settings leave open
        assert (
            "auto" not in {getattr(written, name) for name in SETTLED}
            and written.model_copy(update={name: getattr(config, name) for name in SETTLED}) == config
        )
        assert config.lr == t.values["lr"] and config.epochs == 2
        assert [epoch for epoch, _ in t.curve] == [1, 2] and t.scores["miou"] == max(
            miou for _, miou in t.curve
        ) == json.loads((folder / "best.json").read_text())["miou"]
    best = load_config(TrainConfig, searched.folder / "best.yaml")
    assert best == searched.settings(searched.best)[0] and best.lr == searched.best.values["lr"]
    assert TuneResult.load(searched.folder).trials == searched.trials


def test_the_same_seed_gives_the_same_search(searched, data, tmp_path, one_thread):
    again = tune(
        "fastscnn", *data, space=LR, config=TINY, folder=tmp_path / "again", trials=2, sampler="random", progress=False
    )
    assert [(t.values, t.scores, t.curve) for t in again.trials] == [
        (t.values, t.scores, t.curve) for t in searched.trials[:2]
    ]


def test_a_search_is_not_mixed_with_another_one(searched, data):
    def again(**changes):
        return tune(
            "fastscnn",
            *data,
            **{
                **dict(
                    space=LR,
                    config=TINY,
                    folder=searched.folder,
                    trials=4,
                    sampler="random",
                    progress=False,
                    resume=True,
                ),
                **changes,
            },
        )

    assert again().trials == searched.trials  # nothing left to do
    for changes, words in (
        ({"resume": False}, "already"),
        ({"seed": 1}, "another search .seed is 1, it was begun with 0"),
        ({"config": TINY.model_copy(update={"epochs": 3})}, "config.epochs is 3, it was begun with 2"),
        ({"space": {"lr": {**LR["lr"], "high": 0.05}}}, "space.lr.high is 0.05, it was begun with 0.1"),
        ({"space": {"lr": {**LR["lr"], "log": False}}}, "space.lr.log is none, it was begun with true"),
        ({"study": "new"}, "holds trials of another study"),
        ({"objectives": ("miou", "latency")}, "objectives"),
        ({"trials": 0}, "at least one"),
    ):
        with pytest.raises(ConfigError, match=words):
            again(**changes)


def test_a_search_is_not_gone_on_with_another_network_or_other_data(searched, data, tmp_path):
    """Trials of two networks, or on two data sets, in one study compare what cannot be compared."""

    def again(model="fastscnn", train=data[0], val=data[1]):
        how = dict(space=LR, config=TINY, trials=4, sampler="random", progress=False, resume=True)
        return tune(model, train, val, folder=searched.folder, **how)

    scenes = data[0].samples[0].image.parents[3]
    moved = shutil.copytree(scenes, tmp_path / "moved")
    assert again(train=open_dataset("synthetic", moved, "train")).trials == searched.trials
    other = make_scenes(tmp_path / "other", counts={"train": 4, "val": 2}, size=(64, 96), seed=4)
    backwards = replace(CITYSCAPES, classes=CITYSCAPES.classes[::-1], palette=CITYSCAPES.palette[::-1])
    for changes, words in (
        ({"model": CommandNetwork("fastscnn", 19, ("aux=true",))}, "network.parameters is "),
        ({"train": open_dataset("synthetic", other, "train")}, "train.pictures is "),
        ({"val": open_dataset("synthetic", other, "val")}, "val.pictures is "),
        ({"train": open_dataset("synthetic", scenes, "train", labels=backwards)}, "labels.classes.0. is bicycle"),
    ):
        with pytest.raises(ConfigError, match=words) as error:
            again(**changes)
        assert "\n" not in str(error.value)


def test_a_wider_space_goes_on(data, tmp_path):
    def search(trials, high, **more):
        space = {"lr": {**LR["lr"], "high": high}}
        config = TINY.model_copy(update={"epochs": 1, "steps_per_epoch": 1})
        return tune(
            "fastscnn", *data, space=space, config=config, folder=tmp_path / "s", trials=trials, progress=False, **more
        )

    first = search(2, 0.1)
    more = search(4, 1.0, resume=True)
    assert more.trials[:2] == first.trials and more.space.parameters["lr"].high == 1.0 and len(more.complete) == 4
    with pytest.raises(ConfigError, match="space.lr.high is 0.1, it was begun with 1.0"):
        search(5, 0.1, resume=True)


def test_a_search_without_a_single_score_is_no_success(typed, data, tmp_path):
    write_text(tmp_path / "space.yaml", "lr: {kind: choice, choices: [1e30, 1e31]}\n")
    scenes, tiny = (
        data[0].samples[0].image.parents[3],
        "epochs=1 steps_per_epoch=2 batch_size=2 augmentation.crop=[64,96] device=cpu",
    )
    settings = " ".join(f"--set {word}" for word in tiny.split())
    line = f"tune --model fastscnn --dataset synthetic --data {scenes} --space {tmp_path}/space.yaml --trials 2 --out {tmp_path}/tune {settings}"
    code, said, err = typed(line)
    assert code == 1 and "2 failed" in said and "none of the 2 trials" in err and "finite" in err
    assert not (tmp_path / "tune/best.yaml").exists()


def test_the_line_that_makes_the_best_network_makes_it(typed, data, tmp_path):
    """The whole line, as it is written: with the options that were given and those that were found, data, settings and folder."""
    write_text(
        tmp_path / "space.yaml",
        "lr: {kind: float, low: 1e-3, high: 0.1}\nmodel.aux: {kind: choice, choices: [true, false]}\n",
    )
    scenes = data[0].samples[0].image.parents[3]
    backwards = replace(
        CITYSCAPES, name="backwards", classes=CITYSCAPES.classes[::-1], palette=CITYSCAPES.palette[::-1]
    )
    backwards.to_yaml(tmp_path / "my labels.yaml")
    settings = "epochs=1 steps_per_epoch=1 batch_size=2 augmentation.crop=[64,96] device=cpu seed=3"
    line = ["tune", "--model", "ddrnet", "--option", "width=32", "--dataset", "synthetic"]
    line += [
        "--data",
        str(scenes),
        "--labels",
        str(tmp_path / "my labels.yaml"),
        "--space",
        str(tmp_path / "space.yaml"),
    ]
    line += [word for setting in settings.split() for word in ("--set", setting)]
    code, said, err = typed([*line, "--trials", "1", "--out", str(tmp_path / "tune")])
    assert code == 0, err
    best = (tmp_path / "tune/best.yaml").read_text().splitlines()[1].removeprefix("# ")
    assert said.splitlines()[-1] == f"train with the best: {best}"
    code, said, err = typed(shlex.split(best)[1:])
    assert code == 0, err
    result, facts = TuneResult.load(tmp_path / "tune"), read_identity(tmp_path / "tune/best")
    assert f"best mIoU {result.best.scores['miou']:.4f}" in said
    trial = read_identity(result.trial_folder(0))
    assert facts == trial and facts["labels"]["classes"][0] == CITYSCAPES.classes[-1]


def test_a_search_that_is_killed_and_resumed_is_the_search_that_was_not(searched, data, tmp_path, one_thread):
    """SIGKILL in the middle of the second trial; the successor goes on in its predecessor's folder."""
    scenes, folder = data[0].samples[0].image.parents[3], tmp_path / "killed"
    code = f"""
import torch, time
torch.set_num_threads(1)
import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_tuning import LR, TINY, open_dataset, tune
from rtseg.training.trainer import Trainer
epochs = Trainer.epochs
def slow(self):
    for record in epochs(self):
        yield record
        if str(self.files.folder).endswith("0001"):
            open({str(tmp_path / "mark")!r}, "w").close()
            time.sleep(60)
Trainer.epochs = slow
data = [open_dataset("synthetic", {str(scenes)!r}, split) for split in ("train", "val")]
tune("fastscnn", *data, space=LR, config=TINY, folder={str(folder)!r}, trials=4, sampler="random", progress=False)
"""
    worker = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: (tmp_path / "mark").exists())
    worker.send_signal(signal.SIGKILL)
    worker.wait(10)
    assert (
        load_config(TrainConfig, folder / "best.yaml").lr == searched.trials[0].values["lr"]
    )  # kept up to date all along
    result = tune(
        "fastscnn", *data, space=LR, config=TINY, folder=folder, trials=4, sampler="random", progress=False, resume=True
    )
    assert [t.state for t in result.trials] == [
        "complete",
        "killed",
        "complete",
        "complete",
        "complete",
    ] and result.trials[2].retry_of == 1
    same = [result.trials[i] for i in (0, 2)]
    assert [(t.values, t.scores, t.curve) for t in same] == [(t.values, t.scores, t.curve) for t in searched.trials[:2]]
    assert (
        not result.trial_folder(1).exists()
        and len((result.trial_folder(2) / "metrics.jsonl").read_text().splitlines()) == 2
    )


def test_diverged_and_impossible_trials_are_recorded(data, tmp_path):
    space = {
        "lr": {"kind": "choice", "choices": [1e30, 0.01]},
        "optimizer": {"kind": "choice", "choices": ["sgd", "adamw"]},
        "nesterov": {"kind": "choice", "choices": [False, True]},
    }
    config = TINY.model_copy(update={"epochs": 1, "steps_per_epoch": 3})
    result = tune(
        "fastscnn",
        *data,
        space=space,
        config=config,
        folder=tmp_path / "wild",
        trials=8,
        sampler="random",
        seed=3,
        progress=False,
    )
    for t in result.trials:
        impossible, wild = t.values["nesterov"] and t.values["optimizer"] == "adamw", t.values["lr"] == 1e30
        if impossible:
            assert t.state == "failed" and "nesterov needs" in t.reason and not result.trial_folder(t.number).exists()
        elif wild:
            assert t.state == "failed" and "not finite" in t.reason
        else:
            assert t.state == "complete"
    assert set(result.count()) == {"complete", "failed"} and result.count()["failed"] >= 3


def test_hopeless_trials_are_pruned(data, tmp_path, monkeypatch):
    """With a learning rate of almost nothing, a trial stays behind from the first evaluation on."""
    from rtseg.training import trainer as room

    real = room.score_epoch

    def rigged(files, val, epoch):
        from dataclasses import replace

        return replace(real(files, val, epoch), miou=0.5 * epoch if files.config.lr > 0.01 else 0.1)

    monkeypatch.setattr(room, "score_epoch", rigged)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1)
    result = tune(
        "fastscnn",
        *data,
        space=LR,
        config=TINY,
        folder=tmp_path / "pruned",
        trials=5,
        sampler="random",
        pruner=pruner,
        progress=False,
    )
    for t in result.trials[1:]:
        assert (t.state, len(t.curve)) == (("complete", 2) if t.values["lr"] > 0.01 else ("pruned", 1)), t
    assert result.count()["pruned"] >= 1 and result.trials[0].state == "complete"


def test_accuracy_and_latency_together(data, tmp_path, capsys, monkeypatch):
    """The clock is replaced by the number of parameters, so that no assertion depends on the machine's load."""
    shapes = []

    def clock(network, shape, **options):
        shapes.append(shape)
        assert not network.training
        return SimpleNamespace(median_ms=sum(p.numel() for p in network.parameters()) / 1e6)

    monkeypatch.setattr(tuner, "measure_latency", clock)
    config = TINY.model_copy(update={"epochs": 1, "steps_per_epoch": 1})
    space = {"model.aux": {"kind": "choice", "choices": [True, False]}}
    result = tune(
        "fastscnn",
        *data,
        space=space,
        config=config,
        folder=tmp_path / "two",
        trials=4,
        objectives=("miou", "latency"),
        sampler="random",
        seed=2,
        storage=f"sqlite:///{tmp_path}/two.db",
        latency_size=(128, 192),
    )
    assert (
        "no trial is pruned: Optuna prunes by one objective" in capsys.readouterr().out
        and shapes == [(1, 3, 128, 192)] * 4
    )
    sizes = {t.values["model.aux"]: t.scores["latency"] for t in result.trials}
    assert len(sizes) == 2 and sizes[False] < sizes[True] and result.front[0].values["model.aux"] is False
    assert f"--option aux={json.dumps(result.best.values['model.aux'])}" in (tmp_path / "two/best.yaml").read_text()
    assert sum(len(trace.x) for trace in plot_front(result).data) == 4


# ---- results and pictures


def made_up(count, objectives=("miou",)):
    space = Space.parse(
        {
            **LR,
            "optimizer": {"kind": "choice", "choices": ["sgd", "adam"]},
            "augmentation.crop": {"kind": "choice", "choices": [[64, 96], None]},
        }
    )
    trials = tuple(
        TrialRecord(
            i,
            "complete",
            {
                "lr": 10 ** (-3 + 2 * i / count),
                "optimizer": ["sgd", "adam"][i % 2],
                "augmentation.crop": [(64, 96), None][i // 2 % 2],
            },
            {
                name: value
                for name, value in {"miou": 0.3 + 0.2 * i / count, "latency": 5.0 - (i % 3)}.items()
                if name in objectives
            },
        )
        for i in range(count)
    )
    return TuneResult("made up", objectives, space, TINY, trials)


@pytest.mark.parametrize("method", ["ped-anova", "fanova"])
def test_importance_finds_what_mattered(method):
    if method == "fanova":
        pytest.importorskip("sklearn")
    shares = importance(made_up(40), method=method)
    assert list(shares)[0] == "lr" and shares["lr"] > 0.8 and sum(shares.values()) == pytest.approx(1)


def test_fanova_without_scikit_learn_is_one_line(monkeypatch):
    for name in [m for m in sys.modules if m.startswith(("sklearn", "optuna.importance"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(MissingExtra, match="scikit-learn"):
        importance(made_up(10), method="fanova")
    assert importance(made_up(40))["lr"] > 0.8  # the default needs none


def test_pictures_hold_every_trial_and_say_no_when_there_is_nothing():
    one, two = made_up(12), made_up(12, ("miou", "latency"))
    assert [len(t.x) for t in plot_history(one).data] == [12, 12] and len(plot_parallel(one).data[0].dimensions) == 4
    assert sum(len(t.x) for t in plot_front(two).data) == 12 and len(plot_importance(one).data[0].y) == 3
    assert [t.number for t in two.front] == [2, 5, 8, 11][-1:]
    empty = TuneResult("none", ("miou",), one.space, TINY, (TrialRecord(0, "failed", {"lr": 0.1}, {}, reason="bad"),))
    assert empty.best is None and empty.front == () and len(plot_history(empty).data) == 2
    for draw_it in (plot_parallel, plot_importance, plot_front):
        with pytest.raises(DataError):
            draw_it(empty)
    with pytest.raises(ConfigError, match="objective 'latency'"):
        plot_history(one, objective="latency")


# ---- the command


def test_rtseg_tune_searches_resumes_and_hands_on_to_rtseg_train(typed, data, tmp_path):
    scenes, out = data[0].samples[0].image.parents[3], tmp_path / "tune"
    write_text(
        tmp_path / "space.yaml",
        "lr: {kind: float, low: 1e-3, high: 0.1, log: true}\nmodel.aux: {kind: choice, choices: [true, false]}\n",
    )
    tiny = " ".join(
        f"--set {word}"
        for word in ("epochs=1", "steps_per_epoch=1", "batch_size=2", "augmentation.crop=[64,96]", "device=cpu")
    )
    line = f"tune --model fastscnn --dataset synthetic --data {scenes} --space {tmp_path}/space.yaml --out {out} {tiny}"
    code, said, err = typed(f"{line} --trials 1 --storage sqlite:///{tmp_path}/x.db")
    assert code == 0 and "1 trials in" in said and "trial 0: " in said, err
    code, said, _ = typed(f"{line} --trials 2 --storage sqlite:///{tmp_path}/x.db --resume")
    assert (
        code == 0
        and "trial 1: " in said
        and "trial 0: " not in said.splitlines()[0]
        and len(TuneResult.load(out).trials) == 2
    )
    first = (out / "best.yaml").read_text().splitlines()[1]
    assert (
        first.startswith("# rtseg train --model fastscnn --dataset synthetic ") and f"--config {out}/best.yaml" in first
    )
    code, said, err = typed(first.removeprefix("# rtseg "))
    assert code == 0 and "1 steps" in said, err
    best = TuneResult.load(out).best
    assert f"best mIoU {best.scores['miou']:.4f}" in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--space defualt", 1, "did you mean 'default'"),
        ("--space /does/not/exist.yaml", 1, "does not exist"),
        ("--objective fps", 1, "objective 'fps' is unknown"),
        ("--objective miou --objective miou", 1, "at most once"),
        ("--pruner mediam", 1, "did you mean 'median'"),
        ("--sampler tpee", 1, "did you mean 'tpe'"),
        ("--set lrr=1", 1, "did you mean 'lr'"),
        ("--option axu=1", 1, "did you mean 'aux'"),
        ("--storage nosql://me:secret@host/x", 1, "nosql://me:***@host/x cannot be opened"),
        ("--trials 0", 2, "--trials"),
        ("--trails 3", 2, "--trials"),
    ],
)
def test_a_mistyped_search_is_one_line(typed, data, tmp_path, words, code, said):
    fits = "--set batch_size=2 --set augmentation.crop=[64,96]"
    line = f"tune --model fastscnn --dataset synthetic --data {data[0].samples[0].image.parents[3]} --out {tmp_path}/out {fits} {words}"
    given, out, err = typed(line)
    assert given == code and err.startswith("error: ") and err.count("\n") == 1 and said in err and out == ""
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_the_help_shows_an_example(typed):
    code, out, _ = typed("tune --help")
    assert code == 0 and "Example: rtseg tune" in out
