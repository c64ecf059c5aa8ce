"""Numbers of adapters, written out from peft's code, and what the values must obey together."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

import adapter_models
import named_models
from adapter_models import RANK, WIDTH
from initstats import init_, plan, recipes, verify
from initstats.recipes import Derived, HalfBasis, Kept, Recipe, Rule
from initstats.verification.confidence import mean_band, std_band
from named_models import Tree
from promises import ONE, ZERO, normal, uniform
from recipe_checks import rejects


def promised(model: nn.Module, recipe: Recipe) -> dict[str, Any]:
    return {entry.name: entry.distribution for entry in plan(model, recipe)}


@pytest.mark.parametrize("name", ["lora", "rslora", "dora"])
def test_orthogonal_halves_share_a_basis(name: str) -> None:
    recipe = getattr(recipes, name)(variant="orthogonal")
    assert promised(named_models.LoraLinear(24, 16), recipe) == {
        "lora_A.default.weight": HalfBasis(4, "odd", "lora_A.default.weight", 0, 0.1),
        "lora_B.default.weight": HalfBasis(4, "even", "lora_A.default.weight", 1, 0.1),
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [2, 8])
def test_neither_matrix_is_zero_and_their_product_is(dtype: torch.dtype, rank: int) -> None:
    model = named_models.LoraLinear(96, 80, rank).to(dtype)
    init_(model, "lora(variant='orthogonal')", seed=0)
    a = model.lora_A["default"].weight.detach().double()
    b = model.lora_B["default"].weight.detach().double()
    # Half of the directions, in each of which 96 and 80 normals of std 0.1.
    values = torch.linalg.svdvals(a)
    assert int((values > 1e-2).sum()) == rank // 2
    assert float(a.square().mean()) == pytest.approx(0.005, rel=0.4)
    assert float(b.square().mean()) == pytest.approx(0.005, rel=0.4)
    assert float((b @ a).abs().max()) <= torch.finfo(dtype).eps * float(a.norm() * b.norm())
    assert verify(model, "lora(variant='orthogonal')").ok
    assert not verify(model, "lora").ok


def test_halves_that_were_drawn_apart_are_found() -> None:
    model = named_models.LoraLinear(WIDTH, WIDTH, 16)
    recipe = recipes.lora(variant="orthogonal")
    init_(model, recipe, seed=0)
    other = copy.deepcopy(model)
    init_(other, recipe, seed=1)

    def drawn_apart(b: torch.Tensor) -> None:
        b.copy_(other.lora_B["default"].weight)

    (entry,) = rejects(model, recipe, "lora_B.*", drawn_apart, cause="drawn apart")
    assert entry.kind == "orthogonal"
    (entry,) = rejects(model, recipe, "lora_B.*", torch.zero_, cause="never written")
    assert entry.kind == "constant"


def test_an_odd_rank_has_no_halves_and_nothing_is_written() -> None:
    model = named_models.LoraLinear(24, 16, rank=3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"initstats.lora: expected an even rank .* of rank 3"):
        init_(model, "lora(variant='orthogonal')", seed=0)
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rank": 3}, "expected an even rank >= 2, got rank=3"),
        ({"half": "upper"}, "expected half among odd, even, got half='upper'"),
        ({"dim": 2}, "expected dim 0 or 1, got dim=2"),
        ({"scale": 0.0}, "expected scale finite and > 0, got scale=0.0"),
    ],
)
def test_halves_out_of_range_are_refused(change: dict[str, object], words: str) -> None:
    options: dict[str, object] = {"rank": 4, "half": "odd", "basis": "x"}
    with pytest.raises(ValueError, match=f"initstats.HalfBasis: {words}"):
        HalfBasis(**(options | change))  # type: ignore[arg-type]


def test_a_rank_that_the_parameter_does_not_have_is_refused() -> None:
    recipe = Recipe([Rule("weight", HalfBasis(4, "odd", "x"))])
    with pytest.raises(ValueError, match=r"to give 4 for dimension 0 of \(6, 5\), got rank=4"):
        init_(nn.Linear(5, 6, bias=False), recipe, seed=0)


def test_rslora_says_what_the_model_must_multiply() -> None:
    model = named_models.LoraLinear(24, 16)
    (line,) = plan(model, recipes.rslora(alpha=8.0)).forward
    assert (line.value, line.ok) == (4.0, None)
    model.lora_alpha, model.scaling = {"default": 8}, {"default": 8 / 4}
    (line,) = plan(model, "rslora").forward
    assert (line.value, line.ok) == (8 / math.sqrt(4), False)
    assert "scaling of default is 2, expected another number" in str(line)
    model.scaling = {"default": 4.0}
    assert plan(model, "rslora").forward[0].ok
    assert promised(model, recipes.rslora()) == promised(model, recipes.lora())


def test_dora_takes_the_norms_of_the_trained_weight() -> None:
    found = promised(adapter_models.dora(), recipes.dora())
    assert found == {
        "lora_A.default.weight": uniform(WIDTH**-0.5),
        "lora_B.default.weight": ZERO,
        "lora_magnitude_vector.default.weight": Derived("row norms", "base_layer.weight"),
    }
    name = "lora_magnitude_vector.default.weight"
    found = promised(adapter_models.dora_of_an_embedding(), recipes.dora())
    assert found[name] == Derived("column norms", "base_layer.weight")
    assert found["lora_embedding_B.default"] == normal(1.0)
    model = Tree(block=adapter_models.dora())
    init_(model, "dora", seed=0)
    weight = model["block"].base_layer.weight.detach()
    magnitude = model["block"].lora_magnitude_vector["default"].weight.detach()
    torch.testing.assert_close(magnitude, weight.norm(dim=1))


def test_ia3_adalora_and_vera() -> None:
    assert promised(adapter_models.Ia3Linear(), recipes.ia3()) == {"ia3_l.default": ONE}
    assert promised(adapter_models.AdaLoraLinear(), recipes.adalora()) == {
        "lora_E.default": ZERO,
        "lora_A.default": normal(0.02),
        "lora_B.default": normal(0.02),
        "ranknum.default": recipes.Constant(RANK),
    }
    found = promised(adapter_models.Vera(), recipes.vera(d_initial=0.2))
    assert found["vera_A.default"] == uniform(math.sqrt(6 / WIDTH))
    assert found["vera_B.default"] == uniform(math.sqrt(6 / RANK))
    assert found["layers.1.vera_lambda_d.default"] == recipes.Constant(0.2)
    assert found["layers.0.vera_lambda_b.default"] == ZERO
    assert len(found) == 6


def test_projections_that_are_not_saved_are_kept() -> None:
    # peft draws them again from projection_prng_key when the adapter is loaded.
    model = adapter_models.Vera(saved=False)
    before = model.vera_A.default.clone()
    init_(model, "vera", seed=0)
    assert torch.equal(model.vera_A.default, before)
    assert promised(model, recipes.vera())["vera_A.default"] == Kept(
        "made from projection_prng_key"
    )
    init_(saved := adapter_models.Vera(), "vera", seed=0)
    assert saved.vera_A.default.abs().max() <= math.sqrt(6 / WIDTH)
    assert saved.layers[1].vera_A.default is saved.vera_A.default


def test_prompts() -> None:
    name = "prompt_encoder.default.embedding.weight"
    assert promised(adapter_models.prompted(), recipes.prompt()) == {name: normal(1.0)}
    vocabulary = recipes.prompt(variant="vocabulary")
    assert promised(adapter_models.prompted(), vocabulary) == {
        name: Derived("sampled rows", "word_embeddings.weight")
    }
    found = promised(adapter_models.prefixed(), recipes.prompt())
    at = "prompt_encoder.prefix"
    assert found[f"{at}.embedding.weight"] == normal(1.0)
    assert found[f"{at}.transform.0.weight"] == uniform(WIDTH**-0.5)
    assert found[f"{at}.transform.2.bias"] == uniform(64**-0.5)
    assert found["prompt_encoder.tuned.lstm_head.weight_hh_l0_reverse"] == uniform(64**-0.5)
    assert found["prompt_encoder.tuned.mlp_head.0.weight"].bounds == pytest.approx(
        (-(128**-0.5), 128**-0.5), rel=1e-12
    )
    found = promised(adapter_models.prefixed(), recipes.prompt(variant="zero"))
    assert found[f"{at}.embedding.weight"] == normal(1.0)
    assert found[f"{at}.transform.0.weight"] == uniform(WIDTH**-0.5)
    assert (found[f"{at}.transform.2.weight"], found[f"{at}.transform.2.bias"]) == (ZERO, ZERO)
    found = promised(adapter_models.prompted(), recipes.prompt(variant="zero"))
    assert found == {name: ZERO}


def test_virtual_tokens_are_rows_of_the_vocabulary() -> None:
    recipe = recipes.prompt(variant="vocabulary")
    model = adapter_models.prompted()
    init_(model, recipe, seed=0)
    tokens = model["prompt_encoder"]["default"]["embedding"].weight.detach()
    alike = (tokens[:, None] == model["word_embeddings"].weight).all(-1)
    assert bool(alike.any(dim=1).all())
    drawn = alike.float().argmax(dim=1)
    assert len(set(drawn.tolist())) > 8  # of 16 out of 60: fewer once in 10^6
    again = adapter_models.prompted()
    again.load_state_dict(model.state_dict())
    init_(again, recipe, seed=0)
    assert torch.equal(again["prompt_encoder"]["default"]["embedding"].weight, tokens)
    init_(again, recipe, seed=1)
    assert not torch.equal(again["prompt_encoder"]["default"]["embedding"].weight, tokens)
    (entry,) = rejects(model, recipe, "prompt_encoder.*", 1.03)
    assert entry.kind == "values"
    assert "16 of 16 rows are none of word_embeddings.weight" in entry.problem


def test_bad_options_and_a_missing_vocabulary_are_refused() -> None:
    for make, words in (
        (lambda: recipes.prompt(variant="text"), "prompt: expected variant among normal, vocab"),
        (lambda: recipes.dora(variant="x"), "dora: expected variant among kaiming"),
        (lambda: recipes.rslora(alpha=0.0), "rslora: expected alpha finite and > 0, got alpha=0"),
        (lambda: recipes.vera(d_initial=-1.0), "vera: expected d_initial finite and > 0"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    with pytest.raises(ValueError, match=r"expected one parameter 'wte.weight' that .* got none"):
        plan(
            adapter_models.prompted(), recipes.prompt(variant="vocabulary", vocabulary="wte.weight")
        )


def test_bands_of_halves_hold_for_what_peft_draws() -> None:
    # Half as many independent values as elements: with all of them counted, the std would lie
    # outside its band in 3 % of the draws, and the mean in up to 3 %, not in 0.27 %.
    torch.manual_seed(0)
    rank, columns, draws = 8, 24, 4000
    promised = HalfBasis(rank, "odd", "x")
    q = torch.linalg.qr(torch.randn(draws, rank, rank)).Q
    a = (torch.randn(draws, columns, rank // 2) @ q[:, 0::2]).flatten(1).double() / 10
    for found, band in (
        (a.std(1), std_band(promised, rank * columns, 3.0)),
        (a.mean(1), mean_band(promised, rank * columns, 3.0)),
    ):
        outside = int(((found < band.low) | (found > band.high)).sum())
        assert outside <= 25, outside  # 10.8 expected; more than 25 once in 10^4
