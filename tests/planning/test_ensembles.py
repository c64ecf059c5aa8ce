"""Members of an ensemble: independent, and each the same whatever the number of members."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import named_models
from initstats.planning.ensembles import ensemble


def test_members_are_independent() -> None:
    members = ensemble(lambda: nn.Linear(64, 64, bias=False), 4, "mlp", seed=0)
    flat = torch.stack([member.weight.detach().flatten() for member in members])
    correlations = torch.corrcoef(flat) - torch.eye(4)
    # The correlation of 4096 independent pairs has std 1/64; five of them, at a fixed seed.
    assert correlations.abs().max() < 5 / 64


def test_a_larger_ensemble_begins_with_the_smaller() -> None:
    small = ensemble(named_models.tanh_mlp, 2, "mlp", seed=1)
    large = ensemble(named_models.tanh_mlp, 3, "mlp", seed=1)
    other = ensemble(named_models.tanh_mlp, 1, "mlp", seed=2)
    for a, b in zip(small, large, strict=False):
        assert torch.equal(a[0].weight, b[0].weight)
    assert not torch.equal(small[0][0].weight, other[0][0].weight)


def test_members_can_come_from_meta() -> None:
    def make() -> nn.Linear:
        return nn.Linear(8, 8, device="meta")

    built = ensemble(lambda: nn.Linear(8, 8), 2, "mlp", seed=1)
    empty = ensemble(make, 2, "mlp", seed=1, device="cpu")
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(built, empty, strict=True))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^initstats.ensemble: expected n >= 1, got n=0"):
        ensemble(named_models.tanh_mlp, 0, "mlp")
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"^initstats.ensemble: expected model_fn to make a new"):
        ensemble(lambda: model, 2, "mlp")
    with pytest.raises(ValueError, match=r"^initstats.ensemble: expected seed in"):
        ensemble(named_models.tanh_mlp, 1, "mlp", seed=2**64)
