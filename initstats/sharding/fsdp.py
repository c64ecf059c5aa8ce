"""FSDP2: its own records of the parameters of a model, whatever state the model is in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


def reset_sharded_parameters(model: nn.Module) -> None:
    """Let every module that `fully_shard` took look up its parameters, as after `Module.to_empty`.

    Shards of uneven length are padded there, so their local tensors are others afterwards.
    """
    for parameter in _managed(model):
        parameter.reset_sharded_param()


def sharded_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Return the named parameters of a module, those of FSDP2 as the DTensors that are trained.

    After a forward pass FSDP2 may leave whole parameters in their place, with storage that it has
    freed or with values that an optimizer step has left behind. No state of FSDP2 is changed.

    Args:
        module: Any module.

    Returns:
        Parameters by name, in the order of `named_parameters`, each once.

    Raises:
        RuntimeError: If the module is one of FSDP2 and torch does not tell its parameters.
    """
    named: dict[str, Tensor] = dict(module.named_parameters())
    try:
        trained = {
            id(getattr(one._module_info.module, one._module_info.param_name)): one.sharded_param  # noqa: SLF001
            for one in _managed(module)
        }
    except AttributeError as error:
        msg = (
            "initstats: expected FSDP2 of this torch to tell its sharded parameters, got"
            f" {error}; call reshard() on every FSDPModule and pass model.state_dict()"
        )
        raise RuntimeError(msg) from error
    return {name: trained.get(id(parameter), parameter) for name, parameter in named.items()}


def data_parallel_ranks(module: nn.Module) -> dict[int, frozenset[int]]:
    """Return the ranks over which FSDP2 cuts or copies a parameter, by the id of the DTensor."""
    return {
        id(one.sharded_param): frozenset(one.mesh_info.mesh.mesh.flatten().tolist())
        for one in _managed(module)
    }


@dataclass(frozen=True, eq=False)
class GatheredParameter:
    """What FSDP2 knows of a parameter that it gathers for each forward pass.

    Its attributes have no public names. Where a torch does not have them, there is no gradient.
    """

    _record: Any
    _group: Any

    @property
    def whole(self) -> Tensor | None:
        """The parameter that the forward pass sees: None before the first one."""
        found: Tensor | None = getattr(self._record, "_unsharded_param", None)
        return found

    @property
    def is_reduced_now(self) -> bool:
        """False in a backward pass whose gradients are accumulated, and reduced by a later one."""
        return bool(getattr(self._group, "reduce_grads", True))

    @property
    def gradient(self) -> Tensor | None:
        """What this rank has accumulated, before the reduction; None without a gradient."""
        new = None if self.whole is None else self.whole.grad
        # Mixed precision keeps the sum of earlier backward passes apart, in the dtype of the
        # reduction, and adds to it after the hooks of the parameter.
        before: Tensor | None = getattr(self._record, "unsharded_accumulated_grad", None)
        if new is None or before is None:
            return new
        return before.detach() + new.detach().to(before.dtype)


def gathered_parameters(model: nn.Module) -> dict[int, GatheredParameter]:
    """Return what FSDP2 gathers, by the id of the sharded parameter."""
    return {
        id(record.sharded_param): GatheredParameter(record, group)
        for group in _groups(model)
        for record in group.fsdp_params
    }


def _managed(model: nn.Module) -> Iterator[Any]:
    """Yield FSDP2's records of the parameters of a model."""
    for group in _groups(model):
        yield from group.fsdp_params


def _groups(model: nn.Module) -> Iterator[Any]:
    """Yield FSDP2's groups of parameters, which are gathered and reduced together."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(fsdp, "FSDPModule", None)
    if kind is None:  # nobody has one where this was not imported
        return
    for module in model.modules():
        if isinstance(module, kind):
            # There is no public way to ask.
            yield from _groups_of_state(module._get_fsdp_state())  # noqa: SLF001


def parameters_of_state(state: Any) -> Iterator[Any]:
    """Yield FSDP2's records of the parameters that one module's state holds.

    Raises:
        AttributeError: If it is the state of something else, or of an unknown torch.
    """
    for group in _groups_of_state(state):
        yield from group.fsdp_params


def _groups_of_state(state: Any) -> Iterator[Any]:
    groups = getattr(state, "_fsdp_param_groups", None)  # from torch 2.12 on
    groups = [state._fsdp_param_group] if groups is None else groups  # noqa: SLF001
    yield from (group for group in groups if group is not None)
