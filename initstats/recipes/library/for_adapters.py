"""Recipes of new layers in a trained model: LoRA, adapters, a new head. Other parameters stay."""

from __future__ import annotations

from torch import nn

from initstats.recipes.distributions.basic import Constant, Normal, Uniform
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.distributions.orthogonal_matrices import Orthogonal
from initstats.recipes.library.building import (
    MATRICES,
    built_in,
    described,
    norms,
    require_choice,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.role_patterns import ADAPTER
from initstats.recipes.rule import Recipe

__all__ = ["adapter", "embedding", "lora", "new_head", "new_layers"]

_MATRIX_DIMS = 2


@built_in
def lora(*, variant: str = "kaiming") -> Recipe:
    """Make the recipe of LoRA: the product B A starts as zero, so the model is unchanged.

    A Kaiming uniform with a = sqrt(5), which is U(+-1 / sqrt(in)), B 0. For an embedding A 0 and
    B N(0, 1). Fans are taken of the full matrix, so A does not depend on sharding
    (Megatron-Bridge#5840). PiSSA and OLoRA start from the trained weight instead of random
    numbers: `initstats.lora_from_weight_`.

    Args:
        variant: "kaiming"; "gaussian" for A N(0, 1 / r) with r the rank; "orthogonal" for A with
            orthonormal rows.

    Returns:
        The recipe. It is partial: all other parameters are left as they are.

    Raises:
        ValueError: If `variant` is none of the three.

    Source: peft `tuners/lora/layer.py`, reset_lora_parameters; Hu et al. 2021.
    """
    require_choice("lora", "variant", variant, ("kaiming", "gaussian", "orthogonal"))

    @described(
        {"kaiming": "U(+-1 / sqrt(in))", "gaussian": "N(0, 1 / r)", "orthogonal": "orthogonal"}[
            variant
        ]
    )
    def down(slot: Slot) -> Distribution:
        rank, inputs = slot.matrix_shape
        if variant == "gaussian":
            return Normal(1 / rank)
        if variant == "orthogonal":
            return Orthogonal(rank, inputs)
        return Uniform(-(inputs**-0.5), inputs**-0.5)

    rules = [
        rule(Match("*lora_embedding_A*", role="adapter"), 0.0, "A of an embedding"),
        rule(Match("*lora_embedding_B*", role="adapter"), Normal(1.0), "B of an embedding"),
        rule(Match("*lora_A*", role="adapter", kind="weight"), down, "A"),
        rule(Match(("*lora_B*", "*lora_A*bias"), role="adapter"), 0.0, "B"),
    ]
    return Recipe(rules, name="lora", source="peft tuners/lora/layer.py", partial=True)


@built_in
def adapter(*, std: float = 0.02) -> Recipe:
    """Make the recipe of bottleneck adapters: the last matrix is 0, so they start as the identity.

    Args:
        std: Standard deviation of the other matrices, > 0.

    Returns:
        The recipe. It is partial: all other parameters are left as they are.

    Raises:
        ValueError: If `std` is not finite and > 0.

    Source: Houlsby et al. 2019, section 2.1 (near-identity initialisation), taken to exact identity
        by a last matrix of zeros as in LoRA.
    """
    require_positive("adapter", std=std)

    @described(f"N(0, {std:g}), the last matrix of an adapter 0")
    def matrix(slot: Slot) -> Distribution:
        parts = slot.name.split(".")
        top = next(i for i, part in enumerate(parts) if ADAPTER.fullmatch(part))
        whole = slot.parents[min(top + 1, len(slot.parents) - 1)]
        matrices = [p for p in whole.parameters() if p.dim() >= _MATRIX_DIMS]
        return Constant(0.0) if matrices[-1] is slot.parameter else Normal(std)

    in_norm = (nn.LayerNorm, "RMSNorm")
    rules = [
        rule(Match("*weight", in_norm, role="adapter"), 1.0, "norm scale"),
        rule(Match(role="adapter", kind="bias"), 0.0, "bias"),
        rule(Match(role="adapter"), matrix, "matrix"),
    ]
    return Recipe(rules, name="adapter", source="Houlsby et al. 2019", partial=True)


@built_in
def embedding(*, std: float = 0.02, bound: float | None = None) -> Recipe:
    """Make the recipe of embeddings alone: N(0, 0.02), or uniform; padding rows 0.

    Args:
        std: Standard deviation, > 0.
        bound: Largest size of a uniform U(+-bound) instead, > 0; 0.1 is usual.

    Returns:
        The recipe. It is partial: all other parameters are left as they are.

    Raises:
        ValueError: If a number is not finite and > 0.

    Source: Radford et al. 2018, section 4.1 (0.02); PyTorch's word language model example
        (uniform, 0.1).
    """
    require_positive("embedding", std=std, bound=bound)
    values = Normal(std) if bound is None else Uniform(-bound, bound)
    rules = [rule(weights("embedding", "position"), values, "embedding")]
    return Recipe(rules, "embedding", "Radford et al. 2018; PyTorch examples", partial=True)


@built_in
def new_head(*, std: float = 0.02) -> Recipe:
    """Make the recipe of a new head on a trained model: N(0, 0.02), bias 0, nothing else touched.

    Args:
        std: Standard deviation, > 0.

    Returns:
        The recipe. It is partial: all other parameters are left as they are.

    Raises:
        ValueError: If `std` is not finite and > 0.

    Source: transformers `PreTrainedModel._init_weights`, which gives this to heads that a
        checkpoint lacks; Devlin et al. 2018, section 3.2.
    """
    require_positive("new_head", std=std)
    rules = [
        rule(Match(role="head", kind="bias"), 0.0, "bias"),
        rule(weights("head"), Normal(std), "head"),
    ]
    return Recipe(rules, "new_head", "transformers PreTrainedModel._init_weights", partial=True)


@built_in
def new_layers(*, std: float = 0.02) -> Recipe:
    """Make the recipe of any layers that a checkpoint lacks: N(0, 0.02), biases 0, norms 1 and 0.

    Args:
        std: Standard deviation, > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If `std` is not finite and > 0.

    Source: transformers `PreTrainedModel._init_weights`.
    """
    require_positive("new_layers", std=std)
    rules = [
        *norms(),
        rule(Match(kind="bias"), 0.0, "bias"),
        rule(weights(*MATRICES, "embedding", "position", "token"), Normal(std), "matrix"),
        rule(weights("convolution"), Normal(std), "convolution"),
    ]
    return Recipe(rules, "new_layers", "transformers PreTrainedModel._init_weights")
