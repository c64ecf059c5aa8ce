"""Multipliers that go with a recipe: of the optimizer, and of the model's forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from initstats.recipes.parameters import Slot
from initstats.recipes.stages import CONFIGS

OPTIMIZERS = ("adamw", "adam", "sgd", "muon")
_CLOSE = 1e-6  # stated numbers are float64 of the same formula


@dataclass(frozen=True)
class Multipliers:
    """What a parameter's hyperparameters are multiplied with.

    Args:
        lr: Of the learning rate, >= 0.
        weight_decay: Of the weight decay, as the optimizer takes it: AdamW multiplies it by the
            learning rate once more.
        eps: Of Adam's epsilon.
        forward: Of the layer's output, which the model must apply itself.

    Raises:
        ValueError: If one is not finite and >= 0.
    """

    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0
    forward: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"initstats.Multipliers: expected {name} finite and >= 0, got {name}={value}"
                )

    def __str__(self) -> str:
        words = {"lr": "lr", "weight_decay": "decay", "eps": "eps", "forward": "output"}
        return ", ".join(
            f"{words[name]} x {value:.4g}" for name, value in vars(self).items() if value != 1
        )


PLAIN = Multipliers()
MultipliersLike: TypeAlias = Multipliers | Callable[[Slot, str], Multipliers]


@dataclass(frozen=True)
class Forward:
    """A multiplier that the model must apply itself.

    Attributes:
        where: What is multiplied, such as "logits".
        value: The multiplier; None where the width of a head, or the depth, is not known.
        formula: The same in letters.
        stated: What the model states, in words; empty where it states nothing that is known here.
        ok: Whether that is the multiplier; None where nothing tells.
    """

    where: str
    value: float | None
    formula: str
    stated: str = ""
    ok: bool | None = None

    @property
    def verdict(self) -> str:
        """What is known of the model, in words."""
        if self.ok is None:
            return self.stated or "for the model to apply; nothing tells whether it does"
        return f"{self.stated}, {'as it should be' if self.ok else 'expected another number'}"

    def __str__(self) -> str:
        number = "" if self.value is None else f" = {self.value:.4g}"
        return f"{self.where} x {self.formula}{number}: {self.verdict}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return dict(vars(self))


ForwardRule: TypeAlias = Callable[[Sequence[tuple[Slot, ...]]], Sequence[Forward]]

# Where transformers' and other models state multipliers: in attributes of the model or of its
# configuration. The second tells by how much the stated number multiplies.
_STATED: Mapping[str, Mapping[str, Callable[[float], float]]] = {
    "logits": {
        "logit_scale": lambda x: x,  # Cohere
        "logits_scaling": lambda x: 1 / x,  # Granite
        "lm_head_multiplier": lambda x: x,  # Falcon-H1
        "output_multiplier_scale": lambda x: x,  # Grok
    },
    "embedding output": {
        "embedding_multiplier": lambda x: x,  # Granite, Falcon-H1
        "scale_emb": lambda x: x,  # MiniCPM
    },
    "residual branches": {
        "residual_multiplier": lambda x: x,  # Granite
        "residual_scaling": lambda x: x,  # nanoGPT-mup, branch completep
    },
}
_SCALES = ("scaling", "softmax_scale", "scale", "attention_scale")


def stated_forward(model: nn.Module, where: str, value: float, formula: str) -> Forward:
    """Compare a multiplier with what the model states.

    Args:
        model: The model.
        where: "logits", "embedding output" or "residual branches".
        value: The multiplier.
        formula: The same in letters.
    """
    for module in model.modules():
        own = vars(module)
        configs = (getattr(own.get(name), "__dict__", {}) for name in CONFIGS)
        for values in (own, *configs):
            for name, read in _STATED[where].items():
                found = values.get(name)
                if isinstance(found, (int, float)) and not isinstance(found, bool) and found:
                    ok = math.isclose(read(found), value, rel_tol=_CLOSE)
                    return Forward(where, value, formula, f"{name} is {found:.4g}", ok)
    return Forward(where, value, formula)


def attention_forward(
    groups: Sequence[tuple[Slot, ...]], value: float | None, formula: str
) -> Forward | None:
    """Compare the scale of attention scores with what its modules state.

    Args:
        groups: The parameters of the model.
        value: The scale; None where the width of a head of the base is not known.
        formula: The same in letters.

    Returns:
        The multiplier; None for a model without attention.
    """
    inputs = [slot for group in groups for slot in group if slot.role.name == "attention input"]
    if not inputs:
        return None
    where = "attention scores"
    for slot in inputs:
        for module in reversed(slot.parents[-2:]):
            for name in _SCALES:
                found = vars(module).get(name)
                if isinstance(found, float):
                    stated = f"{name} of {type(module).__name__} is {found:.4g}"
                    ok = None if value is None else math.isclose(found, value, rel_tol=_CLOSE)
                    return Forward(where, value, formula, stated, ok)
    return Forward(where, value, formula)
