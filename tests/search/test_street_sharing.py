"""The supernet and the learned choices of the space `street`, and bills that no strategy passes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rtseg.core.errors import ConfigError
from rtseg.data.datasets import open_dataset
from rtseg.data.loading import make_loader
from rtseg.data.scenes import make_scenes
from rtseg.search.arena import NetworkScores, SpaceArena
from rtseg.search.costs import network_cost, part_cost
from rtseg.search.latency_table import LatencyTable, TableHeader
from rtseg.search.parts import PARTS, PIECES, Part, Picture, list_parts, register_part
from rtseg.search.probes import Entry
from rtseg.search.spaces import open_space
from rtseg.search.strategies import SCORERS, search, search_space
from rtseg.search.street import StreetArchitecture, StreetSpace, StreetStage, sample_street
from rtseg.search.street_mixture import StreetLogits, chosen, cosearch_street, decisions, mixed_logits, preference
from rtseg.search.street_mixture import two_of, width_mask
from rtseg.search.street_supernet import StreetSupernet, calibrate, corner, extreme, sandwich, train_supernet
from rtseg.training.config import TrainConfig

ALL = StreetSpace(
    stem_widths=(16, 32),
    widths=((32, 64), (32, 64), (64, 96)),
    depths=((1, 2), (1,), (0, 1)),
    head_widths=(16, 32),
)
TINY = StreetSpace(
    operators=("separable3", "res_conv"),
    stems=("separable_stem",),
    stem_widths=(16,),
    widths=((16, 32), (32,), (32,)),
    depths=((1,), (1, 2), (0, 1)),
    contexts=("no_context",),
    heads=("plain_head",),
    head_widths=(16, 32),
)


def drawn(space: StreetSpace, count: int) -> list[StreetArchitecture]:
    generator = torch.Generator().manual_seed(1)
    return [sample_street(space, generator) for _ in range(count)]


@pytest.fixture(scope="module")
def everything() -> StreetSupernet:
    return StreetSupernet(ALL, 5)


@pytest.mark.parametrize("name", list_parts("operator"))
def test_every_operator_is_shared_by_all_its_widths(everything, name):
    arch = StreetArchitecture(
        "plain_stem",
        16,
        (StreetStage(32, (name, name)), StreetStage(64, (name,)), StreetStage(64, (name,))),
        "pyramid",
        "attention_head",
        16,
    )
    network = everything.child(arch)
    pairs = list(everything.shared(network))
    assert len(pairs) == len(list(network.parameters()))
    assert all(torch.equal(p, corner(source, p)) for p, source in pairs)


def test_gradients_come_back_to_where_weights_came_from(everything):
    everything.zero_grad()
    arch = drawn(ALL, 1)[0]
    network = everything.child(arch).train()
    network(torch.randn(2, 3, 64, 64)).logits.square().mean().backward()
    everything.collect(network)
    everything.collect(network)
    for parameter, source in everything.shared(network):
        assert torch.equal(corner(source.grad, parameter), 2 * parameter.grad)
        assert source.grad.abs().sum() == pytest.approx(2 * float(parameter.grad.abs().sum()), rel=1e-3)
    reached = {id(source) for _, source in everything.shared(network)}
    assert all(p.grad is None for p in everything.parameters() if id(p) not in reached)


def test_a_part_that_keeps_other_weights_when_it_is_wide_is_refused():
    """RegSeg's block has a shortcut only where its channels change; the widest of this space has none, narrower ones have."""
    space = replace_space(ALL, stem_widths=(32, 64), operators=("dilated",))
    supernet, arch = StreetSupernet(space, 5), drawn(space, 1)[0]
    wide = replace(arch, stem_width=64, stages=(StreetStage(64, ("dilated",)), *arch.stages[1:]))
    supernet.child(wide)
    with pytest.raises(
        ConfigError, match=r"'dilated' cannot be shared: its 'body.carry.conv.weight' .* take the part out"
    ):
        supernet.child(replace(wide, stem_width=32))


def replace_space(space: StreetSpace, **changes) -> StreetSpace:
    return StreetSpace.parse({**space.to_dict(), **changes})


def test_a_sandwich_has_the_ends_of_the_space_and_some_by_lot():
    generator = torch.Generator().manual_seed(0)
    large, small, *others = sandwich(ALL, generator, 3)
    assert [s.width for s in large.stages] == [64, 64, 96] and [len(s.operators) for s in large.stages] == [2, 1, 1]
    assert [s.width for s in small.stages] == [32, 32] and small.stem_width == small.head_width == 16
    assert len(others) == 3 and all(a in ALL for a in (large, small, *others))
    kinds = {extreme(ALL, generator, True).stages[0].operators for _ in range(20)}
    assert len(kinds) > 3, "operators of the largest network are drawn by lot"


def test_statistics_are_those_of_the_batches_it_was_calibrated_on(everything):
    network, images = everything.child(drawn(ALL, 1)[0]), torch.randn(2, 3, 64, 64) + 1
    norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    seen = []
    norm.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    calibrate(network, [images, 3 * images])
    wanted = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    assert torch.allclose(norm.running_mean, wanted, atol=1e-5) and norm.momentum == 0.1 and not network.training


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    root = make_scenes(tmp_path_factory.mktemp("scenes"), counts={"train": 8, "val": 2, "test": 2}, size=(64, 64))
    return open_dataset("synthetic", root, "train", cache="memory").halves(0)


def test_weights_and_choices_are_trained_in_turn_and_every_pass_is_billed(halves):
    config = TrainConfig.parse({"batch_size": 2, "augmentation": None, "optimizer": "adamw", "lr": 0.01})
    classes = halves[0].labels.num_classes
    supernet, logits = StreetSupernet(TINY, classes), StreetLogits(TINY)
    others = make_loader(halves[1], batch_size=2, shuffle=True, steps=4)
    states = list(cosearch_street(supernet, logits, halves[0], others, config, steps=8, every=2))
    assert [s.step for s, _ in states] == list(range(1, 9)) and all(len(s.losses) == 3 for s, _ in states)
    kept, whole = None, {**supernet.state_dict(), **logits.state_dict()}
    for state, _ in cosearch_street(
        StreetSupernet(TINY, classes), StreetLogits(TINY), halves[0], others, config, steps=8
    ):
        if state.step == 5:
            kept = state.checkpoint()
            break
    again, choices = StreetSupernet(TINY, classes, seed=3), StreetLogits(TINY)
    rest = list(cosearch_street(again, choices, halves[0], others, config, steps=8, begun=kept))
    assert [s.step for s, _ in rest] == [6, 7, 8] and rest[-1][0].macs == states[-1][0].macs
    assert rest[-1][1] == states[-1][1] and rest[-1][0].losses == states[-1][0].losses
    same = {**again.state_dict(), **choices.state_dict()}
    assert all(torch.equal(same[name], value) for name, value in whole.items()), "stopped, it ends as it would have"
    plain = list(train_supernet(StreetSupernet(TINY, classes), halves[0], config, steps=1))[0]
    assert plain.losses[0] == pytest.approx(states[0][0].losses[0], rel=1e-5), "the same data, networks and weights"
    assert plain.macs == states[0][0].macs > plain.largest > 0
    spent = [s for _, s in states]
    assert spent[1] == 0 and spent[3] == 2 * states[3][0].largest and spent[7] > spent[5] > spent[3]
    moved = {name for name, row in logits.items() if row.abs().max() > 0}
    assert moved == {name for name, options in decisions(TINY).items() if len(options) > 1}


def test_choices_are_a_distribution_over_networks():
    logits, archs = StreetLogits(TINY), list(TINY.enumerate())
    torch.manual_seed(0)
    for row in logits.values():
        row.data.normal_()
    sizes = {name: len(options) for name, options in decisions(TINY).items()}
    total = sum(
        np.exp(preference(TINY, logits, a)) / np.prod([float(sizes[name]) for name in chosen(a)]) for a in archs
    )
    assert total == pytest.approx(1, abs=1e-4), "the probabilities of all networks add up to one"


def test_masks_and_pairs():
    mask = width_mask((16, 32), torch.tensor([0.0, 1.0986123]))
    assert mask.shape == (1, 32, 1, 1)
    assert torch.allclose(mask[0, :16], torch.ones(1)) and torch.allclose(mask[0, 16:], torch.tensor(0.75))
    which, weights = two_of(torch.tensor([0.0, 100.0, 100.0]), torch.Generator().manual_seed(0))
    assert sorted(which) == [1, 2] and torch.allclose(weights, torch.tensor([0.5, 0.5]))
    assert two_of(torch.zeros(1), torch.Generator())[0] == [0]


def test_a_space_of_two_or_of_three_stages_is_mixed_without_the_other():
    for depths, heads in (((0,), ["plain_head 2"]), ((1,), ["plain_head 3"])):
        space = replace_space(TINY, depths=((1,), (1,), depths))
        supernet = StreetSupernet(space, 3)
        assert list(supernet.heads) == heads
        out = mixed_logits(supernet, StreetLogits(space), torch.randn(1, 3, 64, 64), torch.Generator().manual_seed(0))
        assert out.shape == (1, 3, 8, 8)


# --- bills ------------------------------------------------------------------------------------------------------------


def work(arch) -> float:
    return network_cost(arch, (96, 128), num_classes=5).macs / 1e6


@pytest.mark.parametrize("strategy", ["random", "evolution", "predictor", "gmac", "loss sum", *SCORERS])
def test_no_strategy_trains_a_network_that_its_bill_does_not_hold(strategy):
    paid = []

    def train(arch, share):
        paid.append(share)
        return 0.5, 1.0

    class Size:
        price = 1.5

        def of(self, arch):
            return work(arch)

    steps = list(
        search_space(
            open_space("street"),
            work,
            100.0,
            strategy,
            size=(96, 128),
            num_classes=5,
            trainer=train,
            scorers={name: Size() for name in SCORERS},
            trainings=3.25,
        )
    )
    spent = sum(paid) + (1.5 if strategy in SCORERS else 0)
    assert spent == pytest.approx(steps[-1].cost) and 2 < spent <= 3.25 and 90 < work(steps[-1].network) <= 100


def test_scores_are_asked_for_by_name():
    arena = SpaceArena(open_space("street"), work, 100.0, size=(96, 128), num_classes=5)
    with pytest.raises(ConfigError, match="no 'supernet' to score networks with, only none"):
        list(search(arena, "supernet", trainings=4))
    assert arena.bill == 0
    with pytest.raises(ConfigError, match="network b has no score"):
        NetworkScores(1.0, {"a": 0.5}).of("b")


# --- a new operator is one class --------------------------------------------------------------------------------------


@pytest.fixture
def toy():
    """An operator that only this test knows."""

    @register_part
    class Toy(Part):
        """A plain 1x1 convolution."""

        name, role, picture, reach = "toy", "operator", Picture("toy", "#123456"), 0

        def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1):
            super().__init__()
            self.conv = nn.Conv2d(in_channels, out_channels, 1, stride=stride)

        def forward(self, x):
            return self.conv(x).relu()

    yield Toy
    for registry in (PARTS, PIECES):
        registry._entries.pop("toy")


def test_a_new_operator_is_one_class_that_is_priced_shared_and_searched(toy):
    space = open_space("street", {"operators": ["toy", "res_conv_2x"], "stem_widths": [32], "head_widths": [64]})
    table = LatencyTable(
        TableHeader("d", "onnxruntime", "fp32", 1, 96, 128, 5),
        {s.key(): Entry(1e-6 * part_cost(s).macs, 0, 0, 1) for s in space.table_specs((96, 128), 5)},
    )
    assert any(key.startswith("toy_h") for key in table.entries)
    budget, last = 60.0, None
    for step in search_space(space, table.predict, budget, "parameters", size=(96, 128), num_classes=5, trainings=0.5):
        last = step.network
    names = {name for stage in last.stages for name in stage.operators}
    assert "toy" in names and 54 < table.predict(last) <= budget
    assert table.predict(last) == pytest.approx(work(last)), "the prices of all its pieces are those of the network"
    child = StreetSupernet(replace_space(ALL, operators=("toy",)), 5).child(
        StreetArchitecture("plain_stem", 16, (StreetStage(32, ("toy",)),) * 2, "no_context", "plain_head", 16)
    )
    assert isinstance(child.stages[0][0], toy) and child.eval()(torch.randn(1, 3, 64, 96)).shape == (1, 5, 64, 96)
