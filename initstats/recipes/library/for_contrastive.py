"""Recipes of contrastive models of images and text: CLIP, SigLIP."""

from __future__ import annotations

import math
from collections.abc import Callable

from initstats.recipes.distributions.basic import Normal, Uniform
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.distributions.truncated import TruncNormal
from initstats.recipes.library.building import (
    INPUTS,
    MATRICES,
    RESIDUAL,
    biases,
    built_in,
    depth,
    described,
    framework_default,
    normal_by_fan_in,
    norms,
    projection,
    require_layers,
    rule,
    weights,
    xavier_uniform,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe, Rule

__all__ = ["clip", "siglip"]

_SCALE = "*logit_scale"
_VISION = ("visual.*", "*.visual.*", "vision_model.*", "*.vision_model.*")
_PROJECTIONS = (
    "*text_projection", "*text_projection.weight", "*visual_projection.weight", "*visual.proj",
)  # fmt: skip
_ATTENTION = ("attention input", "attention output")
_POOL = "*attnpool.?_proj."
# The standard deviation of a standard normal cut at two: JAX and transformers divide by it.
_CUT = 0.87962566103423978


@built_in(variants=("openai", "transformers"))
def clip(*, variant: str = "openai", layers: int | None = None) -> Recipe:
    """Make the recipe of CLIP.

    With d the width and L the number of blocks of a tower. "openai": of the text tower, inputs of
    attention N(0, d^-1/2), c_fc N(0, (2d)^-1/2), attention output and c_proj N(0, (2 L d)^-1/2),
    token embedding N(0, 0.02), positions N(0, 0.01); class token and positions of the image tower
    and both projections N(0, d^-1/2); `logit_scale` ln(1 / 0.07); biases of attention 0. The rest
    is as torch leaves it: blocks and patch convolution of the image tower, biases of MLPs. Of a
    ResNet the last norm of each block is 0 and attention pooling N(0, in^-1/2).

    "transformers": the same numbers in both towers, but those of attention's inputs and output
    swapped; embeddings, positions and patch convolution N(0, 0.02); biases 0; `logit_scale` 2.6592.

    Args:
        variant: "openai" or "transformers".
        layers: Number of blocks L of every tower, >= 1; counted in the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If the variant is neither or `layers` is < 1.

    Source: CLIP `model.py`, initialize_parameters, d05afc4; transformers `modeling_clip.py`.
        transformers#13436 was a `logit_scale` of 1.
    """
    require_layers("clip", layers)
    original = variant == "openai"
    rules = [
        rule(Match(_SCALE), math.log(1 / 0.07) if original else 2.6592, "logit scale"),
        rule(Match("*.bn3.weight"), 0.0, "last norm of a block"),
        *norms(),
        rule(Match(_PROJECTIONS, kind="weight"), _projection, "projection"),
        rule(weights("token"), _by_width, "class token"),
        *(_clip_original(layers) if original else _clip_transformers(layers)),
    ]
    source = "CLIP model.py, d05afc4; transformers modeling_clip.py"
    return Recipe(rules, name="clip", source=source)


def _clip_original(layers: int | None) -> list[Rule]:
    """Return the rules of OpenAI's code, from positions on."""
    return [
        rule(weights("position", name=_VISION), _by_width, "position of the image"),
        rule(weights("position"), Normal(0.01), "position"),
        rule(weights("embedding"), Normal(0.02), "token embedding"),
        rule(Match(f"{_POOL}weight"), normal_by_fan_in, "attention pooling"),
        rule(Match(f"{_POOL}bias"), framework_default, "bias of attention pooling"),
        rule(Match(kind="bias", role=_ATTENTION), 0.0, "bias of attention"),
        rule(Match(kind="bias", role=(*MATRICES, "convolution")), framework_default, "bias"),
        rule(weights("attention input", name=_VISION), _torch_attention, "attention of the image"),
        rule(weights("convolution", *MATRICES, name=_VISION), framework_default, "image tower"),
        rule(weights("attention input"), normal_by_fan_in, "attention input"),
        rule(weights("mlp input"), _clip_inner, "MLP input"),
        rule(weights(*RESIDUAL), _clip_output(layers), "residual projection"),
    ]


def _clip_transformers(layers: int | None) -> list[Rule]:
    """Return the rules of transformers, from positions on."""
    return [
        biases(),
        rule(weights("embedding", "position", "convolution"), Normal(0.02), "embedding"),
        rule(weights("attention input", "mlp output"), _clip_output(layers), "q, k, v, MLP output"),
        rule(weights("attention output", "head"), _by_width, "attention output"),
        rule(weights("mlp input"), _clip_inner, "MLP input"),
    ]


def _clip_output(layers: int | None) -> Callable[[Slot], Distribution]:
    """Return the fill of matrices that are scaled by the depth of their tower."""

    @described("N(0, (2 L d)^-1/2), L the blocks of the tower, d its width")
    def output(slot: Slot) -> Distribution:
        return Normal((2 * depth("clip", slot, layers) * slot.width) ** -0.5)

    return output


@described("N(0, (2d)^-1/2), d the width")
def _clip_inner(slot: Slot) -> Distribution:
    return Normal((2 * slot.width) ** -0.5)


@described("N(0, d^-1/2), d the width")
def _by_width(slot: Slot) -> Distribution:
    return Normal(slot.width**-0.5)


@described("N(0, d^-1/2), d the width of the tower")
def _projection(slot: Slot) -> Distribution:
    # A bare parameter is [width, shared width], a layer the transpose of that.
    width = slot.matrix_shape[1 if slot.own_name == "weight" else 0]
    return Normal(width**-0.5)


@described("Xavier uniform on packed q, k and v, as in MultiheadAttention")
def _torch_attention(slot: Slot) -> Distribution:
    rows, columns = slot.matrix_shape
    rows *= 3 if slot.packed == 1 and projection(slot) else 1
    bound = math.sqrt(6 / (rows + columns))
    return Uniform(-bound, bound)


@built_in(variants=("big_vision", "transformers"))
def siglip(*, variant: str = "big_vision") -> Recipe:
    """Make the recipe of SigLIP.

    With d the width. "big_vision": matrices of attention and MLP Xavier uniform, q, k and v each on
    its own; biases of the MLP N(0, 1e-6), others 0; token embedding and positions N(0, d^-1/2);
    probe (the latent query of timm's models too) U(+-sqrt(6 / (1 + d))); patch convolution and text
    head LeCun normal, truncated at two standard deviations and corrected; a classifier 0;
    `logit_scale` ln 10, `logit_bias` -10. timm's own weights are those of `vit`.

    "transformers": LeCun normals not truncated, so 1.137 times as large; output of attention
    pooling LeCun normal and its input Xavier uniform as packed; probe U(+-sqrt(3 / d)); a
    classifier N(0, d^-1/2). Scale and bias of the logits as above: its code leaves both 0.

    Args:
        variant: "big_vision" or "transformers".

    Returns:
        The recipe.

    Raises:
        ValueError: If the variant is neither.

    Source: big_vision `models/vit.py`, `models/proj/image_text`, and the notebook of SigLIP;
        transformers `modeling_siglip.py`.
    """
    original = variant == "big_vision"

    @described("LeCun normal, cut at 2 std and corrected" if original else "N(0, in^-1/2 / 0.8796)")
    def lecun(slot: Slot) -> Distribution:
        std = slot.fans.fan_in**-0.5
        return TruncNormal.corrected(std) if original else Normal(std / _CUT)

    @described(f"U(+-sqrt({'6 / (1 + d)' if original else '3 / d'})), d the width")
    def probe(slot: Slot) -> Distribution:
        width = slot.parameter.shape[-1]
        bound = math.sqrt(6 / (1 + width) if original else 3 / width)
        return Uniform(-bound, bound)

    classifier = 0.0 if original else normal_by_fan_in
    pooling = [
        rule(Match("*head.attention.in_proj_weight"), _torch_attention, "input of pooling"),
        rule(Match("*head.attention.out_proj.weight"), lecun, "output of pooling"),
    ]
    rules = [
        rule(Match(_SCALE), math.log(10), "logit scale"),
        rule(Match("*logit_bias"), -10.0, "logit bias"),
        *norms(),
        rule(Match(kind="bias", role=("mlp input", "mlp output")), Normal(1e-6), "bias of an MLP"),
        biases(),
        rule(Match(("*probe", "*attn_pool.latent")), probe, "probe"),
        rule(weights("embedding", "position"), _by_width, "embedding"),
        rule(Match("*classifier.weight"), classifier, "classifier"),
        *([] if original else pooling),
        rule(weights("convolution", "head", "linear"), lecun, "patches and heads"),
        rule(weights(*INPUTS, *RESIDUAL), _xavier, "matrix"),
    ]
    source = "big_vision models/vit.py; transformers modeling_siglip.py"
    return Recipe(rules, name="siglip", source=source)


@described("Xavier uniform, packed q, k and v each on its own")
def _xavier(slot: Slot) -> Distribution:
    return xavier_uniform(slot)
