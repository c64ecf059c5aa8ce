"""Initialise partly trained models: new layers, warm starts, LoRA from a weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from initstats import _ops
from initstats.init._validate import check_separate, fillable_dtype, number
from initstats.planning.fitting import (
    fitting_names,
    parameters_of,
    some,
)
from initstats.planning.initialize import initialise_plan
from initstats.planning.planner import Plan, plan
from initstats.planning.receipt import Receipt
from initstats.recipes import Recipe
from initstats.recipes.parameters import slots
from initstats.recipes.stages import Depth, Names, global_names

_MATRIX_DIMS = 2


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
        pretrained: Names of the pretrained parameters, such as the keys of the checkpoint, or the
            checkpoint itself; prefixes as in `warm_start_`. A tied parameter is pretrained if one
            of its names is.
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
        ValueError: If there is no new parameter, no rule takes one of them, none of the names is
            one of the model, several prefixes fit equally well, or as `init_`. Nothing has been
            written then.

    Determinism: bitwise, as `init_`. The key of a parameter depends on its name, so the new
        parameters are those that `init_` of the whole model gives.
    """
    if isinstance(pretrained, str):
        raise TypeError(
            "initstats.init_new_: expected pretrained to be a collection of names, "
            f"got pretrained={pretrained!r}"
        )
    targets = targets_of("init_new_", model, names)
    given = pretrained
    if isinstance(pretrained, Mapping):
        given = parameters_of("init_new_", pretrained, targets)
    known = set(fitting_names("init_new_", given, targets))
    if pretrained and not known:
        raise ValueError(
            "initstats.init_new_: expected names of the model in pretrained, got "
            f"{some(pretrained)} where the model has {some(targets)}"
        )
    planned = restricted(
        plan(model, recipe, roles=roles, names=names, depth=depth), model, known, names
    )
    if not planned.entries and not planned.unmatched:
        raise ValueError(
            "initstats.init_new_: expected parameters that are not pretrained, got none"
        )
    planned.require_complete("init_new_")
    return initialise_plan("init_new_", model, planned, seed=seed)


def targets_of(function: str, model: nn.Module, names: Names | None) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of a model by the name in the whole model."""
    local = dict(model.named_parameters(remove_duplicate=False))
    full = global_names(function, list(local), names)
    return {full[name]: p for name, p in local.items()} | dict(model.named_buffers())


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
        TypeError: If one of them is no floating-point tensor, or `scaling` no number.
        ValueError: If the shapes do not fit, r is 0 or larger than both sides of the weight,
            `scaling` is out of range, `method` is neither, the weight holds values that are not
            finite, one of them is on the meta device, sparse, shares memory with itself or another,
            or is computed from other parameters, or the result does not fit into its dtype.
            Nothing has been written then.

    Determinism: run_to_run. Singular vectors depend on the library that computes them.

    Source: Meng et al. 2024 (PiSSA), Buyukakyuz 2024 (OLoRA); peft `tuners/lora/layer.py`,
        pissa_init and olora_init.
    """
    scaling = _check_lora(weight, lora_a, lora_b, method, scaling)
    rank = lora_a.shape[0]
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        exact = weight.double() if weight.dtype is torch.float64 else weight.float()
        if method == "pissa":
            u, s, vh = torch.linalg.svd(exact, full_matrices=False)
            root = (s[:rank] / scaling).sqrt()
            b, a = u[:, :rank] * root, root[:, None] * vh[:rank]
        else:
            q, r = torch.linalg.qr(exact)
            b, a = q[:, :rank], r[:rank]
        b, a = b.to(lora_b.dtype), a.to(lora_a.dtype)
        # What is stored, after rounding to the adapter's dtype, is what is taken off; in float64,
        # which neither autocast nor TF32 touches.
        rest = (exact - scaling * (b.double() @ a.double())).to(weight.dtype)
        for name, x in (("lora_a", a), ("lora_b", b), ("weight", rest)):
            if not bool(torch.isfinite(x).all()):
                raise ValueError(
                    f"initstats.lora_from_weight_: expected {name} to hold the result, got values "
                    f"beyond {x.dtype} (scaling={scaling})"
                )
        lora_a.copy_(a)
        lora_b.copy_(b)
        weight.copy_(rest)


def _check_lora(weight: Any, lora_a: Any, lora_b: Any, method: str, scaling: float) -> float:
    """Refuse what cannot be written, or is no LoRA of the weight; return the scaling."""
    tensors = {"weight": weight, "lora_a": lora_a, "lora_b": lora_b}
    for name, x in tensors.items():
        _check_lora_tensor(name, x)
    check_separate("lora_from_weight_", list(tensors.values()))
    rank = lora_a.shape[0]
    outputs, inputs = weight.shape
    if lora_a.shape != (rank, inputs) or lora_b.shape != (outputs, rank):
        raise ValueError(
            f"initstats.lora_from_weight_: expected lora_a [r, {inputs}] and lora_b [{outputs}, r],"
            f" got lora_a={tuple(lora_a.shape)}, lora_b={tuple(lora_b.shape)}"
        )
    if not 1 <= rank <= min(outputs, inputs):
        raise ValueError(
            f"initstats.lora_from_weight_: expected 1 <= r <= {min(outputs, inputs)}, got r={rank}"
        )
    scaling = number("lora_from_weight_", "scaling", scaling)
    if not 0 < scaling < float("inf"):
        raise ValueError(
            f"initstats.lora_from_weight_: expected scaling finite and > 0, got scaling={scaling}"
        )
    if method not in {"pissa", "olora"}:
        raise ValueError(
            "initstats.lora_from_weight_: expected method among pissa, olora, "
            f"got method={method!r}"
        )
    return scaling


def _check_lora_tensor(name: str, x: Any) -> None:
    """Refuse what is no matrix of floating-point numbers to write to."""
    if not isinstance(x, torch.Tensor) or not fillable_dtype(x.dtype):
        got = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(
            "initstats.lora_from_weight_: expected a tensor of float16, bfloat16, float32 or "
            f"float64, got {name}={got}"
        )
    problem: tuple[str, str] | None = None
    if x.layout is not torch.strided:
        problem = ("dense", f"layout={x.layout}")
    elif x.dim() != _MATRIX_DIMS:
        problem = (
            "a matrix",
            f"shape={tuple(x.shape)}; flatten what follows the first",
        )
    elif x.is_meta:
        problem = ("a tensor with values", "the meta device")
    elif x.grad_fn is not None:
        problem = ("a leaf", "a computed tensor; remove the parametrization first")
    elif x.is_inference() and not torch.is_inference_mode_enabled():
        problem = ("a tensor to write to", "one of inference mode; clone it")
    elif _shares_with_itself(x):
        problem = ("a tensor whose elements do not share memory", "one that was expanded")
    elif not bool(torch.isfinite(x).all()) and name == "weight":
        problem = ("finite values", "NaN or infinite ones")
    if problem is not None:
        raise ValueError(
            f"initstats.lora_from_weight_: expected {name} to be {problem[0]}, got {problem[1]}"
        )


def _shares_with_itself(x: torch.Tensor) -> bool:
    """Tell whether elements of a tensor share memory, as those of an expanded one do."""
    try:
        _ops.check_memory("lora_from_weight_", x)
    except RuntimeError:
        return True
    return False


def restricted(planned: Plan, model: nn.Module, known: set[str], names: Names | None) -> Plan:
    """Return the plan for the parameters that have no name among the known ones."""
    groups = [{slot.name for slot in group} for group in slots(model, names=names, buffers=True)]
    old = {name for group in groups if group & known for name in group}
    return dataclasses.replace(
        planned,
        entries=tuple(entry for entry in planned if entry.name not in old),
        unmatched=tuple(name for name in planned.unmatched if name not in old),
        rest={name: p for name, p in planned.rest.items() if name not in old},
    )
