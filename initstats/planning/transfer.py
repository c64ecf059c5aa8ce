"""Initialise partly trained models: new layers, warm starts, LoRA from a weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from initstats import _ops
from initstats.init._validate import check_separate, fillable_dtype, number
from initstats.planning.fitting import (
    check_copies,
    fitting_names,
    parameters_of,
    refuse_lazy,
    refuse_parametrized,
    some,
    tensor_of,
)
from initstats.planning.initialize import initialise_plan, seed_or_draw
from initstats.planning.planner import Plan, plan
from initstats.planning.receipt import Receipt
from initstats.recipes import Recipe
from initstats.recipes.parameters import slots
from initstats.recipes.stages import Depth, Names, global_names
from initstats.sharding import is_dtensor, local_boxes, local_tensor, reshard

_MATRIX_DIMS = 2


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
    targets = _targets("init_new_", model, names)
    given = pretrained
    if isinstance(pretrained, Mapping):
        given = parameters_of("init_new_", pretrained, targets)
    known = set(fitting_names("init_new_", given, targets))
    if pretrained and not known:
        raise ValueError(
            "initstats.init_new_: expected names of the model in pretrained, got "
            f"{some(pretrained)} where the model has {some(targets)}"
        )
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
    torch.compile, FSDP's), in the checkpoint as in the model. If more names fit without a prefix of
    one side, such as `model.` or `bert.`, and half of those of the smaller side do, it is taken
    off.

    Args:
        model: The model; not on the meta device.
        state_dict: The checkpoint: tensors or NumPy arrays by name, of any floating dtype and
            device, finite; also DTensors, which are gathered one by one where they are cut
            otherwise than in the model. Or a dictionary that holds it under "model", "state_dict",
            "model_state_dict", or another key if no other dictionary in it has names of the model.
        recipe: A recipe or its name, for parameters that are not copied.
        seed: As in `init_`.
        roles: As in `plan`.
        names: As in `plan`.
        depth: As in `plan`.

    Returns:
        What was copied, initialised, did not fit or was not used.

    Raises:
        TypeError: As `init_`, or if `state_dict` is no mapping, holds something else than dense
            tensors under a name of the model, or integers for a floating-point parameter.
        ValueError: If no rule takes a parameter that is not copied, no name fits, several prefixes
            or inner dictionaries fit equally well, a tensor is on the meta device, holds values
            that are not finite (minus infinity in a buffer is a mask) or that the parameter's dtype
            does not hold, two names of a tied parameter have different values, the checkpoint holds
            the parts of a weight that is plain in the model, or as `init_`. Nothing has been
            written then.

    Determinism: bitwise, as `init_`.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            "initstats.warm_start_: expected state_dict to be a mapping from names to tensors, "
            f"got state_dict={type(state_dict).__name__}"
        )
    reshard(model)
    targets = _targets("warm_start_", model, names)
    refuse_lazy("warm_start_", targets)
    state_dict = parameters_of("warm_start_", state_dict, targets)
    sources = fitting_names("warm_start_", state_dict, targets)
    if not sources:
        raise ValueError(
            "initstats.warm_start_: expected names of the model in state_dict, got "
            f"{some(state_dict)} where the model has {some(targets)}"
        )
    refuse_parametrized("warm_start_", state_dict, sources, targets)
    values = {
        name: tensor_of("warm_start_", name, state_dict[source]) for name, source in sources.items()
    }
    fits = {name: x for name, x in values.items() if x.shape == targets[name].shape}
    check_copies("warm_start_", fits, targets, dict(model.named_buffers()))
    seed = seed_or_draw("warm_start_", seed)
    planned = _restricted(
        plan(model, recipe, roles=roles, names=names, depth=depth), model, set(fits), names
    )
    receipt = None
    if planned.entries or planned.unmatched:
        planned.require_complete("warm_start_")
        on_meta = next((entry.name for entry in planned if entry.parameter.is_meta), None)
        if on_meta is not None:
            raise ValueError(
                f"initstats.warm_start_: expected a model with memory, got {on_meta} on the meta "
                "device; call to_empty first"
            )
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
        unused=tuple(str(name) for name in state_dict if name not in used),
        receipt=receipt,
    )


def _targets(function: str, model: nn.Module, names: Names | None) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of a model by the name in the whole model."""
    local = dict(model.named_parameters(remove_duplicate=False))
    full = global_names(function, list(local), names)
    return {full[name]: p for name, p in local.items()} | dict(model.named_buffers())


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
