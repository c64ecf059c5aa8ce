"""Materialise models built on the meta device, with ties and buffers."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from typing import TypeAlias

import torch
from torch import nn

from initstats.planning.planner import Plan
from initstats.sharding import is_dtensor, reset_sharded_parameters

BufferMaker: TypeAlias = torch.Tensor | Callable[[nn.Module], torch.Tensor]

_ZERO = frozenset({"running_mean", "num_batches_tracked", "token_type_ids"})
_ONE = frozenset({"running_var"})
# Methods that write buffers: timm, torchtitan's and others' names.
_RESETS = ("init_non_persistent_buffers", "reset_buffers", "init_buffers", "reset_parameters")


def materialise(
    function: str,
    model: nn.Module,
    planned: Plan,
    device: torch.device,
    buffers: Mapping[str, BufferMaker] | None = None,
) -> tuple[Plan, tuple[str, ...]]:
    """Replace meta parameters and buffers by ones on a device. Parameters get memory, no values.

    `Module.to_empty` gives each name of a tied parameter a memory of its own; here they stay tied.
    DTensors become DTensors that are cut alike: this rank takes memory for its shard alone.
    Buffers get their values: statistics of norms, position numbers, rotary frequencies of
    transformers, what the model's own code (`_init_weights`, `reset_parameters`) writes, and what
    `buffers` makes.

    Args:
        function: Public function on whose behalf this is done, for messages.
        model: The model.
        planned: The plan for it.
        device: Device of the new parameters and buffers.
        buffers: Tensors, or functions from the owner to one, by glob pattern on the name.

    Returns:
        The plan with the new parameters, and the names of the buffers that were set.

    Raises:
        ValueError: If a meta parameter would be left without values, or it is not known how to
            make some buffers; all are named. Nothing has been changed then.
    """
    empty = [entry for entry in planned if entry.parameter.is_meta]
    left = [entry.name for entry in empty if entry.keep]
    left += [name for name, parameter in planned.rest.items() if parameter.is_meta]
    if left:
        raise ValueError(
            f"initstats.{function}: expected a rule for every parameter on the meta device, "
            f"got {left} without; build these on a real device"
        )
    planned_buffers = {id(entry.parameter) for entry in empty if entry.is_buffer}
    made = dict(_buffers(function, model, buffers or {}, planned_buffers))
    new: dict[int, torch.Tensor] = {}
    for entry in empty:
        old = entry.parameter
        memory = _empty(old, device)
        if entry.is_buffer:
            new[id(old)] = memory
            for slot in entry.group:
                _replace_buffer(slot.module, slot.own_name, memory)
            continue
        fresh = nn.Parameter(memory, requires_grad=old.requires_grad)
        own = {name: value for name, value in vars(old).items() if name not in vars(fresh)}
        fresh.__dict__.update(own)
        new[id(old)] = fresh
        for slot in entry.group:
            slot.module.register_parameter(slot.own_name, fresh)
    for (module, name), values in made.values():
        _replace_buffer(module, name, values.to(device))
    reset_sharded_parameters(model)
    entries = tuple(
        dataclasses.replace(
            e,
            parameter=new.get(id(e.parameter), e.parameter),
            source=e.source and (e.source[0], new.get(id(e.source[1]), e.source[1])),
        )
        for e in planned
    )
    return dataclasses.replace(planned, entries=entries), tuple(made)


def _replace_buffer(module: nn.Module, name: str, values: torch.Tensor) -> None:
    """Register a buffer again, persistent or not as before."""
    persistent = name not in module._non_persistent_buffers_set  # noqa: SLF001  # there is no public way to ask
    module.register_buffer(name, values, persistent=persistent)


def _empty(parameter: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor without values like one on meta; of a DTensor a DTensor, cut alike."""
    if is_dtensor(parameter):
        like: torch.Tensor = torch.empty_like(parameter.detach(), device=device)
        return like
    # Not empty_like, which goes through Python for a meta tensor.
    return torch.empty_strided(
        parameter.shape, parameter.stride(), dtype=parameter.dtype, device=device
    )


def reset_norms(model: nn.Module, planned: Plan) -> tuple[str, ...]:
    """Set the running statistics of norms whose scale the plan sets.

    Args:
        model: The model.
        planned: What is initialised.

    Returns:
        The names of the norms.
    """
    names = []
    for name, module in model.named_modules():
        statistics = getattr(module, "running_mean", None)
        reset = getattr(module, "reset_running_stats", None)
        if statistics is None or reset is None or statistics.is_meta:
            continue
        if written_with_norm(module, planned):
            reset()
            names.append(name)
    return tuple(names)


def _buffers(
    function: str, model: nn.Module, given: Mapping[str, BufferMaker], planned: set[int]
) -> Iterator[tuple[str, tuple[tuple[nn.Module, str], torch.Tensor]]]:
    """Yield the name, place and values of every buffer on the meta device that is not planned."""
    unknown = []
    for path, module in model.named_modules():
        empty = {n: b for n, b in module.named_buffers(recurse=False) if b.is_meta}
        empty = {n: b for n, b in empty.items() if id(b) not in planned}
        made = {
            own: _values(f"{path}.{own}" if path else own, own, buffer, module, given)
            for own, buffer in empty.items()
        }
        found = {own: values for own, values in made.items() if values is not None}
        if len(found) < len(empty):
            found = {**_by_model(model, path, module), **found}
        for own in empty:
            name = f"{path}.{own}" if path else own
            if own in found:
                yield name, ((module, own), found[own])
            else:
                unknown.append(name)
    if unknown:
        raise ValueError(
            f"initstats.{function}: expected buffers that can be made again, got "
            f"{', '.join(unknown)} on the meta device; give them with buffers="
            "{" + ", ".join(f"{name!r}: ..." for name in unknown) + "}"
        )


def _by_model(model: nn.Module, path: str, module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the buffers that the model's own code writes: those of two runs that agree.

    The code is `_init_weights` of the nearest module around that has one (transformers), or a
    method of the module that is there for it. It runs on a copy with parameters on meta and
    buffers of 0 and of 1, with another state of torch's generator each time, so that what is not
    written, or is random, differs.
    """
    parts = path.split(".") if path else []
    around = [model.get_submodule(".".join(parts[:n])) for n in range(len(parts), -1, -1)]
    owner = next((m for m in around if callable(getattr(m, "_init_weights", None))), None)
    runs = []
    for fill in (0, 1):
        twin = _twin(module, fill)
        write: Callable[[nn.Module], object] | None = getattr(owner, "_init_weights", None)
        calls = [] if write is None else [partial(write, twin)]
        calls += [getattr(twin, name) for name in _RESETS if callable(getattr(twin, name, None))]
        with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
            torch.default_generator.manual_seed(fill)
            for call in calls:
                with suppress(Exception):  # the model's code; what it wrote is compared below
                    call()
        runs.append(dict(twin.named_buffers(recurse=False)))
    zeros, ones = runs
    return {
        name: buffer
        for name, buffer in zeros.items()
        if not buffer.is_meta and name in ones and torch.equal(buffer, ones[name])
    }


def _twin(module: nn.Module, fill: int, *, top: bool = True) -> nn.Module:
    """Return a copy of a module: parameters on meta, its buffers on the CPU with one value."""
    twin = copy.copy(module)
    own = vars(module)
    parameters = {
        name: p if p is None else nn.Parameter(p.detach().to("meta"), requires_grad=False)
        for name, p in own["_parameters"].items()
    }
    buffers = {
        name: b
        if b is None
        else torch.full(b.shape, fill, dtype=b.dtype, device="cpu" if top else "meta")
        if b.is_meta
        else b.clone()
        for name, b in own["_buffers"].items()
    }
    children = {
        name: m if m is None else _twin(m, fill, top=False) for name, m in own["_modules"].items()
    }
    vars(twin).update(_parameters=parameters, _buffers=buffers, _modules=children)
    return twin


def _values(
    name: str,
    own: str,
    buffer: torch.Tensor,
    module: nn.Module,
    given: Mapping[str, BufferMaker],
) -> torch.Tensor | None:
    """Return the values of a buffer, or None if they cannot be computed."""
    for pattern, maker in given.items():
        if fnmatchcase(name, pattern):
            return maker if isinstance(maker, torch.Tensor) else maker(module)
    shape, dtype = buffer.shape, buffer.dtype
    if own in _ZERO:
        return torch.zeros(shape, dtype=dtype, device="cpu")
    if own in _ONE:
        return torch.ones(shape, dtype=dtype, device="cpu")
    if own == "position_ids":
        return torch.arange(shape[-1], dtype=dtype, device="cpu").expand(shape).clone()
    found = rotary_buffer(module, own)
    return None if found is None else found.to(dtype)


def rotary_buffer(module: nn.Module, own: str) -> torch.Tensor | None:
    """Return a buffer of a rotary embedding of transformers, made again from its configuration.

    Args:
        module: Any module.
        own: Name of the buffer in it.

    Returns:
        The buffer on the CPU; None for other modules.
    """
    config = getattr(module, "config", None)
    if "Rotary" not in type(module).__name__ or config is None:
        return None
    with torch.device("cpu"):
        again: nn.Module = type(module)(config)
    return again.get_buffer(own)


def written_with_norm(module: nn.Module, planned: Plan) -> bool:
    """Tell whether a plan sets the running statistics of a norm: it sets its scale, or all.

    Args:
        module: The norm.
        planned: What is initialised.
    """
    written = {id(entry.parameter) for entry in planned if not entry.keep}
    own = list(module.parameters(recurse=False))
    return any(id(p) in written for p in own) or (not own and not planned.recipe.partial)
