"""New layers in trained models: what is kept, what is initialised, and identity at the start."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
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


def plain() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {n: torch.randn(8, 8, generator=generator) for n in ("a.weight", "b.weight")}


def two_layers() -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(8, 8, bias=False) for name in ("a", "b")})


WRAPPED: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, Any]]] = {
    "as it is": dict,
    "DDP": lambda s: {f"module.{n}": x for n, x in s.items()},
    "compiled": lambda s: {f"_orig_mod.{n}": x for n, x in s.items()},
    "DDP of compiled": lambda s: {f"module._orig_mod.{n}": x for n, x in s.items()},
    "compiled block": lambda s: {n.replace(".", "._orig_mod."): x for n, x in s.items()},
    "FSDP": lambda s: {f"_fsdp_wrapped_module.{n}": x for n, x in s.items()},
    "a model in a model": lambda s: {f"model.{n}": x for n, x in s.items()},
    "two of them": lambda s: {f"base.model.{n}": x for n, x in s.items()},
    "state_dict": lambda s: {"state_dict": s, "epoch": 1},
    "model": lambda s: {"model": {f"module.{n}": x for n, x in s.items()}, "step": 3},
    "numpy": lambda s: {n: x.numpy() for n, x in s.items()},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_warm_start_finds_names_behind_wrappers(name: str) -> None:
    model = two_layers()
    report = warm_start_(model, WRAPPED[name](plain()), "mlp", seed=0)
    assert report.copied == ("a.weight", "b.weight")
    assert report.unused == report.initialised == ()
    assert all(torch.equal(x, plain()[n]) for n, x in model.named_parameters())


@pytest.mark.parametrize("prefix", ["module", "model", "_orig_mod"])
def test_a_warm_start_finds_names_of_a_wrapped_model(prefix: str) -> None:
    model = nn.Module()
    model.add_module(prefix, two_layers())
    report = warm_start_(model, plain(), "mlp", seed=0)
    assert report.copied == (f"{prefix}.a.weight", f"{prefix}.b.weight")
    assert all(torch.equal(x, plain()[n[len(prefix) + 1 :]]) for n, x in model.named_parameters())


def test_a_name_that_fits_as_it_is_keeps_its_prefix() -> None:
    model = nn.ModuleDict({"model": two_layers(), "head": nn.Linear(8, 8, bias=False)})
    names = {f"model.{n}": x for n, x in plain().items()}
    report = warm_start_(model, names, "mlp", seed=0)
    assert report.copied == ("model.a.weight", "model.b.weight")
    assert report.initialised == ("head.weight",)


REFUSED: dict[str, tuple[type[Exception], str, Callable[[dict[str, Any]], object]]] = {
    "integers": (
        TypeError,
        "expected a.weight to be torch.float32, got torch.int8; dequantise it first",
        lambda s: s.update({"a.weight": torch.ones(8, 8, dtype=torch.int8)}),
    ),
    "text": (
        TypeError,
        "expected tensors in state_dict, got a.weight=str",
        lambda s: s.update({"a.weight": "x"}),
    ),
    "NaN": (
        ValueError,
        "expected finite values, got 1 NaN and 0 infinite ones in b.weight",
        lambda s: s["b.weight"][0, 0].fill_(math.nan),
    ),
    "meta": (
        ValueError,
        "got a.weight of state_dict on the meta device",
        lambda s: s.update({"a.weight": torch.empty(8, 8, device="meta")}),
    ),
    "other names": (
        ValueError,
        "expected names of the model in state_dict, got 'x' where the model has 'a.weight'",
        lambda s: (s.clear(), s.update({"x": torch.ones(2)})),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_warm_start_refuses_before_anything_is_written(name: str) -> None:
    kind, message, change = REFUSED[name]
    model, state, random = two_layers(), plain(), torch.get_rng_state()
    before = {n: x.detach().clone() for n, x in model.named_parameters()}
    change(state)
    with pytest.raises(kind, match=re.escape(message)):
        warm_start_(model, state, "mlp")
    assert all(torch.equal(x, before[n]) for n, x in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_model_on_meta_is_refused_as_a_target() -> None:
    with torch.device("meta"):
        model = two_layers()
    with pytest.raises(ValueError, match=r"got a\.weight of the model on the meta device"):
        warm_start_(model, plain(), "mlp", seed=0)


def test_counters_are_copied_into_counters() -> None:
    model, trained = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    trained.num_batches_tracked.fill_(7)
    assert len(warm_start_(model, trained.state_dict(), "mlp", seed=0).copied) == 5
    assert int(model.num_batches_tracked) == 7


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_lora_from_weight_is_exact_under_autocast(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, a, b = torch.randn(64, 48, generator=generator), torch.zeros(4, 48), torch.zeros(64, 4)
    before = weight.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lora_from_weight_(weight, a, b, method=method)
    assert torch.allclose(weight + b @ a, before, atol=1e-5)


LORA: list[tuple[Any, type[Exception], str]] = [
    (torch.ones(8, 8, dtype=torch.int8), TypeError, "got weight=torch.int8"),
    (torch.ones(8, 8, 1), ValueError, "expected weight to be a matrix, got shape=(8, 8, 1)"),
    (torch.empty(8, 8, device="meta"), ValueError, "expected weight to be a tensor with values"),
    (torch.full((8, 8), math.nan), ValueError, "expected weight to be finite values"),
    (torch.ones(8, 8, requires_grad=True) * 2, ValueError, "expected weight to be a leaf"),
    ([[1.0]], TypeError, "got weight=list"),
]


@pytest.mark.parametrize(("weight", "kind", "message"), LORA)
def test_lora_from_weight_refuses_before_anything_is_written(
    weight: Any, kind: type[Exception], message: str
) -> None:
    a, b = torch.ones(2, 8), torch.ones(8, 2)
    with pytest.raises(kind, match=re.escape(message)):
        lora_from_weight_(weight, a, b)
    assert bool((a == 1).all() and (b == 1).all())
