"""Width of a model against a base: which dimensions of a parameter grow, and by how much."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch
from torch import nn

from initstats.recipes.stages import CONFIGS
from initstats.text import block_pattern

BaseLike: TypeAlias = "int | nn.Module | Mapping[str, Sequence[int]] | Base"

# Sides of a matrix that grow with the width, by role: outputs, inputs.
_BY_ROLE = {
    "embedding": "input",
    "position": "input",
    "token": "input",
    "head": "output",
    "router": "output",
    "attention input": "hidden",
    "attention output": "hidden",
    "mlp input": "hidden",
    "mlp output": "hidden",
}
_MATRIX_DIMS = 2
# Attributes of modules and of their configurations.
HEAD_WIDTHS = ("key_value_proj_dim", "head_dim", "d_kv", "attention_head_size")
HEADS = ("n_heads", "num_heads", "num_attention_heads", "n_head", "heads", "nhead")
WIDTHS = ("d_model", "hidden_size", "n_embd", "embed_dim", "dim")


class Growth(NamedTuple):
    """How a parameter grows with the width of a model, in the words of μP.

    Attributes:
        kind: "hidden" for matrices whose inputs and outputs grow, "input" where only the outputs
            do (embeddings, the first layer), "output" where only the inputs do (readouts, routers),
            "vector" for vectors that grow, "fixed" for what does not grow.
        fan_in: Inputs against those of the base; 1 where they do not grow.
        fan_out: Outputs against those of the base; 1 where they do not grow.
    """

    kind: str
    fan_in: float = 1.0
    fan_out: float = 1.0

    @property
    def width_mult(self) -> float:
        """The multiplier of the side that rules of μP go by: the inputs if they grow."""
        return self.fan_in if self.kind in {"hidden", "output"} else self.fan_out


@dataclass(frozen=True)
class Base:
    """The model whose hyperparameters are transferred: its width, or its shapes.

    Attributes:
        width: Width of the residual stream; None where shapes or a multiplier are given.
        shapes: Shapes of its parameters by name; None where a number is given.
        width_mult: How many times wider the model is than its base; None where it is compared.
        head_width: Width of an attention head, if it is known.
    """

    width: int | None = None
    shapes: Mapping[str, tuple[int, ...]] | None = None
    width_mult: float | None = None
    head_width: int | None = None

    @classmethod
    def of(
        cls, function: str, base: BaseLike | None, width_mult: float | None = None
    ) -> Base | None:
        """Read a base as users give it.

        Args:
            function: The recipe, for messages.
            base: A width, a model (also on the meta device), or shapes of parameters by name.
            width_mult: How many times wider the model is, instead of `base`.

        Returns:
            The base; None where neither is given, for a model that is its own base.

        Raises:
            TypeError: If it is of another kind.
            ValueError: If both are given, or a number is not finite and > 0.
        """
        if base is not None and width_mult is not None:
            raise ValueError(
                f"initstats.{function}: expected base or width_mult, got both: base={base!r:.60}, "
                f"width_mult={width_mult}"
            )
        if width_mult is not None:
            if not (math.isfinite(width_mult) and width_mult > 0):
                raise ValueError(
                    f"initstats.{function}: expected width_mult finite and > 0, "
                    f"got width_mult={width_mult}"
                )
            return cls(width_mult=float(width_mult))
        if base is None or isinstance(base, Base):
            return base
        if isinstance(base, nn.Module):
            return cls.of_model(base)
        if isinstance(base, Mapping):
            return cls(shapes={name: tuple(shape) for name, shape in base.items()})
        if isinstance(base, bool) or not isinstance(base, int):
            raise TypeError(
                f"initstats.{function}: expected base to be a width, a model or shapes by name, "
                f"got base={base!r:.60}"
            )
        if base < 1:
            raise ValueError(f"initstats.{function}: expected base >= 1, got base={base}")
        return cls(width=base)

    @classmethod
    def of_model(cls, model: nn.Module) -> Base:
        """Keep of a model what wider ones are compared with: no values.

        Args:
            model: The model, also on the meta device.
        """
        named = model.named_parameters(remove_duplicate=False)
        shapes = {name: tuple(parameter.shape) for name, parameter in named}
        return cls(shapes=shapes, head_width=stated_head_width(model))

    @property
    def blocks(self) -> int | None:
        """Number of blocks of its largest stack, by the names of its parameters."""
        stacks: dict[str, set[str]] = {}
        for name in self.shapes or ():
            parts = name.split(".")
            number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
            if number is not None:
                stacks.setdefault(".".join(parts[:number]), set()).add(parts[number])
        return max(map(len, stacks.values()), default=None)

    @cached_property
    def _by_pattern(self) -> dict[str, tuple[int, ...]]:
        """The shapes that all blocks share, for a base of another depth."""
        found: dict[str, set[tuple[int, ...]]] = {}
        for name, shape in (self.shapes or {}).items():
            found.setdefault(block_pattern(name), set()).add(shape)
        return {name: shapes.pop() for name, shapes in found.items() if len(shapes) == 1}

    def shape_of(self, name: str, shape: Sequence[int]) -> tuple[int, ...] | None:
        """Return the shape of a parameter in the base; None without shapes.

        Args:
            name: Its name, without wrappers.
            shape: Its shape in the model.

        Raises:
            ValueError: If the base has no such parameter, or one with other dimensions.
        """
        if self.shapes is None:
            return None
        found = self.shapes.get(name, self._by_pattern.get(block_pattern(name)))
        if found is None:
            raise ValueError(
                f"initstats.plan: expected a base with the parameters of the model, got no "
                f"{name!r} in the base; only sizes may differ, not layers"
            )
        if len(found) != len(shape):
            raise ValueError(
                f"initstats.plan: expected a base with as many dimensions, got {name!r} of shape "
                f"{tuple(shape)} and {found} in the base"
            )
        return found


def stated_number(model: nn.Module, names: Sequence[str]) -> int | None:
    """Return the first whole number that a module, or its configuration, has under some names.

    Args:
        model: Any module; its children are asked too.
        names: The names.
    """
    for module in model.modules():
        own = vars(module)
        if type(module).__module__.startswith("torch.") and "num_heads" not in own:
            continue  # nn.Softmax has a dim that is no width
        configs = (getattr(own.get(name), "__dict__", {}) for name in CONFIGS)
        for values in (own, *configs):
            for name in names:
                value = values.get(name)
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
    return None


def stated_width(model: nn.Module) -> int | None:
    """Return the width of the residual stream: stated, or that of the token embedding.

    Args:
        model: Any module, also on the meta device.
    """
    found = stated_number(model, WIDTHS)
    if found is not None:
        return found
    tables = (m.embedding_dim for m in model.modules() if isinstance(m, nn.Embedding))
    return next(tables, None)


def stated_head_width(model: nn.Module) -> int | None:
    """Return the width of an attention head: stated, or width / number of heads.

    Args:
        model: Any module, also on the meta device.
    """
    found = stated_number(model, HEAD_WIDTHS)
    if found is not None:
        return found
    width, heads = stated_width(model), stated_number(model, HEADS)
    return None if width is None or heads is None else width // heads


def kind_of_convolution(convolution: nn.Module, model: nn.Module) -> str | None:
    """Tell which sides of a convolution grow, where the stated width of its model tells it.

    Args:
        convolution: Owner of the weight.
        model: The model that it belongs to.

    Returns:
        "input" for the first convolution of a model, from image or sound to its width; "hidden"
        for one from the width to the width; None for all others, and for grouped and transposed
        ones.
    """
    kinds = nn.modules.conv._ConvNd  # noqa: SLF001  # the base of all convolutions
    if not isinstance(convolution, kinds) or convolution.transposed or convolution.groups != 1:
        return None
    width = stated_width(model)
    if width is None or convolution.out_channels != width:
        return None
    if convolution.in_channels == width:
        return "hidden"
    first = next(module for module in model.modules() if isinstance(module, kinds))
    return "input" if convolution is first else None


def growth_by_shape(
    sides: tuple[float, float],
    parameter: torch.Tensor,
    base_shape: Sequence[int],
    role: str,
    *,
    is_bias: bool = False,
) -> Growth:
    """Tell how a parameter grows by the dimensions that differ from the base's.

    Args:
        sides: Outputs and inputs of the layer, against those of the base; 1 for a vector.
        parameter: The parameter.
        base_shape: Its shape in the base.
        role: Its role; decides where no dimension differs, and what an embedding's rows are.
        is_bias: It is a bias, or one bias per expert.
    """
    ratios = [now / base for now, base in zip(parameter.shape, base_shape, strict=True)]
    if all(ratio == 1 for ratio in ratios):
        return growth_by_role(role, 1.0, parameter, is_bias=is_bias)
    if is_bias or parameter.dim() < _MATRIX_DIMS:
        return Growth("vector", 1.0, ratios[-1])
    if _BY_ROLE.get(role) == "input":  # rows are entries of a table
        return Growth("input", 1.0, ratios[-1])
    fan_out, fan_in = sides
    if fan_in == 1:
        return Growth("input", 1.0, fan_out)
    return Growth("output" if fan_out == 1 else "hidden", fan_in, fan_out)


def growth_by_role(
    role: str,
    width_mult: float,
    parameter: torch.Tensor,
    *,
    is_bias: bool = False,
    kind: str | None = None,
) -> Growth:
    """Tell how a parameter grows by its role, where a number is all that is known of the base.

    Args:
        role: Its role.
        width_mult: How many times wider the model is.
        parameter: The parameter.
        is_bias: It is a bias, or one bias per expert.
        kind: The kind of growth, where more than the role tells it.

    Returns:
        The growth; of a matrix whose role tells nothing "hidden", if the model is its own base.

    Raises:
        LookupError: If the role does not tell which dimensions of a matrix grow.
    """
    if is_bias or parameter.dim() < _MATRIX_DIMS or role == "norm":
        fixed = role in {"head", "router"} or parameter.numel() == 1
        return Growth("fixed") if fixed else Growth("vector", 1.0, width_mult)
    kind = kind or _BY_ROLE.get(role)
    if kind is None:
        if width_mult != 1:
            raise LookupError(role)
        kind = "hidden"
    return Growth(
        kind,
        width_mult if kind in {"hidden", "output"} else 1.0,
        width_mult if kind in {"hidden", "input"} else 1.0,
    )
