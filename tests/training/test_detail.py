"""Detail guidance: targets against plain loops, the published faults, every network of the registry."""

import copy
import math

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from rtseg.core.architecture import Architecture, Branch
from rtseg.core.errors import ConfigError
from rtseg.core.values import SegOutput
from rtseg.models import create_model, model_info
from rtseg.models.checking import smallest_of_families
from rtseg.models.fasterseg import FasterSeg
from rtseg.training.boundary import boundary_cross_entropy, boundary_loss
from rtseg.training.detail import (
    DetailConfig,
    DetailGuidance,
    detail_levels,
    detail_loss,
    detail_target,
    find_tap,
    module_calls,
    touches_void,
)

PUBLISHED = DetailConfig(boundary="published")
WITHOUT_EIGHTH = {"contextnet"}  # its fine branch stays at 1/2, its deep one works on a quarter of the image


def around(label, y, x):
    """The values of the 3 x 3 neighbourhood that lie in the image."""
    height, width = label.shape
    return [
        label[i, j] for i in range(max(0, y - 1), min(height, y + 2)) for j in range(max(0, x - 1), min(width, x + 2))
    ]


def plain_target(label, *, kind, void, fusion=(0.6, 0.3, 0.1), threshold=0.1):
    """The target as loops over pixels."""
    height, width = label.shape
    edges = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            near = around(label, y, x)
            if void in near:
                continue
            edges[y, x] = len(set(near)) > 1 if kind == "any" else 9 * int(label[y, x]) - sum(map(int, near)) > 0
    fused = np.zeros((height, width), np.float32)
    for weight, stride in zip(fusion, (1, 2, 4), strict=True):
        seen = edges[::stride, ::stride]
        rows, columns = (np.arange(n) * m // n for n, m in zip(label.shape, seen.shape, strict=True))
        fused += np.float32(weight) * seen[np.ix_(rows, columns)]
    return fused > np.float32(threshold)


@pytest.mark.parametrize("size", [(16, 24), (9, 14), (1, 1), (5, 1)])
@pytest.mark.parametrize("kind", ["any", "published"])
@pytest.mark.parametrize("void", [255, None])
def test_the_target_is_what_the_loops_say(size, kind, void):
    rng = np.random.default_rng(0)
    for _ in range(3):
        label = np.kron(rng.choice([0, 1, 4, 255], (4, 6)), np.ones((4, 4), int))[: size[0], : size[1]]
        expected = plain_target(label, kind=kind, void=void)
        found = detail_target(torch.from_numpy(label)[None], DetailConfig(boundary=kind), ignore_index=void)
        assert np.array_equal(found[0].numpy() == 1, expected)


def test_each_view_can_decide_alone():
    masks = torch.randint(0, 3, (1, 6, 6)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    levels = detail_levels(masks)
    assert levels.shape == (1, 3, 24, 24)
    for view, fusion in enumerate(torch.eye(3).tolist()):
        assert torch.equal(detail_target(masks, DetailConfig(fusion=tuple(fusion))), levels[:, view])
    assert torch.equal(detail_target(masks, DetailConfig(threshold=0.05)), levels.amax(1))


# the faults of the published loss


def test_the_border_of_void_is_no_detail():
    masks = torch.full((1, 32, 32), 3)
    masks[:, 8:24, 8:24] = 255
    published, ours = detail_target(masks, PUBLISHED, ignore_index=None), detail_target(masks)
    outline = detail_levels(masks, kind="published", ignore_index=None)[0, 0, 4:28, 4:28]
    assert outline.sum() == 60 <= published[0, 4:28, 4:28].sum() and ours.sum() == 0, (
        "the void square has an outline of 60 pixels"
    )
    nothing = torch.full((1, 1, 4, 4), -8.0)
    unknown = touches_void(masks)
    assert detail_loss(nothing, ours, ~unknown) < 0.3 < 1 < detail_loss(nothing, published)
    scores = torch.zeros(1, 1, 32, 32, requires_grad=True)
    detail_loss(scores, ours, ~unknown).backward()
    assert (scores.grad[0, 0][unknown[0]] == 0).all() and (scores.grad[0, 0][~unknown[0]] != 0).all()


@pytest.mark.parametrize("kind", ["any", "published"])
def test_void_decides_nothing_in_either_definition(kind):
    """Whatever the pixels hold that nobody knows, target and loss of the others stay."""
    base = (
        torch.randint(0, 4, (1, 6, 6), generator=torch.Generator().manual_seed(1))
        .repeat_interleave(4, 1)
        .repeat_interleave(4, 2)
    )
    base[:, 8:14, 6:15] = 255
    far = ~touches_void(base)
    target = detail_target(base, DetailConfig(boundary=kind))
    other = torch.where(base == 255, 200, base)
    assert torch.equal(target, detail_target(other, DetailConfig(boundary=kind), ignore_index=200))
    assert far.sum() > 0 and torch.equal(far, ~touches_void(other, 200))


def test_fusion_weights_do_not_pretend_to_learn():
    levels = detail_levels(torch.randint(0, 3, (1, 16, 16)))
    weights = nn.Parameter(torch.tensor([0.6, 0.3, 0.1]))
    fused = (levels * weights.view(1, 3, 1, 1)).sum(1)
    assert fused.requires_grad and not (fused > 0.1).float().requires_grad, "no gradient passes a comparison"
    guide = DetailGuidance(create_model("fastscnn", 4))
    assert {name.split(".")[0] for name, _ in guide.named_parameters()} == {"heads"}


def test_every_view_that_is_computed_is_used():
    masks = torch.zeros(1, 32, 32, dtype=torch.long)
    masks[..., 17:] = 1
    assert detail_levels(masks).shape[1] == len(DetailConfig().fusion) == 3
    for view in range(3):
        weights = [0.0, 0.0, 0.0]
        weights[view] = 1.0
        assert detail_target(masks, DetailConfig(fusion=tuple(weights))).sum() == detail_levels(masks)[:, view].sum()


def test_a_boundary_does_not_depend_on_numbers():
    masks = (
        torch.randint(0, 5, (1, 8, 8), generator=torch.Generator().manual_seed(0))
        .repeat_interleave(3, 1)
        .repeat_interleave(3, 2)
    )
    renumbered = torch.tensor([11, 3, 7, 0, 18])[masks]
    assert torch.equal(detail_target(masks), detail_target(renumbered))
    assert not torch.equal(detail_target(masks, PUBLISHED), detail_target(renumbered, PUBLISHED))
    post = torch.tensor([1, 1, 1, 2, 3, 3, 3]).expand(1, 5, 7).contiguous()
    first_view = {kind: detail_levels(post, kind=kind)[0, 0, 2].int().tolist() for kind in ("any", "published")}
    assert first_view == {"any": [0, 0, 1, 1, 1, 0, 0], "published": [1, 0, 0, 0, 1, 0, 1]}


# the loss


def test_the_loss_is_cross_entropy_plus_dice():
    rng = np.random.default_rng(0)
    scores, target, valid = rng.normal(size=(3, 6, 8)), rng.random((3, 6, 8)) < 0.2, rng.random((3, 6, 8)) < 0.7
    p = 1 / (1 + np.exp(-scores))
    entropy = -np.where(target, np.log(p), np.log(1 - p))[valid].mean()
    dice = [
        1 - (2 * p[n][valid[n] & target[n]].sum() + 1) / (p[n][valid[n]].sum() + (valid[n] & target[n]).sum() + 1)
        for n in range(3)
    ]
    found = detail_loss(torch.from_numpy(scores)[:, None], torch.from_numpy(target).float(), torch.from_numpy(valid))
    assert math.isclose(found.item(), entropy + np.mean(dice), rel_tol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["any", "published"])
def test_batches_that_break_losses(dtype, kind):
    one_known = torch.full((2, 16, 16), 255)
    one_known[0, 8, 8] = 1
    batches = {
        "void": torch.full((2, 16, 16), 255),
        "class": torch.ones(2, 16, 16, dtype=torch.long),
        "pixel": torch.ones(1, 1, 1, dtype=torch.long),
        "one known": one_known,
    }
    for name, masks in batches.items():
        logits = torch.zeros(len(masks), 1, 2, 2, dtype=dtype, requires_grad=True)
        loss = detail_loss(logits, detail_target(masks, DetailConfig(boundary=kind)), ~touches_void(masks))
        loss.backward()
        blind = name in ("void", "one known")
        assert (
            loss.dtype == torch.float32
            and math.isfinite(loss.item())
            and (loss.item() == 0) == blind
            and bool((logits.grad == 0).all()) == blind
        ), name


# the networks


def street(height=64, width=96):
    """Labels of blocks with a void region, N = 2."""
    blocks = torch.randint(0, 7, (2, height // 16, width // 16), generator=torch.Generator().manual_seed(0))
    masks = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    masks[:, 20:30, 10:40] = 255
    return masks


def check_guided(network, guide):
    """One step: heads and network get gradients from each term, and no hook stays."""
    images, masks = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)), street()
    output = guide(images)
    assert output.logits.shape == (2, 7, 64, 96) and output.detail.shape[:2] == (2, len(guide.strides))
    terms = guide.terms(masks, output)
    assert list(terms) == [f"detail{stride}" for stride in guide.strides]
    for name, term in terms.items():
        assert 0 < term.item() < 20, name
        found = torch.autograd.grad(
            term, [p for p in network.parameters() if p.requires_grad], retain_graph=True, allow_unused=True
        )
        assert any(g is not None and bool(g.abs().sum() > 0) for g in found), name
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in guide.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize("name", smallest_of_families())
def test_every_network_with_an_eighth_can_be_guided(name):
    torch.manual_seed(0)
    network = create_model(name, 7).train()
    before = copy.deepcopy(network.state_dict())
    if name in WITHOUT_EIGHTH or "detail" in model_info(name).get("unsupported", ()):
        with pytest.raises(ConfigError, match=f"{type(network).__name__} has no map at 1/8 of the image"):
            DetailGuidance(network)
        return
    guide = DetailGuidance(network)
    after = network.state_dict()
    assert network.training and list(before) == list(after) and all(torch.equal(before[k], after[k]) for k in before)
    check_guided(network, guide)


def test_all_three_strides_at_once():
    network = create_model("dabnet", 7).train()
    guide = DetailGuidance(network, DetailConfig(strides=(8, 2, 4), weight=0.5))
    assert guide.strides == (2, 4, 8) and [t.name for t in guide.taps.values()] == ["stem", "stage4", "stage8"]
    check_guided(network, guide)
    double = DetailGuidance(network, DetailConfig(strides=(8, 2, 4), weight=1.0))
    double.load_state_dict(guide.state_dict())
    images = torch.randn(2, 3, 64, 96)
    network.eval()
    network.training = True  # the same pass twice
    for half, full in zip(
        guide.terms(street(), guide(images)).values(), double.terms(street(), double(images)).values(), strict=True
    ):
        assert math.isclose(2 * half.item(), full.item(), rel_tol=1e-4)


def test_networks_from_outside_and_from_a_search():
    arch = Architecture(
        branches=(
            Branch(ops=(3, 2, 4, 4), scales=(0, 0, 1, 1), widths=(4, 4, 4)),
            Branch(ops=(3, 2, 4), scales=(0, 0, 0), widths=(4, 4)),
        ),
        base_width=8,
        stem_width=8,
        head_width=8,
    )
    unet = smp.Unet("resnet18", encoder_weights=None, classes=7)
    for network in (FasterSeg(arch, 7).train(), unet.train()):
        guide = DetailGuidance(network)
        check_guided(network, guide)
    assert guide.taps[8].name == "encoder.layer2" and guide.taps[8].channels == 128


def test_a_tap_by_name():
    network = create_model("bisenetv2", 7).train()
    guide = DetailGuidance(network, DetailConfig(tap="detail"))
    assert guide.taps[8].name == "detail" and find_tap(network, 8).name == "semantic.stage8"
    check_guided(network, guide)
    for tap, words in (
        ("detial", "did you mean 'detail'"),
        ("semantic.stem", "maps of 16 x 24 for an image of 64 x 96, which is not 1/8"),
    ):
        with pytest.raises(ConfigError, match=words):
            DetailGuidance(network, DetailConfig(tap=tap))


def test_a_module_that_runs_twice_is_tapped_at_the_right_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.same, self.act, self.head = (
                nn.Conv2d(3, 8, 3, 8, 1),
                nn.Conv2d(8, 8, 3, 1, 1),
                nn.ReLU(),
                nn.Conv2d(8, 7, 1),
            )
            self.deep = nn.Conv2d(8, 8, 3, 2, 1)

        def forward(self, x):
            fine = self.act(self.same(self.act(self.down(x))))
            deep = self.act(self.deep(fine))
            logits = nn.functional.interpolate(self.head(deep), size=x.shape[-2:])
            return SegOutput(logits) if self.training else logits

    network = Twice().train()
    assert [c.name for c in module_calls(network)] == ["down", "act", "same", "act", "deep", "act", "head"]
    assert find_tap(network, 8) == ("act", 1, 8)
    check_guided(network, DetailGuidance(network))


@pytest.mark.parametrize(
    ("options", "config"), [({"detail": True}, {}), ({"detail_strides": (2, 4, 8)}, {"strides": (2, 4, 8)})]
)
def test_networks_with_heads_of_their_own_keep_them(options, config):
    network = create_model("stdc" if "detail" in options else "stdcseg1", 7, **options).train()
    guide = DetailGuidance(network, DetailConfig(**config))
    assert not guide.taps and not guide.state_dict()
    check_guided(network, guide)
    with pytest.raises(ConfigError, match="brings . detail"):
        DetailGuidance(network, DetailConfig(strides=(4, 8)))
    with pytest.raises(ConfigError, match="give its output"):
        guide.terms(street())


def test_the_heads_travel_apart_from_the_network():
    network = create_model("fastscnn", 7).train()
    plain = create_model("fastscnn", 7)
    guide = DetailGuidance(network)
    plain.load_weights(network.state_dict())
    again = DetailGuidance(create_model("fastscnn", 7))
    again.load_state_dict(guide.state_dict())
    assert all(name.startswith("heads.8.") for name in guide.state_dict())
    network.eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(guide(images), network(images))
        exported = torch.export.export(network, (images,)).module()
        assert torch.allclose(exported(images), network(images), atol=1e-5)


def test_autocast_and_a_network_in_half():
    images = torch.randn(2, 3, 64, 96)
    network = create_model("fastscnn", 7).train()
    guide = DetailGuidance(network)
    with torch.autocast("cpu", torch.bfloat16):
        output = guide(images)
    assert output.detail.dtype == torch.bfloat16 and guide.terms(street(), output)["detail8"].dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16), guide.watching():
        network(images)
    assert 0 < guide.terms(street())["detail8"].item() < 20, "the heads outside autocast"


def test_no_map_no_loss():
    network = create_model("fastscnn", 7).train()
    guide = DetailGuidance(network)
    network(torch.randn(1, 3, 64, 96))
    with pytest.raises(ConfigError, match="inside watching"):
        guide.terms(street())


def test_boundaries_are_balanced_and_asked_twice():
    """PIDNet's two terms by hand, and on any network with a head."""
    target = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert boundary_loss(torch.zeros(1, 1, 2, 2), target).item() == pytest.approx(20 * 1.5 * math.log(2) / 4)
    right, wrong = torch.where(target > 0, 5.0, -5.0)[:, None], torch.where(target > 0, -5.0, 5.0)[:, None]
    assert boundary_loss(right, target) < 0.05 * boundary_loss(wrong, target)
    masks, logits = torch.tensor([[[0, 1], [2, 255]]]), torch.randn(1, 3, 2, 2)
    assert boundary_cross_entropy(logits, torch.zeros(1, 1, 2, 2), masks) == 0
    assert torch.allclose(
        boundary_cross_entropy(logits, torch.full((1, 1, 2, 2), 9.0), masks),
        torch.nn.functional.cross_entropy(logits, masks, ignore_index=255),
    )
    masks = torch.zeros(2, 64, 96, dtype=torch.long)
    masks[:, 20:] = 1
    for name in ("pidnet_s", "dabnet"):
        network = create_model(name, 3).train()
        guide = DetailGuidance(network, DetailConfig(loss="boundary"))
        assert guide.own == (name == "pidnet_s")
        terms = guide.terms(masks, guide(torch.randn(2, 3, 64, 96)))
        sum(terms.values()).backward()
        assert set(terms) == {"detail8", "boundary"} and any(
            p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters()
        )
    with pytest.raises(ConfigError, match="loss"):
        DetailConfig.parse({"loss": "boundaries"})
