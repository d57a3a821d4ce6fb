"""Every loss on all-void, one-class and one-pixel batches, in three precisions, against plain computations."""

import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rtseg.core.errors import ConfigError, MissingExtra
from rtseg.core.values import SegOutput
from rtseg.training.config import LossConfig, build_loss
from rtseg.training.losses import (
    KINDS,
    SegLoss,
    cross_entropy,
    dead_terms,
    focal_loss,
    ohem_cross_entropy,
    resize_target,
)
from rtseg.training.region_losses import dice_loss, lovasz_loss

CLASSES = 5
LOSSES = {
    "cross_entropy": cross_entropy,
    "ohem": ohem_cross_entropy,
    "focal": focal_loss,
    "dice": dice_loss,
    "lovasz": lovasz_loss,
    "smooth": lambda x, y, **k: cross_entropy(x, y, label_smoothing=0.1, **k),
    "smooth ohem": lambda x, y, **k: ohem_cross_entropy(x, y, label_smoothing=0.1, **k),
}
WEIGHTED = [name for name in LOSSES if name != "lovasz"]
every_loss = pytest.mark.parametrize("name", LOSSES)


def plain(name, logits, target, weights=None):
    """The loss in NumPy, pixel by pixel and class by class; logits N x C x H x W, target N x H x W."""
    rows = logits.double().permute(0, 2, 3, 1).reshape(-1, logits.shape[1]).numpy()
    labels = target.reshape(-1).numpy()
    rows, labels = rows[labels != 255], labels[labels != 255]
    w = np.ones(logits.shape[1]) if weights is None else weights.double().numpy()
    logp = rows - np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1, keepdims=True)) - rows.max(1, keepdims=True)
    p, nll = np.exp(logp), -logp[np.arange(len(labels)), labels]
    cost, keep = w[labels] * nll, np.ones(len(labels), bool)
    if "smooth" in name:
        cost = 0.9 * cost + 0.1 * (-logp * w).mean(1)
    if "ohem" in name:
        least = max(math.ceil(len(labels) / 16), int((nll > -math.log(0.7)).sum()))
        keep[:] = False
        keep[np.argsort(-nll, kind="stable")[:least]] = True
    if name == "focal":
        cost = cost * (1 - np.exp(-nll)) ** 2
    if name == "dice":
        present = np.unique(labels)
        each = np.array([1 - 2 * p[labels == c, c].sum() / (p[:, c].sum() + (labels == c).sum()) for c in present])
        return (w[present] * each).sum() / w[present].sum()
    if name == "lovasz":
        return np.mean([lovasz_of_class((labels == c).astype(float), p[:, c]) for c in np.unique(labels)])
    return cost[keep].sum() / w[labels][keep].sum()


def lovasz_of_class(truth, probability):
    """Sorted errors times the increments of the Jaccard loss."""
    error = np.abs(truth - probability)
    order = np.argsort(-error, kind="stable")
    truth, error = truth[order], error[order]
    jaccard = 1 - (truth.sum() - truth.cumsum()) / (truth.sum() + (1 - truth).cumsum())
    return (error * np.diff(jaccard, prepend=0)).sum()


def batch(kind, *, seed=0):
    """Random logits 2 x 5 x 8 x 6 and labels: mixed, void, one class, one pixel, or an easy batch."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, CLASSES, 8, 6, generator=generator)
    target = torch.randint(0, CLASSES, (2, 8, 6), generator=generator)
    if kind == "mixed":
        target[torch.rand(target.shape, generator=generator) < 0.3] = 255
    elif kind == "void":
        target[:] = 255
    elif kind == "one class":
        target[:] = 3
    elif kind == "one pixel":
        target[:] = 255
        target[1, 4, 2] = 2
    elif kind == "easy":
        logits = logits * 0.1 + 12 * F.one_hot(target, CLASSES).movedim(-1, 1)
    return logits, target


@every_loss
@pytest.mark.parametrize("kind", ["mixed", "one class", "one pixel", "easy"])
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_plain_computation(name, kind, seed):
    logits, target = batch(kind, seed=seed)
    value = LOSSES[name](logits, target)
    assert value.dtype == torch.float32 and math.isclose(
        value.item(), plain(name, logits, target), rel_tol=2e-4, abs_tol=1e-7
    )


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("kind", ["mixed", "one class", "one pixel"])
def test_class_weights_agree_with_the_plain_computation(name, kind):
    logits, target = batch(kind)
    weights = torch.tensor([1.0, 0.5, 3.0, 2.0, 0.25])
    value = LOSSES[name](logits, target, class_weights=weights)
    assert math.isclose(value.item(), plain(name, logits, target, weights), rel_tol=1e-4)


@every_loss
def test_a_void_batch_costs_zero_and_has_a_gradient_path(name):
    logits, target = batch("void")
    logits.requires_grad_()
    value = LOSSES[name](logits, target)
    value.backward()
    assert (
        value.shape == () and value.item() == 0.0 and logits.grad.shape == logits.shape and logits.grad.abs().max() == 0
    )


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_batch_whose_only_class_has_weight_zero_costs_zero(name):
    logits, target = batch("one class")
    logits.requires_grad_()
    value = LOSSES[name](logits, target, class_weights=torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0]))
    value.backward()
    assert value.item() == 0 and logits.grad.abs().max() == 0


@every_loss
def test_one_valid_pixel_moves_that_pixel_alone(name):
    logits, target = batch("one pixel")
    logits.requires_grad_()
    LOSSES[name](logits, target).backward()
    assert (logits.grad.abs().sum(1) > 0).nonzero().tolist() == [[1, 4, 2]]


@every_loss
@pytest.mark.parametrize("kind", ["mixed", "one class", "one pixel"])
def test_a_step_against_the_gradient_lowers_the_loss(name, kind):
    logits, target = batch(kind)
    logits.requires_grad_()
    before = LOSSES[name](logits, target)
    before.backward()
    assert torch.isfinite(logits.grad).all()
    after = LOSSES[name](logits.detach() - 0.1 * logits.grad, target)
    assert after < before


@every_loss
@pytest.mark.parametrize("kind", ["mixed", "void", "one class", "one pixel", "easy"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(name, kind, dtype):
    logits, target = batch(kind)
    half = logits.to(dtype).requires_grad_()
    value = LOSSES[name](half, target)
    value.backward()
    assert value.dtype == torch.float32 and torch.equal(value, LOSSES[name](half.detach().float(), target))
    assert half.grad.dtype == dtype and torch.isfinite(half.grad).all()


@every_loss
@pytest.mark.parametrize("scale", [60.0, 60_000.0])
def test_extreme_logits_are_finite(name, scale):
    logits, target = batch("mixed")
    logits = (scale * logits.sign()).requires_grad_()
    value = LOSSES[name](logits, target)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(logits.grad).all()


@every_loss
def test_channels_last_gives_the_same_value_and_gradient(name):
    logits, target = batch("mixed")
    grads, values = [], []
    for layout in (torch.contiguous_format, torch.channels_last):
        x = logits.clone(memory_format=layout).requires_grad_()
        values.append(LOSSES[name](x, target))
        values[-1].backward()
        grads.append(x.grad)
    assert torch.allclose(*values, atol=1e-6) and torch.allclose(*grads, atol=1e-6)


@every_loss
def test_another_ignore_index_and_uint8_labels(name):
    logits, target = batch("mixed")
    value = LOSSES[name](logits, target)
    eleven = torch.where(target == 255, 11, target)
    assert torch.equal(value, LOSSES[name](logits, eleven, ignore_index=11)) and torch.equal(
        value, LOSSES[name](logits, target.to(torch.uint8))
    )


@every_loss
def test_a_network_of_one_class_has_nothing_to_learn(name):
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    value = LOSSES[name](logits, torch.zeros(1, 4, 4, dtype=torch.long))
    value.backward()
    assert abs(value.item()) < 1e-6 and logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 5.0])
def test_focal_of_certain_pixels_has_a_finite_gradient(gamma):
    logits = (200.0 * F.one_hot(torch.zeros(1, 2, 2, dtype=torch.long), 3).movedim(-1, 1)).requires_grad_()
    focal_loss(logits, torch.zeros(1, 2, 2, dtype=torch.long), gamma=gamma).backward()
    assert torch.isfinite(logits.grad).all()


def test_label_smoothing_is_pytorchs():
    logits, target = batch("mixed")
    weights = torch.rand(CLASSES, generator=torch.Generator().manual_seed(2)) + 0.1
    for w in (None, weights):
        expected = F.cross_entropy(logits, target, weight=w, ignore_index=255, label_smoothing=0.2)
        assert torch.allclose(cross_entropy(logits, target, class_weights=w, label_smoothing=0.2), expected)


def test_the_region_losses_are_zero_for_a_perfect_prediction():
    _, target = batch("mixed")
    perfect = 100.0 * F.one_hot(target.where(target != 255, 0), CLASSES).movedim(-1, 1)
    assert dice_loss(perfect, target) < 1e-6 and lovasz_loss(perfect, target) < 1e-6


def test_lovasz_of_hard_predictions_is_one_minus_mean_iou():
    generator = torch.Generator().manual_seed(5)
    target, guess = (torch.randint(0, CLASSES, (1, 16, 16), generator=generator) for _ in range(2))
    hard = 200.0 * F.one_hot(guess, CLASSES).movedim(-1, 1)
    iou = [((target == c) & (guess == c)).sum() / ((target == c) | (guess == c)).sum() for c in range(CLASSES)]
    assert math.isclose(lovasz_loss(hard, target).item(), 1 - float(sum(iou)) / CLASSES, rel_tol=1e-5)


def test_missing_smp_is_one_line_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch.losses", None)
    with pytest.raises(MissingExtra, match=r"rtseg\[smp\]"):
        lovasz_loss(*batch("mixed"))
    assert math.isfinite(dice_loss(*batch("mixed")))


# the sum of terms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_supervises_main_and_auxiliary_outputs(kind):
    logits, target = batch("mixed")
    aux = torch.randn(2, CLASSES, 4, 3, generator=torch.Generator().manual_seed(3)).requires_grad_()
    terms = SegLoss(kind, aux_weight=0.5)(SegOutput(logits.requires_grad_(), (aux,)), target)
    assert list(terms) == ["main", "aux1"] and dead_terms(terms, [logits, aux]) == []
    assert torch.allclose(terms["aux1"], 0.5 * LOSSES[kind](aux, resize_target(target, (4, 3))))


@pytest.mark.parametrize("kind", KINDS)
def test_all_terms_of_a_void_batch_are_zero_with_gradients(kind):
    logits, target = batch("void")
    logits.requires_grad_()
    terms = SegLoss(kind, dice_weight=1.0, lovasz_weight=1.0, stride=2)(SegOutput(logits, (logits,)), target)
    total = sum(terms.values())
    total.backward()
    assert list(terms) == ["main", "dice", "lovasz", "aux1"] and total.item() == 0 and logits.grad.abs().max() == 0


def test_region_terms_are_named_weighted_and_on_the_main_output_only():
    logits, target = batch("mixed")
    loss = build_loss(LossConfig(kind="ohem", dice_weight=0.5, lovasz_weight=2.0, aux_weight=0.0))
    terms = loss(SegOutput(logits, (logits,)), target)
    assert list(terms) == ["main", "dice", "lovasz"]
    assert torch.allclose(terms["dice"], 0.5 * dice_loss(logits, target)) and torch.allclose(
        terms["lovasz"], 2 * lovasz_loss(logits, target)
    )
    assert torch.equal(terms["main"], ohem_cross_entropy(logits, target))


def test_aux_weights_one_by_one():
    logits, target = batch("mixed")
    output = SegOutput(logits, (logits, logits, logits))
    terms = build_loss(LossConfig(kind="cross_entropy", aux_weights=(0.4, 0.0, 0.16)))(output, target)
    assert (
        list(terms) == ["main", "aux1", "aux3"]
        and torch.allclose(terms["aux1"], 0.4 * terms["main"])
        and torch.allclose(terms["aux3"], 0.16 * terms["main"])
    )


@pytest.mark.parametrize("outputs", [0, 1, 3])
def test_the_wrong_number_of_aux_weights_is_refused_in_one_line(outputs):
    logits, target = batch("mixed")
    with pytest.raises(ConfigError) as error:
        SegLoss(aux_weights=(0.4, 0.16))(SegOutput(logits, (logits,) * outputs), target)
    assert str(error.value).startswith(
        f"2 aux_weights for a network with {outputs} auxiliary outputs"
    ) and "\n" not in str(error.value)


def test_options_reach_the_loss():
    logits, target = batch("mixed")
    weights = (1.0, 2.0, 3.0, 1.0, 0.5)
    focal = build_loss(LossConfig(kind="focal", focal_gamma=0.5, class_weights=weights))(logits, target)["main"]
    assert torch.equal(focal, focal_loss(logits, target, gamma=0.5, class_weights=torch.tensor(weights)))
    smooth = build_loss(LossConfig(kind="ohem", label_smoothing=0.1, threshold=0.5, min_fraction=0.5))(logits, target)[
        "main"
    ]
    assert torch.equal(smooth, ohem_cross_entropy(logits, target, threshold=0.5, min_fraction=0.5, label_smoothing=0.1))


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "focal", "label_smoothing": 0.1},
        {"kind": "lovasz", "class_weights": (1.0, 2.0)},
        {"kind": "dise"},
        {"label_smoothing": 1.0},
        {"dice_weight": -1.0},
        {"aux_weights": (0.4, -0.1)},
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options):
    with pytest.raises(ConfigError) as error:
        LossConfig.parse(options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", WEIGHTED)
def test_the_wrong_number_of_class_weights_is_refused(name):
    with pytest.raises(ConfigError, match="one weight a class"):
        LOSSES[name](*batch("mixed"), class_weights=torch.ones(4))


@every_loss
def test_labels_of_another_size_are_refused(name):
    logits, target = batch("mixed")
    with pytest.raises(ConfigError, match="N x H x W"):
        LOSSES[name](logits, target[:, :4])
