"""Co-search: repeatable by seed, exact when resumed, and the adaptive latency weight."""

import pytest
import torch

from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.data.loading import Batch
from rtseg.search.cosearch import cosearch, score_pairs
from rtseg.search.config import LatencyGoal, SearchConfig, adapted_weight
from rtseg.search.expected import ExpectedLatency
from rtseg.search.pretraining import DivergedError, PretrainConfig, check_finite, pretrain
from rtseg.search.space import SearchSpace
from rtseg.search.supernet import Supernet

SPACE = SearchSpace(layers=5, base_width=1, widths=(6, 12))
CONFIG = SearchConfig(
    epochs=2,
    steps_per_epoch=2,
    lr=0.02,
    passes=("teacher", "student"),
    arch_passes=("teacher", "student"),
    arch_lr=0.05,
    goal=LatencyGoal(target_ms=0.5, weight=0.5),
)


class Noise:
    """Images whose label is their brightness."""

    def __init__(self, seed):
        self.seed = seed

    def batch(self, step):
        g = torch.Generator().manual_seed(1000 * self.seed + step)
        masks = torch.randint(3, (2, 8, 8), generator=g).repeat_interleave(8, 1).repeat_interleave(8, 2)
        images = (80 * masks[:, None] + torch.randint(40, (2, 3, 64, 64), generator=g)).to(torch.uint8)
        return Batch(images, masks, ())


def price(spec):
    return 0.01 + spec.height * spec.width * spec.in_channels * spec.out_channels / spec.stride**2 / 1e7


def run(seed=0, *, config=CONFIG, state=None, latency=True, init=0):
    table = ExpectedLatency(SPACE, price, (128, 256), 3) if latency else None
    return cosearch(
        Supernet(SPACE, 3, seed=init), Noise(1), Noise(2), config=config, latency=table, seed=seed, state=state
    )


pytestmark = pytest.mark.usefixtures("one_thread")


def same_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.slow
def test_same_seed_same_result_other_seed_another():
    first, again, other = (list(run(seed))[-1] for seed in (0, 0, 1))
    assert first.record() == again.record() and first.decoded == again.decoded
    assert same_tensors(first.checkpoint()["tensors"], again.checkpoint()["tensors"])
    assert not same_tensors(first.logits["student"].tensors(), other.logits["student"].tensors())


def test_resumed_is_bit_identical():
    whole = list(run())
    saved = next(run()).checkpoint()
    rest = list(run(seed=5, init=9, state=saved))
    assert [s.epoch for s in rest] == [2] and rest[0].record() == whole[1].record()
    assert same_tensors(rest[0].checkpoint()["tensors"], whole[1].checkpoint()["tensors"])
    assert rest[0].checkpoint()["values"] == whole[1].checkpoint()["values"]


def test_a_checkpoint_is_a_copy():
    search = run()
    first = next(search)
    saved = first.checkpoint()
    held = {n: t.clone() for n, t in saved["tensors"].items()}
    following = next(search)
    with pytest.raises(ConfigError, match="before asking"):
        first.checkpoint()
    assert following.epoch == 2 and same_tensors(held, saved["tensors"])


def test_a_checkpoint_of_pretraining_is_refused():
    state = next(
        pretrain(Supernet(SPACE, 3), Noise(1), config=PretrainConfig(epochs=1, steps_per_epoch=1))
    ).checkpoint()
    with pytest.raises(ArtifactError, match="SearchState.checkpoint"):
        next(run(state=state))


def test_pretraining_resumes_exactly():
    config = PretrainConfig(epochs=2, steps_per_epoch=2, lr=0.05)
    a, b = Supernet(SPACE, 3), Supernet(SPACE, 3)
    whole = list(pretrain(a, Noise(1), config=config))
    saved = next(pretrain(b, Noise(1), config=config)).checkpoint()
    c = Supernet(SPACE, 3, seed=4)
    rest = list(pretrain(c, Noise(1), config=config, state=saved))
    assert rest[0].losses == whole[1].losses and same_tensors(a.state_dict(), c.state_dict())


def test_latency_makes_the_student_faster_and_leaves_the_teacher_alone():
    heavy = CONFIG.model_copy(update={"goal": LatencyGoal(weight=50.0, adapt=False), "epochs": 3, "arch_lr": 0.2})
    with_latency, without = (list(run(config=heavy, latency=latency))[-1] for latency in (True, False))
    table = ExpectedLatency(SPACE, price, (128, 256), 3)
    assert table(with_latency.logits["student"]) < table(without.logits["student"])
    assert with_latency.expected_ms is not None and without.expected_ms is None and without.decoded_ms is None


@pytest.mark.parametrize(("ms", "factor"), [(1000 / 176, 0.5), (1000 / 174, 1.0), (1000 / 156, 1.0), (1000 / 154, 2.0)])
def test_latency_weight_follows_the_speed_band(ms, factor):
    assert adapted_weight(0.01, ms, LatencyGoal()) == 0.01 * factor
    assert adapted_weight(0.01, 2 * ms, LatencyGoal(target_ms=16.6)) == 0.01 * factor


def test_scores_of_pairs_leave_the_supernet_as_it_was():
    state = list(run())[-1]
    supernet = Supernet(SPACE, 3).train()
    held = {n: t.clone() for n, t in supernet.state_dict().items()}
    table = ExpectedLatency(SPACE, price, (128, 256), 3)
    scores = score_pairs(
        supernet, state.logits["student"], "student", [Noise(3).batch(0)], latency=table, goal=CONFIG.goal
    )
    assert {s.lasts for s in scores} == {(2, 0), (2, 1)} and scores[0].value >= scores[1].value
    assert supernet.training and same_tensors(held, supernet.state_dict())
    for s in scores:
        assert s.value == pytest.approx(s.miou * (s.latency_ms / 0.5) ** -0.07)


def test_divergence_and_unknown_options_are_one_line():
    with pytest.raises(DivergedError, match="learning rate"):
        check_finite([float("inf")], "weight step")
    with pytest.raises(ConfigError, match="did you mean 'arch_lr'"):
        SearchConfig.parse({"arch_rl": 0.1})
