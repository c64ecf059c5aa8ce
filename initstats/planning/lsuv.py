"""Data-dependent initialisation: LSUV scales every layer to outputs of unit variance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from initstats.planning.initialize import init_
from initstats.planning.validate import refuse_sharded
from initstats.recipes import Constant, Distribution, Kept, Match, Orthogonal, Recipe, Rule, Slot

Batch: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any]

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)  # noqa: SLF001  # the base of all convolutions


@dataclass
class LsuvReport:
    """Report of `lsuv_`.

    Attributes:
        passes: Forward passes.
        factors: What the orthonormal weight of each layer was multiplied by.
        stds: Standard deviation of each layer's output in the last pass.
        dead: Layers whose output does not vary, which no factor can change.
        ok: True when every other layer is within the tolerance.
    """

    passes: int = 0
    factors: dict[str, float] = field(default_factory=dict)
    stds: dict[str, float] = field(default_factory=dict)
    dead: tuple[str, ...] = ()
    ok: bool = False


def lsuv_(
    model: nn.Module,
    batch: Batch,
    *,
    seed: int | None = None,
    tolerance: float = 0.1,
    tries: int = 10,
) -> LsuvReport:
    """Layer-sequential unit variance: orthonormal weights, then outputs of variance 1, in place.

    Linear layers and convolutions get orthonormal weights and zero biases; then their weights are
    scaled until the output of each has standard deviation 1 on the batch. A hook scales a layer as
    soon as it has run and hands on the scaled output, so that one forward pass does all layers;
    further passes correct the rest, at most `tries` in all. Other parameters are left as they
    are, and so are layers with a parametrized weight. Autocast is off meanwhile. Hooks are removed
    and modes restored, also after an exception.

    Args:
        model: Any module; layers that the forward pass does not call are left orthonormal.
        batch: One real batch: a tensor, a tuple of arguments or a mapping of named ones.
        seed: As in `init_`.
        tolerance: Largest distance of an output's standard deviation from 1, > 0.
        tries: Largest number of forward passes, >= 1.

    Returns:
        Factors, standard deviations and the number of passes.

    Raises:
        TypeError: If a parameter is a DTensor, or managed by FSDP or ZeRO-3.
        ValueError: If the model has no Linear layer or convolution with a weight of its own,
            `tolerance` is not > 0 or `tries` < 1; if a parameter is on the meta device or was made
            in inference mode; if the output of a layer is not finite, as NaN in the batch makes it.
            The parameters are as before then, and after an exception of the model too.

    Determinism: run_to_run. The forward pass rounds as torch does.

    Source: Mishkin and Matas 2015, "All you need is a good init", algorithm 1; LSUV-pytorch.
    """
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(
            f"initstats.lsuv_: expected tolerance finite and > 0, got tolerance={tolerance}"
        )
    if tries < 1:
        raise ValueError(f"initstats.lsuv_: expected tries >= 1, got tries={tries}")
    refuse_sharded("lsuv_", model)
    found = {name: m for name, m in model.named_modules() if isinstance(m, _LAYERS)}
    if not found:
        raise ValueError(
            "initstats.lsuv_: expected a model with Linear layers or convolutions, got none"
        )
    layers = {
        name: m for name, m in found.items() if "weight" in dict(m.named_parameters(recurse=False))
    }
    if not layers:
        raise ValueError(
            "initstats.lsuv_: expected a layer whose weight is a parameter, got parametrized or"
            f" computed weights alone, such as that of {next(iter(found))!r}"
        )
    _refuse_unwritable(found)
    report = LsuvReport()
    dead: set[str] = set()
    with (
        _put_back_on_error(found.values()),
        _evaluating(model),
        torch.no_grad(),
        _without_autocast(),
    ):
        init_(model, _orthonormal(), seed=seed, fingerprints=False)
        for _ in range(tries):
            report.passes += 1
            report.stds = _one_pass(model, batch, layers, report.factors, tolerance)
            dead = {name for name, std in report.stds.items() if not std > 0}
            off = [abs(std - 1) for name, std in report.stds.items() if name not in dead]
            if max(off, default=0.0) <= tolerance:
                break
    report.dead = tuple(sorted(dead))
    report.ok = max(off, default=0.0) <= tolerance
    return report


def _refuse_unwritable(layers: Mapping[str, nn.Module]) -> None:
    """Refuse parameters on the meta device, and those that were made in inference mode."""
    for name, module in layers.items():
        held = module.named_parameters(recurse=False)
        # The plan refuses lazy ones.
        for own, parameter in [one for one in held if not is_lazy(one[1])]:  # type: ignore[redundant-expr]
            if parameter.is_meta:
                raise ValueError(
                    f"initstats.lsuv_: expected parameters with values, got {name}.{own} on the"
                    " meta device"
                )
            if parameter.is_inference() and not torch.is_inference_mode_enabled():
                raise ValueError(
                    f"initstats.lsuv_: expected parameters to write to, got {name}.{own} of"
                    " inference mode; build the model outside of it"
                )


def _orthonormal() -> Recipe:
    def matrix(slot: Slot) -> Orthogonal:
        return Orthogonal(*slot.matrix_shape)

    def bias(slot: Slot) -> Distribution:
        own = dict(slot.module.named_parameters(recurse=False))
        return Constant(0.0) if "weight" in own else Kept("the bias of a parametrized weight")

    rules = [
        Rule(Match("*weight", _LAYERS), matrix, "orthonormal"),
        Rule(Match("*bias", _LAYERS), bias, "bias", optional=True),
    ]
    return Recipe(rules, name="lsuv", source="Mishkin and Matas 2015", partial=True)


def _one_pass(
    model: nn.Module,
    batch: Batch,
    layers: Mapping[str, nn.Module],
    factors: dict[str, float],
    tolerance: float,
) -> dict[str, float]:
    """Run the model, scaling each layer when it has run; return the stds before scaling."""
    stds: dict[str, float] = {}

    def hook_for(name: str) -> Any:  # torch's hooks have no type of their own
        def scale(module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
            if name in stds:  # a layer that is called again in one pass keeps its scale
                return None
            stds[name] = std = float(output.float().std()) if output.numel() > 1 else 0.0
            if not math.isfinite(std) and not output.isfinite().all():
                raise ValueError(
                    "initstats.lsuv_: expected finite outputs, got NaN or infinity from the layer"
                    f" {name!r} (look at the batch and the parameters before it)"
                )
            if not std > 0 or abs(std - 1) <= tolerance:
                return None
            weight = module.weight
            assert isinstance(weight, Tensor)
            weight.div_(std)
            factors[name] = factors.get(name, 1.0) / std
            return output / std  # the bias is 0, so this is what the scaled layer gives

        return scale

    hooks = [module.register_forward_hook(hook_for(name)) for name, module in layers.items()]
    try:
        if isinstance(batch, Mapping):
            model(**batch)
        elif isinstance(batch, tuple):
            model(*batch)
        else:
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return stds


@contextmanager
def _put_back_on_error(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Give the parameters of the layers their values back if an exception passes."""
    parameters = {p for m in layers for p in m.parameters() if not is_lazy(p)}  # type: ignore[redundant-expr]
    given = [(p, p.detach().clone()) for p in parameters]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for parameter, values in given:
                parameter.copy_(values)
        raise


@contextmanager
def _without_autocast() -> Iterator[None]:
    """Switch autocast off, on every device where it is on."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and every module back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
