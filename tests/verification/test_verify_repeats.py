"""Equal and zero slices in any orientation, single wild values, and tensors without a promise."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from initstats.planning.initialize import init_
from initstats.recipes import Normal, Recipe, Rule, TruncNormal
from initstats.verification.verifier import VerifyReport, verify

ANY = Recipe([Rule("*", Normal(0.02))], name="any")


class Held(nn.Module):
    """A module of one parameter."""

    def __init__(self, *shape: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype))


def changed(change: Callable[[Tensor], object], *shape: int, dtype: torch.dtype) -> VerifyReport:
    model = Held(*shape, dtype=dtype)
    init_(model, ANY, seed=0)
    assert verify(model, ANY).ok
    with torch.no_grad():
        change(model.weight)
    return verify(model, ANY)


REPEATS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], object], str, str]] = {
    "two heads": (
        (64, 48),
        lambda w: w[16:32].copy_(w[:16].clone()),
        "equal rows",
        "rows 16 to 31 equal rows 0 to 15",
    ),
    "two heads of a Conv1D": (
        (48, 64),
        lambda w: w[:, 40:48].copy_(w[:, 8:16].clone()),
        "equal columns",
        "columns 40 to 47 equal columns 8 to 15",
    ),
    "q = k in a packed matrix": (
        (96, 32),
        lambda w: w[32:64].copy_(w[:32].clone()),
        "equal rows",
        "rows 32 to 63 equal rows 0 to 31",
    ),
    "one row": ((64, 48), lambda w: w[9].copy_(w[5].clone()), "equal rows", "row 9 equals row 5"),
    "two experts": (
        (4, 16, 32),
        lambda w: w[3].copy_(w[1].clone()),
        "equal rows",
        "row 3 equals row 1",
    ),
    "all experts": (
        (4, 16, 32),
        lambda w: w.copy_(w[:1].clone().expand_as(w)),
        "shards",
        "the 4 parts along dimension 0 are equal",
    ),
    "units of every expert": (
        (4, 16, 32),
        lambda w: w[..., 4].copy_(w[..., 2].clone()),
        "equal slices",
        "slice 4 equals slice 2",
    ),
    "channels of a convolution": (
        (16, 8, 3, 3),
        lambda w: w[:, 5].copy_(w[:, 2].clone()),
        "equal columns",
        "column 5 equals column 2",
    ),
    "halves": (
        (64, 48),
        lambda w: w[32:].copy_(w[:32].clone()),
        "shards",
        "the 2 parts along dimension 0 are equal",
    ),
    "dead row": ((64, 48), lambda w: w[7].zero_(), "zero rows", "1 rows are 0, the first is 7"),
    "dead columns": (
        (64, 48),
        lambda w: w[:, 7:9].zero_(),
        "zero columns",
        "2 columns are 0, the first is 7",
    ),
    "dead expert": (
        (4, 16, 32),
        lambda w: w[2].zero_(),
        "zero rows",
        "1 rows are 0, the first is 2",
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", REPEATS)
def test_equal_and_zero_slices_are_found(name: str, dtype: torch.dtype) -> None:
    shape, change, kind, problem = REPEATS[name]
    (failure,) = changed(change, *shape, dtype=dtype).failures
    assert (failure.kind, failure.problem) == (kind, problem)


def test_slices_that_only_begin_alike_are_no_finding() -> None:
    report = changed(lambda w: w[9, :8].copy_(w[5, :8].clone()), 64, 48, dtype=torch.float32)
    assert report.ok
    (failure,) = changed(lambda w: w[9, :8].zero_(), 64, 48, dtype=torch.float32).failures
    assert (failure.kind, failure.problem) == ("zeros", "8 of 3072 values are 0")


def test_several_copies_are_counted() -> None:
    def change(w: Tensor) -> None:
        w[4:8] = w[:4].clone()
        w[20] = w[2].clone()

    (failure,) = changed(change, 64, 48, dtype=torch.float32).failures
    assert failure.problem == "rows 4 to 7 equal rows 0 to 3, and 1 more are copies"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name", ["rope.inv_freq", "norm.running_mean", "norm.running_var", "W_O", "norm.bias"]
)
def test_values_that_are_not_finite_are_found_in_buffers_and_unmatched_parameters(
    name: str, value: float
) -> None:
    model = nn.Module()
    model.linear = nn.Linear(16, 16)
    model.norm = nn.BatchNorm1d(16)
    model.rope = nn.Module()
    model.rope.register_buffer("inv_freq", torch.rand(8), persistent=False)
    model.W_O = nn.Parameter(torch.randn(16, 16))
    recipe = Recipe([Rule("linear.*", Normal(0.02))])
    init_(model, recipe, seed=0, allow_unmatched=True)
    healthy = verify(model, recipe, allow_unmatched=True)
    assert healthy.ok
    with torch.no_grad():
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        tensors[name].view(-1)[3] = value
    report = verify(model, recipe, allow_unmatched=True)
    (failure,) = report.failures
    assert (failure.name, failure.kind) == (name, "not finite")
    assert len(report.entries) == len(healthy.entries) + 1
    assert verify(model, recipe, allow_unmatched=True, ignore={"not finite"}).ok


def test_one_wild_value_is_not_blamed_on_another_initialiser() -> None:
    # 42 std in one of 65,536 values raise the std by 1.4 %, beyond its band.
    model = nn.Linear(128, 512, bias=False)
    init_(model, ANY, seed=0)
    with torch.no_grad():
        model.weight[0, 0] = 0.85
    (failure,) = verify(model, ANY).failures
    assert failure.kind == "extremes"
    assert failure.problem.startswith("a value of 0.85 among 65536")
    assert failure.cause.startswith("single values were overwritten")


def test_bounds_that_are_absolute_are_named_as_the_cause() -> None:
    recipe = Recipe([Rule("*", TruncNormal.at(0.02, 2))])
    model = nn.Linear(512, 256, bias=False)
    torch.manual_seed(0)
    nn.init.trunc_normal_(model.weight, std=0.02)
    (failure,) = verify(model, recipe).failures
    assert failure.kind == "bounds"
    assert "absolute" in failure.cause


def test_the_text_of_a_report_holds_every_word() -> None:
    report = verify(Held(64, 48), Recipe([Rule("*", TruncNormal(0.02, -0.04, 0.04))]))
    (failure,) = report.failures
    text = str(report)
    for words in (failure.problem, failure.cause, failure.fix):
        assert [word for word in words.split() if word not in text] == []
