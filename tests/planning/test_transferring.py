"""New layers in trained models: what is kept, what is initialised, and identity at the start."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import named_models
from initstats.planning.initialize import init_
from initstats.planning.transfer import init_new_, lora_from_weight_
from initstats.planning.warm_starts import warm_start_
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
        ({"a": torch.zeros(7, 8), "b": torch.zeros(6, 7)}, "expected 1 <= r <= 6, got r=7"),
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
    "numpy, read-only": lambda s: {n: np.broadcast_to(x.numpy(), x.shape) for n, x in s.items()},
    "numpy, other byte order": lambda s: {n: x.numpy().astype(">f4") for n, x in s.items()},
    "keys that are no text": lambda s: {**s, 0: torch.ones(2)},
    "DeepSpeed": lambda s: {"module": s, "lr": 0.1},
    "two levels": lambda s: {"state_dict": {"model": s}},
    "another key": lambda s: {"net": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
    "a prefix beside other entries": lambda s: {
        **{f"model.{n}": x for n, x in s.items()},
        "loss.scale": torch.ones(2),
    },
    "a prefix, and a name that fits by chance": lambda s: {
        "a.weight": torch.zeros(8, 8),
        **{f"model.{n}": x for n, x in s.items()},
    },
}
UNUSED = {
    "keys that are no text": ("0",),
    "a prefix beside other entries": ("loss.scale",),
    "a prefix, and a name that fits by chance": ("a.weight",),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_warm_start_finds_names_behind_wrappers(name: str) -> None:
    model = two_layers()
    report = warm_start_(model, WRAPPED[name](plain()), "mlp", seed=0)
    assert report.copied == ("a.weight", "b.weight")
    assert report.unused == UNUSED.get(name, ())
    assert report.initialised == ()
    assert all(torch.equal(x, plain()[n]) for n, x in model.named_parameters())


def test_a_base_model_and_one_with_a_head_take_each_others_values() -> None:
    base, whole = two_layers(), nn.ModuleDict({"base": two_layers(), "head": nn.Linear(8, 4)})
    report = warm_start_(whole, plain(), "mlp", seed=0)
    assert report.copied == ("base.a.weight", "base.b.weight")
    assert report.initialised == ("head.weight", "head.bias")
    assert warm_start_(base, whole.state_dict(), "mlp", seed=0).unused == (
        "head.weight",
        "head.bias",
    )
    assert all(torch.equal(x, plain()[n]) for n, x in base.named_parameters())


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
    "sparse": (
        TypeError,
        "expected dense tensors in state_dict, got a.weight as layout=torch.sparse_coo",
        lambda s: s.update({"a.weight": torch.ones(8, 8).to_sparse()}),
    ),
    "objects of NumPy": (
        TypeError,
        "expected tensors in state_dict, got a.weight of NumPy's object",
        lambda s: s.update({"a.weight": np.ones((8, 8), object)}),
    ),
    "complex": (
        TypeError,
        "expected a.weight to be torch.float32, got torch.complex64",
        lambda s: s.update({"a.weight": torch.ones(8, 8, dtype=torch.complex64)}),
    ),
    "too large": (
        ValueError,
        "expected values of a.weight that fit into torch.float32, got 1e+300",
        lambda s: s.update({"a.weight": torch.full((8, 8), 1e300, dtype=torch.float64)}),
    ),
    "two models": (
        ValueError,
        "expected the parameters of one model, got those of 'g', 'd'; pass the right one",
        lambda s: (s.clear(), s.update(g=plain(), d=plain())),
    ),
    "two prefixes": (
        ValueError,
        "got the prefixes 'g.', 'd.', which fit equally well; rename the entries",
        lambda s: (s.clear(), s.update({f"{m}.{n}": x for m in "gd" for n, x in plain().items()})),
    ),
    "a parametrization": (
        ValueError,
        "expected values of a.weight in state_dict, got a.parametrizations.weight.original0",
        lambda s: s.update({"a.parametrizations.weight.original0": s.pop("a.weight")}),
    ),
    "weight_norm of old": (
        ValueError,
        "expected values of a.weight in state_dict, got a.weight_v, a part of a parametrized",
        lambda s: s.update({"a.weight_v": s.pop("a.weight")}),
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
    model["a"] = nn.Linear(8, 8, bias=False)
    before = model["a"].weight.detach().clone()
    with pytest.raises(
        ValueError, match=r"expected a model with memory, got b\.weight on the meta"
    ):
        warm_start_(model, {"a.weight": plain()["a.weight"]}, "mlp", seed=0)
    assert torch.equal(model["a"].weight, before)
    with pytest.raises(ValueError, match=r"expected parameters with a shape, got the lazy weight"):
        warm_start_(nn.LazyLinear(8), {"weight": torch.ones(8, 8)}, "mlp", seed=0)


def test_values_that_a_narrower_dtype_cannot_hold_are_refused() -> None:
    model = two_layers().half()
    model.register_buffer("ids", torch.zeros(2, dtype=torch.int8))
    before = values(model)
    state = plain()
    state["a.weight"][0, 0] = 7e4
    with pytest.raises(ValueError, match=r"of a\.weight that fit into torch\.float16, got 7e\+04"):
        warm_start_(model, state, "mlp", seed=0)
    with pytest.raises(ValueError, match=r"of ids that fit into torch\.int8, got larger ones"):
        warm_start_(model, {**plain(), "ids": torch.tensor([1, 1000])}, "mlp", seed=0)
    assert all(torch.equal(x, before[name]) for name, x in values(model).items())


def test_minus_infinity_is_copied_into_buffers_alone() -> None:
    model = two_layers()
    model.register_buffer("mask", torch.zeros(2, 2))
    mask = torch.full((2, 2), -math.inf).triu(1)
    warm_start_(model, {**plain(), "mask": mask}, "mlp", seed=0)
    assert torch.equal(model.mask, mask)  # type: ignore[arg-type]  # a buffer


def test_two_values_for_a_tied_parameter_are_refused() -> None:
    model = named_models.nano_gpt()
    before = values(model)
    state = {name: x.clone() for name, x in before.items()}
    state["lm_head.weight"] += 1
    with pytest.raises(ValueError, match=r"expected one value for transformer\.wte\.weight and lm"):
        warm_start_(model, state, "gpt2", seed=0)
    assert all(torch.equal(x, before[name]) for name, x in values(model).items())
    del state["lm_head.weight"]
    assert warm_start_(model, state, "gpt2", seed=0).initialised == ()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
def test_pretrained_names_fit_without_prefixes(prefix: str) -> None:
    model = two_layers()
    before = values(model)
    receipt = init_new_(model, [f"{prefix}a.weight"], seed=0)
    assert set(receipt.entries) == {"b.weight"}
    assert set(init_new_(model, {"model": {f"{prefix}a.weight": before}}, seed=0).entries) == {
        "b.weight"
    }
    assert torch.equal(model["a"].weight, before["a.weight"])
    with pytest.raises(ValueError, match=r"^initstats.init_new_: expected names of the model in"):
        init_new_(model, ["c.weight"], seed=0)


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
    (torch.ones(8, 8).to_sparse(), ValueError, "expected weight to be dense, got layout=torch.sp"),
    (torch.ones(1, 8).expand(8, 8), ValueError, "got one that was expanded"),
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


def test_lora_from_weight_refuses_a_result_that_cannot_be_held() -> None:
    weight = torch.full((8, 8), 6e4, dtype=torch.float16)
    weight[0] = -6e4
    before = weight.clone()
    a, b = torch.ones(2, 8), torch.ones(8, 2)
    for options, message in (
        ({"scaling": 1e-80}, "expected lora_a to hold the result, got values beyond torch.float32"),
        ({"scaling": "1"}, "expected scaling to be a number"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            lora_from_weight_(weight.float(), a, b, **options)
    with pytest.raises(ValueError, match=r"expected 1 <= r <= 8, got r=0"):
        lora_from_weight_(weight, torch.ones(0, 8), torch.ones(8, 0))
    with pytest.raises(ValueError, match=r"expected tensors that do not share memory"):
        lora_from_weight_(weight, weight[:2], b.half())
    assert bool((a == 1).all() and (b == 1).all())
    assert torch.equal(weight, before)
