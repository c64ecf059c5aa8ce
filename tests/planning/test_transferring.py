"""New layers in trained models: what is kept, what is initialised, and identity at the start."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import named_models
from initstats.planning.initialize import init_
from initstats.planning.transfer import init_new_, lora_from_weight_, warm_start_
from initstats.verification.verifier import verify
from named_models import Adapter, LoraLinear, Tree


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def test_only_new_parameters_are_written() -> None:
    model = named_models.timm_vit()
    before = values(model)
    pretrained = {name for name in before if not name.startswith("head")}
    receipt = init_new_(model, pretrained, seed=0)
    assert set(receipt.entries) == {"head.weight", "head.bias"}
    after = values(model)
    for name in pretrained:
        assert torch.equal(before[name], after[name]), name
    assert not model["head"].bias.any()
    assert float(model["head"].weight.detach().std()) == pytest.approx(0.02, rel=0.3)
    assert verify(model, "new_head").ok


def test_a_new_parameter_has_the_values_that_the_whole_model_would_have() -> None:
    whole, part = named_models.timm_vit(), named_models.timm_vit()
    init_(whole, "vit", seed=0)
    init_new_(part, {name for name in values(part) if "head" not in name}, "vit", seed=0)
    assert torch.equal(whole["head"].weight, part["head"].weight)


def test_a_tied_parameter_is_pretrained_under_either_name() -> None:
    model = named_models.nano_gpt()
    names = {name for name in values(model) if name != "transformer.wte.weight"}
    with pytest.raises(ValueError, match=r"^initstats.init_new_: expected parameters that are not"):
        init_new_(model, names, seed=0)


def test_new_layers_need_rules_and_names() -> None:
    model = Tree(fc=nn.Linear(2, 2), act=nn.PReLU())
    with pytest.raises(ValueError, match=r"^initstats.init_new_: expected a rule .*act.weight"):
        init_new_(model, {"fc.weight", "fc.bias"})
    with pytest.raises(TypeError, match=r"^initstats.init_new_: expected pretrained to be a coll"):
        init_new_(model, "fc.weight")


@pytest.mark.parametrize("variant", ["lora", "adapter"])
def test_a_model_with_adapters_starts_as_it_was(variant: str) -> None:
    torch.manual_seed(0)
    base = nn.Linear(16, 16)
    x = torch.randn(8, 16)
    if variant == "lora":
        model: nn.Module = LoraLinear(16, 16)
        model.base_layer = base
        pretrained = {"base_layer.weight", "base_layer.bias"}
    else:
        model = Tree(base=base, adapter=Adapter(16))
        pretrained = {"base.weight", "base.bias"}
    expected = base(x)
    assert not torch.equal(model(x), expected)
    init_new_(model, pretrained, variant, seed=0)
    assert torch.equal(model(x), expected)
    # Not a dead start: the last matrix has a gradient.
    model(x).sum().backward()
    last = model.lora_B["default"] if variant == "lora" else model["adapter"].up  # type: ignore[index]
    assert last.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("method", ["pissa", "olora"])
@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
def test_lora_from_a_weight_leaves_the_sum(method: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(*shape)
    a, b = torch.zeros(4, shape[1]), torch.zeros(shape[0], 4)
    before = weight.clone()
    lora_from_weight_(weight, a, b, method=method, scaling=2.0)
    # A product of rank 4 in float32: a few units in the last place of numbers up to 4.
    assert torch.allclose(weight + 2.0 * (b @ a), before, atol=1e-5)
    assert torch.linalg.matrix_rank(b @ a) == 4
    if method == "pissa":
        largest = torch.linalg.svdvals(before)[:4]
        assert torch.allclose(torch.linalg.svdvals(2.0 * (b @ a))[:4], largest, rtol=1e-4)
        assert torch.linalg.svdvals(weight)[0] < largest[3]
    else:
        assert torch.allclose(b.T @ b, torch.eye(4), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": torch.zeros(2, 7)}, r"expected lora_a \[r, 8\] and lora_b \[6, r\]"),
        ({"a": torch.zeros(7, 8), "b": torch.zeros(6, 7)}, "expected r <= 6, got r=7"),
        ({"scaling": 0.0}, "expected scaling finite and > 0, got scaling=0.0"),
        ({"method": "svd"}, "expected method among pissa, olora, got method='svd'"),
    ],
)
def test_lora_from_a_weight_refuses_bad_input(options: dict[str, Any], message: str) -> None:
    weight = torch.ones(6, 8)
    a, b = options.pop("a", torch.zeros(2, 8)), options.pop("b", torch.zeros(6, 2))
    with pytest.raises(ValueError, match=f"^initstats.lora_from_weight_: {message}"):
        lora_from_weight_(weight, a, b, **options)
    assert bool((weight == 1).all())


def test_a_warm_start_copies_what_fits_and_initialises_the_rest() -> None:
    old, new = named_models.timm_vit(), named_models.timm_vit()
    init_(old, "vit", seed=0)
    new["head"] = nn.Linear(named_models.WIDTH, 5)
    checkpoint = values(old) | {"extra": torch.zeros(3)}
    del checkpoint["pos_embed"]
    result = warm_start_(new, checkpoint, "vit", seed=1)
    assert result.initialised == ("pos_embed", "head.weight", "head.bias")
    assert result.mismatched == (
        ("head.weight", (10, 32), (5, 32)),
        ("head.bias", (10,), (5,)),
    )
    assert result.unused == ("extra",)
    assert set(result.copied) == set(checkpoint) - {"head.weight", "head.bias", "extra"}
    for name in result.copied:
        assert torch.equal(new.state_dict()[name], checkpoint[name]), name
    assert verify(new, "vit").ok
    assert result.receipt is not None
    assert set(result.receipt.entries) == set(result.initialised)
    assert result.to_dict()["mismatched"][0] == ["head.weight", [10, 32], [5, 32]]


def test_a_warm_start_from_the_whole_model_initialises_nothing() -> None:
    old, new = named_models.resnet(), named_models.resnet()
    old["bn1"].running_mean.fill_(2.0)
    result = warm_start_(new, copy.deepcopy(old.state_dict()), "resnet")
    assert result.initialised == ()
    assert result.receipt is None
    assert result.to_dict()["receipt"] is None
    assert "bn1.running_mean" in result.copied
    assert bool((new["bn1"].running_mean == 2).all())


def test_a_warm_start_needs_a_mapping_and_rules_for_the_rest() -> None:
    with pytest.raises(TypeError, match=r"^initstats.warm_start_: expected state_dict to be a map"):
        warm_start_(nn.Linear(2, 2), [], "mlp")  # type: ignore[arg-type]
    model = Tree(fc=nn.Linear(2, 2), act=nn.PReLU())
    before = values(model)
    with pytest.raises(ValueError, match=r"^initstats.warm_start_: expected a rule for every par"):
        warm_start_(model, {"fc.weight": torch.zeros(2, 2)}, "mlp")
    assert all(torch.equal(v, before[name]) for name, v in values(model).items())
