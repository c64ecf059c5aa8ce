"""verify of parameters that come in blocks says what verify of whole tensors says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

import named_models
from distributed_checkpoints import cut
from initstats.checkpoints import skeleton
from initstats.planning.initialize import init_
from initstats.recipes import (
    Computed,
    Derived,
    HalfBasis,
    Match,
    Normal,
    NormalisedRows,
    Orthogonal,
    Recipe,
    Rule,
    Slices,
    Transformed,
)
from initstats.verification.verifier import VerifyReport, verify, verify_blocks

CUTS = [(1,), (3, 2), (1, 4), (4, 1), (2, 3, 2, 2)]


def healthy() -> dict[str, Tensor]:
    model = named_models.nano_gpt()
    init_(model, "gpt2", seed=0)
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def name_of(tensors: dict[str, Tensor], end: str) -> str:
    return next(name for name in tensors if name.endswith(end))


def equal_rows(x: Tensor) -> None:
    x[5:7] = x[1:3]


def equal_columns(x: Tensor) -> None:
    x[:, 5] = x[:, 2]


def equal_shards(x: Tensor) -> None:
    half = len(x) // 2
    x[half:] = x[:half]


def zero_rows(x: Tensor) -> None:
    x[3:9] = 0


def negative_zero_rows(x: Tensor) -> None:
    x[3:9] = -0.0


def almost_equal_rows(x: Tensor) -> None:
    x[5] = x[1]
    x[5, -1] += 0.001


def scaled(x: Tensor) -> None:
    x.mul_(2)


def not_finite(x: Tensor) -> None:
    x[1, 2], x[-1, -1] = float("nan"), float("inf")


def one_far(x: Tensor) -> None:
    x[-1, -1] = 0.5


def constant(x: Tensor) -> None:
    x.fill_(0.02)


DAMAGES: list[Callable[[Tensor], None]] = [
    equal_rows,
    equal_columns,
    equal_shards,
    zero_rows,
    negative_zero_rows,
    almost_equal_rows,
    scaled,
    not_finite,
    one_far,
    constant,
]


def blocks_of(
    tensors: dict[str, Tensor], cuts: tuple[int, ...]
) -> Callable[[str, Tensor], Iterator[tuple[Tensor, Sequence[int]]]]:
    def blocks(name: str, _: Tensor) -> Iterator[tuple[Tensor, Sequence[int]]]:
        for offset, block in cut(tensors[name], cuts):
            yield block, offset

    return blocks


def both(
    tensors: dict[str, Tensor], recipe: Recipe | str, cuts: tuple[int, ...]
) -> tuple[VerifyReport, VerifyReport]:
    on_meta = skeleton({name: x.to("meta") for name, x in tensors.items()}, lambda _: None)
    whole = skeleton(tensors, lambda _: None)
    return (
        verify(whole, recipe, allow_unmatched=True),
        verify_blocks(on_meta, recipe, blocks_of(tensors, cuts), allow_unmatched=True),
    )


def told(report: VerifyReport) -> list[tuple[str, str, str]]:
    return [(e.name, e.kind, e.cause) for e in report.entries]


@pytest.mark.parametrize("cuts", CUTS)
def test_a_healthy_model_is_healthy_in_blocks(cuts: tuple[int, ...]) -> None:
    whole, blocks = both(healthy(), "gpt2", cuts)
    assert whole.ok
    assert told(blocks) == told(whole)
    for a, b in zip(whole.entries, blocks.entries, strict=True):
        assert (a.count, a.mean_band, a.std_band) == (b.count, b.mean_band, b.std_band)
        assert b.std == pytest.approx(a.std, rel=1e-6)


@pytest.mark.parametrize("cuts", CUTS[1:])
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_same_problems_are_found_in_blocks(
    damage: Callable[[Tensor], None], cuts: tuple[int, ...]
) -> None:
    tensors = healthy()
    damage(tensors[name_of(tensors, "h.1.attn.c_attn.weight")])
    whole, blocks = both(tensors, "gpt2", cuts)
    if damage is almost_equal_rows:  # parts of rows are compared in memory alone
        assert [e.kind for e in whole.failures] == ["copies"]
        assert blocks.ok
        return
    assert not whole.ok
    assert told(blocks) == told(whole)
    assert [e.problem for e in blocks.failures] == [e.problem for e in whole.failures]


def test_copies_of_another_parameter_are_found_in_blocks() -> None:
    tensors = healthy()
    tensors[name_of(tensors, "h.1.mlp.c_fc.weight")].copy_(
        tensors[name_of(tensors, "h.0.mlp.c_fc.weight")]
    )
    whole, blocks = both(tensors, "gpt2", (3, 2))
    assert [e.kind for e in whole.failures] == ["duplicate"]
    assert told(blocks) == told(whole)


ORTHOGONAL = Recipe([Rule(Match("*"), lambda slot: Orthogonal(*slot.matrix_shape))])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(40, 40), (24, 150), (150, 24), (16, 5, 3, 3), (300, 200)])
@pytest.mark.parametrize("cuts", [(1,), (3, 2), (2, 2, 2)])
def test_orthogonality_is_seen_in_blocks(
    shape: tuple[int, ...], dtype: torch.dtype, cuts: tuple[int, ...]
) -> None:
    weight = torch.empty(shape, dtype=dtype)
    init_(skeleton({"fc.weight": weight}), ORTHOGONAL, seed=0)
    whole, blocks = both({"fc.weight": weight}, ORTHOGONAL, cuts)
    assert whole.ok, str(whole)
    assert blocks.ok, str(blocks)
    std = max(shape[0], weight[0].numel()) ** -0.5
    random = skeleton({"fc.weight": weight})
    init_(random, Recipe([Rule("*", Normal(std))]), seed=0)
    weight.mul_(std / weight.double().square().mean().sqrt().item())
    whole, blocks = both({"fc.weight": weight}, ORTHOGONAL, cuts)
    assert [e.kind for e in whole.entries] == ["orthogonal"]
    assert [e.kind for e in blocks.entries] == ["orthogonal"]


def exact() -> tuple[dict[str, Tensor], Recipe]:
    model = nn.Module()
    model.dt_bias = nn.Parameter(torch.empty(40))
    model.A_log = nn.Parameter(torch.empty(8, 16))
    model.rows = nn.Parameter(torch.empty(12, 16))
    model.taps = nn.Parameter(torch.empty(12, 8, 3))
    model.half_a = nn.Parameter(torch.empty(6, 20))
    model.half_b = nn.Parameter(torch.empty(30, 6))
    model.head, model.embed = nn.Linear(8, 24, bias=False), nn.Embedding(24, 8)
    recipe = Recipe(
        [
            Rule("dt_bias", Transformed.time_step()),
            Rule("A_log", Computed("log_arange", (8, 16))),
            Rule("rows", NormalisedRows(16)),
            Rule("taps", Slices(Orthogonal(12, 8), (2,))),
            Rule("head.weight", Normal(0.1)),
            Rule("embed.weight", Derived("copy", "head.weight")),
            Rule("half_a", HalfBasis(6, "odd", "half", 0)),
            Rule("half_b", HalfBasis(6, "even", "half", 1)),
        ]
    )
    init_(model, recipe, seed=0)
    return {name: p.detach().clone() for name, p in model.named_parameters()}, recipe


@pytest.mark.parametrize("cuts", CUTS)
def test_exact_values_are_compared_in_blocks(cuts: tuple[int, ...]) -> None:
    tensors, recipe = exact()
    whole, blocks = both(tensors, recipe, cuts)
    assert whole.ok
    assert told(whole) == told(blocks)
    tensors["A_log"][3, 4] += 0.01
    tensors["embed.weight"][5, 2] += 0.01
    tensors["rows"][2] *= 1.01
    tensors["half_b"] += 0.01
    tensors["taps"][:, :, 1] = tensors["taps"][:, :, 0] * 0.9 + 0.01
    tensors["dt_bias"].fill_(1.0)
    whole, blocks = both(tensors, recipe, cuts)
    kinds = {entry.name: entry.kind for entry in whole.failures}
    assert kinds.keys() == {"A_log", "embed.weight", "rows", "taps[1]", "dt_bias", "half_b"}
    assert {entry.name: entry.kind for entry in blocks.failures} == kinds


def test_a_padding_row_is_seen_in_blocks() -> None:
    model = nn.ModuleDict({"wte": nn.Embedding(50, 32, padding_idx=7)})
    init_(model, "gpt2", seed=0)
    tensors = {"wte.weight": model.get_parameter("wte.weight").detach().clone()}
    for damaged in (False, True):
        tensors["wte.weight"][7, 30] = 0.02 * damaged
        found = []
        for on_meta in (False, True):
            held = {n: x.to("meta") if on_meta else x for n, x in tensors.items()}
            made = skeleton(held, lambda _: 7)
            report = (
                verify_blocks(made, "gpt2", blocks_of(tensors, (4, 3)))
                if on_meta
                else verify(made, "gpt2")
            )
            found.append([(e.kind, e.problem, e.count) for e in report.entries])
        assert found[0] == found[1]
        assert (found[0][0][0] == "padding") == damaged
