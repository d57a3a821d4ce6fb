"""Schedules against PyTorch's, parameter groups over the whole registry, optimisers, recipes."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from rtseg.core.errors import ConfigError
from rtseg.models import create_model
from rtseg.models.checking import smallest_of_families
from rtseg.training.config import TrainConfig, build_loss, total_steps
from rtseg.training.optimizers import build_optimizer, param_groups, set_lr, split_heads
from rtseg.training.recipes import RECIPES, list_recipes, load_recipe, recipe_source
from rtseg.training.schedules import ScheduleConfig, learning_rate

S = torch.optim.lr_scheduler


def torch_rates(build, total, every=1, lr=0.01):
    """The rate before each of `total` steps of a PyTorch scheduler stepped every `every` steps."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, rates = build(optimizer), []
    for step in range(1, total + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % every == 0 and step < total:
            scheduler.step()
    return rates


def our_rates(schedule, total, epoch, lr=0.01):
    return [learning_rate(s, lr=lr, total_steps=total, steps_per_epoch=epoch, schedule=schedule) for s in range(total)]


def agree(ours, theirs, tolerance=1e-9):
    return all(math.isclose(a, b, rel_tol=tolerance) for a, b in zip(ours, theirs, strict=True))


# schedules -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "epoch", "warm"), [(10, 7, 3), (50, 4, 1), (20, 10, 0), (5, 3, 2.5), (800, 1, 3), (3, 100, 0.5)]
)
def test_one_cycle_is_pytorchs(epochs, epoch, warm):
    total = epochs * epoch
    ours = our_rates(ScheduleConfig(kind="one_cycle", warmup_epochs=warm), total, epoch)
    theirs = torch_rates(
        lambda o: S.OneCycleLR(
            o, 0.01, total_steps=total, pct_start=warm / epochs, anneal_strategy="cos", cycle_momentum=False
        ),
        total,
    )
    assert agree(ours, theirs)


def test_one_cycle_with_other_ends_and_a_warmup_in_steps():
    ours = our_rates(ScheduleConfig(kind="one_cycle", warmup_steps=30, div_factor=10, final_div_factor=100), 100, 10)
    theirs = torch_rates(
        lambda o: S.OneCycleLR(
            o, 0.01, total_steps=100, pct_start=0.3, div_factor=10, final_div_factor=100, cycle_momentum=False
        ),
        100,
    )
    assert (
        agree(ours, theirs)
        and math.isclose(ours[0], 0.001)
        and math.isclose(ours[-1], 1e-5)
        and ours[29] == max(ours) == 0.01
    )


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_one_cycle_of_a_very_short_run_is_positive(steps):
    rates = our_rates(ScheduleConfig(kind="one_cycle"), steps, 1)
    assert all(0 < rate <= 0.01 for rate in rates)


@pytest.mark.parametrize("power", [0.5, 0.9, 1.0, 2.0])
def test_polynomial_is_pytorchs(power):
    assert agree(
        our_rates(ScheduleConfig(kind="polynomial", power=power), 90, 9),
        torch_rates(lambda o: S.PolynomialLR(o, 90, power), 90),
    )


@pytest.mark.parametrize(
    ("kind", "after"),
    [
        ("polynomial", lambda o: S.PolynomialLR(o, 70, 0.9)),
        ("linear", lambda o: S.LinearLR(o, 1.0, 0.1, 70)),
        ("constant", lambda o: S.ConstantLR(o, 1.0)),
    ],
)
def test_a_linear_warmup_is_pytorchs(kind, after):
    ours = our_rates(ScheduleConfig(kind=kind, end_factor=0.1, warmup_steps=20, warmup_from=0.05), 90, 9)
    theirs = torch_rates(lambda o: S.SequentialLR(o, [S.LinearLR(o, 0.05, 1.0, 20), after(o)], [20]), 90)
    assert agree(ours, theirs)


def test_linear_step_and_exponential_are_pytorchs():
    assert agree(
        our_rates(ScheduleConfig(kind="linear", end_factor=0.25), 80, 8),
        torch_rates(lambda o: S.LinearLR(o, 1.0, 0.25, 80), 80),
    )
    milestones = ScheduleConfig(kind="step", milestones=(3, 5, 9), gamma=0.3)
    assert agree(our_rates(milestones, 80, 8), torch_rates(lambda o: S.MultiStepLR(o, [3, 5, 9], 0.3), 80, every=8))
    assert agree(
        our_rates(ScheduleConfig(decay=0.978), 80, 8), torch_rates(lambda o: S.ExponentialLR(o, 0.978), 80, every=8)
    )


def test_stdc_warmup_to_the_digit():
    recipe = load_recipe("stdc")
    epoch, total = total_steps(recipe, 2975)
    rates = {
        s: learning_rate(s, lr=recipe.lr, total_steps=total, steps_per_epoch=epoch, schedule=recipe.schedule)
        for s in (0, 1, 500, 999, 1000, 59_999)
    }
    growth = (0.01 / 1e-5) ** (1 / 1000)
    assert (
        total == 60_000
        and math.isclose(rates[0], 1e-5)
        and math.isclose(rates[1], 1e-5 * growth)
        and math.isclose(rates[500], 1e-5 * growth**500)
    )
    assert (
        math.isclose(rates[500], 3.1623e-4, rel_tol=1e-4)
        and math.isclose(rates[999], 0.01 / growth)
        and rates[1000] == 0.01
    )
    assert math.isclose(rates[59_999], 0.01 * (1 - 58_999 / 59_000) ** 0.9)


@pytest.mark.parametrize(
    "schedule",
    [
        {"kind": "step"},
        {"kind": "step", "milestones": [9, 3]},
        {"warmup_steps": 5, "warmup_epochs": 1},
        {"kind": "cosine"},
        {"warmup_lr": 0.0},
        {"milestones": [0, 3]},
    ],
)
def test_impossible_schedules_are_refused_in_one_line(schedule):
    with pytest.raises(ConfigError) as error:
        ScheduleConfig.parse(schedule)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "schedule",
    [
        ScheduleConfig(warmup_epochs=10),
        ScheduleConfig(kind="one_cycle", warmup_steps=100),
        ScheduleConfig(warmup_steps=9, warmup_lr=0.02),
    ],
)
def test_a_warmup_that_does_not_fit_the_run_is_refused(schedule):
    with pytest.raises(ConfigError, match="warm-up"):
        learning_rate(0, lr=0.01, total_steps=100, steps_per_epoch=10, schedule=schedule)


# parameter groups and optimisers -----------------------------------------------------------------------------------------

WITH_ENCODER = {
    "bisenetv1",
    "canet",
    "dfanet",
    "fanet",
    "farseenet",
    "ffnet46ns",
    "hyperseg_s",
    "icnet",
    "linknet",
    "liteseg",
    "ppliteseg",
    "pspnet",
    "shelfnet",
    "smp",
    "stdc",
    "stdcseg1",
    "stdcseg2",
    "swiftnet",
}


@pytest.mark.parametrize("name", smallest_of_families())
def test_every_trainable_parameter_is_in_one_group(name):
    with torch.device("meta"):
        model = create_model(name, 5)
    body, heads = split_heads(model)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert not set(body) & set(heads) and set(body) | set(heads) == trainable and body
    assert (name in WITH_ENCODER) == any("encoder." in n or "backbone" in n for n in body)
    if name in WITH_ENCODER:
        assert heads
    for decay_norms in (True, False):
        factor = 10 if heads else 1
        groups = param_groups(model, weight_decay=0.1, decay_norms=decay_norms, head_lr_factor=factor)
        ids = [id(p) for g in groups for p in g["params"]]
        assert len(ids) == len(set(ids)) == len(trainable)
        assert {id(p) for g in groups if g["lr_factor"] == 10 for p in g["params"]} == {
            id(p) for p in heads.values()
        } or factor == 1
        assert all(
            (g["weight_decay"] == 0) == (not decay_norms and all(p.ndim < 2 for p in g["params"])) for g in groups
        )


def test_auxiliary_and_detail_heads_are_heads():
    for name, parts in (
        ("bisenetv2", {"head", "aux_heads"}),
        ("ddrnet", {"head", "aux_heads"}),
        ("fasterseg", {"head", "aux_heads"}),
        ("dabnet", {"classify"}),
    ):
        assert {n.split(".")[0] for n in split_heads(create_model(name, 5))[1]} == parts
    assert {n.split(".")[0] for n in split_heads(create_model("stdcseg1", 5))[1]} == {
        "context",
        "fusion",
        "head",
        "aux_heads",
        "detail_heads",
    }


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_the_state_of_an_optimiser_keeps_the_factors(kind):
    config = TrainConfig(optimizer=kind, head_lr_factor=10, decay_norms=False)
    net = create_model("fastscnn", 3)
    first, second = (build_optimizer(net, **config.optimizer_options()) for _ in range(2))
    second.load_state_dict(first.state_dict())
    set_lr(second, 0.5)
    assert sorted({g["lr"] for g in second.param_groups}) == [0.5, 5.0]


def test_default_settings_give_the_groups_of_plain_sgd():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    (group,) = build_optimizer(net, **TrainConfig().optimizer_options()).param_groups
    assert group["params"] == list(net.parameters()) and (
        group["lr"],
        group["momentum"],
        group["weight_decay"],
        group["lr_factor"],
    ) == (0.01, 0.9, 5e-4, 1.0)


def test_adamw_decays_weights_and_adam_the_gradient():
    moved = {}
    for kind in ("adam", "adamw"):
        layer = nn.Linear(1, 1, bias=False)
        nn.init.ones_(layer.weight)
        optimizer = build_optimizer(layer, optimizer=kind, lr=0.1, weight_decay=0.5)
        layer.weight.grad = torch.zeros(1, 1)
        optimizer.step()
        moved[kind] = layer.weight.item()
    assert math.isclose(moved["adamw"], 1 - 0.1 * 0.5, rel_tol=1e-6) and math.isclose(moved["adam"], 0.9, rel_tol=1e-5)


def test_frozen_parameters_are_left_out():
    net = create_model("swiftnet", 3)
    net.encoder.requires_grad_(False)
    body, heads = split_heads(net)
    assert (
        body == {} and heads and all(g["lr_factor"] == 10 for g in param_groups(net, weight_decay=0, head_lr_factor=10))
    )


# recipes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_parses_builds_its_loss_and_names_its_source(name):
    config = load_recipe(name)
    assert (
        isinstance(config, TrainConfig)
        and TrainConfig.parse(config.to_dict()) == config
        and len(recipe_source(name)) > 60
    )
    assert build_loss(config.loss).kind == config.loss.kind
    epoch, total = total_steps(config, 2975)
    rates = [
        learning_rate(s, lr=config.lr, total_steps=total, steps_per_epoch=epoch, schedule=config.schedule)
        for s in (0, total // 2, total - 1)
    ]
    assert all(0 < rate <= config.lr for rate in rates)


PUBLISHED = {
    "stdc": {
        "steps": 60_000,
        "batch_size": 48,
        "lr": 0.01,
        "weight_decay": 5e-4,
        "crop": (512, 1024),
        "scale_range": (0.125, 1.5),
        "aux_weight": 1.0,
        "kind": "ohem",
    },
    "fasterseg": {
        "steps": 600_000,
        "batch_size": 12,
        "lr": 0.01,
        "weight_decay": 5e-4,
        "crop": (512, 1024),
        "scale_range": (0.75, 1.25),
        "aux_weight": 0.2,
        "kind": "ohem",
    },
    "icnet": {"steps": 200_000, "lr": 0.001, "crop": (1024, 1024), "aux_weights": (0.16, 0.4), "kind": "cross_entropy"},
    "icnet-pspnet": {"steps": 120_000, "lr": 0.01, "crop": (768, 768), "kind": "cross_entropy"},
    "bisenetv2": {
        "steps": 150_000,
        "batch_size": 16,
        "lr": 0.005,
        "weight_decay": 5e-4,
        "scale_range": (0.25, 2.0),
        "head_lr_factor": 10,
        "kind": "ohem",
    },
    "zoo": {
        "epochs": 800,
        "optimizer": "adam",
        "lr": 0.001,
        "crop": (1024, 1024),
        "scale_range": (0.5, 2.0),
        "kind": "ohem",
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_numbers(name):
    config = load_recipe(name)
    found = {
        **config.augmentation.model_dump(),
        **config.loss.model_dump(),
        **config.model_dump(),
        "steps": total_steps(config, 2975)[1],
    }
    assert {key: found[key] for key in PUBLISHED[name]} == PUBLISHED[name]


def test_changes_are_laid_over_and_checked():
    config = load_recipe("stdc", epochs=1, schedule={"warmup_steps": 10}, augmentation=None)
    assert (config.epochs, config.schedule.warmup_steps, config.schedule.warmup_lr, config.augmentation) == (
        1,
        10,
        1e-5,
        None,
    )
    for changes, word in (
        ({"epoch": 1}, "epochs"),
        ({"loss": {"treshold": 1}}, "threshold"),
        ({"schedule": {"kind": "cosine"}}, "one_cycle"),
    ):
        with pytest.raises(ConfigError, match=word):
            load_recipe("stdc", **changes)


def test_an_unknown_recipe_is_refused_with_the_nearest_name():
    for call in (load_recipe, recipe_source):
        with pytest.raises(ConfigError, match="did you mean 'bisenetv2'"):
            call("bisenet-v2")


def test_recipes_are_package_data():
    root = Path(__file__).resolve().parents[2]
    packed = (root / "setup.py").read_text()
    assert '"rtseg": ["**/*.yaml", "**/*.pyi", "search/trained_tables/*/*.json*", "web/static/*"]' in packed
    assert RECIPES == root / "rtseg" / "training" / "recipes" and all(
        isinstance(yaml.safe_load(p.read_text()), dict) for p in RECIPES.glob("*.yaml")
    )
    code = "import rtseg.training.recipes as r; assert r.__file__.endswith('recipes.py') and 'stdc' in r.list_recipes()"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd="/", env={"PYTHONPATH": str(root)}, capture_output=True
        ).returncode
        == 0
    )
