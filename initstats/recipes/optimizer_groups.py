"""Groups of an optimizer from the multipliers of a recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from initstats.recipes.multipliers import OPTIMIZERS, Multipliers
from initstats.recipes.parameters import Slot
from initstats.text import nearest

_FUNCTION = "Recipe.param_groups"
_MATRIX_DIMS = 2  # torch.optim.Muon takes no others
_ADAM_EPS = 1e-8  # of torch.optim.AdamW


@dataclass(frozen=True)
class Hyperparameters:
    """Those of the base model.

    Args:
        lr: Learning rate, finite and > 0; with Muon that of its matrices.
        weight_decay: Weight decay, finite and >= 0.
        optimizer: One of `OPTIMIZERS`.
        eps: Adam's epsilon, finite and > 0, or None.
        other_lr: With Muon the learning rate of the rest, else None.

    Raises:
        TypeError: If a number is none.
        ValueError: If a number is out of range, the optimizer is unknown, or a number is given or
            missing that goes with another optimizer.
    """

    lr: float
    weight_decay: float
    optimizer: str
    eps: float | None
    other_lr: float | None

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"initstats.{_FUNCTION}: expected optimizer among {', '.join(OPTIMIZERS)}, "
                f"got optimizer={self.optimizer!r}{nearest(str(self.optimizer), OPTIMIZERS)}"
            )
        for name in ("lr", "eps", "other_lr"):
            value = getattr(self, name)
            _require_number(name, value, or_none=name != "lr")
            if not (value is None or (math.isfinite(value) and value > 0)):
                raise ValueError(
                    f"initstats.{_FUNCTION}: expected {name} finite and > 0, got {name}={value}"
                )
        _require_number("weight_decay", self.weight_decay)
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(
                f"initstats.{_FUNCTION}: expected weight_decay finite and >= 0, "
                f"got weight_decay={self.weight_decay}"
            )
        if (self.optimizer == "muon") != (self.other_lr is not None):
            raise ValueError(
                f"initstats.{_FUNCTION}: expected other_lr with optimizer='muon' and without it "
                f"for others, got optimizer={self.optimizer!r}, other_lr={self.other_lr}"
            )
        if self.optimizer == "sgd" and self.eps is not None:
            raise ValueError(
                f"initstats.{_FUNCTION}: expected no eps with optimizer='sgd', got eps={self.eps}"
            )


def _require_number(name: str, value: object, *, or_none: bool = False) -> None:
    """Refuse what is no number.

    Raises:
        TypeError: Naming it.
    """
    if value is None and or_none:
        return
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"initstats.{_FUNCTION}: expected {name} to be a number, got {name}={value!r}"
        )


def make_groups(
    found: Sequence[tuple[Slot, Multipliers]], hyper: Hyperparameters
) -> list[dict[str, Any]]:
    """Put parameters with the same numbers together.

    Args:
        found: The trained parameters, each once, with their multipliers.
        hyper: The hyperparameters of the base.

    Returns:
        The groups, in the order of their first parameters.

    Raises:
        ValueError: If there is no parameter.
    """
    if not found:
        raise ValueError(
            f"initstats.{_FUNCTION}: expected a model with trainable parameters, got none; is "
            "everything frozen?"
        )
    has_eps = hyper.optimizer != "sgd" and (
        hyper.eps is not None or any(multipliers.eps != 1 for _, multipliers in found)
    )
    eps = _ADAM_EPS if hyper.eps is None else hyper.eps
    groups: dict[tuple[float, ...], dict[str, Any]] = {}
    for slot, multipliers in found:
        by_muon = hyper.optimizer == "muon" and goes_to_muon(slot)
        lr = hyper.lr if by_muon or hyper.other_lr is None else hyper.other_lr
        numbers: dict[str, Any] = {
            "lr": lr * multipliers.lr,
            "weight_decay": hyper.weight_decay * multipliers.weight_decay,
        }
        if has_eps and not by_muon:
            numbers["eps"] = eps * multipliers.eps
        if hyper.optimizer == "muon":
            numbers["use_muon"] = by_muon
        group = groups.setdefault(
            tuple(numbers.values()), {"params": [], "param_names": [], **numbers}
        )
        group["params"].append(slot.parameter)
        group["param_names"].append(slot.name)
    return list(groups.values())


def goes_to_muon(slot: Slot) -> bool:
    """Tell whether Muon takes a parameter: a matrix whose inputs and outputs grow.

    Args:
        slot: The parameter and its place.
    """
    return slot.parameter.dim() == _MATRIX_DIMS and slot.growth.kind == "hidden"
