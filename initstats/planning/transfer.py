"""Models trained in part: new layers, warm starts from a checkpoint, LoRA from a weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from initstats.planning.initialize import initialise_plan, seed_or_draw
from initstats.planning.planner import Plan, plan
from initstats.planning.receipt import Receipt
from initstats.recipes import Recipe
from initstats.recipes.parameters import slots


@dataclass(frozen=True, eq=False)
class WarmStart:
    """What `warm_start_` did.

    Attributes:
        copied: Names of parameters and buffers that were copied.
        initialised: Names of parameters that the recipe initialised.
        mismatched: Name, shape in the checkpoint and shape in the model of what did not fit.
        unused: Names in the checkpoint that the model does not have.
        receipt: The receipt of what was initialised; None if everything was copied.
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
) -> Receipt:
    """Initialise the parameters that are not pretrained, in place, and touch no other.

    Args:
        model: The model with its pretrained weights loaded.
        pretrained: Names of the pretrained parameters, such as the keys of the checkpoint. A tied
            parameter is pretrained if one of its names is.
        recipe: A recipe or its name. "new_layers" gives N(0, 0.02), biases 0, norms 1 and 0;
            "lora" and "adapter" make the model start as what it was before.
        seed: As in `init_`.
        roles: As in `plan`.

    Returns:
        The receipt of the new parameters.

    Raises:
        TypeError: As `init_`; or if `pretrained` is one string.
        ValueError: If there is no new parameter, no rule takes one of them, or as `init_`. Nothing
            has been written then.

    Determinism: bitwise, as `init_`. The key of a parameter is that of its name, so the new
        parameters are those that `init_` of the whole model gives.
    """
    if isinstance(pretrained, str):
        raise TypeError(
            "initstats.init_new_: expected pretrained to be a collection of names, "
            f"got pretrained={pretrained!r}"
        )
    known = set(pretrained)
    planned = _restricted(plan(model, recipe, roles=roles), model, known)
    if not planned.entries and not planned.unmatched:
        raise ValueError(
            "initstats.init_new_: expected parameters that are not pretrained, got none"
        )
    planned.require_complete("init_new_")
    return initialise_plan("init_new_", model, planned, seed=seed)


def warm_start_(
    model: nn.Module,
    state_dict: Mapping[str, torch.Tensor],
    recipe: Recipe | str,
    *,
    seed: int | None = None,
    roles: Mapping[str, str] | None = None,
) -> WarmStart:
    """Copy from a checkpoint what fits by name and shape, and initialise the rest by a recipe.

    Args:
        model: The model; not on the meta device.
        state_dict: The checkpoint: tensors by name, of any floating dtype and device.
        recipe: A recipe or its name, for what is not copied.
        seed: As in `init_`.
        roles: As in `plan`.

    Returns:
        What was copied, initialised, did not fit or was not used.

    Raises:
        TypeError: As `init_`, or if `state_dict` is no mapping.
        ValueError: If no rule takes a parameter that is not copied, or as `init_`. Nothing has
            been written then.

    Determinism: bitwise, as `init_`.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            "initstats.warm_start_: expected state_dict to be a mapping from names to tensors, "
            f"got state_dict={type(state_dict).__name__}"
        )
    seed = seed_or_draw("warm_start_", seed)
    targets = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    shared = [name for name in state_dict if name in targets]
    fits = [name for name in shared if state_dict[name].shape == targets[name].shape]
    planned = _restricted(plan(model, recipe, roles=roles), model, set(fits))
    receipt = None
    if planned.entries or planned.unmatched:
        planned.require_complete("warm_start_")
        receipt = initialise_plan("warm_start_", model, planned, seed=seed)
    with torch.no_grad():
        for name in fits:
            targets[name].copy_(state_dict[name])
    return WarmStart(
        copied=tuple(fits),
        initialised=tuple(entry.name for entry in planned if not entry.keep),
        mismatched=tuple(
            (name, tuple(state_dict[name].shape), tuple(targets[name].shape))
            for name in shared
            if name not in set(fits)
        ),
        unused=tuple(name for name in state_dict if name not in targets),
        receipt=receipt,
    )


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
        ValueError: If the shapes do not fit, r is larger than both sides of the weight, `scaling`
            is out of range or `method` is neither. Nothing has been written then.

    Determinism: run_to_run. Singular vectors depend on the library that computes them.

    Source: Meng et al. 2024 (PiSSA), Buyukakyuz 2024 (OLoRA); peft `tuners/lora/layer.py`,
        pissa_init and olora_init.
    """
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
    with torch.no_grad():
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
        # What was stored, after rounding to the adapter's dtype, is what is taken off.
        weight.copy_(exact - scaling * (lora_b.to(exact.dtype) @ lora_a.to(exact.dtype)))


def _restricted(planned: Plan, model: nn.Module, known: set[str]) -> Plan:
    """Return the plan for the parameters that have no name among the known ones."""
    names = [{slot.name for slot in group} for group in slots(model)]
    old = {name for group in names if group & known for name in group}
    return dataclasses.replace(
        planned,
        entries=tuple(entry for entry in planned if entry.name not in old),
        unmatched=tuple(name for name in planned.unmatched if name not in old),
    )
