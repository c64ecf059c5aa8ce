"""Checks of a plan: models and parameters that a fill cannot write, conflicting ties."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from initstats.init._validate import check_device
from initstats.planning.entry import PlanEntry
from initstats.recipes import Constant, Recipe, Slot, by_name
from initstats.recipes.distributions.composite import Distribution
from initstats.sharding import (
    is_dtensor,
    local_runs,
    refuse_managed,
    refuse_subclass,
    reshard,
)

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Names that the old hooks of torch.nn.utils give to what a weight is computed from.
_COMPUTED_FROM = ("weight_g", "weight_v", "weight_orig")


def resolve(function: str, model: nn.Module, recipe: Recipe | str) -> Recipe:
    """Check a model and turn the name of a recipe into the recipe.

    Args:
        function: Public function on whose behalf this is checked, for the message.
        model: The model.
        recipe: A recipe or a name.

    Returns:
        The recipe.

    Raises:
        TypeError: If either is of another kind.
        ValueError: If the model has no parameters, one is lazy, or the recipe is unknown.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"initstats.{function}: expected model to be a torch.nn.Module, "
            f"got model={type(model).__name__}"
        )
    if isinstance(recipe, str):
        recipe = by_name(recipe)
    if not isinstance(recipe, Recipe):
        raise TypeError(
            f"initstats.{function}: expected recipe to be a Recipe or its name, "
            f"got recipe={recipe!r}"
        )
    if next(model.parameters(), None) is None:
        raise ValueError(
            f"initstats.{function}: expected a model with parameters, "
            f"got model={type(model).__name__} with none"
        )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(  # noqa: TRY004  # the kind is right, the value is not there yet
                f"initstats.{function}: expected a shape, got {name}=lazy; run one batch first"
            )
    return recipe


def require_own_memory(function: str, groups: Sequence[Sequence[Slot]]) -> None:
    """Refuse parameters whose values an engine keeps elsewhere, or that are cut in unknown ways.

    Args:
        function: Public function on whose behalf this is checked, for messages.
        groups: The distinct parameters, tied names together.

    Raises:
        TypeError: If a parameter is on a device without kernels, is FSDP1's or ZeRO-3's, of a
            subclass that keeps its elements elsewhere, or a DTensor with other placements than
            shards and replicas.
    """
    parameters = [group[0].parameter for group in groups]
    for device_type in {parameter.device.type for parameter in parameters} - {"cpu", "meta"}:
        check_device(function, next(p for p in parameters if p.device.type == device_type))
    refuse_managed(function, *parameters)
    for parameter in parameters:
        if not _has_memory(parameter):
            refuse_subclass(function, parameter)
            if is_dtensor(parameter):
                local_runs(function, parameter)


def require_kept_ties(model: nn.Module) -> None:
    """Refuse embeddings that are to be tied, and were untied when they were sharded.

    Args:
        model: The model; those of transformers say in their configuration whether they are tied.

    Raises:
        ValueError: If the two weights are DTensors apart: each would be initialised for itself.
    """
    if not any(map(is_dtensor, model.parameters())):
        return
    for name, module in model.named_modules():
        if getattr(getattr(module, "config", None), "tie_word_embeddings", False) is not True:
            continue
        get = [getattr(module, f"get_{side}_embeddings", None) for side in ("input", "output")]
        with suppress(NotImplementedError, AttributeError):  # a model without one of them
            ends = [getattr(each(), "weight", None) for each in get if callable(each)]
            if len(ends) == 2 and all(map(is_dtensor, ends)) and ends[0] is not ends[1]:  # noqa: PLR2004
                raise ValueError(
                    "initstats.plan: expected tied embeddings, as config.tie_word_embeddings of "
                    f"{name or 'the model'} says, got two DTensors; shard both in one call, "
                    "fully_shard([embedding, head]), or tie them again afterwards"
                )


def require_seed(function: str, model: nn.Module, seed: int | None) -> None:
    """Refuse a model of several ranks without a seed: each rank would draw another one.

    Args:
        function: Public function on whose behalf this is checked, for messages.
        model: The model.
        seed: The seed, or None.

    Raises:
        ValueError: If there is none, and a parameter is a DTensor or a module is wrapped for DDP.
    """
    if seed is None and (
        any(map(is_dtensor, model.parameters()))
        or any(isinstance(module, DistributedDataParallel) for module in model.modules())
    ):
        raise ValueError(
            f"initstats.{function}: expected seed= for a model of several ranks, which would draw"
            " one each, got seed=None; pass the same integer on every rank"
        )


def refuse_sharded(function: str, model: nn.Module) -> None:
    """Refuse a model whose parameters lie on several ranks, or not in memory of their own.

    Args:
        function: Public function on whose behalf this is checked, for messages.
        model: The model.

    Raises:
        TypeError: If a parameter is a DTensor, managed by FSDP or ZeRO-3, or of a subclass that
            keeps its elements elsewhere.
    """
    reshard(model)
    for name, parameter in model.named_parameters():
        refuse_managed(function, parameter)
        if is_dtensor(parameter):
            raise TypeError(
                f"initstats.{function}: expected a model whose parameters lie whole on this rank, "
                f"got {name} as a DTensor; call it before fully_shard or parallelize_module, on a "
                "model of the same shape"
            )
        if not _has_memory(parameter):
            refuse_subclass(function, parameter)


def require_fillable(slot: Slot, *, is_named: bool = False) -> None:
    """Refuse a parameter whose values a fill cannot write.

    Args:
        slot: The parameter.
        is_named: The rule spells its name out, so it is made for a part of a parametrized weight.

    Raises:
        ValueError: With the name, the reason and the fix.
    """
    parameter = slot.parameter
    problem = None
    is_part = ".parametrizations." in f".{slot.name}" or slot.own_name in _COMPUTED_FROM
    if is_part and not is_named:
        fix = "remove the parametrization, initialise, register it again"
        problem = ("a plain parameter", "parametrized", fix)
    elif parameter.layout is not torch.strided:
        problem = ("a dense parameter", str(parameter.layout), "make it dense")
    elif parameter.dtype.is_complex:
        fix = "fill its real and imaginary parts, torch.view_as_real(parameter.detach())"
        problem = ("a real parameter", f"{parameter.dtype}, complex numbers", fix)
    elif not parameter.dtype.is_floating_point:
        fix = "initialise before quantising"
        problem = ("a floating-point parameter", str(parameter.dtype), fix)
    elif parameter.dtype not in _DTYPES:
        fix = "initialise before quantising"
        problem = ("float16, bfloat16, float32 or float64", str(parameter.dtype), fix)
    elif parameter.numel() == 0:
        fix = "initialise before partitioning, or gather the parameter"
        problem = ("at least one element", "an empty one", fix)
    if problem:
        rule, got, fix = problem
        raise ValueError(f"initstats.plan: expected {rule}, got {slot.name}={got}; {fix}")


def require_agreeing_ties(promises: Sequence[tuple[Slot, Distribution]]) -> None:
    """Refuse a tied parameter that must be a constant under one name and random under another.

    Args:
        promises: What the first rule for each of its names promises.

    Raises:
        ValueError: Naming both.
    """
    first, promised = promises[0]
    for other, also in promises[1:]:
        if isinstance(promised, Constant) != isinstance(also, Constant):
            raise ValueError(
                f"initstats.plan: expected tied names to agree, got {first.name}={promised} and "
                f"{other.name}={also}; untie them, or give one of them another rule"
            )


def require_original_sources(entries: Sequence[PlanEntry]) -> None:
    """Refuse values that are derived from derived ones: the order of writing would matter.

    Args:
        entries: The entries of a plan.

    Raises:
        ValueError: Naming both.
    """
    derived = {id(entry.parameter): entry for entry in entries if entry.source is not None}
    for entry in derived.values():
        assert entry.source is not None
        if id(entry.source[1]) in derived:
            raise ValueError(
                f"initstats.plan: expected {entry.name} to be derived from values that are not, "
                f"got {entry.source[0]}, {derived[id(entry.source[1])].distribution}"
            )


def require_separate_memory(groups: Sequence[Sequence[Slot]]) -> None:
    """Refuse parameters that share a part of their memory: the last fill would win.

    Args:
        groups: The distinct parameters, tied names together.

    Raises:
        ValueError: Naming two parameters that overlap.
    """
    spans = []
    for group in groups:
        slot = group[0]
        p = slot.parameter
        if p.is_meta or p.layout is not torch.strided or not p.numel() or not _has_memory(p):
            continue
        steps = sum((n - 1) * s for n, s in zip(p.shape, p.stride(), strict=True))
        end = p.data_ptr() + (steps + 1) * p.element_size()
        spans.append((str(p.device), p.data_ptr(), end, slot.name))
    spans.sort()
    for (device, _, end, name), (other_device, begin, _, other) in pairwise(spans):
        if device == other_device and begin < end:
            raise ValueError(
                f"initstats.plan: expected tied parameters to share all of their memory, got "
                f"{name} and {other} overlapping in part; tie them whole, or copy one"
            )


def _has_memory(parameter: torch.Tensor) -> bool:
    """Tell whether a tensor owns plain memory, which subclasses such as DTensor do not."""
    return type(parameter) in {nn.Parameter, torch.Tensor}
