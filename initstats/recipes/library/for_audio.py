"""Recipes of models for speech: Whisper, wav2vec 2.0."""

from __future__ import annotations

import math

from initstats.recipes.distributions.basic import Constant, Normal, Uniform
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.distributions.computed import Computed
from initstats.recipes.distributions.derived import Derived
from initstats.recipes.library.building import (
    MATRICES,
    biases,
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
from initstats.recipes.rule import Recipe, Rule

__all__ = ["wav2vec2", "whisper"]

# transformers' parameter, OpenAI's buffer.
_ENCODER_POSITIONS = ("*encoder.embed_positions.weight", "*encoder.positional_embedding")
# Lengths and directions of a weight norm: torch's parametrization, and its older form.
_LENGTHS = ("*pos_conv*.weight.original0", "*pos_conv*.weight_g")
_DIRECTIONS = ("*pos_conv*.weight.original1", "*pos_conv*.weight_v")
_AS_TORCH = ("*feature_projection.projection.*", "*post_extract_proj.*", "*project_hid.*",
             "*project_q.*", "*final_proj.*")  # fmt: skip


@built_in
def whisper(*, std: float = 0.02) -> Recipe:
    """Make the recipe of Whisper.

    Linear, convolutions, tokens and the decoder's positions N(0, std); the encoder's positions
    sines, then cosines, with frequencies from 1 to 1 / 10000; biases 0; norms 1 and 0; the weights
    of a sum over layers 1 / their number.

    Args:
        std: Standard deviation (init_std of the configuration), > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If `std` is not finite and > 0.

    Source: transformers `modeling_whisper.py`; whisper `model.py`, sinusoids (OpenAI published
        the table, not how the rest was initialised).
    """
    require_positive("whisper", std=std)

    @described("sines and cosines, closed")
    def table(slot: Slot) -> Distribution:
        return Computed("sincos", tuple(slot.parameter.shape), {"spacing": "closed"})

    rules = [
        *norms(),
        rule(Match(_ENCODER_POSITIONS), table, "position of the encoder"),
        _sum_over_layers(),
        biases(),
        rule(weights("embedding", "position"), Normal(std), "embedding"),
        rule(weights("convolution", *MATRICES), Normal(std), "matrix"),
    ]
    return Recipe(rules, name="whisper", source="transformers modeling_whisper.py")


@built_in
def wav2vec2(*, std: float = 0.02) -> Recipe:
    """Make the recipe of wav2vec 2.0.

    Linear N(0, std), biases 0, norms 1 and 0. Convolutions of the waveform Kaiming normal, N(0,
    sqrt(2 / in)), their biases U(+-1 / sqrt(in)). The convolution of positions N(0, 2 / sqrt(k d)),
    k its taps and d the width, its bias 0; it has a weight norm per tap, whose lengths are those
    of the directions. Projections of features and of targets U(+-1 / sqrt(in)), weight and bias;
    codebook U(0, 1); its logits N(0, 1); the embedding of masked steps U(0, 1); the weights of a
    sum over layers 1 / their number.

    Args:
        std: Standard deviation of Linear (`initializer_range`), > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If `std` is not finite and > 0.

    Source: fairseq `wav2vec2.py` and `gumbel_vector_quantizer.py`; transformers
        `modeling_wav2vec2.py`, where the normals of the convolution of positions get lost: they go
        to a weight that is computed from lengths and directions (as in hifi-gan#145).
    """
    require_positive("wav2vec2", std=std)

    @described("N(0, sqrt(2 / in)), Kaiming normal for ReLU")
    def waveform(slot: Slot) -> Distribution:
        return Normal(math.sqrt(2 / slot.fans.fan_in))

    @described("N(0, 2 / sqrt(k d)), k the taps, d the width")
    def directions(slot: Slot) -> Distribution:
        shape = slot.parameter.shape
        return Normal(2 / math.sqrt(shape[-1] * shape[0]))

    @described("lengths of the directions, per tap")
    def lengths(slot: Slot) -> Distribution:
        old = slot.name.endswith("weight_g")
        return Derived("tap norms", slot.name[:-1] + ("v" if old else "1"))

    rules = [
        *norms(),
        rule(Match(_LENGTHS), lengths, "lengths"),
        rule(Match(_DIRECTIONS), directions, "directions"),
        rule(Match("*pos_conv*.bias"), 0.0, "bias of positions"),
        rule(weights("convolution"), waveform, "convolution"),
        rule(Match(role="convolution", kind="bias"), framework_default, "bias of a convolution"),
        rule(Match(_AS_TORCH, role=MATRICES), framework_default, "projection"),
        rule(Match(("*quantizer.codevectors", "*quantizer.vars")), Uniform(0, 1), "codebook"),
        rule(Match("*quantizer.weight_proj.weight"), Normal(1.0), "logits of the codebook"),
        rule(Match(("*masked_spec_embed", "*mask_emb")), Uniform(0, 1), "masked steps"),
        _sum_over_layers(),
        biases(),
        rule(weights(*MATRICES), Normal(std), "matrix"),
    ]
    source = "fairseq wav2vec2.py; transformers modeling_wav2vec2.py"
    return Recipe(rules, name="wav2vec2", source=source)


def _sum_over_layers() -> Rule:
    """Return the rule of the weights with which a classifier sums the layers."""

    @described("1 / number of layers")
    def equal(slot: Slot) -> Distribution:
        return Constant(1 / slot.parameter.numel())

    return rule(Match("*layer_weights"), equal, "sum over layers")
