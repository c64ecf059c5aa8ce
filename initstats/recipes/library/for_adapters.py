"""Recipes of new layers in a trained model: adapters, prompts, heads. Other parameters stay."""

from __future__ import annotations

from torch import nn

from initstats.recipes.distributions.basic import Constant, Normal, Uniform
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.distributions.derived import Derived
from initstats.recipes.library.building import (
    MATRICES,
    built_in,
    described,
    framework_default,
    norms,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.role_patterns import ADAPTER
from initstats.recipes.rule import Recipe

__all__ = ["adapter", "embedding", "ia3", "new_head", "new_layers", "prompt"]

_MATRIX_DIMS = 2


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
def ia3() -> Recipe:
    """Make the recipe of (IA)3: every vector of factors is 1, so the model is unchanged.

    Returns:
        The recipe. It is partial: all other parameters are left as they are.

    Source: peft `tuners/ia3/layer.py`, reset_ia3_parameters, 5d602fd; Liu et al. 2022.
    """
    rules = [rule(Match("*ia3_l*", role="adapter"), 1.0, "factors")]
    return Recipe(rules, "ia3", "peft tuners/ia3/layer.py, 5d602fd", partial=True)


@built_in(variants=("normal", "vocabulary", "zero"))
def prompt(*, variant: str = "normal", vocabulary: str = "word_embeddings.weight") -> Recipe:
    """Make the recipe of prompt tuning, prefix tuning and P-tuning, in peft's layout.

    Embeddings of virtual tokens N(0, 1); what computes prompts from them (the projection of
    prefixes, the perceptron and LSTM of P-tuning) as torch leaves it, U(+-1 / sqrt(in)).

    Args:
        variant: "normal"; "vocabulary", every virtual token a random row of the vocabulary
            (peft's SAMPLE_VOCAB, which is written last); "zero", the prefixes 0 (`init_weights`
            "zero" of prefix tuning): of a projection the last layer, its tokens N(0, 1).
        vocabulary: Name of the embedding that the rows come from, or a pattern that only one
            parameter matches.

    Returns:
        The recipe. It is partial: all other parameters are left as they are.

    Raises:
        ValueError: If `variant` is none of the three.

    Source: peft `tuners/prompt_tuning/model.py`, `tuners/prefix_tuning/model.py`,
        `tuners/p_tuning/model.py`, 5d602fd; Lester et al. 2021, Li and Liang 2021, Liu et al. 2021.
    """

    @described({"normal": "N(0, 1)", "vocabulary": "rows of the vocabulary", "zero": "0"}[variant])
    def tokens(slot: Slot) -> Distribution:
        if variant == "vocabulary":
            return Derived("sampled rows", vocabulary)
        is_projected = hasattr(slot.parents[-2], "transform")
        return Constant(0.0) if variant == "zero" and not is_projected else Normal(1.0)

    @described("U(+-1 / sqrt(in))" + (", the last of a projection 0" * (variant == "zero")))
    def layer(slot: Slot) -> Distribution:
        if isinstance(slot.module, nn.RNNBase):
            bound = slot.module.hidden_size**-0.5
            return Uniform(-bound, bound)
        transform = getattr(slot.parents[-3], "transform", None)
        is_last = isinstance(transform, nn.Sequential) and transform[-1] is slot.module
        return Constant(0.0) if variant == "zero" and is_last else framework_default(slot)

    parts = ("*prompt_encoder.*", "*prefix_encoder.*")
    rules = [
        rule(Match(parts, nn.Embedding, role="adapter"), tokens, "virtual tokens"),
        rule(Match(parts, (nn.Linear, nn.RNNBase), role="adapter"), layer, "encoder"),
    ]
    return Recipe(rules, "prompt", "peft tuners/prompt_tuning/model.py, 5d602fd", partial=True)


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
