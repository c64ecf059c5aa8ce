"""The recipe of GPT-2."""

from __future__ import annotations

import math

from torch import nn

from initstats.recipes.distributions import Constant, Distribution, Normal
from initstats.recipes.rules import Match, Recipe, Rule
from initstats.recipes.slots import Slot

# Matrices of a GPT-2: torch's Linear, and the Conv1D of transformers (weight transposed [in, out]).
_MATRIX = (nn.Linear, "Conv1D")
# By name, because nanoGPT brings its own LayerNorm with an optional bias.
_NORM = "LayerNorm"


def gpt2(
    *, std: float = 0.02, position_std: float | None = None, layers: int | None = None
) -> Recipe:
    """Make the recipe of GPT-2.

    Matrices and embeddings N(0, std); the two matrices of each block that write to the residual
    stream (`c_proj.weight`) N(0, std / sqrt(2 L)) with L the number of blocks; biases 0;
    LayerNorm scale 1 and shift 0. A head tied to the token embedding is filled once, as embedding.

    Args:
        std: Standard deviation of matrices and embeddings, > 0.
        position_std: Standard deviation of the position embedding `wpe`, > 0; `std` when None.
            OpenAI's own code has 0.01.
        layers: Number of blocks L, >= 1; read from the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If a standard deviation is not finite and > 0, or `layers` < 1.

    Determinism: bitwise. The same seed gives the same weights on any device.

    Source: Radford et al. 2019, section 2.3 ("scale the weights of residual layers at
        initialization by a factor of 1/sqrt(N)"); numbers as in nanoGPT `model.py` and
        transformers `modeling_gpt2.py` (where the scaling is applied since
        transformers#47459).
    """
    for name, value in {"std": std, "position_std": position_std}.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"initstats.gpt2: expected {name} finite and > 0, got {name}={value}")
    if layers is not None and layers < 1:
        raise ValueError(f"initstats.gpt2: expected layers >= 1, got layers={layers}")

    def residual(slot: Slot) -> Distribution:
        depth = layers if layers is not None else slot.blocks
        if depth is None:
            raise ValueError(
                "initstats.gpt2: expected residual projections inside a ModuleList of blocks, "
                f"got name={slot.name!r}; give the number of blocks with gpt2(layers=...)"
            )
        return Normal(std / math.sqrt(2 * depth))

    residual.__doc__ = f"N(0, {std:g} / sqrt(2 L)), L blocks"

    position = Normal(std if position_std is None else position_std)
    rules = [
        Rule(Match("*weight", _NORM), Constant(1.0), "norm scale"),
        Rule(Match("*bias", (*_MATRIX, _NORM)), Constant(0.0), "bias"),
        Rule(Match("*c_proj.weight", _MATRIX), residual, "residual projection"),
        Rule(Match("*wpe.weight", nn.Embedding), position, "position embedding"),
        Rule(Match("*weight", nn.Embedding), Normal(std), "embedding"),
        Rule(Match("*weight", _MATRIX), Normal(std), "matrix"),
    ]
    return Recipe(
        rules, name="gpt2", source="Radford et al. 2019; nanoGPT; transformers modeling_gpt2.py"
    )
