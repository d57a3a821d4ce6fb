"""Feature distillation: the distance against plain NumPy, any pair of networks, a run that is cut and goes on, what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from rtseg.core.errors import ConfigError
from rtseg.data.loading import Batch
from rtseg.models import create_model
from rtseg.training.alignment import AlignmentConfig, FeatureAlignment, pair_taps
from rtseg.training.config import TrainConfig
from rtseg.training.recipes import load_recipe
from rtseg.training.step import TrainStep


class Pyramid(nn.Module):
    """One map at 1/16 and one at 1/32."""

    num_classes, in_channels = 3, 3

    def __init__(self, *channels: int):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, channels[0], 16, 16), nn.Conv2d(channels[0], channels[1], 2, 2)
        self.head = nn.Conv2d(channels[1], 3, 1)

    def forward(self, x):
        return nn.functional.interpolate(self.head(self.coarse(self.fine(x))), size=x.shape[-2:])


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def pair(config=None, student=(4, 6), teacher=(5, 8)):
    torch.manual_seed(0)
    networks = Pyramid(*student), Pyramid(*teacher).eval().requires_grad_(False)
    return *networks, FeatureAlignment(*networks, config)


def test_the_term_is_channel_wise_distillation_of_projected_maps():
    student, teacher, align = pair(AlignmentConfig(strides=(32,), weight=2.0, temperature=3.0))
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad(), align.watching():
        student(x), teacher(x)
    with torch.no_grad():
        found = float(align()["align32"])
        learnt = align.projections["32"](student.coarse(student.fine(x))).flatten(2).double().numpy() / 3
        taught = teacher.coarse(teacher.fine(x)).flatten(2).double().numpy() / 3
    p, q = softmax(taught), softmax(learnt)
    assert found == pytest.approx(2 * 9 * (p * np.log(p / q)).sum() / (2 * 8), rel=1e-4)


def test_gradients_reach_student_and_projections_only():
    student, teacher, align = pair()
    with align.watching():
        student(torch.randn(1, 3, 64, 96)), teacher(torch.randn(1, 3, 64, 96))
    sum(align().values()).backward()
    assert all(
        p.grad.abs().sum() > 0 for p in (student.fine.weight, student.coarse.weight, *align.parameters()) if p.ndim > 1
    )
    assert all(p.grad is None for p in teacher.parameters()) and not any(m._forward_hooks for m in student.modules())


@pytest.mark.parametrize("teacher", ["topformer_t", "pidnet_s"])
def test_transformers_and_branches_have_maps_to_show(teacher):
    taps = pair_taps(create_model(teacher, 3), (8, 16, 32))
    assert len({tap.name for tap in taps.values()}) == 3 and all(tap.channels > 1 for tap in taps.values())


def test_modules_by_name():
    student, teacher, _ = pair()
    named = AlignmentConfig(strides=(16,), student_taps=("fine",), teacher_taps=("fine",))
    assert FeatureAlignment(student, teacher, named).taps[1][16].channels == 5
    with pytest.raises(ConfigError, match="did you mean 'fine'"):
        FeatureAlignment(student, teacher, AlignmentConfig(strides=(16,), teacher_taps=("fin",)))
    with pytest.raises(ConfigError, match="no map at 1/8"):
        FeatureAlignment(student, teacher, AlignmentConfig(strides=(8,)))


SETTINGS = TrainConfig(
    precision="fp32",
    channels_last=True,
    compile=False,
    device="cpu",
    loss={"kind": "cross_entropy"},
    augmentation=None,
    alignment=AlignmentConfig(),
)


def batch() -> Batch:
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Batch(images, images.long().argmax(1), ("a", "b"))


def test_in_a_step_it_is_a_term_with_parameters_of_its_own():
    student, teacher, _ = pair()
    step = TrainStep(student, SETTINGS, teacher=teacher)
    with step.training():
        history = [step(batch(), step=i, lr=0.02) for i in range(6)]
    assert list(history[0]) == ["main", "distillation", "align16", "align32"]
    assert history[-1]["align16"] < history[0]["align16"] and history[-1]["align32"] < history[0]["align32"]
    trained = {id(p) for group in step.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in step.alignment.parameters()} <= trained and not {
        id(p) for p in teacher.parameters()
    } & trained


def test_two_parts_are_one_batch():
    def values(parts):
        student, teacher, _ = pair()
        step = TrainStep(student, SETTINGS.model_copy(update={"accumulate": parts}), teacher=teacher)
        with step.training():
            return [list(step(batch(), step=i, lr=0.01).values()) for i in range(2)]

    assert np.allclose(values(1), values(2), rtol=1e-4)


def test_what_cannot_be_is_refused():
    student, teacher, align = pair()
    with pytest.raises(ConfigError, match="inside watching"):
        align()
    with pytest.raises(ConfigError, match="give a teacher"):
        TrainStep(student, SETTINGS)
    cached = SETTINGS.model_copy(update={"distillation": {"cache": "memory"}})
    with pytest.raises(ConfigError, match="not cached"):
        TrainStep(student, TrainConfig.parse(cached.to_dict()), teacher=teacher)
    with pytest.raises(ConfigError, match="compile and alignment"):
        TrainStep(student, SETTINGS.model_copy(update={"compile": True}), teacher=teacher)


def test_the_recipes_carry_the_authors_numbers():
    sctnet, pidnet = load_recipe("sctnet"), load_recipe("pidnet")
    assert (sctnet.alignment.strides, sctnet.alignment.weight, sctnet.distillation.weight) == ((16, 32), 15, 3)
    assert (sctnet.distillation.kind, sctnet.alignment.temperature, sctnet.epochs * sctnet.steps_per_epoch) == (
        "cwd",
        4,
        160_000,
    )
    assert (pidnet.detail.loss, pidnet.loss.threshold, pidnet.loss.aux_weight, pidnet.epochs) == (
        "boundary",
        0.9,
        0.4,
        484,
    )
