"""The rule on gradient norms of ranks: no alarm for healthy ones, of whatever spread."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from initstats.diagnostics.findings import Finding
from initstats.monitoring.rank_norms import RankNorms


def judge(rule: RankNorms, norms: Sequence[float]) -> list[Finding]:
    ranks = range(len(norms))
    return list(rule.check(dict(zip(ranks, norms, strict=True)), (tuple(ranks),)))


@pytest.mark.parametrize(("ranks", "norms"), [(3, 10**5), (4, 10**5), (16, 10**5), (512, 10**6)])
def test_healthy_ranks_raise_no_alarm(ranks: int, norms: int) -> None:
    g = np.random.default_rng(0)
    for spread in (0.05, 0.3, 1.0, 2.0):
        rule = RankNorms()
        for _ in range(norms // 4 // ranks):
            assert not judge(rule, np.exp(spread * g.standard_normal(ranks)).tolist())


def learnt(ranks: int = 4) -> RankNorms:
    rule, g = RankNorms(), np.random.default_rng(1)
    for _ in range(40):
        assert not judge(rule, np.exp(0.1 * g.standard_normal(ranks)).tolist())
    return rule


@pytest.mark.parametrize("norm", [5.0, 0.19, 1e30, 1e-45])
@pytest.mark.parametrize("ranks", [3, 4, 9])
def test_a_rank_that_leaves_is_named_with_its_bound(norm: float, ranks: int) -> None:
    (found,) = judge(learnt(ranks), [1.0] * (ranks - 1) + [norm])
    assert (found.rule, found.where) == ("rank-gradient-norm", f"rank {ranks - 1}")
    assert found.value == norm
    assert math.log(found.threshold) == pytest.approx(math.copysign(math.log(4), math.log(norm)))


def test_a_rank_within_the_factor_is_not_named() -> None:
    assert not judge(learnt(), [1.0, 1.0, 1.0, 3.9])


def test_widely_spread_norms_have_a_wider_bound() -> None:
    rule, g = RankNorms(), np.random.default_rng(2)
    for _ in range(100):
        judge(rule, np.exp(g.standard_normal(8)).tolist())
    assert not judge(rule, [1.0] * 7 + [400.0])  # six standard deviations
    assert judge(rule, [1.0] * 7 + [1e5])


def test_two_ranks_tell_nothing_and_neither_do_the_first_rows() -> None:
    rule = RankNorms()
    assert not judge(rule, [1.0, 1.0, 1.0, 1e9])
    for _ in range(100):
        assert not judge(rule, [1.0, 1e9])


def test_ranks_with_other_parameters_are_not_compared() -> None:
    rule = learnt(6)
    norms = dict.fromkeys(range(3), 1.0) | dict.fromkeys(range(3, 6), 1e3)
    assert not list(rule.check(norms, ((0, 1, 2), (3, 4, 5))))
    assert list(rule.check(norms | {4: 1e6}, ((0, 1, 2), (3, 4, 5))))


def test_a_rule_that_goes_on_knows_what_is_usual() -> None:
    fresh = RankNorms()
    assert not judge(fresh, [1.0, 1.0, 1.0, 5.0])
    fresh.load_state_dict(learnt().state_dict())
    (found,) = judge(fresh, [1.0, 1.0, 1.0, 5.0])
    assert found.where == "rank 3"


def test_norms_that_are_not_finite_are_left_to_other_alerts() -> None:
    assert not judge(learnt(), [1.0, math.nan, math.inf, 1.0])
