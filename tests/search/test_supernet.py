"""The supernet against its own definition: merged against separate computation, derived networks, frozen state."""

import pytest
import torch
import torch.nn.functional as F

from rtseg.core.architecture import OPERATORS, Architecture, Branch
from rtseg.core.errors import ConfigError
from rtseg.layers.blocks import half, resize
from rtseg.models.fasterseg import FasterSeg
from rtseg.search import slimmable
from rtseg.search.expected import ExpectedLatency, latency_range
from rtseg.search.inherit import derive, inherit
from rtseg.search.logits import ArchLogits
from rtseg.search.space import InfeasibleError, SearchSpace
from rtseg.search.supernet import Supernet, run_path
from rtseg.search.weights import arch_weights

SPACE = SearchSpace(layers=6, base_width=4, widths=(4, 8, 12))


def random_logits(space, role="student", seed=0):
    widths = len(space.role_widths(role))
    return ArchLogits.random(space.layers, len(space.operators), widths, torch.Generator().manual_seed(seed))


def price(spec):
    return 0.01 + spec.height * spec.width * spec.in_channels * spec.out_channels / spec.stride**2 / 1e8


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def seen():
    """A supernet whose statistics have seen images at every width."""
    supernet, g = Supernet(SPACE, 7), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for rule in ("full", "least", *["random"] * 5):
            for role in ("teacher", "student"):
                supernet.train()(
                    torch.randn(2, 3, 64, 128, generator=g),
                    arch_weights(SPACE, random_logits(SPACE, role), role, widths=rule, generator=g),
                )
    return supernet.eval()


def naive(op, x, small, width, active, coefficients, *, accumulate=False):
    """One operator, one input at a time, without any sharing."""
    total = 0
    for p, part in enumerate(x.chunk(len(coefficients))):
        for k, name in enumerate(active):
            (y,) = slimmable.results(op, part, resize(part, half(part)), width, [name])
            total = total + coefficients[p, k] * y
    return total


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("rule", ["sample", "full", "least"])
def test_merged_equals_naive(seen, monkeypatch, role, rule):
    x, g = torch.randn(2, 3, 64, 128, generator=torch.Generator().manual_seed(1)), torch.Generator().manual_seed(2)
    weights = arch_weights(SPACE, random_logits(SPACE, role), role, widths=rule, generator=g)
    seen.train()
    state = {n: t.clone() for n, t in seen.state_dict().items()}
    merged = seen(x, weights)
    after = {n: t.clone() for n, t in seen.state_dict().items()}
    seen.load_state_dict(state)
    monkeypatch.setattr("rtseg.search.supernet.mixed", naive)
    apart = seen(x, weights)
    assert max(float((a - b).detach().abs().max()) for a, b in zip(merged, apart, strict=True)) < 1e-4
    assert all(torch.allclose(after[n], t, atol=1e-4) for n, t in seen.state_dict().items())  # running statistics, too
    seen.load_state_dict(state)
    seen.eval()


@pytest.mark.parametrize("seed", range(8))
def test_derived_network_equals_the_supernets_path(seen, seed):
    g = torch.Generator().manual_seed(seed)
    lasts = [(2, 1), (2, 0), (2,), (1,), (0,)][seed % 5]
    branches = []
    for last in lasts:
        path = SPACE.paths(last)[int(torch.randint(len(SPACE.paths(last)), (), generator=g))]
        ops = [int(k) for k in torch.randint(5, (6,), generator=g)]
        ops = [
            op or (0 if layer < 5 and path[layer + 1] > path[layer] else 1 + seed % 4) for layer, op in enumerate(ops)
        ]
        branches.append(
            Branch(tuple(ops), path, tuple(SPACE.widths[int(k)] for k in torch.randint(3, (5,), generator=g)))
        )
    arch = Architecture(tuple(branches), 4, 8, 8)
    network = FasterSeg(arch, 7).eval()
    assert all(name.startswith("aux_heads") for name in inherit(network, seen))
    x = torch.randn(1, 3, 96, 64, generator=g)
    with torch.no_grad():
        assert (network(x) - resize(run_path(seen, x, arch), (96, 64))).abs().max() < 1e-4


def test_a_skip_at_stride_1_keeps_its_identity(seen):
    arch = Architecture((Branch((1, 0, 0, 1, 1, 1), (0, 0, 0, 1, 1, 1), (8, 8, 12, 8, 8)),), 4, 8, 8)
    assert "cells.1.0" in inherit(FasterSeg(arch, 7), seen)


@pytest.mark.parametrize(
    "operators", [("conv",), ("conv_2x", "conv_2x_downup"), ("skip", "conv_downup", "conv_2x"), OPERATORS]
)
@pytest.mark.parametrize("layers", [5, 7])
def test_smaller_spaces_scale_down(operators, layers):
    space = SearchSpace(layers=layers, base_width=1, widths=(6, 12), operators=operators)
    supernet, g = Supernet(space, 3), torch.Generator().manual_seed(0)
    for role in ("teacher", "student"):
        logits = supernet(torch.randn(1, 3, 32, 64), arch_weights(space, random_logits(space, role), role, generator=g))
        assert all(p.shape == (1, 3, 4, 8) and bool(p.isfinite().all()) for p in logits)
    arch = space.sample(g)
    assert derive(arch, 3, supernet=supernet).eval()(torch.randn(1, 3, 70, 90)).shape == (1, 3, 70, 90)


def test_questions_change_nothing(seen):
    held = {n: t.clone() for n, t in seen.state_dict().items()}
    logits, x = random_logits(SPACE), torch.randn(1, 3, 64, 64)
    latency = ExpectedLatency(SPACE, price, (128, 256), 7)
    weights = arch_weights(SPACE, logits, "student", widths="best")
    with torch.no_grad():
        before = seen(x, weights)
        float(latency(logits)), latency.of(SPACE.sample(torch.Generator().manual_seed(0))), latency_range(latency, 2)
        seen(x, arch_weights(SPACE, random_logits(SPACE, "teacher"), "teacher", widths="full"))
        after = seen(x, weights)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(held[n], t) for n, t in seen.state_dict().items())


def test_widths_have_their_own_statistics(seen):
    state = {n: t.clone() for n, t in seen.state_dict().items()}
    seen.train()(torch.randn(1, 3, 64, 64), arch_weights(SPACE, random_logits(SPACE), "student", widths="least"))
    changed = {n for n, t in seen.state_dict().items() if not torch.equal(t, state[n])}
    inner = {n for n in changed if n.startswith("cells")}
    assert inner and all(
        n.endswith("_4") or n.endswith("_8") for n in inner
    )  # _8: the student's head width in the last layer
    assert all(n.startswith("cells.5") for n in inner if n.endswith("_8"))
    seen.load_state_dict(state)
    seen.eval()


def test_bfloat16_stays_close(seen):
    x = torch.randn(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    weights = arch_weights(SPACE, random_logits(SPACE), "student", widths="full")
    with torch.no_grad():
        a, b = seen(x, weights)[4].flatten(), seen(x.bfloat16(), weights)[4].float().flatten()
    assert F.cosine_similarity(a, b, dim=0) > 0.99


@pytest.mark.parametrize("size", [(100, 128), (64, 72)])
def test_sizes_that_do_not_fit_are_refused(seen, size):
    with pytest.raises(ConfigError, match="multiples of 32"):
        seen(torch.zeros(1, 3, *size), arch_weights(SPACE, random_logits(SPACE), "student", widths="full"))


def test_random_architectures_meet_their_latency():
    latency = ExpectedLatency(SPACE, price, (256, 512), 7)
    g = torch.Generator().manual_seed(0)
    middle = sorted(latency.of(SPACE.sample(g)) for _ in range(30))[15]
    for _ in range(10):
        assert (
            abs(latency.of(SPACE.sample_within(latency.of, middle, tolerance=0.02, generator=g)) - middle)
            <= 0.02 * middle
        )
    with pytest.raises(InfeasibleError, match="closest"):
        SPACE.sample_within(latency.of, middle / 100, generator=g, patience=30)
