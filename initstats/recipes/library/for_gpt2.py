"""Recipes of GPT-2 and of decoders with scaled residual projections."""

from __future__ import annotations

import math

from initstats.recipes.distributions.basic import Normal
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.distributions.truncated import TruncNormal
from initstats.recipes.library.building import (
    INPUTS,
    MATRICES,
    RESIDUAL,
    biases,
    block_number,
    built_in,
    depth,
    described,
    norms,
    require_choice,
    require_layers,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe

__all__ = ["gpt2", "megatron", "neox", "olmo_mitchell"]


@built_in
def gpt2(
    *,
    std: float = 0.02,
    position_std: float | None = None,
    layers: int | None = None,
    residual: str = "depth",
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
        residual: What divides the residual projections: "depth" for sqrt(2 L), "heads" for the
            root of the number of heads (attention output only), "none" for nothing.

    Returns:
        The recipe.

    Raises:
        ValueError: If a standard deviation is not finite and > 0, `layers` < 1, or `residual` is
            none of the three.

    Determinism: bitwise. The same seed gives the same weights on any device.

    Source: Radford et al. 2019, section 2.3 ("scale the weights of residual layers at
        initialization by a factor of 1/sqrt(N)"); numbers as in nanoGPT `model.py` and
        transformers `modeling_gpt2.py` (where the scaling is applied since
        transformers#47459).
    """
    require_positive("gpt2", std=std, position_std=position_std)
    require_layers("gpt2", layers)
    require_choice("gpt2", "residual", residual, ("depth", "heads", "none"))

    @described(
        {
            "depth": f"N(0, {std:g} / sqrt(2 L)), L blocks",
            "heads": f"N(0, {std:g} / sqrt(heads)) after attention, else N(0, {std:g})",
            "none": f"N(0, {std:g})",
        }[residual]
    )
    def output(slot: Slot) -> Distribution:
        if residual == "depth":
            return Normal(std / math.sqrt(2 * depth("gpt2", slot, layers)))
        if residual == "heads" and slot.role.name == "attention output":
            if slot.heads is None:
                raise ValueError(
                    "initstats.gpt2: expected a module that states its number of heads, "
                    f"got name={slot.name!r} without"
                )
            return Normal(std / math.sqrt(slot.heads))
        return Normal(std)

    rules = [
        *norms(),
        biases(),
        rule(weights(*RESIDUAL), output, "residual projection"),
        rule(
            weights("position"), Normal(std if position_std is None else position_std), "position"
        ),
        rule(weights("embedding", "token"), Normal(std), "embedding"),
        rule(weights(*MATRICES), Normal(std), "matrix"),
    ]
    return Recipe(
        rules, name="gpt2", source="Radford et al. 2019; nanoGPT; transformers modeling_gpt2.py"
    )


@built_in
def megatron(
    *, std: float = 0.02, embedding_std: float | None = None, layers: int | None = None
) -> Recipe:
    """Make the recipe of Megatron-LM.

    Matrices and embeddings N(0, std); attention output and second MLP matrix
    N(0, std / sqrt(2 L)); biases 0; norms 1 and 0.

    Args:
        std: Standard deviation (`init_method_std`), > 0.
        embedding_std: That of the embeddings, > 0; `std` when None.
        layers: Number of blocks L, >= 1; read from the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If a standard deviation is not finite and > 0, or `layers` < 1.

    Source: Megatron-LM `megatron/core/utils.py`, init_method_normal and scaled_init_method_normal.
    """
    require_positive("megatron", std=std, embedding_std=embedding_std)
    require_layers("megatron", layers)

    @described(f"N(0, {std:g} / sqrt(2 L)), L blocks")
    def output(slot: Slot) -> Distribution:
        return Normal(std / math.sqrt(2 * depth("megatron", slot, layers)))

    own = Normal(std if embedding_std is None else embedding_std)
    rules = [
        *norms(),
        biases(),
        rule(weights(*RESIDUAL), output, "residual projection"),
        rule(weights("embedding", "position", "token"), own, "embedding"),
        rule(weights(*MATRICES), Normal(std), "matrix"),
    ]
    return Recipe(rules, name="megatron", source="Megatron-LM megatron/core/utils.py")


@built_in(variants=("eleutherai", "transformers"))
def neox(*, variant: str = "eleutherai", layers: int | None = None) -> Recipe:
    """Make the recipe of GPT-NeoX.

    "eleutherai": embeddings and inputs N(0, sqrt(2 / (5 d))) (`small_init`), attention output and
    second MLP matrix N(0, 2 / (L sqrt(d))) (`wang_init`), d the width. "transformers": embeddings
    and all matrices N(0, 0.02). In both, biases 0; norms 1 and 0.

    Args:
        variant: "eleutherai" or "transformers".
        layers: Number of blocks L, >= 1; read from the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If the variant is neither or `layers` < 1.

    Source: gpt-neox `megatron/model/init_functions.py`; Nguyen and Salazar 2019 (small_init);
        mesh-transformer-jax (wang_init); transformers `modeling_gpt_neox.py`, whose
        `initializer_range` is 0.02.
    """
    require_layers("neox", layers)
    tables = ("embedding", "position", "token")
    source = "gpt-neox megatron/model/init_functions.py; transformers modeling_gpt_neox.py"
    if variant == "transformers":
        plain = rule(weights(*tables, *MATRICES), Normal(0.02), "matrix or embedding")
        return Recipe([*norms(), biases(), plain], name="neox", source=source)

    @described("N(0, sqrt(2 / (5 d))), d the width")
    def small(slot: Slot) -> Distribution:
        return Normal(math.sqrt(2 / (5 * slot.width)))

    @described("N(0, 2 / (L sqrt(d))), L blocks of width d")
    def wang(slot: Slot) -> Distribution:
        return Normal(2 / depth("neox", slot, layers) / math.sqrt(slot.width))

    rules = [
        *norms(),
        biases(),
        rule(weights(*RESIDUAL), wang, "residual projection"),
        rule(weights(*tables, *MATRICES), small, "small init"),
    ]
    return Recipe(rules, name="neox", source=source)


@built_in
def olmo_mitchell() -> Recipe:
    """Make the recipe "mitchell" of OLMo.

    Everything is truncated at three standard deviations. Inputs, embedding and head 1 / sqrt(d);
    attention output 1 / sqrt(2 d (l + 1)) and second MLP matrix 1 / sqrt(2 n (l + 1)), l the index
    of the block, d its width and n the inputs of the matrix; biases 0; norms 1 and 0.

    Returns:
        The recipe.

    Source: OLMo `olmo/model.py`, InitFnType.mitchell.
    """

    @described("TN(0, 1 / sqrt(d)) at 3 std, d the width")
    def inputs(slot: Slot) -> Distribution:
        return TruncNormal.at(slot.width**-0.5, 3)

    @described("TN(0, 1 / sqrt(2 fan_in (l + 1))) at 3 std, l the block")
    def output(slot: Slot) -> Distribution:
        number = block_number("olmo_mitchell", slot)
        return TruncNormal.at((2 * slot.fans.fan_in * number) ** -0.5, 3)

    rules = [
        *norms(),
        biases(),
        rule(weights(*RESIDUAL), output, "residual projection"),
        rule(
            weights("embedding", "position", "token", *INPUTS, "head", "linear", "router"),
            inputs,
            "input",
        ),
    ]
    return Recipe(rules, name="olmo_mitchell", source="OLMo olmo/model.py, InitFnType.mitchell")
