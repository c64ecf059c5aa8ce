"""Recipes of images: Swin, Swin 2, DINOv2 and 3, masked autoencoders, ConvNeXt 2."""

from __future__ import annotations

import math

import torch

from initstats.recipes.distributions.basic import Normal, Uniform
from initstats.recipes.distributions.composite import Distribution, Kept
from initstats.recipes.distributions.computed import Computed, formula
from initstats.recipes.distributions.truncated import TruncNormal
from initstats.recipes.library.building import (
    MATRICES,
    RESIDUAL,
    biases,
    block_number,
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

__all__ = ["convnextv2", "dinov2", "mae", "swin", "swin_v2"]

_SWIN = ("microsoft", "transformers")
_POST_NORMS = ("*.norm1.*", "*.norm2.*", "*.layernorm_before.*", "*.layernorm_after.*")


@built_in(variants=_SWIN)
def swin(*, variant: str = "microsoft", std: float = 0.02) -> Recipe:
    """Make the recipe of the Swin transformer.

    "microsoft": Linear, tables of relative positions and absolute positions TN(0, std) at the
    absolute bounds +-2, which cuts nothing; the mask token the same; the patch convolution as torch
    leaves it; biases 0; norms 1 and 0. "transformers": Linear and convolutions N(0, std); tables,
    positions and mask token 0.

    Args:
        variant: "microsoft" (timm has the same) or "transformers".
        std: Standard deviation, > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If the variant is neither or `std` is not finite and > 0.

    Source: Swin-Transformer `models/swin_transformer.py`; transformers `modeling_swin.py`.
    """
    require_positive("swin", std=std)
    source = "Swin-Transformer swin_transformer.py; transformers modeling_swin.py"
    return Recipe([*norms(), *_swin_layers(variant, std)], name="swin", source=source)


@built_in(variants=_SWIN)
def swin_v2(*, variant: str = "microsoft", std: float = 0.02) -> Recipe:
    """Make the recipe of the second Swin transformer.

    As `swin`, with the MLP of continuous positions among the matrices; `logit_scale` ln 10. The two
    norms of a block come after attention and MLP: their scales and shifts are 0 in "microsoft", so
    that every block starts as the identity. "transformers" leaves these scales at 1.

    Args:
        variant: "microsoft" (timm has the same) or "transformers".
        std: Standard deviation, > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If the variant is neither or `std` is not finite and > 0.

    Source: Swin-Transformer `models/swin_transformer_v2.py`, _init_respostnorm; transformers
        `modeling_swinv2.py`.
    """
    require_positive("swin_v2", std=std)
    last = [rule(Match(_POST_NORMS, role="norm"), 0.0, "norm after a branch")]
    rules = [
        rule(Match("*.logit_scale"), math.log(10), "logit scale"),
        *(last if variant == "microsoft" else []),
        *norms(),
        *_swin_layers(variant, std),
    ]
    source = "Swin-Transformer swin_transformer_v2.py; transformers modeling_swinv2.py"
    return Recipe(rules, name="swin_v2", source=source)


def _swin_layers(variant: str, std: float) -> list[Rule]:
    """Return the rules of the two generations of Swin, norms apart."""
    if variant == "transformers":
        return [
            biases(),
            rule(weights("position", "token"), 0.0, "positions and mask token"),
            rule(weights("convolution", *MATRICES), Normal(std), "matrix"),
        ]
    fill = TruncNormal.absolute(std)
    return [
        rule(Match(role="convolution"), framework_default, "patch convolution"),
        biases(),
        rule(weights("position", "token"), fill, "positions and mask token"),
        rule(weights(*MATRICES), fill, "matrix"),
    ]


_DINO = ("dinov2", "dinov3", "dinov3_timm", "transformers")


@formula()
def mask_of_key_bias(shape: tuple[int, ...]) -> torch.Tensor:
    """Return 1 for the biases of q and v in a packed vector, 0 for those of k in between.

    Source: dinov3 `layers/attention.py`, LinearKMaskedBias, and `models/vision_transformer.py`.
    """
    mask = torch.ones(shape, dtype=torch.float64)
    mask[shape[0] // 3 : 2 * shape[0] // 3] = 0
    return mask


@built_in(variants=_DINO)
def dinov2(
    *, variant: str = "dinov2", std: float = 0.02, layer_scale: float | None = None
) -> Recipe:
    """Make the recipe of DINOv2, and of DINOv3.

    Linear and position embedding TN(0, std) at the absolute bounds +-2, which cuts nothing; biases
    0; norms 1 and 0; mask token 0. "dinov2": class and register tokens N(0, 1e-6), layer scale
    1e-5, the patch convolution as torch leaves it. "dinov3": as that, but class and storage tokens
    N(0, 0.02), and the buffers that mask the biases of keys. "dinov3_timm": timm's, where class and
    register tokens are as Linear, attn.proj and mlp.fc2 divided by sqrt(2 (l + 1)), l the index of
    the block, and the head times 0.001. "transformers": convolution and class token as Linear,
    register tokens 0, layer scale 1.

    Args:
        variant: "dinov2", "dinov3", "dinov3_timm" or "transformers".
        std: Standard deviation, > 0.
        layer_scale: Value of the layer scale, > 0; that of the variant when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If the variant is none of these or a number is not finite and > 0.

    Source: dinov2 `models/vision_transformer.py`; dinov3 `models/vision_transformer.py`, 6876159;
        timm `eva.py`, init_weights and fix_init_weight; transformers `modeling_dinov2.py` and
        `modeling_dinov2_with_registers.py`. The layer scale got lost in timm#2605 (reset to 1) and
        dinov2#476 (built on the meta device).
    """
    require_positive("dinov2", std=std, layer_scale=layer_scale)
    fill = TruncNormal.absolute(std)
    if variant == "transformers":
        convolution = rule(weights("convolution"), fill, "patch convolution")
        tokens = [
            rule(weights("token", name="*register_tokens"), 0.0, "register"),
            rule(weights("token"), fill, "class token"),
        ]
    else:
        convolution = rule(Match(role="convolution"), framework_default, "patch convolution")
        token = {"dinov2": Normal(1e-6), "dinov3": Normal(0.02)}.get(variant, fill)
        names = ("*cls_token", "*register_tokens", "*storage_tokens", "*reg_token")
        tokens = [rule(Match(names), token, "class and register tokens")]
    scale = layer_scale or (1.0 if variant == "transformers" else 1e-5)
    rules = [
        *norms(),
        rule(Match("*.qkv.bias_mask"), _key_mask, "mask of biases"),
        rule(weights("gate"), scale, "layer scale"),
        convolution,
        biases(),
        rule(Match("*mask_token"), 0.0, "mask token"),
        *tokens,
        rule(weights("position"), fill, "position"),
        *(_of_timm(fill) if variant == "dinov3_timm" else []),
        rule(weights(*MATRICES), fill, "matrix"),
    ]
    source = "dinov2 and dinov3 vision_transformer.py; transformers modeling_dinov2.py"
    return Recipe(rules, name="dinov2", source=source)


def _of_timm(fill: TruncNormal) -> list[Rule]:
    """Return the rules of timm's DINOv3 that the original has not."""

    @described(f"TN(0, {fill.std:g}), divided by sqrt(2 (l + 1))")
    def output(slot: Slot) -> Distribution:
        return fill.scaled((2 * block_number("dinov2", slot)) ** -0.5)

    return [
        rule(weights(*RESIDUAL), output, "residual projection"),
        rule(weights("head"), fill.scaled(0.001), "head"),
    ]


@described("1 for q and v, 0 for k")
def _key_mask(slot: Slot) -> Distribution:
    return Computed("mask_of_key_bias", tuple(slot.parameter.shape))


_FIXED = ("*decoder_pos_embed", "*pos_embed", "*position_embeddings")


@built_in(variants=("facebook", "transformers"))
def mae(*, variant: str = "facebook", std: float = 0.02, positions: bool = True) -> Recipe:
    """Make the recipe of masked autoencoders.

    "facebook": Linear and the flattened patch convolution Xavier uniform, packed q, k and v as one
    matrix; the bias of the convolution as torch leaves it. "transformers": N(0, std), and that bias
    0. In both, class and mask token N(0, std), both tables of positions sines and cosines of a
    square grid with a row of zeros for the class token, other biases 0, norms 1 and 0.

    Args:
        variant: "facebook" or "transformers".
        std: Standard deviation, > 0.
        positions: Write the tables of positions; False leaves them as the model has them.

    Returns:
        The recipe.

    Raises:
        ValueError: If the variant is neither, `std` is not finite and > 0, or (in a plan) the
            patches form no square.

    Source: mae `models_mae.py`, initialize_weights, and `util/pos_embed.py`; transformers
        `modeling_vit_mae.py`, which leaves tables and tokens 0 if built without a checkpoint.
    """
    require_positive("mae", std=std)

    @described("Xavier uniform on the flattened matrix, packed q, k and v as one")
    def xavier(slot: Slot) -> Distribution:
        bound = math.sqrt(6 / sum(slot.matrix_shape))
        return Uniform(-bound, bound)

    table = _square_table if positions else Kept("fixed positions")
    original = variant == "facebook"
    rules = [
        *norms(),
        rule(Match(_FIXED), table, "position"),
        rule(weights("token"), Normal(std), "token"),
        *(
            [rule(Match(role="convolution", kind="bias"), framework_default, "bias of patches")]
            if original
            else []
        ),
        biases(),
        rule(weights("convolution", *MATRICES), xavier if original else Normal(std), "matrix"),
    ]
    source = "mae models_mae.py; transformers modeling_vit_mae.py"
    return Recipe(rules, name="mae", source=source)


@described("sines and cosines of a square grid")
def _square_table(slot: Slot) -> Distribution:
    patches = slot.parameter.shape[-2] - 1
    if math.isqrt(patches) ** 2 != patches:
        raise ValueError(
            f"initstats.mae: expected positions of a square grid and a class token, got "
            f"{patches} + 1 in {slot.name}; write the table yourself and pass positions=False"
        )
    return Computed("sincos_2d", tuple(slot.parameter.shape), {"prefix": 1})


@built_in
def convnextv2(*, std: float = 0.02, head_scale: float = 1.0) -> Recipe:
    """Make the recipe of ConvNeXt V2.

    Convolutions and Linear TN(0, std) at the absolute bounds +-2, which cuts nothing; biases 0;
    norms 1 and 0; both parameters of global response normalisation 0, so that it starts as the
    identity; no layer scale; the head times `head_scale`.

    Args:
        std: Standard deviation, > 0.
        head_scale: Factor of the weight of the head (`head_init_scale`), > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If a number is not finite and > 0.

    Source: ConvNeXt-V2 `models/convnextv2.py`; transformers `modeling_convnextv2.py`.
    """
    require_positive("convnextv2", std=std, head_scale=head_scale)
    response = ("GRN", "GlobalResponseNorm", "ConvNextV2GRN")
    fill = TruncNormal.absolute(std)
    rules = [
        rule(Match(module=response), 0.0, "global response norm"),
        *norms(),
        biases(),
        rule(weights("head"), fill.scaled(head_scale), "head"),
        rule(weights("convolution", *MATRICES), fill, "matrix"),
    ]
    return Recipe(rules, name="convnextv2", source="ConvNeXt-V2 models/convnextv2.py")
