"""Checks of sharded models that every one of four ranks makes; see gloo_ranks.py."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import Placement

import initstats
from filling_ranks import Collectives, shard_of
from gloo_ranks import Check
from initstats.checkpoints import load_checkpoint
from initstats.planning.receipt import Receipt
from initstats.recipes import (
    Computed,
    Constant,
    Derived,
    HalfBasis,
    LogUniform,
    Match,
    Normal,
    NormalisedRows,
    Orthogonal,
    Part,
    Recipe,
    Rule,
    Slices,
    Stacked,
    Transformed,
    TruncNormal,
    Uniform,
)
from initstats.recipes.parameters import Slot
from initstats.verification.verifier import VerifyReport

VOCABULARY, WIDTH, HEADS, LAYERS = 50, 32, 4, 3


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.k_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.v_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.o_proj = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        split = [
            p(x).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        ]
        y = nn.functional.scaled_dot_product_attention(*split, is_causal=True)
        out: Tensor = self.o_proj(y.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.up_proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.down_proj = nn.Linear(3 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(WIDTH)
        self.self_attn = Attention()
        self.post_attention_layernorm = nn.RMSNorm(WIDTH)
        self.mlp = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """A decoder with the names of Llama; the head may be tied to the embedding."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH, padding_idx=3)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        y: Tensor = self.lm_head(self.norm(x))
        return y


TP_PLAN = {
    "layers.*.self_attn.q_proj": ColwiseParallel(),
    "layers.*.self_attn.k_proj": ColwiseParallel(),
    "layers.*.self_attn.v_proj": ColwiseParallel(),
    "layers.*.self_attn.o_proj": RowwiseParallel(),
    "layers.*.mlp.gate_proj": ColwiseParallel(),
    "layers.*.mlp.up_proj": ColwiseParallel(),
    "layers.*.mlp.down_proj": RowwiseParallel(),
}


class Odd(nn.Module):
    """Packed projections, gates, a padding row and sizes that ranks do not divide."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(11, 6, padding_idx=9)
        self.c_attn = nn.Linear(6, 18)
        self.lstm = nn.LSTM(6, 5)
        self.fc = nn.Linear(6, 7)
        self.tail = nn.Linear(7, 3)


def thirds(slot: Slot) -> Stacked:
    size = slot.parameter.shape[0] // 3
    # Not by slicing the parameter: torch 2.10 has no slices of strided shards.
    parts = (Normal(0.1), Orthogonal(size, slot.matrix_shape[1]), TruncNormal(0.2, -0.3, 0.3))
    return Stacked([Part(p, size, name) for p, name in zip(parts, "qkv", strict=True)])


def gates(slot: Slot) -> Stacked:
    size = slot.parameter.shape[0] // 4
    parts = (LogUniform(1.0, 9.0, -1), Constant(1.0), Uniform(-0.1, 0.2), Constant(0.0))
    return Stacked([Part(p, size, name) for p, name in zip(parts, "ifgo", strict=True)])


def columns(slot: Slot) -> Stacked:
    return Stacked(
        [Part(Normal(0.5), 2, "a"), Part(Constant(-1.0), slot.parameter.shape[1] - 2, "b")], 1
    )


ODD = Recipe(
    [
        Rule("c_attn.weight", thirds),
        Rule("lstm.*", gates),
        Rule("fc.weight", columns),
        Rule("tail.weight", lambda slot: Orthogonal(*slot.matrix_shape)),
        Rule("wte.weight", Normal(1.0)),
        Rule("*", Normal(0.3)),
    ]
)


def on_meta(make: Callable[..., nn.Module] = Llama, **options: Any) -> Any:
    with torch.device("meta"):
        return make(**options)


def mesh_of(*shape: int) -> DeviceMesh:
    return init_device_mesh("cpu", shape, mesh_dim_names=("dp", "tp")[: len(shape)])


def whole(make: Callable[..., nn.Module] = Llama, recipe: Any = "llama", **options: Any) -> Any:
    """Return the model as one process initialises it."""
    model = make(**options)
    initstats.init_(model, recipe, seed=7)
    return model


def fsdp2(model: nn.Module, *shape: int, **options: Any) -> Any:
    mesh = mesh_of(*(shape or (4,)))
    for layer in getattr(model, "layers", ()):
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def fsdp2_and_tp(model: nn.Module) -> Any:
    mesh = mesh_of(2, 2)
    parallelize_module(model, mesh["tp"], TP_PLAN)
    for layer in model.layers:  # type: ignore[union-attr]
        fully_shard(layer, mesh=mesh["dp"])
    return fully_shard(model, mesh=mesh["dp"])


def tp_alone(model: nn.Module) -> Any:
    return parallelize_module(model, mesh_of(4), TP_PLAN)


def local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter.detach()


def assert_equal(model: nn.Module, expected: nn.Module) -> None:
    """Assert that this rank's shards are those of a whole model, bit for bit."""
    wholes = dict(expected.named_parameters())
    assert dict(model.named_parameters()).keys() == wholes.keys()
    for name, parameter in model.named_parameters():
        part = wholes[name].detach()
        if isinstance(parameter, DTensor):
            part = shard_of(part, parameter)
        assert torch.equal(local(parameter), part), name


def same_everywhere(value: object) -> None:
    """Assert that all ranks have the same value."""
    values: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    assert all(other == values[0] for other in values), values


def initialised(model: nn.Module, recipe: Any = "llama", **options: Any) -> Receipt:
    kinds = {name: type(p) for name, p in model.named_parameters()}
    with Collectives() as sent:
        receipt = initstats.init_(model, recipe, seed=7, device="cpu", **options)
    assert sent.count == 0, sent.count
    assert {name: type(p) for name, p in model.named_parameters()} == kinds
    return receipt


def on_ranks(ranks: list[int], size: int, placement: Placement) -> DTensor:
    """Return a [size, size] DTensor of zeros on some of the ranks; the others hold nothing."""
    mesh = DeviceMesh("cpu", ranks)
    rows = size if placement.is_replicate() else size // len(ranks)
    local = torch.zeros(rows if dist.get_rank() in ranks else 0, size)
    shape = torch.Size((size, size))
    return DTensor.from_local(
        local, mesh, [placement], run_check=False, shape=shape, stride=(size, 1)
    )


def told(report: VerifyReport) -> list[tuple[str, str, str]]:
    return [(e.name, e.kind, e.problem) for e in report.entries]


@contextmanager
def refused(error: type[Exception], *texts: str) -> Iterator[None]:
    with pytest.raises(error) as raised:
        yield
    assert all(text in str(raised.value) for text in texts), str(raised.value)
    assert "\n" not in str(raised.value)


# ---- init_ from meta


def fsdp2_and_tp_from_meta_equals_one_process() -> None:
    model, expected = fsdp2_and_tp(on_meta()), whole()
    initialised(model)
    assert_equal(model, expected)
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), expected(tokens), rtol=1e-6, atol=1e-6)
    # What was written lasts over the states of FSDP2.
    model.reshard()
    for layer in model.layers:
        layer.reshard()
    assert_equal(model, expected)


def every_layout_equals_one_process() -> None:
    expected = whole()
    for shard in (
        fsdp2,
        tp_alone,
        lambda m: fsdp2(m, 2, 2),
        lambda m: fsdp2(m, offload_policy=CPUOffloadPolicy(pin_memory=False)),
    ):
        model = shard(on_meta())
        receipt = initialised(model)
        assert_equal(model, expected)
        assert receipt.check(model) == {}


def the_vocabulary_and_its_padding_row_are_cut() -> None:
    plan = {"embed_tokens": RowwiseParallel(input_layouts=Replicate()), **TP_PLAN}
    plan["lm_head"] = ColwiseParallel(output_layouts=Replicate())
    mesh, model, expected = mesh_of(2, 2), on_meta(), whole()
    parallelize_module(model, mesh["tp"], plan)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh["dp"])
    fully_shard(model, mesh=mesh["dp"])
    initialised(model)
    assert_equal(model, expected)
    assert not expected.embed_tokens.weight[3].any()
    assert initstats.verify(model, "llama").ok
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), expected(tokens), rtol=1e-6, atol=1e-6)
        model.reshard()
        row = expected.embed_tokens.weight.detach().clone()
        row[3] = row[4] / 2
        local(model.embed_tokens.weight).copy_(shard_of(row, model.embed_tokens.weight))
    found = {e.name: e.kind for e in initstats.verify(model, "llama").failures}
    assert found == {"embed_tokens.weight": "padding"}, found


def meshes_of_three_dimensions_equal_one_process() -> None:
    expected = whole()
    for shape in ((2, 1, 2), (1, 2, 2), (2, 2, 1)):
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("copies", "shards", "tp"))
        model = parallelize_module(on_meta(), mesh["tp"], TP_PLAN)
        for layer in model.layers:
            fully_shard(layer, mesh=mesh["copies", "shards"])
        fully_shard(model, mesh=mesh["copies", "shards"])
        receipt = initialised(model)
        assert_equal(model, expected)
        assert receipt.check(model) == {}
        assert initstats.verify(model, "llama").ok


def strided_rows_of_packed_projections_equal_one_process() -> None:
    mesh, model = mesh_of(2, 2), on_meta(Odd)
    plan = {"c_attn": ColwiseParallel(), "fc": RowwiseParallel(), "tail": ColwiseParallel()}
    parallelize_module(model, mesh["tp"], plan)
    fully_shard(model, mesh=mesh["dp"])
    assert any("_S" in str(p) for p in model.c_attn.weight.placements), model.c_attn.weight
    initialised(model, ODD)
    assert_equal(model, whole(Odd, ODD))
    assert initstats.verify(model, ODD).ok


class Experts(nn.Module):
    """Packed experts [experts, in, out], which lie on a mesh of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(16, 8, bias=False)
        self.gate_up_proj = nn.Parameter(torch.empty(8, 16, 48))
        self.down_proj = nn.Parameter(torch.empty(8, 24, 16))


def experts_on_a_mesh_of_their_own_equal_one_process() -> None:
    recipe = Recipe([Rule("*_proj", TruncNormal(0.02, -0.04, 0.04)), Rule("*", Normal(0.1))])
    expected, model = whole(Experts, recipe), on_meta(Experts)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "ep"))
    for name in ("gate_up_proj", "down_proj"):
        cut = distribute_tensor(getattr(model, name), mesh["ep"], [Shard(0)])
        model.register_parameter(name, nn.Parameter(cut))
    fully_shard(model, mesh=mesh["dp"])
    assert len(model.down_proj.placements) == 2
    assert len(model.router.weight.placements) == 1
    initialised(model, recipe)
    assert_equal(model, expected)
    assert initstats.verify(model, recipe).ok


def stages_of_a_pipeline_equal_one_process() -> None:
    """Each stage is sharded over ranks of its own; verify is collective among them."""
    expected = dict(whole().named_parameters())
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "dp"))
    stage = mesh["pp"].get_local_rank()
    kept = on_meta()  # with the names of the whole, as torchtitan keeps them
    kept.layers = nn.ModuleDict({str(i): kept.layers[i] for i in ([0, 1], [2])[stage]})
    for name in (("norm", "lm_head"), ("embed_tokens",))[stage]:
        delattr(kept, name)
    numbered = nn.Sequential(on_meta(Block))
    names = {"0": f"layers.{stage + 1}"}
    for part, options in ((kept, {"depth": 3}), (numbered, {"depth": 3, "names": names})):
        fully_shard(part, mesh=mesh["dp"])
        receipt = initialised(part, **options)
        for name, parameter in part.named_parameters():
            full = name if part is kept else names["0"] + name[1:]
            assert torch.equal(local(parameter), shard_of(expected[full].detach(), parameter)), name
        assert initstats.verify(part, "llama", **options).ok
        assert receipt.check(part, names=options.get("names")) == {}


def ties_stay_ties() -> None:
    model, expected = on_meta(tied=True), whole(tied=True)
    fully_shard(model, mesh=mesh_of(4))
    initialised(model)
    assert model.lm_head.weight is model.embed_tokens.weight
    assert isinstance(model.lm_head.weight, DTensor)
    assert_equal(model, expected)
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), expected(tokens), rtol=1e-6, atol=1e-6)


def packed_pieces_and_padding_rows_equal_one_process() -> None:
    expected = whole(Odd, ODD)
    assert not expected.wte.weight[9].any()
    for dim in (0, 1):
        model = on_meta(Odd)
        mesh = mesh_of(4)
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                at = Shard(min(dim, parameter.dim() - 1))
                cut = nn.Parameter(distribute_tensor(parameter, mesh, [at]))
                module.register_parameter(name, cut)
        receipt = initialised(model, ODD)
        assert_equal(model, expected)
        assert receipt.check(model) == {}
        report = initstats.verify(model, ODD)
        assert report.ok, str(report)
        same_everywhere(told(report))
    model = fsdp2(on_meta(Odd))
    initialised(model, ODD)
    assert_equal(model, expected)


class Exact(nn.Module):
    """Functions of uniforms, formulas, rows of one norm, halves of one basis and copies."""

    def __init__(self) -> None:
        super().__init__()
        self.dt_bias = nn.Parameter(torch.empty(10))
        self.A_log = nn.Parameter(torch.empty(6, 5))
        self.rows = nn.Parameter(torch.empty(7, 6))
        self.bank = nn.Parameter(torch.empty(3, 6, 6))
        self.head = nn.Linear(6, 11, bias=False)
        self.embed = nn.Embedding(11, 6)
        self.half_a, self.half_b = nn.Parameter(torch.empty(6, 7)), nn.Parameter(torch.empty(9, 6))
        self.register_buffer("scale", torch.empty(4))


EXACT = Recipe(
    [
        Rule("dt_bias", Transformed.time_step()),
        Rule("A_log", Computed("log_arange", (6, 5))),
        Rule("rows", NormalisedRows(6)),
        Rule("bank", Slices(Orthogonal(6, 6))),
        Rule("head.weight", Normal(0.1)),
        Rule("embed.weight", Derived("copy", "head.weight")),
        Rule("half_a", HalfBasis(6, "odd", "half", 0)),
        Rule("half_b", HalfBasis(6, "even", "half", 1)),
        Rule("scale", Constant(2.0)),
    ]
)


def cut_along(model: nn.Module, dim: int) -> nn.Module:
    mesh = mesh_of(4)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            at = Shard(min(dim, parameter.dim() - 1))
            cut = nn.Parameter(distribute_tensor(parameter, mesh, [at]))
            module.register_parameter(name, cut)
    return model


def exact_fills_equal_one_process() -> None:
    expected = whole(Exact, EXACT)
    model = cut_along(on_meta(Exact), 0)
    receipt = initialised(model, EXACT)
    assert_equal(model, expected)
    assert receipt.check(model) == {}
    assert model.scale.tolist() == [2.0] * 4
    report = initstats.verify(model, EXACT)
    assert report.ok, str(report)
    same_everywhere(told(report))
    with torch.no_grad():
        local(model.A_log).mul_(1.01)
        local(model.embed.weight).mul_(1.01)
        local(model.rows).mul_(1.01)
        local(model.half_b).add_(0.01)
    report = initstats.verify(model, EXACT)
    assert {e.name: e.kind for e in report.failures} == {
        "A_log": "values",
        "embed.weight": "values",
        "rows": "norms",
        "half_b": "orthogonal",
    }, str(report)
    same_everywhere(told(report))


def what_cannot_be_written_in_shards_is_refused() -> None:
    model = cut_along(on_meta(Exact), 1)
    with refused(TypeError, "whole rows of rows"):
        initstats.init_(model, EXACT, seed=0, device="cpu")
    norms = [Rule("dt_bias", Normal(0.1)), Rule("A_log", Derived("transpose", "head.weight"))]
    turned = nn.Module()
    turned.head, turned.A_log = nn.Linear(6, 11, bias=False), nn.Parameter(torch.zeros(6, 11))
    turned.dt_bias = nn.Parameter(torch.zeros(4))
    cut_along(turned, 0)
    recipe = Recipe([*norms, Rule("head.weight", Normal(0.1))])
    with refused(TypeError, "A_log", "cut alike"):
        initstats.init_(turned, recipe, seed=0)
    assert not local(turned.A_log).any()
    assert not local(turned.dt_bias).any()


def values_outlive_the_unsharded_state() -> None:
    """Row 1: what init_ wrote into FSDP2's unsharded copies was lost at the next reshard()."""
    model, expected = fsdp2(on_meta()), whole()
    initstats.init_(model, "llama", seed=1, device="cpu")
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        model(tokens)
    assert not isinstance(model.norm.weight, DTensor)
    initialised_again = initstats.init_(model, "llama", seed=7)
    assert initstats.verify(model, "llama").ok
    assert initialised_again.check(model) == {}
    with torch.no_grad():
        assert torch.equal(model(tokens), expected(tokens))
        report = initstats.verify(model, "llama")  # in the unsharded state
        assert report.ok
    assert_equal(model, expected)


def memory_is_that_of_the_shards() -> None:
    """Fill 4 x 16 MiB in shards of 4 MiB, one rank after another."""
    model = nn.Sequential(*(nn.Linear(2048, 2048, bias=False, device="meta") for _ in range(4)))
    fully_shard(model, mesh=mesh_of(4))
    recipe = Recipe([Rule("*", Normal(0.02))])
    shards = sum(p.to_local().nbytes for p in model.parameters())
    assert shards == 16 << 20
    small = nn.Sequential(nn.Linear(8, 8, bias=False, device="meta"))
    initstats.init_(fully_shard(small, mesh=mesh_of(4)), recipe, seed=0, device="cpu")  # warm up
    with torch.profiler.profile(profile_memory=True) as profile:
        initstats.init_(model, recipe, seed=0, device="cpu")
    held = most = 0
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    assert shards <= most <= 1.05 * shards, (shards, most)


# ---- verify, receipts, warm starts


def equal_rows(x: Tensor) -> None:
    x[5:7] = x[1:3]


def equal_columns(x: Tensor) -> None:
    x[:, 5] = x[:, 2]


def zero_rows(x: Tensor) -> None:
    x[3:9] = 0


def equal_shards(x: Tensor) -> None:
    half = len(x) // 2
    x[half:] = x[:half]


def not_finite(x: Tensor) -> None:
    x[1, 2], x[-1, -1] = float("nan"), float("inf")


def scaled(x: Tensor) -> None:
    x.mul_(2)


def verify_says_what_one_process_says() -> None:
    name = "layers.1.mlp.down_proj.weight"
    for shard in (fsdp2_and_tp, fsdp2, tp_alone):
        model, expected = shard(on_meta()), whole()
        initialised(model)
        for damage in (
            None,
            equal_rows,
            equal_columns,
            zero_rows,
            equal_shards,
            not_finite,
            scaled,
        ):
            damaged = expected.get_parameter(name).detach().clone()
            if damage is not None:
                damage(damaged)
            expected_now = whole()
            with torch.no_grad():
                expected_now.get_parameter(name).copy_(damaged)
                local(model.get_parameter(name)).copy_(shard_of(damaged, model.get_parameter(name)))
            report, alone = (initstats.verify(m, "llama") for m in (model, expected_now))
            assert told(report) == told(alone), (told(report), told(alone))
            assert report.ok == (damage is None)
            same_everywhere(report.to_dict() if damage is not not_finite else told(report))


def verify_names_the_replicas_that_differ() -> None:
    rank = dist.get_rank()
    weight = "layers.0.mlp.up_proj.weight"
    for shard, name in ((fsdp2_and_tp, "norm.weight"), (lambda m: fsdp2(m, 2, 2), weight)):
        model = shard(on_meta())
        initialised(model)
        assert initstats.verify(model, "llama").ok
        if rank == 3:
            with torch.no_grad():
                local(model.get_parameter(name)).flatten()[0] += 2**-8
        report = initstats.verify(model, "llama")
        found = [(e.name, e.kind, e.problem) for e in report.failures]
        assert found == [(name, "replicas", "replicas differ: rank 3 from ranks 0, 1, 2")], found
        same_everywhere(report.to_dict())
        assert initstats.verify(model, "llama", ignore={"replicas"}).ok
    # More than one message of them, among parameters with another problem, and without a promise.
    model = nn.ModuleDict({f"m{i}": nn.Linear(8, 8, bias=False) for i in range(20)})
    model["sharded"] = nn.Linear(8, 8, bias=False)
    model["sharded"].weight = nn.Parameter(on_ranks([0, 1, 2, 3], 8, Shard(0)))
    recipe = Recipe([Rule(f"m{i}.weight", Normal(0.5)) for i in range(19)], name="most")
    initstats.init_(model, recipe, seed=0, allow_unmatched=True)
    with torch.no_grad():
        initstats.zeros_(model["sharded"].weight)
        model["m19"].weight.zero_()
        model["m0"].weight[0, 0] = torch.nan
        for i in range(20):
            model[f"m{i}"].weight[1, 1] += rank % 2
    report = initstats.verify(model, recipe, allow_unmatched=True)
    odd = {e.name: e for e in report.failures}
    assert odd.keys() == {f"m{i}.weight" for i in range(20)}, odd.keys()
    words = "replicas differ: ranks 1, 3 from ranks 0, 2"
    assert all(e.problem.endswith(words) for e in odd.values()), [e.problem for e in odd.values()]
    assert odd["m0.weight"].kind == "not finite"
    assert (odd["m19.weight"].kind, odd["m19.weight"].rule) == ("replicas", "none")
    assert {odd[f"m{i}.weight"].kind for i in range(1, 19)} == {"replicas"}
    same_everywhere([(e.name, e.problem) for e in report.failures])


def tensors_of_some_ranks_are_counted_once() -> None:
    rank = dist.get_rank()
    model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(3)))
    layouts = ([1, 3], Replicate()), ([0, 1, 2, 3], Shard(0)), ([0, 2], Shard(0))
    for layer, (ranks, placement) in zip(model, layouts, strict=True):
        layer.weight = nn.Parameter(on_ranks(ranks, 8, placement))
    expected = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(3)))
    alone = initstats.init_(expected, "mlp", seed=7)
    receipt = initstats.init_(model, "mlp", seed=7)
    assert receipt.all_merge().fingerprints == alone.fingerprints
    assert alone.check(model) == {}
    report = initstats.verify(model, "mlp")
    assert report.ok, str(report)
    assert [e.std for e in report.entries] == pytest.approx(
        [e.std for e in initstats.verify(expected, "mlp").entries]
    )
    same_everywhere(report.to_dict())
    agreed = initstats.replicas_agree(model, dist.group.WORLD)
    assert agreed.ok
    assert agreed.compared == 1
    if rank == 3:
        with torch.no_grad():
            local(model[0].weight)[0, 0] += 2**-8
    for found in (
        [e.problem for e in initstats.verify(model, "mlp").failures],
        [str(initstats.replicas_agree(model, dist.group.WORLD)).replace("0.weight: ", "")],
    ):
        assert found == ["replicas differ: rank 3 from rank 1"], found
    assert set(alone.check(model)) == {"0.weight"}


def orthogonality_is_seen_over_ranks() -> None:
    recipe = Recipe(
        [
            Rule(Match("*.weight", nn.Linear), lambda slot: Orthogonal(*slot.matrix_shape)),
            Rule("*", Normal(0.02)),
        ]
    )
    model = fsdp2_and_tp(on_meta())
    initstats.init_(model, recipe, seed=7, device="cpu")
    report = initstats.verify(model, recipe)
    assert report.ok, str(report)
    same_everywhere(report.to_dict())
    weight = model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        initstats.normal_(weight, std=(3 * WIDTH) ** -0.5, seed=3)
    kinds = {e.name: e.kind for e in initstats.verify(model, recipe).failures}
    assert kinds.keys() == {"layers.0.mlp.up_proj.weight"}, kinds


def receipts_check_and_remake() -> None:
    model, expected = fsdp2_and_tp(on_meta()), Llama()
    receipt, alone = initialised(model), initstats.init_(expected, "llama", seed=7)
    with refused(ValueError, "call receipt = receipt.all_merge() on every rank"):
        receipt.to_dict()
    merged = receipt.all_merge()
    assert merged.fingerprints == alone.fingerprints
    assert merged.to_dict()["parameters"] == alone.to_dict()["parameters"]
    same_everywhere(merged.to_dict())
    assert alone.check(model) == {}
    assert merged.check(expected) == {}
    # One replica alone differs: every rank says so.
    if dist.get_rank() == 3:
        with torch.no_grad():
            local(model.norm.weight)[0] = 2.0
    problems = alone.check(model)
    same_everywhere(problems)
    assert set(problems) == {"norm.weight"}, problems
    with Collectives() as sent:
        alone.remake_(model)
    assert sent.count == 0
    assert_equal(model, expected)
    assert alone.check(model) == {}


def a_warm_start_copies_and_initialises() -> None:
    model, expected = fsdp2_and_tp(on_meta()), whole()
    initstats.init_(model, "llama", seed=1, device="cpu")
    state = {n: p.detach() for n, p in expected.named_parameters() if "mlp" not in n}
    done = initstats.warm_start_(model, state, "llama", seed=7)
    assert all("mlp" in name for name in done.initialised)
    assert len(done.copied) == len(state)
    assert_equal(model, expected)
    # DTensors of another layout, into shards and into whole parameters.
    other = fsdp2(on_meta())
    initialised(other)
    for target in (model, Llama()):
        initstats.init_(target, "llama", seed=1)
        initstats.warm_start_(target, other.state_dict(), "llama", seed=1)
        assert_equal(target, expected)
    with torch.no_grad():
        if dist.get_rank() == 2:
            local(other.norm.weight)[0] = float("nan")
    with refused(ValueError, "expected finite values, got 1 that are NaN", "norm.weight"):
        initstats.warm_start_(model, other.state_dict(), "llama", seed=1)


def a_warm_start_grows_into_shards() -> None:
    """More rows than the checkpoint has: each rank writes its part of the same new ones."""
    small = nn.ModuleDict({"wte": nn.Embedding(11, 6)})
    with torch.no_grad():
        small["wte"].weight.copy_(torch.arange(66.0).view(11, 6).sin())
    grown = [nn.ModuleDict({"wte": nn.Embedding(17, 6)}) for _ in range(2)]
    for model in (grown[0], cut_along(grown[1], 0)):
        options = {"seed": 3, "new_rows": "covariance"}
        report = initstats.warm_start_(model, small.state_dict(), "embedding", **options)
        assert list(report.grown) == ["wte.weight"]
    # Sums of 11 in float32 that may be taken in another order.
    whole_rows = grown[1]["wte"].weight.full_tensor()
    torch.testing.assert_close(whole_rows, grown[0]["wte"].weight.detach(), atol=1e-7, rtol=0)
    assert torch.equal(whole_rows[:11], small["wte"].weight)


def folders_of_four_ranks_are_read() -> None:
    model, expected = fsdp2_and_tp(on_meta()), whole()
    initialised(model)
    held: list[object] = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(held)
    folder = Path(str(held[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": model.state_dict()}, checkpoint_id=folder)
    found = load_checkpoint(folder, "stats")
    state = dict(expected.named_parameters())
    assert found.tensors.keys() == state.keys()
    for name, parameter in state.items():
        for block, offset in found.blocks(name):
            part = parameter.detach()
            for d, (first, n) in enumerate(zip(offset, block.shape, strict=True)):
                part = part.narrow(d, first, n)
            assert torch.equal(block, part), name


# ---- refusals


def embeddings_that_sharding_untied_are_refused() -> None:
    mesh = mesh_of(4)
    apart, together = on_meta(tied=True), on_meta(tied=True)
    for model in (apart, together):
        model.config = SimpleNamespace(tie_word_embeddings=True)
        model.get_input_embeddings = lambda m=model: m.embed_tokens
        model.get_output_embeddings = lambda m=model: m.lm_head
    fully_shard(apart.embed_tokens, mesh=mesh)
    fully_shard(apart.lm_head, mesh=mesh)
    fully_shard([together.embed_tokens, together.lm_head], mesh=mesh)
    for model in (apart, together):
        fully_shard(model, mesh=mesh)
    with refused(ValueError, "plan: expected tied embeddings", "fully_shard([embedding, head])"):
        initstats.init_(apart, "llama", seed=7, device="cpu")
    initialised(together)
    assert together.lm_head.weight is together.embed_tokens.weight
    assert_equal(together, whole(tied=True))


def ranks_outside_of_the_mesh_are_told_before_anything_is_written() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8, bias=False))
    plain = model[0].weight.detach().clone()
    model[1].weight = nn.Parameter(on_ranks([1, 3], 8, Shard(0)))
    if dist.get_rank() in {1, 3}:
        receipt = initstats.init_(model, "mlp", seed=0)
        assert initstats.verify(model, "mlp").ok
        assert receipt.check(model) == {}
        return
    with refused(ValueError, "init_: expected to be called by the ranks of mesh", "another rank"):
        initstats.init_(model, "mlp", seed=0)
    assert torch.equal(model[0].weight, plain)


def other_engines_and_tools_are_refused() -> None:
    flat = FullyShardedDataParallel(Llama(), device_id=torch.device("cpu"))
    for call in (initstats.plan, initstats.init_, initstats.verify):
        with refused(TypeError, "FSDP1"):
            call(flat, "llama")
    zero = Llama()
    zero.norm.weight.ds_id = 3  # type: ignore[assignment]
    import sys

    sys.modules.setdefault("deepspeed", sys)  # which marks such parameters
    for call in (initstats.plan, initstats.init_, initstats.verify):
        with refused(TypeError, "ZeRO-3"):
            call(zero, "llama")
    del sys.modules["deepspeed"]
    model = fsdp2(on_meta())
    initialised(model)
    batch = torch.arange(12).view(2, 6)
    with refused(TypeError, "audit", "as a DTensor"):
        initstats.audit(model, batch, loss_fn=lambda y, _: y.sum())
    with refused(TypeError, "lsuv_", "as a DTensor"):
        initstats.lsuv_(model, batch)
    with refused(TypeError, "ensemble", "as a DTensor"):
        initstats.ensemble(lambda: fsdp2(on_meta()), 2, "llama", seed=0)
    partial = nn.Linear(4, 4, bias=False)
    partial.weight = nn.Parameter(
        DTensor.from_local(torch.zeros(4, 4), mesh_of(4), [Partial()], run_check=False)
    )
    with refused(TypeError, "Partial"):
        initstats.init_(partial, "mlp", seed=0)
    assert not local(partial.weight).any()


CHECKS: list[Check] = [
    fsdp2_and_tp_from_meta_equals_one_process,
    every_layout_equals_one_process,
    ties_stay_ties,
    the_vocabulary_and_its_padding_row_are_cut,
    meshes_of_three_dimensions_equal_one_process,
    strided_rows_of_packed_projections_equal_one_process,
    experts_on_a_mesh_of_their_own_equal_one_process,
    stages_of_a_pipeline_equal_one_process,
    packed_pieces_and_padding_rows_equal_one_process,
    exact_fills_equal_one_process,
    what_cannot_be_written_in_shards_is_refused,
    values_outlive_the_unsharded_state,
    memory_is_that_of_the_shards,
    verify_says_what_one_process_says,
    verify_names_the_replicas_that_differ,
    tensors_of_some_ranks_are_counted_once,
    orthogonality_is_seen_over_ranks,
    receipts_check_and_remake,
    a_warm_start_copies_and_initialises,
    a_warm_start_grows_into_shards,
    folders_of_four_ranks_are_read,
    embeddings_that_sharding_untied_are_refused,
    ranks_outside_of_the_mesh_are_told_before_anything_is_written,
    other_engines_and_tools_are_refused,
]
