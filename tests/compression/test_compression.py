"""Compression: what is cut is what was claimed, for every network of the registry."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rtseg.compression import (
    PruningPlan,
    apply,
    find_couplings,
    load_pruned,
    plan,
    prune,
    prune_steps,
    save_pruned,
)
from rtseg.compression.saving import PrunedRecord
from rtseg.core.errors import ArtifactError, ConfigError, MissingExtra
from rtseg.core.values import SegOutput
from rtseg.deployment import export_onnx
from rtseg.models import count_parameters, create_model
from rtseg.models.checking import smallest_of_families

NUM_CLASSES = 5
EXPORTED = ("dabnet", "fastscnn")
# the share of the parameters that a cut of 0.3 leaves; where it is far above 0.5 the network splits or shuffles its channels by position
LEFT_OVER = {
    "litehrnet": 0.93,
    "sctnet_s": 0.75,
    "lmffnet": 0.68,
    "letnet": 0.85,
    "afformer_t": 0.86,
    "topformer_t": 0.79,
    "segnext_t": 0.77,
    "seaformer_t": 0.66,
    "fpenet": 0.80,
    "aglnet": 0.72,
    "regseg": 0.72,
    "lednet": 0.72,
    "espnetv2": 0.65,
    "segnet": 0.65,
}
SMALL = {"segnet": {"width": 16}, "letnet": {"dilations": (2,)}}
REASONS = {
    "aglnet": "split by position",
    "enet": "does not run",
    "espnetv2": "in 4 groups",
    "fanet": "averaged",
    "farseenet": "does not run",
    "fpenet": "split by position",
    "lednet": "split by position",
    "lmffnet": "split by position",
    "letnet": "split by position",
    "afformer_t": "LayerNorm looks at all",
    "topformer_t": "split by position",
    "segnext_t": "ChannelNorm looks at all",
    "seaformer_t": "free parameter",
    "dsnet_head64": "does not run",
    "hyperseg_s": "split by position",
    "pidnet_s": "averaged",
    "sctnet_s": "free parameter",
    "litehrnet": "split by position",
    "ppliteseg": "hangs together",
    "regseg": "split by position",
    "segnet": "does not run",
    "dabnet": "does not run",
}
EVERYWHERE = ("its channels are the network's output", "it has one channel")


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, NUM_CLASSES, 1),
    )


def kernel_norms(weight: torch.Tensor, power: int = 1) -> np.ndarray:
    rows = np.abs(weight.detach().double().numpy()).reshape(len(weight), -1)
    return (rows**power).sum(1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return create_model("fastscnn", NUM_CLASSES, aux=True)


@pytest.mark.parametrize("name", smallest_of_families())
def test_every_network_is_pruned_saved_and_loaded(name, tmp_path, one_thread):
    torch.manual_seed(0)
    options = SMALL.get(name, {})
    model = create_model(name, NUM_CLASSES, **options)
    before = count_parameters(model)
    couplings = find_couplings(model)  # looked for once: planning and cutting alone would each look again
    made = plan(model, ratio=0.3, couplings=couplings)
    apply(model, made, couplings=couplings)
    left = count_parameters(model) / before
    assert left < LEFT_OVER.get(name, 0.60), f"{name} keeps {left:.2f} of its parameters"
    reasons = {why for _, _, why in made.left_alone} - set(EVERYWHERE)
    assert any(REASONS[name] in why for why in reasons) if name in REASONS else not reasons, reasons
    image = torch.randn(1, 3, 65, 97)
    model.eval()
    with torch.no_grad():
        logits = model(image)
        assert logits.shape == (1, NUM_CLASSES, 65, 97) and logits.isfinite().all()
        again = load_pruned(save_pruned(tmp_path, model, name=name, options=options))
        assert torch.equal(again(image), logits)
    if name in EXPORTED:
        assert export_onnx(again, tmp_path / "pruned.onnx", shape=(1, 3, 64, 96)).max_abs_difference < 1e-3 * max(
            1.0, float(logits.abs().max())
        )


def test_half_of_a_chain_is_its_largest_kernels():
    net = chain()
    made = plan(net, ratio=0.5)
    assert [(e.name, e.before, e.after) for e in made.entries] == [("0", 16, 8), ("2", 12, 6)]
    for entry in made.entries:
        norms = kernel_norms(net[int(entry.name)].weight)
        assert entry.keep == tuple(sorted(np.argsort(-norms)[: entry.after]))
        assert np.array_equal(np.argsort(entry.scores), np.argsort(norms))
    l2 = plan(net, ratio=0.5, criterion="l2")
    assert l2["0"].keep == tuple(sorted(np.argsort(-kernel_norms(net[0].weight, 2))[:8]))


def test_layerwise_counts_only_what_is_left_of_a_kernel():
    net = chain()
    made = plan(net, ratio=0.5, layerwise=True)
    left = kernel_norms(net[2].weight[:, list(made["0"].keep)])
    assert made["2"].keep == tuple(sorted(np.argsort(-left)[:6]))


def test_ratio_zero_changes_no_bit(network):
    network.eval()
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        assert torch.equal(prune(network, ratio=0.0, example_size=(64, 96)).model.eval()(image), network(image))


def test_a_pruned_copy_leaves_the_original_alone(network):
    state = {k: v.clone() for k, v in network.state_dict().items()}
    random = torch.get_rng_state()
    prune(network, ratio=0.5, example_size=(64, 96))
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items()) and torch.equal(
        torch.get_rng_state(), random
    )


def test_auxiliary_heads_stay_consistent_or_go(network, tmp_path):
    for aux, heads in (("keep", 1), ("drop", 0)):
        model = prune(network, ratio=0.4, aux=aux, example_size=(64, 96)).model
        model = load_pruned(save_pruned(tmp_path / aux, model, name="fastscnn", options={"aux": True}))
        out = model.train()(torch.randn(2, 3, 64, 96))
        assert isinstance(out, SegOutput) and len(out.aux) == heads
        (out.logits.mean() + sum(a.mean() for a in out.aux)).backward()
        assert model.downsample[0].conv.weight.grad.abs().sum() > 0


def test_protected_parts_keep_their_kernels(network):
    made = plan(network, ratio=0.5, protect=("downsample",))
    apply(network, made)
    assert network.downsample[0].conv.out_channels == 32 and network.downsample[2].point.conv.out_channels == 64
    with pytest.raises(ConfigError, match="did you mean 'downsample'"):
        plan(network, ratio=0.5, protect=("downsampel",))
    assert network.head[-1].conv.out_channels == NUM_CLASSES


def test_steps_multiply_to_the_ratio(network):
    for step in prune_steps(network, ratio=0.75, steps=2, example_size=(64, 96)):
        assert step.model is network
    assert (
        network.bottlenecks[0].narrow.conv.out_channels == 16
        if hasattr(network.bottlenecks[0].narrow, "conv")
        else True
    )
    assert network.downsample[0].conv.out_channels == 8 and len(network.kept_channels["downsample.0.conv"]["out"]) == 8


def test_steps_record_the_original_channels():
    torch.manual_seed(0)
    net = chain()
    weight = net[0].weight.detach().clone()
    for _ in prune_steps(net, ratio=0.75, steps=2, example_size=(64, 96)):
        pass
    assert torch.equal(net[0].weight, weight[net.kept_channels["0"]["out"]])


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn_scale", "taylor"])
def test_every_criterion_cuts_the_lowest_scores(network, criterion):
    with torch.no_grad():
        for m in network.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.weight.uniform_(0.5, 1.5)
    batch = (torch.randn(2, 3, 64, 96), torch.randint(0, NUM_CLASSES, (2, 64, 96)))
    made = plan(network, ratio=0.5, criterion=criterion, data=[batch] if criterion == "taylor" else None)
    for entry in made.entries:
        gone = set(range(entry.before)) - set(entry.keep)
        assert max(entry.scores[i] for i in gone) <= min(entry.scores[i] for i in entry.keep)


def test_what_cannot_be_done_is_refused_in_one_line(network):
    for options, words in (
        ({"criterion": "l3"}, "did you mean"),
        ({"criterion": "taylor"}, "needs data"),
        ({"ratio": 1.0}, "below 1"),
        ({"round_to": 0}, "round_to"),
        ({"aux": "maybe"}, "keep, drop"),
        ({"steps": 0}, "at least 1"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            prune(network, example_size=(64, 96), **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="no channel that may go"):
        prune(nn.Sequential(nn.Conv2d(3, 5, 1)), example_size=(64, 96))
    with pytest.raises(ConfigError, match="no convolution"):
        plan(nn.Sequential(nn.Linear(3, 3)))


def test_a_latency_target_is_met_by_the_clock_not_by_operations(network):
    def clock(model: nn.Module, shape: tuple) -> float:
        width = model.downsample[0].conv.out_channels
        return 10.0 * (-(-width // 8) * 8) / 32  # as fast as the next multiple of 8

    result = prune(network, latency_ms=5.0, measure=clock, example_size=(64, 96))
    assert result.table[0]["ms"] == 10.0 and result.table[-1]["ms"] == 5.0
    assert result.model.downsample[0].conv.out_channels == 16
    with pytest.raises(ConfigError, match="out of reach"):
        prune(network, latency_ms=1.0, measure=clock, example_size=(64, 96))


def test_rounding_to_multiples(network):
    made = plan(network, ratio=0.4, round_to=8)
    assert all(e.after % 8 == 0 for e in made.entries) and made["downsample.0.conv"].after == 24


def test_a_plan_is_json_and_can_be_edited(network, tmp_path):
    made = plan(network, ratio=0.5)
    again = PruningPlan.load(made.save(tmp_path / "plan.json"))
    assert again == made and json.loads((tmp_path / "plan.json").read_text())["criterion"] == "l1"
    edited = made.with_ratio("downsample.0.conv", 0.25).with_keep("downsample.1.point.conv", [3, 1])
    apply(network, edited)
    assert network.downsample[0].conv.out_channels == 24 and network.kept_channels["downsample.1.point.conv"][
        "out"
    ] == [1, 3]
    with pytest.raises(ConfigError, match="make a new plan"):
        apply(network, made)


def test_a_plan_cannot_cut_what_has_to_stay():
    torch.manual_seed(0)
    net = create_model("lednet", NUM_CLASSES)
    made = plan(net, ratio=0.3)
    name, channels, _ = next(row for row in made.left_alone if "split" in row[2])
    entry = replace(made.entries[0], name=name, layers=(name,), before=channels, keep=(0,), scores=(1.0,) * channels)
    with pytest.raises(ConfigError, match="left alone: its channels are split by position"):
        apply(net, replace(made, entries=(*made.entries, entry)))


def test_a_record_is_replayed_to_the_bit(network, tmp_path):
    prune(network, ratio=0.3, example_size=(64, 96), inplace=True)
    save_pruned(tmp_path / "net.safetensors", network, name="fastscnn", options={"aux": True})
    record = PrunedRecord.load(tmp_path / "net.json")
    assert (
        record.model == "fastscnn"
        and record.num_classes == NUM_CLASSES
        and record.layers["downsample.0.conv"] == [3, 23]
    )
    assert len(record.kept["downsample.0.conv"]["out"]) == 23 and record.parameters == count_parameters(
        network, training=True
    )
    image = torch.randn(1, 3, 71, 130)
    with torch.no_grad():
        assert torch.equal(load_pruned(tmp_path / "net.json")(image), network.eval()(image))


def test_damaged_or_foreign_files_are_named(network, tmp_path):
    path = save_pruned(tmp_path, network, name="fastscnn", options={"aux": True})
    (tmp_path / "pruned.json").rename(tmp_path / "away.json")
    with pytest.raises(ArtifactError, match="does not exist"):
        load_pruned(tmp_path)
    (tmp_path / "away.json").rename(tmp_path / "pruned.json")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="copy both, or save again"):
        load_pruned(tmp_path)
    nameless = create_model("fastscnn", NUM_CLASSES)
    del nameless.created_by  # as somebody's own module: saved, but only built again from the whole one
    save_pruned(tmp_path, nameless)
    with pytest.raises(ConfigError, match="give the whole network"):
        load_pruned(tmp_path)
    assert count_parameters(load_pruned(tmp_path, network=nameless)) == count_parameters(nameless)


def test_loading_needs_no_torch_pruning(network, tmp_path, monkeypatch):
    prune(network, ratio=0.3, example_size=(64, 96), inplace=True)
    save_pruned(tmp_path, network, name="fastscnn", options={"aux": True})
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    assert load_pruned(tmp_path).downsample[0].conv.out_channels == 23
    with pytest.raises(MissingExtra, match=r"torch-pruning is not installed.*compress"):
        find_couplings(network)


class Shuffled(nn.Module):
    """A network whose channels are mixed by position between two convolutions."""

    num_classes = NUM_CLASSES

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, NUM_CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x).unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
        return self.last(self.second(y).relu())


def test_a_shuffle_is_found_by_the_trial():
    reasons = {c.name: c.reason for c in find_couplings(Shuffled())}
    assert reasons["first"] is not None and reasons["second"] is None and "output" in reasons["last"]
