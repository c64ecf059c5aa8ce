"""Tensors that an engine keeps elsewhere, or whose memory is no plain tensor's: refused."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch
from torch._subclasses.fake_tensor import FakeTensor

from initstats.sharding.dtensor import is_dtensor, local_tensor
from initstats.sharding.fsdp import parameters_of_state

_NO_DISPATCH = torch.Tensor.__torch_dispatch__
# Modules whose parameters are marked, or have a copy that is thrown away.
_FSDP1 = "torch.distributed.fsdp._flat_param"
_FSDP2 = "torch.distributed.fsdp._fully_shard._fsdp_state"
_ZERO3 = "deepspeed"
_MARKS = {"ds_id", "_is_flat_param", "_fsdp_flattened"}  # attributes of their parameters


def engine_loaded() -> bool:
    """Whether there may be parameters that `refuse_managed` refuses."""
    loaded = sys.modules
    return _FSDP2 in loaded or _FSDP1 in loaded or _ZERO3 in loaded


def is_managed(tensors: Iterable[object]) -> bool:
    """Whether `refuse_managed` may refuse one of them."""
    copies = unsharded_copies()
    return any(
        id(tensor) in copies or not _MARKS.isdisjoint(getattr(tensor, "__dict__", ()))
        for tensor in tensors
    )


def refuse_managed(function: str, *tensors: torch.Tensor) -> None:
    """Raise TypeError for a parameter whose values the engine that shards it keeps elsewhere.

    FSDP1's flat parameters and ZeRO-3's hold one rank's part without saying which; FSDP2's in its
    unsharded state are a copy, which the next `reshard()` throws away.
    """
    if not engine_loaded():
        return
    copies = unsharded_copies()
    for tensor in tensors:
        marks = tensor.__dict__
        if "ds_id" in marks:
            raise TypeError(
                f"initstats.{function}: expected a tensor whose shape is its own, got a ZeRO-3"
                " parameter (initialise before deepspeed.initialize, or inside"
                " deepspeed.zero.GatheredParameters)"
            )
        if marks.get("_is_flat_param") or marks.get("_fsdp_flattened"):
            raise TypeError(
                f"initstats.{function}: expected a tensor whose shape is its own, got a parameter"
                " that FSDP1 flattened (initialise before FullyShardedDataParallel, or use"
                " fully_shard)"
            )
        if id(tensor) in copies:
            raise TypeError(
                f"initstats.{function}: expected a sharded parameter, got the unsharded copy that"
                " FSDP2 throws away (call reshard() of the module, then take its parameters again)"
            )


def refuse_subclass(
    function: str,
    tensor: torch.Tensor,
    instead: str = "fill a plain tensor of the shape, then convert it",
) -> None:
    """Raise TypeError for a tensor whose elements are not in its own memory.

    DTensors, fake tensors and subclasses that only add methods are let through.

    Args:
        function: The name for messages.
        tensor: The tensor.
        instead: What to do, for messages.
    """
    kind = type(tensor)
    if is_dtensor(tensor):
        local = local_tensor(tensor)
        if type(local).__name__ == "LocalTensor":
            raise TypeError(
                f"initstats.{function}: expected the local tensor of one rank, got those of all"
                " ranks from LocalTensorMode (use one process, or one fake process group, per rank)"
            )
        refuse_subclass(function, local, instead)
        return
    if kind.__torch_dispatch__ is not _NO_DISPATCH and not issubclass(kind, FakeTensor):
        raise TypeError(
            f"initstats.{function}: expected a tensor with memory of its own, got {kind.__name__}"
            f" ({instead})"
        )


def unsharded_copies() -> set[int]:
    """Return the ids of the gathered parameters of all modules that `fully_shard` took."""
    if _FSDP2 not in sys.modules:
        return set()
    from torch.distributed._composable_state import _module_state_mapping
    from torch.distributed.fsdp._fully_shard._fsdp_state import FSDPState

    states = [reference() for reference in list(_module_state_mapping.values())]
    copies = (
        getattr(parameter, "_unsharded_param", None)
        for state in states
        if isinstance(state, FSDPState)
        for parameter in parameters_of_state(state)
    )
    return {id(copy) for copy in copies if copy is not None}


def reshard(module: torch.nn.Module) -> None:
    """Let every module that `fully_shard` took show its sharded parameters, which last.

    No rank sends anything. Parameters that were taken before are other objects afterwards.
    """
    if _FSDP2 not in sys.modules:
        return
    from torch.distributed.fsdp import FSDPModule

    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.reshard()
