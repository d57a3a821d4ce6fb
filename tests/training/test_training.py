"""Training: losses at their edges, exact resume, faults."""

import csv
import json
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from rtseg.core.errors import ArtifactError, ConfigError, RtsegError
from rtseg.core.values import SegOutput
from rtseg.data.augmentation import Augmentation
from rtseg.data.datasets import open_dataset
from rtseg.data.loading import Batch, normalize
from rtseg.data.mixing import Mixing
from rtseg.data.scenes import make_scenes
from rtseg.evaluation.evaluator import load_trained
from rtseg.models.registry import create_model
from rtseg.training.config import LossConfig, TrainConfig
from rtseg.training.alignment import AlignmentConfig
from rtseg.training.detail import DetailConfig
from rtseg.training.distillation import kl_distillation
from rtseg.training.guards import DivergenceError
from rtseg.training.logging import TrainingAlarm, TrainingNotice, read_metrics
from rtseg.training.losses import (
    SegLoss,
    cross_entropy,
    dead_terms,
    hard_pixels,
    ohem_cross_entropy,
    resize_target,
)
from rtseg.training.pixel_costs import pixel_costs
from rtseg.training.schedules import ScheduleConfig, learning_rate
from rtseg.training.setup import load_state, make_accelerator
from rtseg.training.step import TrainStep, loss_terms
from rtseg.training.trainer import Trainer, remaining_batches


class Toy(nn.Module):
    """Convolutions at 1/4 with dropout and an auxiliary head."""

    def __init__(self, classes=19, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, 4, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.drop, self.head, self.aux = nn.Dropout2d(0.2), nn.Conv2d(width, classes, 1), nn.Conv2d(width, classes, 1)

    def forward(self, x):
        features = self.body(x)
        logits = F.interpolate(self.head(self.drop(features)), size=x.shape[-2:], mode="bilinear")
        return SegOutput(logits, (self.aux(features),)) if self.training else logits


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Training and validation split of a few tiny scenes, kept in memory."""
    root = make_scenes(
        tmp_path_factory.mktemp("scenes"), seed=0, counts={"train": 7, "val": 2, "test": 1}, size=(64, 128)
    )
    return root, *(open_dataset("synthetic", root, split, cache="memory") for split in ("train", "val"))


SMALL = TrainConfig(
    precision="fp32",
    channels_last=True,
    epochs=3,
    steps_per_epoch=4,
    batch_size=2,
    lr=0.05,
    device="cpu",
    augmentation=Augmentation(crop=(64, 64)),
    loss=LossConfig(kind="cross_entropy"),
    schedule=ScheduleConfig(kind="polynomial", warmup_steps=2),
)


def changed(**values):
    """SMALL with other values."""
    return SMALL.model_copy(update=values)


def trainer(scenes, folder, config=SMALL, *, seed=0, val=True, model=None, **more):
    """A trainer of a toy on the scenes."""
    torch.manual_seed(seed)
    return Trainer(
        model or Toy(), scenes[1], config=config, folder=folder, val=scenes[2] if val else None, progress=False, **more
    )


# losses ---------------------------------------------------------------------------------------------------------------

LOSSES = {"ce": cross_entropy, "ohem": ohem_cross_entropy}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_void_batch_is_exactly_zero_with_a_gradient_path(loss, layout):
    logits = torch.randn(2, 5, 8, 6).contiguous(memory_format=layout).requires_grad_()
    value = loss(logits, torch.full((2, 8, 6), 255))
    value.backward()
    assert value.item() == 0.0 and logits.grad.shape == logits.shape and logits.grad.abs().max() == 0


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_one_valid_pixel_is_the_whole_loss(loss):
    logits = torch.randn(2, 5, 8, 6, requires_grad=True)
    target = torch.full((2, 8, 6), 255)
    target[1, 3, 2] = 4
    value = loss(logits, target)
    value.backward()
    assert math.isclose(value.item(), -logits[1, :, 3, 2].log_softmax(0)[4].item(), rel_tol=1e-5)
    assert (logits.grad.abs().sum(1) > 0).nonzero().tolist() == [[1, 3, 2]]


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_one_class_of_one(loss):
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    value = loss(logits, torch.zeros(1, 4, 4, dtype=torch.long))
    value.backward()
    assert value.item() == 0.0 and logits.grad.abs().max() == 0


@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("void", [0.0, 0.5, 0.99])
def test_ohem_agrees_with_sorting(scale, void):
    generator = torch.Generator().manual_seed(int(10 * scale) + int(100 * void))
    target = torch.randint(0, 4, (2, 16, 16), generator=generator)
    logits = F.one_hot(target, 4).movedim(-1, 1) * scale + torch.randn(2, 4, 16, 16, generator=generator) * 0.1
    target[torch.rand(target.shape, generator=generator) < void] = 255
    probabilities = torch.tensor(
        [logits[n, :, y, x].softmax(0)[target[n, y, x]] for n, y, x in (target != 255).nonzero().tolist()]
    )
    hardest = probabilities.sort().values
    count = max(int((hardest < 0.7).sum()), math.ceil(len(hardest) / 16))
    assert math.isclose(ohem_cross_entropy(logits, target).item(), -hardest[:count].log().mean().item(), rel_tol=1e-4)


def test_ohem_quota_counts_valid_pixels_only():
    target = torch.full((1, 16, 16), 255)
    target[0, :2] = 0
    logits = torch.zeros(1, 2, 16, 16)
    logits[:, 0] = 5
    keep = hard_pixels(pixel_costs(logits, target), target != 255)
    assert keep.sum() == 2 and not keep[target == 255].any()


def test_channels_last_gives_the_same_gradient():
    logits, target = torch.randn(2, 7, 9, 5), torch.randint(0, 7, (2, 9, 5))
    grads = []
    for layout in (torch.contiguous_format, torch.channels_last):
        x = logits.clone(memory_format=layout).requires_grad_()
        ohem_cross_entropy(x, target).backward()
        grads.append(x.grad)
    assert torch.allclose(*grads, atol=1e-7)


def test_bfloat16_logits_are_computed_in_float32():
    logits, target = torch.randn(1, 5, 8, 8).bfloat16(), torch.randint(0, 5, (1, 8, 8))
    assert cross_entropy(logits, target).dtype == torch.float32
    assert torch.equal(cross_entropy(logits, target), cross_entropy(logits.float(), target))


def test_losses_refuse_what_does_not_fit():
    logits, target = torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    for call in (
        lambda: cross_entropy(logits, target[:, :2]),
        lambda: cross_entropy(logits, target, class_weights=torch.ones(4)),
        lambda: ohem_cross_entropy(logits, target, threshold=0.0),
        lambda: SegLoss("focla"),
    ):
        with pytest.raises(ConfigError) as error:
            call()
        assert "\n" not in str(error.value)


def test_uint8_labels_and_class_weights():
    logits, target = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    weights = torch.tensor([1.0, 2.0, 5.0])
    expected = F.cross_entropy(logits, target, weight=weights)
    assert torch.allclose(cross_entropy(logits, target.to(torch.uint8), class_weights=weights), expected)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (13, 20)])
def test_resize_target_is_nearest(size):
    target = torch.randint(0, 20, (2, 8, 10))
    assert torch.equal(
        resize_target(target, size), F.interpolate(target[None].float(), size=size, mode="nearest")[0].long()
    )


def test_distillation_agrees_with_torch():
    student, teacher = torch.randn(2, 5, 4, 4), torch.randn(2, 5, 4, 4)
    for t in (1.0, 4.0):
        expected = (
            F.kl_div((student / t).log_softmax(1), (teacher / t).softmax(1), reduction="none").sum(1).mean() * t**2
        )
        assert torch.allclose(kl_distillation(student, teacher, temperature=t), expected, atol=1e-6)
    with pytest.raises(ConfigError):
        kl_distillation(student, teacher[:, :4])


@pytest.mark.parametrize("kind", ["ohem", "cross_entropy"])
def test_every_term_is_alive(kind):
    torch.manual_seed(0)
    config = changed(loss=LossConfig(kind=kind))
    step = TrainStep(Toy(), config, teacher=Toy(width=12))
    batch = Batch(
        torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.randint(0, 19, (2, 64, 64)), ("a", "b")
    )
    terms, output = loss_terms(step, batch)
    assert list(terms) == ["main", "aux1", "distillation"]
    for name, value in terms.items():
        gradients = torch.autograd.grad(value, list(step.model.parameters()), retain_graph=True, allow_unused=True)
        assert value.item() > 0 and any(g is not None and g.abs().sum() > 0 for g in gradients), name
    assert dead_terms(terms, [output.logits, *output.aux]) == []


@pytest.mark.parametrize("warmup", ["linear", "exponential"])
@pytest.mark.parametrize("kind", ["exponential", "polynomial", "constant"])
def test_schedules_stay_between_zero_and_lr(kind, warmup):
    schedule = ScheduleConfig(kind=kind, warmup=warmup, warmup_steps=10)
    rates = [learning_rate(s, lr=0.1, total_steps=100, steps_per_epoch=7, schedule=schedule) for s in range(100)]
    assert all(0 < rate <= 0.1 for rate in rates)
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)


# trainer --------------------------------------------------------------------------------------------------------------


def everything(run):
    """All tensors that a run ends with, by name."""
    state = run.train.optimizer.state_dict()["state"]
    found = {f"model/{name}": value for name, value in run.train.model.state_dict().items()}
    found |= {f"momentum/{i}": s["momentum_buffer"] for i, s in state.items()}
    return found | (
        {f"ema/{name}": value for name, value in run.train.ema.state_dict().items()} if run.train.ema else {}
    )


def assert_equal_runs(one, other):
    """Bit-identical weights, statistics, momenta and averages."""
    a, b = everything(one), everything(other)
    assert a.keys() == b.keys() and not [name for name in a if not torch.equal(a[name], b[name])]


class Stop(Exception):
    """Thrown into a run from outside."""


def stop_before(run, step):
    """Let a run die before this step."""
    inner = run.train

    class Stopper:
        def __getattr__(self, name):
            return getattr(inner, name)

        def __call__(self, batch, *, step, lr, limit=step):
            if step == limit:
                raise Stop
            return inner(batch, step=step, lr=lr)

    run.train = Stopper()
    with pytest.raises(Stop):
        run.fit()


EXACT = {
    "fp32": changed(checkpoint_steps=3),
    "bf16 with average": changed(
        checkpoint_steps=1,
        precision="bf16",
        emulate_bf16=True,
        ema_decay=0.9,
        nesterov=True,
        decay_norms=False,
        clip_norm=1.0,
    ),
    "plain layout, mixed and growing": changed(
        channels_last=False, evaluate_every=2, mixing=Mixing(chance=0.7), progressive=((0.5, 0.5),)
    ),
}


@pytest.mark.parametrize("config", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("step", [1, 4, 7, 11])
def test_resumed_run_ends_with_the_same_bits(scenes, tmp_path, config, step):
    whole = trainer(scenes, tmp_path / "whole", config)
    result = whole.fit()
    stop_before(trainer(scenes, tmp_path / "cut", config), step)
    torch.rand(3)
    started = (tmp_path / "cut" / "state.pt").exists()
    rest = trainer(scenes, tmp_path / "cut", config, seed=5 if started else 0, resume=True)
    assert rest.files.step <= step
    again = rest.fit()
    assert_equal_runs(rest, whole)
    assert again.last.to_dict() == result.last.to_dict() and again.best.to_dict() == result.best.to_dict()
    timeless = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(tmp_path / name)]
        for name in ("whole", "cut")
    ]
    assert timeless[0] == timeless[1] and [line["epoch"] for line in timeless[0]] == [1, 2, 3]


def test_pictures_are_mixed_and_grow(scenes, tmp_path):
    """Half of the steps see half of the size; what is pasted depends on seed and step alone, not on where the run began."""
    config = changed(mixing=Mixing(kind="box", chance=1.0), progressive=((0.5, 0.5),))
    plain, first, second = (
        list(remaining_batches(trainer(scenes, tmp_path / name, how)))
        for name, how in (("plain", SMALL), ("a", config), ("b", config))
    )
    height, width = SMALL.augmentation.crop
    half = len(plain) // 2
    assert [b.images.shape[-2:] == (height // 2, width // 2) for b in first] == [i < half for i in range(len(plain))]
    assert all(
        torch.equal(a.images, b.images) and torch.equal(a.masks, b.masks) for a, b in zip(first, second, strict=True)
    )
    for old, new in zip(plain[half:], first[half:], strict=True):
        kept = (old.images == new.images).all(1) & (old.masks == new.masks)
        assert 0.4 < kept.float().mean() < 0.99 and not kept.all()


def test_resume_in_one_process_between_epochs(scenes, tmp_path):
    whole = trainer(scenes, tmp_path / "whole")
    whole.fit()
    cut = trainer(scenes, tmp_path / "cut")
    for _ in cut.epochs():
        torch.rand(7)
        break
    cut.fit()
    assert_equal_runs(cut, whole)


def test_worker_processes_change_nothing(scenes, tmp_path):
    runs = [trainer(scenes, tmp_path / str(workers), changed(epochs=1, workers=workers)) for workers in (0, 1)]
    for run in runs:
        run.fit()
    assert_equal_runs(*runs)


def test_no_state_after_a_crash_in_the_first_step(scenes, tmp_path):
    stop_before(trainer(scenes, tmp_path / "run"), 0)
    assert trainer(scenes, tmp_path / "run").fit().steps == 12


def test_nan_names_step_rate_and_files(scenes, tmp_path):
    run = trainer(scenes, tmp_path / "run", val=False)
    next(run.epochs())
    run.model.head.weight.data[0, 0] = math.nan
    with pytest.raises(DivergenceError) as error:
        run.fit()
    text = str(error.value)
    assert "step 4" in text and "learning rate" in text and "\n" not in text
    assert sum(sample.name in text for sample in scenes[1].samples) == 2
    assert load_state(tmp_path / "run")["step"] == 4


def test_a_statistic_that_explodes_behind_a_falling_loss_ends_the_run(scenes, tmp_path):
    run = trainer(scenes, tmp_path / "run", val=False)
    next(run.epochs())
    before = load_state(tmp_path / "run")["step"]
    name, norm = next(
        (name, module)
        for name, module in run.model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    )
    norm.running_var[0] = math.inf
    with pytest.raises(DivergenceError, match=f"{name}.running_var is not finite after step") as error:
        run.fit()
    assert "\n" not in str(error.value) and load_state(tmp_path / "run")["step"] == before


def test_a_folder_with_a_run_is_not_begun_again(scenes, tmp_path):
    trainer(scenes, tmp_path / "run", changed(epochs=1)).fit()
    for config, more in (
        (changed(epochs=1), {}),
        (changed(epochs=2), {}),
        (changed(epochs=1, lr=0.5), {"resume": True}),
        (changed(epochs=1), {"resume": True, "teacher": Toy()}),
        (changed(epochs=1), {"resume": True, "pretrained_on": "imagenet"}),
    ):
        with pytest.raises(ConfigError) as error:
            trainer(scenes, tmp_path / "run", config, **more)
        assert str(tmp_path / "run") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [b"", b"not a state", None])
def test_damaged_state_is_one_line(scenes, tmp_path, damage):
    trainer(scenes, tmp_path / "run", changed(epochs=1)).fit()
    path = tmp_path / "run" / "state.pt"
    path.write_bytes(path.read_bytes()[:1000] if damage is None else damage)
    with pytest.raises(ArtifactError) as error:
        trainer(scenes, tmp_path / "run", changed(epochs=1), resume=True)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_origins_of_last_best_and_average(scenes, tmp_path):
    result = trainer(scenes, tmp_path / "run", changed(ema_decay=0.5, seed=3), pretrained_on="imagenet").fit()
    for which in ("last", "best", "ema"):
        origin = load_trained(tmp_path / "run", which).origin
        assert (origin.which, origin.seed, origin.pretrained_on) == (which, 3, "imagenet")
    assert result.last.origin == load_trained(tmp_path / "run", "ema").origin
    assert result.best.origin == load_trained(tmp_path / "run", "best").origin
    assert result.best.miou == max(line["miou"] for line in read_metrics(tmp_path / "run"))
    model = Toy()
    model.load_state_dict(load_trained(tmp_path / "run", "last").weights)


def test_constant_score_raises_an_alarm(scenes, tmp_path):
    model = Toy()
    nn.init.zeros_(model.head.weight)
    model.head.requires_grad_(False)
    with pytest.warns(TrainingAlarm, match="mIoU has been"):
        trainer(scenes, tmp_path / "run", model=model).fit()
    assert read_metrics(tmp_path / "run")[-1]["alarm"]


def test_dead_terms_raise_an_alarm(scenes, tmp_path):
    model = Toy()
    model.drop = nn.Identity()
    teacher = Toy()
    teacher.load_state_dict(model.state_dict())
    with pytest.warns(TrainingAlarm, match="first steps: aux1, distillation"):
        run = trainer(
            scenes,
            tmp_path / "run",
            changed(epochs=2, lr=1e-30, stop_on_alarm=True),
            model=FrozenTwin(model),
            teacher=teacher,
        )
        result = run.fit()
    assert (
        result.steps == 4
        and result.stopped.startswith("alarm: loss terms")
        and read_metrics(tmp_path / "run")[0]["alarm"] in result.stopped
    )


class FrozenTwin(nn.Module):
    """A network whose normalisation is in evaluation mode, so that it is equal to its teacher, and whose auxiliary head is cut off."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def train(self, mode=True):
        super().train(mode)
        self.inner.body[1].eval()
        return self

    def forward(self, x):
        output = self.inner(x)
        return output._replace(aux=(output.aux[0].detach(),)) if self.training else output


def test_no_alarm_in_an_ordinary_run(scenes, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingAlarm)
        trainer(scenes, tmp_path / "run").fit()


def test_training_leaves_the_network_usable(scenes, tmp_path):
    model = Toy()
    trainer(scenes, tmp_path / "run", changed(epochs=1, precision="bf16", emulate_bf16=True), model=model).fit()
    assert model.forward.__func__ is Toy.forward
    assert model.eval()(normalize(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))).dtype == torch.float32


def test_two_precisions_in_one_process(scenes, tmp_path):
    for precision in ("bf16", "fp32", "bf16"):
        accelerator = make_accelerator(precision, device="cpu")
        with accelerator.autocast():
            dtype = F.conv2d(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)).dtype
        assert dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    with pytest.raises(ConfigError):
        make_accelerator("fp16", device="cpu")


def test_batches_that_cannot_be_stacked_and_frozen_networks_are_refused(scenes, tmp_path):
    with pytest.raises(RtsegError) as error:
        trainer(scenes, tmp_path / "run", model=Toy().requires_grad_(False))
    assert "\n" not in str(error.value)


def test_metrics_lines_are_complete(scenes, tmp_path):
    trainer(scenes, tmp_path / "run").fit()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]
    for line in lines:
        assert (
            set(line["losses"]) == {"main", "aux1"}
            and 0 < line["lr"] <= 0.05
            and len(line["iou"]) == 19
            and line["which"] == "last"
        )
    assert list((tmp_path / "run" / "tensorboard").iterdir())


# parts of a network, of a batch, of a run ---------------------------------------------------------------------------------


def test_accumulation_equals_the_whole_batch(scenes, tmp_path):
    frozen = {
        "freeze": ("body.1",),
        "loss": LossConfig(kind="cross_entropy", class_weights=tuple(1 + i / 5 for i in range(19)), aux_weight=0.4),
    }
    one = trainer(scenes, tmp_path / "one", changed(batch_size=4, **frozen), model=Undropped(), teacher=Toy(width=4))
    two = trainer(
        scenes,
        tmp_path / "two",
        changed(batch_size=2, accumulate=2, **frozen),
        model=undropped_twin(one),
        teacher=twin_teacher(one),
    )
    one.fit(), two.fit()
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    losses = [[line["losses"] for line in read_metrics(tmp_path / name)] for name in ("one", "two")]
    assert all(math.isclose(a[k], b[k], rel_tol=1e-5) for a, b in zip(*losses, strict=True) for k in a)


class Undropped(Toy):
    """A toy without dropout, whose random numbers depend on the parts."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Identity()


def undropped_twin(run):
    model = Undropped()
    model.load_state_dict(run.model.state_dict())
    return model


def twin_teacher(run):
    teacher = Toy(width=4)
    teacher.load_state_dict(run.train.distiller.teacher.state_dict())
    return teacher


def test_frozen_modules_do_not_move_and_are_free_afterwards(scenes, tmp_path):
    model = Toy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer(scenes, tmp_path / "run", changed(freeze=("body",), decay_norms=True, ema_decay=0.9), model=model).fit()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias", "aux.weight", "aux.bias"} and all(
        p.requires_grad for p in model.parameters()
    )
    for bad in ("bodi", "body.9", ""):
        with pytest.raises(ConfigError) as error:
            trainer(scenes, tmp_path / "other", changed(freeze=(bad,)))
        assert "freeze" in str(error.value) and "\n" not in str(error.value)


def test_checkpointed_modules_change_no_number(scenes, tmp_path):
    runs = [
        trainer(scenes, tmp_path / str(i), changed(checkpoint_modules=names))
        for i, names in enumerate(((), ("body", "head")))
    ]
    for run in runs:
        run.fit()
    for name, value in runs[0].model.state_dict().items():
        assert torch.allclose(value, runs[1].model.state_dict()[name], atol=1e-6), name
    assert "forward" not in vars(runs[1].model.body)
    with pytest.raises(ConfigError, match="did you mean 'body'"):
        trainer(scenes, tmp_path / "bad", changed(checkpoint_modules=("bodi",)))


def test_compiled_run_is_the_same_run(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("rtseg.training.step.COMPILE_BACKEND", "eager")
    runs = [
        trainer(scenes, tmp_path / str(compiled), changed(epochs=1, compile=compiled, ema_decay=0.9))
        for compiled in (False, True)
    ]
    for run in runs:
        run.fit()
    a, b = everything(runs[0]), everything(runs[1])
    assert a.keys() == b.keys() and all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)
    with pytest.raises(ConfigError, match="compile and checkpoint_modules"):
        trainer(scenes, tmp_path / "bad", changed(compile=True, checkpoint_modules=("body",)))


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_other_optimisers_resume_with_the_same_bits(scenes, tmp_path, optimizer):
    config = changed(optimizer=optimizer, lr=1e-3, head_lr_factor=10.0, checkpoint_steps=2, accumulate=2, batch_size=1)
    whole = trainer(scenes, tmp_path / "whole", config)
    whole.fit()
    stop_before(trainer(scenes, tmp_path / "cut", config), 7)
    rest = trainer(scenes, tmp_path / "cut", config, seed=5, resume=True)
    rest.fit()
    rates = {group["lr"] for group in rest.train.optimizer.param_groups}
    assert len(rates) == 2 and math.isclose(max(rates), 10 * min(rates))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[name]), name


@pytest.mark.parametrize(("part", "term"), [("guidance", "detail8"), ("alignment", "align16")])
def test_parts_beside_the_network_are_trained_saved_and_resumed(scenes, tmp_path, part, term):
    own = {"detail": DetailConfig()} if part == "guidance" else {"alignment": AlignmentConfig(strides=(16,))}
    config = changed(epochs=2, checkpoint_steps=1, **own)
    coarse = lambda: nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.Conv2d(8, 19, 1), nn.Upsample(scale_factor=16))  # noqa: E731
    made = coarse if part == "alignment" else lambda: create_model("fastscnn", 19)
    build = lambda seed: (torch.manual_seed(seed), made())[1]  # noqa: E731
    more = {"teacher": build(1)} if part == "alignment" else {}
    whole = trainer(scenes, tmp_path / "whole", config, model=build(0), **more)
    whole.fit()
    cut = trainer(scenes, tmp_path / "cut", config, model=build(0), **more)
    stop_before(cut, 5)
    rest = trainer(scenes, tmp_path / "cut", config, model=build(4), seed=9, resume=True, **more)
    rest.fit()
    for name in ("model", part):
        a, b = (getattr(run.train, name).state_dict() for run in (whole, rest))
        assert a and all(torch.equal(a[key], b[key]) for key in a)
    assert (
        term in read_metrics(tmp_path / "cut")[0]["losses"]
        and load_trained(tmp_path / "cut", "last").weights.keys() == whole.model.state_dict().keys()
    )


# guards ---------------------------------------------------------------------------------------------------------------


def test_exploding_loss_is_divergence(scenes, tmp_path):
    run = trainer(scenes, tmp_path / "run", changed(epochs=12), val=False)
    epochs = run.epochs()
    for _ in range(6):
        next(epochs)
    with torch.no_grad():
        run.model.head.weight *= 5e4
    with pytest.raises(DivergenceError) as error:
        list(epochs)
    text = str(error.value)
    assert "step 24" in text and "times the median" in text and "learning rate" in text and "\n" not in text
    assert sum(sample.name in text for sample in scenes[1].samples) == 2 and load_state(tmp_path / "run")["step"] == 24


def test_the_guard_against_explosion_survives_a_resume(scenes, tmp_path):
    run = trainer(scenes, tmp_path / "run", changed(epochs=7), val=False)
    epochs = run.epochs()
    for _ in range(6):
        next(epochs)
    epochs.close()
    rest = trainer(scenes, tmp_path / "run", changed(epochs=7), val=False, resume=True)
    assert rest.train.watch.recent == run.train.watch.recent and len(rest.train.watch.recent) == 24


def test_early_stopping_is_recorded_and_resumes_to_nothing(scenes, tmp_path):
    config = changed(epochs=9, patience=2, lr=1e-12, freeze=("body",))
    result = trainer(scenes, tmp_path / "run", config).fit()
    assert (
        result.steps == 12
        and "patience 2" in result.stopped
        and read_metrics(tmp_path / "run")[-1]["stopped"] == result.stopped
    )
    with pytest.warns(TrainingNotice, match="stopped early at step 12 of 36"):
        again = trainer(scenes, tmp_path / "run", config, resume=True).fit()
    assert (again.steps, again.stopped) == (12, result.stopped)
    assert trainer(scenes, tmp_path / "run", config.model_copy(update={"patience": 3}), resume=True).fit().steps == 16


def test_table_and_tensorboard_hold_the_run(scenes, tmp_path):
    trainer(scenes, tmp_path / "run", changed(log_images=1)).fit()
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    lines = read_metrics(tmp_path / "run")
    assert [float(row["losses/main"]) for row in rows] == [line["losses"]["main"] for line in lines]
    assert [row["iou/road"] for row in rows] == [str(line["iou"][0]) for line in lines]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    assert {"lr", "loss/main", "loss/aux1", "score/mIoU", "iou/road", "result/best mIoU"} <= set(tags["scalars"])
    assert len(events.Images("confusion")) == 3 and len(events.Images(f"masks/{scenes[2].samples[0].name}")) == 3
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_balanced_sampling_and_a_cache_in_memory(scenes, tmp_path):
    plain = open_dataset("synthetic", scenes[0], "train")
    runs = [
        Trainer(
            Undropped(),
            plain,
            config=changed(epochs=1, batch_size=4, cache=cache, balanced_sampling=balanced),
            folder=tmp_path / f"{cache}{balanced}",
            progress=False,
        )
        for cache, balanced in (("memory", False), ("none", False), ("none", True))
    ]
    assert [run.data.cache for run in runs] == ["memory", None, None] and plain.cache is None
    names = [[name for batch in remaining_batches(run) for name in batch.names] for run in runs]
    assert names[0] == names[1] and len(names[2]) == 16 and names[2] != names[1]
