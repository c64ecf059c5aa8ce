"""Tensors that fills leave alone, each with one sentence: other engines, subclasses, devices."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.distributed._local_tensor import LocalTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import initstats
from sharded import fake_mesh

FILLS: dict[str, Callable[..., Any]] = {
    "normal_": initstats.normal_,
    "kaiming_uniform_": initstats.kaiming_uniform_,
    "orthogonal_": initstats.orthogonal_,
    "foreach_normal_": lambda x: initstats.foreach_normal_([x]),
}
every_fill = pytest.mark.parametrize("fill", FILLS)


class Wrapper(torch.Tensor):
    """What a tensor of torchao looks like: memory elsewhere, a dtype that it would have."""

    @staticmethod
    def __new__(
        cls: type[Wrapper], inner: torch.Tensor, device: torch.device | str = "cpu"
    ) -> Wrapper:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=torch.bfloat16, device=device
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types, kwargs
        if func in {torch.ops.aten.view.default, torch.ops.aten.detach.default}:
            return Wrapper(args[0].inner, args[0].device)  # for DTensor.from_local and Parameter
        raise NotImplementedError(str(func))

    def __repr__(self) -> str:  # type: ignore[override]
        return "Wrapper()"


class WithMethods(torch.Tensor):
    """A subclass whose memory is its own."""


@every_fill
def test_subclasses_without_memory_of_their_own_are_refused(fill: str) -> None:
    inner = torch.zeros(4, 4, dtype=torch.int8)
    state = torch.get_rng_state()
    message = rf"initstats\.{fill}: expected a tensor with memory of its own, got Wrapper \(fill a"
    with pytest.raises(TypeError, match=message):
        FILLS[fill](Wrapper(inner))
    assert not inner.any()
    assert torch.equal(torch.get_rng_state(), state)


def test_dtensors_of_such_subclasses_are_refused() -> None:
    with fake_mesh((1,), 0) as mesh:
        x = DTensor.from_local(Wrapper(torch.zeros(4, 4)), mesh, [Shard(0)], run_check=False)
        with pytest.raises(TypeError, match="memory of its own, got Wrapper"):
            initstats.normal_(x)


def test_subclasses_with_memory_of_their_own_are_filled() -> None:
    x = torch.zeros(4, 4).as_subclass(WithMethods)
    initstats.normal_(x, seed=1)
    assert torch.equal(x.as_subclass(torch.Tensor), initstats.normal_(torch.zeros(4, 4), seed=1))


def model_with(parameter: torch.Tensor) -> torch.nn.Sequential:
    """Return a model of nines, one of whose parameters is given."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    for each in model.parameters():
        each.data.fill_(9.0)
    model[1].weight = torch.nn.Parameter(parameter, requires_grad=False)
    return model


OF_MODELS: dict[str, Callable[[torch.nn.Module], object]] = {
    "plan": lambda m: initstats.plan(m, "mlp"),
    "plan ": lambda m: initstats.init_(m, "mlp", seed=0),
    "plan  ": lambda m: initstats.verify(m, "mlp"),
    "plan   ": lambda m: initstats.warm_start_(m, {"0.weight": torch.ones(4, 4)}, "mlp", seed=0),
    "Receipt.remake_": lambda m: initstats.init_(
        torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)), "mlp", seed=0
    ).remake_(m),
    "stats": initstats.stats,
    "lsuv_": lambda m: initstats.lsuv_(m, torch.zeros(2, 4)),
    "audit": lambda m: initstats.audit(m, torch.zeros(2, 4), loss_fn=lambda y, _: y.sum()),
    "ensemble": lambda m: initstats.ensemble(lambda: m, 2, "mlp", seed=0),
}


@pytest.mark.parametrize("function", OF_MODELS)
def test_models_with_such_subclasses_are_refused(function: str) -> None:
    model = model_with(Wrapper(torch.zeros(4, 4)))
    name = function.strip().replace(".", r"\.")
    message = rf"initstats\.{name}: expected a tensor with memory of its own, got Wrapper \("
    with pytest.raises(TypeError, match=message):
        OF_MODELS[function](model)
    assert bool((model[0].weight == 9.0).all())


@pytest.mark.parametrize("device", ["mps", "xpu"])
@pytest.mark.parametrize("function", [name for name in OF_MODELS if name.startswith(("p", "R"))])
def test_models_on_other_devices_are_refused(function: str, device: str) -> None:
    model = model_with(Wrapper(torch.zeros(4, 4), device))
    message = f"expected a tensor on the CPU, on CUDA or on meta, got device={device}"
    with pytest.raises(TypeError, match=message):
        OF_MODELS[function](model)
    assert bool((model[0].weight == 9.0).all())


@every_fill
@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_other_devices_are_refused(fill: str, device: str) -> None:
    # Neither is in this build of torch: a wrapper says that it is there.
    state = torch.get_rng_state()
    message = rf"{fill}: expected a tensor on the CPU, on CUDA or on meta, got device={device} \(fi"
    with pytest.raises(TypeError, match=message):
        FILLS[fill](Wrapper(torch.zeros(4, 4), device=device))
    assert torch.equal(torch.get_rng_state(), state)


@every_fill
def test_parameters_of_zero_3_are_refused(fill: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", types.ModuleType("deepspeed"))
    x = torch.nn.Parameter(torch.zeros(4, 4))
    x.ds_id = 3
    message = rf"{fill}: expected a tensor whose shape is its own, got a ZeRO-3 parameter \(initi"
    with pytest.raises(TypeError, match=message):
        FILLS[fill](x)
    assert not x.any()
    with pytest.raises(TypeError, match="got a ZeRO-3 parameter"):
        initstats.ones_(x)


@every_fill
def test_simulated_ranks_are_refused(fill: str) -> None:
    # Each of them would get the same bits.
    with fake_mesh((2,), 0), LocalTensorMode(2):
        mesh = init_device_mesh("cpu", (2,))
        x = distribute_tensor(torch.zeros(4, 4), mesh, [Shard(0)])
        message = rf"{fill}: expected the local tensor of one rank, got those of all ranks from Loc"
        with pytest.raises(TypeError, match=message):
            FILLS[fill](x)
        with pytest.raises(TypeError, match="LocalTensorMode"):
            initstats.eye_(x)


@pytest.mark.parametrize("fill", ["normal_", "orthogonal_", "eye_", "identity_", "ones_"])
def test_dtensors_inside_torch_compile_are_refused(fill: str) -> None:
    # eye_ would write zeros alone: no graph knows the shard, and its diagonal is a copy.
    torch._dynamo.reset()
    function = getattr(initstats, fill)
    with fake_mesh((2,), 0) as mesh:
        x = DTensor.from_local(torch.full((4, 4), 9.0), mesh, [Shard(0)], run_check=False)
        with pytest.raises(Exception, match=f"{fill}: expected a plain tensor inside torch.comp"):
            torch.compile(function, fullgraph=True, backend="eager")(x)
        assert bool((x.to_local() == 9.0).all())
