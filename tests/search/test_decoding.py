"""Exact decoding against lists of every network, conditions on what comes out, and refusals."""

from itertools import product

import numpy as np
import pytest
import torch

from rtseg.core.architecture import OPERATORS, Architecture, Branch
from rtseg.core.errors import ConfigError, RtsegError
from rtseg.search.decoding import decode, pair_value, predicted_ms
from rtseg.search.logits import ArchLogits
from rtseg.search.space import SearchSpace

SIZE = (256, 512)


def toy_ms(spec) -> float:
    """Uneven enough that no two sums agree by chance."""
    work = {"skip": 0.31, "conv": 9.07, "conv_downup": 3.53, "conv_2x": 18.11, "conv_2x_downup": 6.23}.get(
        spec.kind, 9.19
    )
    return (
        0.0123
        + work * spec.height * spec.width * spec.in_channels**0.97 * spec.out_channels**0.93 / spec.stride**1.8 / 2e8
    )


def listed(space: SearchSpace, logits: ArchLogits, last: int, head: int = 8, stem: int = 8) -> dict[Branch, float]:
    """Every branch to `last` with the score of its best placement, straight from the definition."""
    n = space.layers
    alpha, beta, ratio = (
        [t.double().log_softmax(1).tolist() for t in group] for group in (logits.alpha, logits.beta, logits.ratio)
    )
    best: dict[Branch, float] = {}
    codes = [OPERATORS.index(name) for name in space.operators]
    for path in space.paths(last):
        steps = [layer < n - 1 and path[layer + 1] > path[layer] for layer in range(n)]
        path_score = sum(
            beta[s - 1][layer - s - 1][0 if path[layer - 1] < s else 1]
            for layer, s in enumerate(path)
            if s and layer > s
        )
        for ops, outs in product(product(range(len(codes)), repeat=n), product(range(len(space.widths)), repeat=n - 1)):
            widths = [stem, *(space.widths[w] for w in outs), head]
            kept = [k for k in range(n) if codes[ops[k]] or steps[k]]
            dropped = [k for k in range(n) if k not in kept]
            if (
                any(widths[k] != widths[k + 1] for k in dropped)
                or len(kept) < min(n, round(n / 3) + 2 * last)
                or path[kept[-1]] != last
            ):
                continue
            score = path_score + sum(alpha[s][k - s][ops[k]] for k, s in enumerate(path))
            score += sum(ratio[path[k]][k - max(path[k], 1)][outs[k - 1]] for k in range(1, n))
            branch = Branch(
                tuple(codes[ops[k]] for k in kept),
                tuple(path[k] for k in kept),
                tuple(widths[k + 1] for k in kept[:-1]),
            )
            best[branch] = max(score, best.get(branch, -np.inf))
    return best


def pair_latencies(first: list[Branch], second: list[Branch]) -> np.ndarray:
    """Latency of every pair: both alone, less what both would pay for shared cells, plus what only a pair pays."""
    alone = [np.array([predicted_ms(Architecture((b,)), toy_ms, SIZE, 19) for b in group]) for group in (first, second)]
    total = alone[0][:, None] + alone[1][None]
    example = Architecture((first[0], second[0]))
    shared = np.zeros_like(total)
    for depth in range(max(len(b.ops) for b in (*first, *second))):
        names: dict[tuple, int] = {}
        ids, cost = [], {}
        for group in (first, second):
            row = []
            for b in group:
                if len(b.ops) <= depth:
                    row.append(-1 - len(ids))
                    continue
                arch = Architecture((b,))
                key = tuple((b.ops[k], b.scales[k], b.stride(k), arch.width_after(0, k)) for k in range(depth + 1))
                row.append(names.setdefault(key, len(names)))
                cost[row[-1]] = toy_ms(arch.op_specs(*SIZE, 19)[3 + depth])
            ids.append(np.array(row))
        price = np.array([cost[i] if i >= 0 else 0.0 for i in ids[0].tolist()])
        shared += np.where(ids[0][:, None] == ids[1][None], price[:, None], 0.0)
    constant = predicted_ms(example, toy_ms, SIZE, 19) - total[0, 0] + shared[0, 0]
    return total - shared + constant


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("last", [0, 1, 2])
def test_single_branch_against_every_network(seed, last):
    space = SearchSpace(layers=5, widths=(4, 8), operators=("skip", "conv", "conv_downup"))
    logits = ArchLogits.random(5, 3, 2, torch.Generator().manual_seed(seed))
    every = listed(space, logits, last)
    ms = {b: predicted_ms(Architecture((b,)), toy_ms, SIZE, 19) for b in every}
    assert decode(logits, space, lasts=(last,)).score == pytest.approx(max(every.values()), abs=1e-9)
    for ceiling in np.quantile(list(ms.values()), [0, 0.01, 0.05, 0.1, 0.3, 0.5, 0.9]):
        got = decode(logits, space, lasts=(last,), latency=toy_ms, size=SIZE, ceiling_ms=ceiling + 1e-9)
        assert got.score == pytest.approx(max(s for b, s in every.items() if ms[b] <= ceiling + 1e-9), abs=1e-9)
        assert got.latency_ms <= ceiling + 1e-9 and got.latency_ms == pytest.approx(ms[got.arch.branches[0]])
        assert every[got.arch.branches[0]] == pytest.approx(got.score, abs=1e-9)


@pytest.mark.parametrize(
    ("lasts", "operators", "widths"),
    [
        ((2, 1), ("skip", "conv"), (4, 8)),
        ((1, 0), ("skip", "conv", "conv_2x_downup"), (8,)),
        ((0, 2), ("conv", "skip"), (8, 12)),
        ((1, 0), ("skip", "conv_2x"), (6, 8)),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pair_against_every_pair(seed, lasts, operators, widths):
    space = SearchSpace(layers=5, widths=widths, operators=operators)
    logits = ArchLogits.random(5, len(operators), len(widths), torch.Generator().manual_seed(seed))
    first, second = (listed(space, logits, last) for last in lasts)
    ms = pair_latencies(list(first), list(second))
    scores = np.array(list(first.values()))[:, None] + np.array(list(second.values()))[None]
    assert decode(logits, space, lasts=lasts).score == pytest.approx(scores.max(), abs=1e-9)
    for ceiling in np.quantile(ms, [0, 0.002, 0.01, 0.05, 0.2, 0.5, 0.8]):
        got = decode(logits, space, lasts=lasts, latency=toy_ms, size=SIZE, ceiling_ms=ceiling + 1e-9)
        assert got.score == pytest.approx(scores[ms <= ceiling + 1e-9].max(), abs=1e-9)
        assert got.latency_ms <= ceiling + 1e-9
        assert first[got.arch.branches[0]] + second[got.arch.branches[1]] == pytest.approx(got.score, abs=1e-9)


def test_list_of_pairs_prices_sharing_as_architectures_do():
    space = SearchSpace(layers=5, widths=(4, 8), operators=("skip", "conv"))
    logits = ArchLogits.random(5, 2, 2, torch.Generator().manual_seed(0))
    first, second = (list(listed(space, logits, last)) for last in (2, 1))
    ms, rng = pair_latencies(first, second), np.random.default_rng(0)
    for i, j in zip(rng.integers(0, len(first), 60), rng.integers(0, len(second), 60), strict=True):
        assert ms[i, j] == pytest.approx(predicted_ms(Architecture((first[i], second[j])), toy_ms, SIZE, 19))


def test_unconstrained_pair_is_the_best_of_each():
    space, logits = SearchSpace(layers=9), ArchLogits.random(9, generator=torch.Generator().manual_seed(4))
    alone = {last: decode(logits, space, lasts=(last,)) for last in (0, 1, 2)}
    for lasts in ((2, 1), (2, 0), (0, 1)):
        both = decode(logits, space, lasts=lasts)
        assert both.score == pytest.approx(sum(alone[last].score for last in lasts), abs=1e-9)
        assert [b.last for b in both.arch.branches] == list(lasts)


@pytest.mark.parametrize("scale", [0.0, 0.001, 1.0, 10.0])
def test_full_space_under_falling_ceilings(scale):
    space, logits = SearchSpace(), ArchLogits.random(16, generator=torch.Generator().manual_seed(3), scale=scale)
    free = decode(logits, space, latency=toy_ms, size=SIZE)
    with pytest.raises(RtsegError, match="the cheapest takes") as error:
        decode(logits, space, latency=toy_ms, size=SIZE, ceiling_ms=0.01)
    cheapest = float(str(error.value).split("cheapest takes ")[1].split()[0])
    before = free.score
    for share in (0.7, 0.4, 0.1, 0.0):
        got = decode(
            logits, space, latency=toy_ms, size=SIZE, ceiling_ms=cheapest + share * (free.latency_ms - cheapest)
        )
        assert got.latency_ms <= got.ceiling_ms and got.score <= before + 1e-9
        assert got.latency_ms == pytest.approx(predicted_ms(got.arch, toy_ms, SIZE, 19))
        for branch in got.arch.branches:
            assert len(branch.ops) >= 5 + 2 * branch.last
            assert all(op or branch.stride(k) == 2 for k, op in enumerate(branch.ops))
        before = got.score


def test_step_rows_are_where_they_belong():
    """A strong from-down logit in row r of beta_1 makes layer r + 1 step down, which the published rule gets wrong by one."""
    space = SearchSpace(layers=8)
    zero = ArchLogits.random(8, scale=0.0)
    for row in range(6):
        beta = torch.zeros(6, 2)
        beta[:, 1], beta[row, 0], beta[row, 1] = 3.0, 3.0, 0.0
        logits = ArchLogits(zero.alpha, (beta, zero.beta[1]), zero.ratio)
        got = decode(logits, space, lasts=(1,), min_len=8)
        assert got.arch.branches[0].steps == (row + 1,)


def test_teacher_never_skips_and_is_wide():
    space, logits = SearchSpace(layers=8), ArchLogits.random(8, 5, 1, torch.Generator().manual_seed(0))
    got = decode(logits, space, role="teacher")
    assert got.arch.stem_width == got.arch.head_width == 12
    assert all(len(b.ops) == 8 and 0 not in b.ops and set(b.widths) == {12} for b in got.arch.branches)


def test_min_len_is_kept_and_can_be_changed():
    space = SearchSpace(layers=10)
    alpha = tuple(torch.zeros(10 - s, 5) for s in (0, 1, 2))
    for a in alpha:
        a[:, 0] = 9.0
    base = ArchLogits.random(10, scale=0.0)
    logits = ArchLogits(alpha, base.beta, base.ratio)
    lengths = {n: [len(b.ops) for b in decode(logits, space, min_len=n).arch.branches] for n in (None, 3, 10)}
    assert lengths == {None: [7, 5], 3: [3, 3], 10: [10, 10]}


def test_result_survives_json():
    space, logits = SearchSpace(layers=6), ArchLogits.random(6)
    got = decode(logits, space, latency=toy_ms, size=SIZE)
    assert type(got).from_dict(got.to_dict()) == got


def test_refusals():
    space, logits = SearchSpace(layers=6), ArchLogits.random(6)
    for wrong in (
        lambda: decode(logits, SearchSpace(layers=7)),
        lambda: decode(logits, space, role="teacher"),
        lambda: decode(logits, space, lasts=(2, 2)),
        lambda: decode(logits, space, lasts=(2, 1, 0)),
        lambda: decode(logits, space, ceiling_ms=3.0),
        lambda: decode(logits, space, latency=toy_ms),
        lambda: decode(logits, space, role="pupil"),
    ):
        with pytest.raises(ConfigError) as error:
            wrong()
        assert "\n" not in str(error.value)


def test_decoding_leaves_the_logits_alone():
    logits = ArchLogits.random(6)
    before = {n: t.clone() for n, t in logits.tensors().items()}
    decode(logits, SearchSpace(layers=6))
    assert all(torch.equal(before[n], t) for n, t in logits.tensors().items())


def test_pair_value():
    assert pair_value(0.5, 4.0) > pair_value(0.5, 8.0) and pair_value(0.6, 8.3) == 0.6


def test_only_operators_that_can_occur_are_asked_for():
    space = SearchSpace(layers=6, widths=(4, 6), operators=("skip", "conv"))
    asked = set()
    decode(
        ArchLogits.random(6, 2, 2), space, latency=lambda spec: asked.add(spec) or 1.0, size=(128, 256), ceiling_ms=99.0
    )
    cells = [s for s in asked if s.kind in ("skip", "conv") and s.height <= 16]
    assert {(s.in_channels, s.height) for s in cells} == {
        (64, 16),
        (32, 16),
        (48, 16),
        (64, 8),
        (96, 8),
        (128, 4),
        (192, 4),
    }
    assert not any(s.kind == "skip" and s.stride == 1 for s in asked)
    single_width = decode(ArchLogits.random(6, 2, 1), space, role="teacher", latency=toy_ms, size=SIZE)
    assert single_width.arch.stem_width == 12 and set(single_width.arch.branches[0].widths) == {6}
