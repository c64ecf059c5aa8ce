"""Initialise partly trained models: new layers, warm starts, LoRA from a weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from initstats.checkpoints import CHECKPOINT_KEYS
from initstats.init._validate import fillable_dtype
from initstats.planning.initialize import initialise_plan, seed_or_draw
from initstats.planning.planner import Plan, plan
from initstats.planning.receipt import Receipt
from initstats.recipes import Recipe
from initstats.recipes.parameters import slots
from initstats.recipes.stages import Depth, Names, global_names
from initstats.sharding import Domain, is_dtensor, local_boxes, local_tensor, reshard
from initstats.statistics.compute import stats, why_no_statistics

_MATRIX_DIMS = 2
_LISTED = 3
# Modules that wrappers put into the path of a name.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


@dataclass(frozen=True, eq=False)
class WarmStart:
    """Report of `warm_start_`.

    Attributes:
        copied: Names of parameters and buffers that were copied.
        initialised: Names of parameters that the recipe initialised.
        mismatched: Name, shape in the checkpoint and shape in the model of what did not fit.
        unused: Names in the checkpoint that the model does not have.
        receipt: The receipt of the initialised parameters; None if everything was copied.
    """

    copied: tuple[str, ...]
    initialised: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    unused: tuple[str, ...]
    receipt: Receipt | None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-able values."""
        return {
            "copied": list(self.copied),
            "initialised": list(self.initialised),
            "mismatched": [[name, list(a), list(b)] for name, a, b in self.mismatched],
            "unused": list(self.unused),
            "receipt": None if self.receipt is None else self.receipt.to_dict(),
        }


def init_new_(
    model: nn.Module,
    pretrained: Collection[str] | Mapping[str, Any],
    recipe: Recipe | str = "new_layers",
    *,
    seed: int | None = None,
    roles: Mapping[str, str] | None = None,
    names: Names | None = None,
    depth: Depth | None = None,
) -> Receipt:
    """Initialise the parameters that are not pretrained, in place, and touch no other.

    Args:
        model: The model with its pretrained weights loaded.
        pretrained: Names of the pretrained parameters, such as the keys of the checkpoint. A tied
            parameter is pretrained if one of its names is.
        recipe: A recipe or its name. "new_layers" gives N(0, 0.02), biases 0, norms 1 and 0;
            "lora" and "adapter" leave the function of the model unchanged.
        seed: As in `init_`.
        roles: As in `plan`.
        names: As in `plan`.
        depth: As in `plan`.

    Returns:
        The receipt of the new parameters.

    Raises:
        TypeError: As `init_`; or if `pretrained` is one string.
        ValueError: If there is no new parameter, no rule takes one of them, or as `init_`. Nothing
            has been written then.

    Determinism: bitwise, as `init_`. The key of a parameter depends on its name, so the new
        parameters are those that `init_` of the whole model gives.
    """
    if isinstance(pretrained, str):
        raise TypeError(
            "initstats.init_new_: expected pretrained to be a collection of names, "
            f"got pretrained={pretrained!r}"
        )
    known = set(pretrained)
    planned = _restricted(
        plan(model, recipe, roles=roles, names=names, depth=depth), model, known, names
    )
    if not planned.entries and not planned.unmatched:
        raise ValueError(
            "initstats.init_new_: expected parameters that are not pretrained, got none"
        )
    planned.require_complete("init_new_")
    return initialise_plan("init_new_", model, planned, seed=seed)


def warm_start_(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    recipe: Recipe | str,
    *,
    seed: int | None = None,
    roles: Mapping[str, str] | None = None,
    names: Names | None = None,
    depth: Depth | None = None,
) -> WarmStart:
    """Copy parameters of equal name and shape from a checkpoint, and initialise the rest.

    Names fit without the prefixes that wrappers add (`module.` of DDP, `_orig_mod.` of
    torch.compile, FSDP's), in the checkpoint as in the model. If none fits then, one prefix that
    all names of one side share, such as `model.`, is taken off.

    Args:
        model: The model; not on the meta device.
        state_dict: The checkpoint: tensors or NumPy arrays by name, of any floating dtype and
            device, finite; also DTensors, which are gathered one by one where they are cut
            otherwise than in the model. Or a dictionary that holds it under "model", "state_dict"
            or "model_state_dict".
        recipe: A recipe or its name, for parameters that are not copied.
        seed: As in `init_`.
        roles: As in `plan`.
        names: As in `plan`.
        depth: As in `plan`.

    Returns:
        What was copied, initialised, did not fit or was not used.

    Raises:
        TypeError: As `init_`, or if `state_dict` is no mapping, holds something else than tensors
            under a name of the model, or integers for a floating-point parameter.
        ValueError: If no rule takes a parameter that is not copied, no name fits, a tensor is on
            the meta device or holds values that are not finite, or as `init_`. Nothing has been
            written then.

    Determinism: bitwise, as `init_`.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            "initstats.warm_start_: expected state_dict to be a mapping from names to tensors, "
            f"got state_dict={type(state_dict).__name__}"
        )
    for key in CHECKPOINT_KEYS:
        if isinstance(state_dict.get(key), Mapping):
            state_dict = state_dict[key]
    reshard(model)
    local = dict(model.named_parameters(remove_duplicate=False))
    full = global_names("warm_start_", list(local), names)
    targets = {full[name]: p for name, p in local.items()} | dict(model.named_buffers())
    sources = fitting_names(state_dict, targets)
    if not sources:
        raise ValueError(
            "initstats.warm_start_: expected names of the model in state_dict, got "
            f"{_some(state_dict)} where the model has {_some(targets)}"
        )
    values = {name: _value(name, state_dict[source]) for name, source in sources.items()}
    fits = {name: x for name, x in values.items() if x.shape == targets[name].shape}
    _check_copies(fits, targets)
    seed = seed_or_draw("warm_start_", seed)
    planned = _restricted(
        plan(model, recipe, roles=roles, names=names, depth=depth), model, set(fits), names
    )
    receipt = None
    if planned.entries or planned.unmatched:
        planned.require_complete("warm_start_")
        receipt = initialise_plan("warm_start_", model, planned, seed=seed)
    with torch.no_grad():
        for name, value in fits.items():
            _copy(targets[name], value)
    used = set(sources.values())
    return WarmStart(
        copied=tuple(fits),
        initialised=tuple(entry.name for entry in planned if not entry.keep),
        mismatched=tuple(
            (name, tuple(value.shape), tuple(targets[name].shape))
            for name, value in values.items()
            if name not in fits
        ),
        unused=tuple(name for name in state_dict if name not in used),
        receipt=receipt,
    )


def fitting_names(names: Collection[str], targets: Collection[str]) -> dict[str, str]:
    """Find which name of a checkpoint belongs to which name of a model.

    Args:
        names: Names in the checkpoint.
        targets: Names in the model.

    Returns:
        Names in the checkpoint by name in the model, in the order of the checkpoint.
    """
    bare = {_unwrapped(name): name for name in names}
    bare_targets = {_unwrapped(name): name for name in targets}
    for taken_off in _shared_prefixes(bare, bare_targets):
        of_names, of_targets = taken_off
        found = {}
        for name, source in bare.items():
            if name.startswith(of_names):
                target = bare_targets.get(of_targets + name[len(of_names) :])
                if target is not None:
                    found[target] = source
        if found:
            return found
    return {}


def _shared_prefixes(names: Collection[str], targets: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield none, then the prefix that all names of one side share, and not the other side."""
    yield "", ""
    for ours, theirs, swap in ((names, targets, False), (targets, names, True)):
        firsts = {name.split(".")[0] for name in ours}
        prefix = ""
        while len(firsts) == 1 and all(name.startswith(f"{prefix}{min(firsts)}.") for name in ours):
            prefix += f"{min(firsts)}."
            if not any(name.startswith(prefix) for name in theirs):
                yield ("", prefix) if swap else (prefix, "")
            firsts = {name[len(prefix) :].split(".")[0] for name in ours}


def _unwrapped(name: str) -> str:
    """Return a name without what wrappers put into it."""
    parts = name.split(".")
    if len(parts) > 1 and parts[0] == "module":  # of DDP and DataParallel, at the front alone
        del parts[0]
    return ".".join(part for part in parts if part not in _WRAPPERS)


def _value(name: str, value: object) -> torch.Tensor:
    """Return the tensor of a checkpoint's value."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            "initstats.warm_start_: expected tensors in state_dict, got "
            f"{name}={type(value).__name__}"
        )
    return value.detach()


def _check_copies(values: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]) -> None:
    """Refuse values that their targets cannot hold.

    Raises:
        TypeError: If one is of integers and the other of floating-point numbers.
        ValueError: If one is on the meta device, or a value is not finite.
    """
    for name, value in values.items():
        if value.is_meta or targets[name].is_meta:
            where = "the model" if targets[name].is_meta else "state_dict"
            raise ValueError(
                f"initstats.warm_start_: expected values, got {name} of {where} on the meta device"
                "; call to_empty, or load_state_dict(assign=True)"
            )
        if value.is_floating_point() != targets[name].is_floating_point():
            raise TypeError(
                f"initstats.warm_start_: expected {name} to be {targets[name].dtype}, got "
                f"{value.dtype}; dequantise it first"
            )
    _refuse_not_finite(values)


def _copy(target: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a value; of a whole one a DTensor takes what this rank holds, and nothing is sent.

    A DTensor that is cut otherwise than its target is gathered, one at a time: collective.
    """
    if is_dtensor(value):
        if is_dtensor(target) and (target.device_mesh, target.placements) == (
            value.device_mesh,
            value.placements,
        ):
            local_tensor(target).copy_(local_tensor(value))
            return
        value = value.full_tensor()
    if not is_dtensor(target):
        target.copy_(value)
        return
    local = local_tensor(target)
    for slices, box in local_boxes("warm_start_", target):
        part = local[slices]
        ranges = zip(box.offset, part.shape, strict=True)
        part.copy_(value[tuple(slice(first, first + n) for first, n in ranges)])


def _refuse_not_finite(values: Mapping[str, torch.Tensor]) -> None:
    """Refuse values that are not finite; of DTensors on every rank alike, which is collective."""
    floats = {name: x for name, x in values.items() if not (is_dtensor(x) or why_no_statistics(x))}
    for name, record in stats(floats, histogram=False).items() if floats else ():
        if record.nan or record.pos_inf or record.neg_inf:
            raise ValueError(
                f"initstats.warm_start_: expected finite values, got {record.nan} NaN and "
                f"{record.pos_inf + record.neg_inf} infinite ones in {name}"
            )
    sharded = {name: x for name, x in values.items() if is_dtensor(x) and x.is_floating_point()}
    domain = Domain.of("warm_start_", sharded.values())
    if domain is None:
        return
    lost = [int((~torch.isfinite(local_tensor(x))).sum()) for x in sharded.values()]
    owned = [n * domain.owns(x) for n, x in zip(lost, sharded.values(), strict=True)]
    totals = domain.sum(torch.tensor(owned, dtype=torch.int64)).tolist()
    for name, total in zip(sharded, totals, strict=True):
        if total:
            raise ValueError(
                f"initstats.warm_start_: expected finite values, got {total} that are NaN or "
                f"infinite in {name}"
            )


def _some(names: Collection[str]) -> str:
    """Return a few names in words."""
    listed = [repr(name) for name in names]
    return ", ".join(listed[:_LISTED]) + (", ..." if len(listed) > _LISTED else "") or "none"


def lora_from_weight_(
    weight: torch.Tensor,
    lora_a: torch.Tensor,
    lora_b: torch.Tensor,
    *,
    method: str = "pissa",
    scaling: float = 1.0,
) -> None:
    """Set LoRA's two matrices from the weight they adapt, in place, and take them off the weight.

    The sum `weight + scaling * lora_b @ lora_a` stays what `weight` was, up to rounding.

    Args:
        weight: [out, in], floating point; changed.
        lora_a: [r, in].
        lora_b: [out, r].
        method: "pissa" takes the r largest singular values, "olora" the first r columns of Q.
        scaling: Factor of the product in the model (alpha / r), finite and > 0.

    Raises:
        TypeError: If one of them is no floating-point tensor.
        ValueError: If the shapes do not fit, r is larger than both sides of the weight, `scaling`
            is out of range, `method` is neither, the weight holds values that are not finite, is on
            the meta device, or is computed from other parameters. Nothing has been written then.

    Determinism: run_to_run. Singular vectors depend on the library that computes them.

    Source: Meng et al. 2024 (PiSSA), Buyukakyuz 2024 (OLoRA); peft `tuners/lora/layer.py`,
        pissa_init and olora_init.
    """
    _check_lora(weight, lora_a, lora_b)
    rank = lora_a.shape[0]
    outputs, inputs = weight.shape
    if lora_a.shape != (rank, inputs) or lora_b.shape != (outputs, rank):
        raise ValueError(
            f"initstats.lora_from_weight_: expected lora_a [r, {inputs}] and lora_b [{outputs}, r],"
            f" got lora_a={tuple(lora_a.shape)}, lora_b={tuple(lora_b.shape)}"
        )
    if rank > min(outputs, inputs):
        raise ValueError(
            f"initstats.lora_from_weight_: expected r <= {min(outputs, inputs)}, got r={rank}"
        )
    if not 0 < scaling < float("inf"):
        raise ValueError(
            f"initstats.lora_from_weight_: expected scaling finite and > 0, got scaling={scaling}"
        )
    if method not in {"pissa", "olora"}:
        raise ValueError(
            "initstats.lora_from_weight_: expected method among pissa, olora, "
            f"got method={method!r}"
        )
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        exact = weight.double() if weight.dtype is torch.float64 else weight.float()
        if method == "pissa":
            u, s, vh = torch.linalg.svd(exact, full_matrices=False)
            root = (s[:rank] / scaling).sqrt()
            b, a = u[:, :rank] * root, root[:, None] * vh[:rank]
        else:
            q, r = torch.linalg.qr(exact)
            b, a = q[:, :rank], r[:rank]
        lora_a.copy_(a)
        lora_b.copy_(b)
        # What was stored, after rounding to the adapter's dtype, is what is taken off; in float64,
        # which neither autocast nor TF32 touches.
        weight.copy_(exact - scaling * (lora_b.double() @ lora_a.double()))


def _check_lora(weight: Any, lora_a: Any, lora_b: Any) -> None:
    """Refuse tensors that are no matrices of floating-point numbers to write to."""
    for name, x in (("weight", weight), ("lora_a", lora_a), ("lora_b", lora_b)):
        if not isinstance(x, torch.Tensor) or not fillable_dtype(x.dtype):
            got = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
            raise TypeError(
                "initstats.lora_from_weight_: expected a tensor of float16, bfloat16, float32 or "
                f"float64, got {name}={got}"
            )
        problem: tuple[str, str] | None = None
        if x.dim() != _MATRIX_DIMS:
            problem = (
                "a matrix",
                f"shape={tuple(x.shape)}; flatten what follows the first",
            )
        elif x.is_meta:
            problem = ("a tensor with values", "the meta device")
        elif x.grad_fn is not None:
            problem = ("a leaf", "a computed tensor; remove the parametrization first")
        elif not bool(torch.isfinite(x).all()) and name == "weight":
            problem = ("finite values", "NaN or infinite ones")
        if problem is not None:
            raise ValueError(
                f"initstats.lora_from_weight_: expected {name} to be {problem[0]}, got {problem[1]}"
            )


def _restricted(planned: Plan, model: nn.Module, known: set[str], names: Names | None) -> Plan:
    """Return the plan for the parameters that have no name among the known ones."""
    groups = [{slot.name for slot in group} for group in slots(model, names=names, buffers=True)]
    old = {name for group in groups if group & known for name in group}
    return dataclasses.replace(
        planned,
        entries=tuple(entry for entry in planned if entry.name not in old),
        unmatched=tuple(name for name in planned.unmatched if name not in old),
        rest={name: p for name, p in planned.rest.items() if name not in old},
    )
