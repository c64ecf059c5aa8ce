"""Recipes of convolutional networks: ResNet, EfficientNet, ConvNeXt, Fixup."""

from __future__ import annotations

import math

from initstats.init.fans import calculate_fan_in_and_fan_out
from initstats.recipes.distributions.basic import Constant, Normal, Uniform
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.distributions.truncated import TruncNormal
from initstats.recipes.library.building import (
    MATRICES,
    biases,
    built_in,
    described,
    framework_default,
    norm_scale,
    norms,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.residual_branches import place_in_branch
from initstats.recipes.rule import Recipe

__all__ = ["convnext", "efficientnet", "fixup", "resnet"]


@built_in
def resnet(*, zero_init_residual: bool = False, grouped_fans: bool = False) -> Recipe:
    """Make the recipe of ResNet.

    Convolutions Kaiming normal on fan_out, gain of ReLU: N(0, sqrt(2 / (out k^2))); norms 1 and 0;
    the classifier as torch leaves it, U(+-1 / sqrt(fan_in)).

    Args:
        zero_init_residual: Set the scale of the last norm of each residual block to 0, so that
            every block starts as the identity. torchvision's default is off, timm's is on.
        grouped_fans: Divide fan_out by the number of groups, as the layer does; torch's
            `kaiming_normal_`, which the references call, does not (pytorch#23854).

    Returns:
        The recipe.

    Source: torchvision `resnet.py`; timm `resnet.py`; He et al. 2015; transformers
        `modeling_resnet.py` has the same numbers.
    """

    @described("N(0, sqrt(2 / fan_out)), Kaiming normal for ReLU")
    def convolution(slot: Slot) -> Distribution:
        torch_fans = calculate_fan_in_and_fan_out(slot.parameter)
        fans = slot.fans if grouped_fans else torch_fans
        return Normal(math.sqrt(2 / fans.fan_out))

    @described("0 for the last norm of a block, else 1" if zero_init_residual else "1")
    def scale(slot: Slot) -> Distribution:
        place = place_in_branch(slot) if zero_init_residual else None
        last = place is not None and place.index == place.count - 1
        return Constant(0.0) if last else norm_scale(slot)

    rules = [
        rule(weights("norm"), scale, "norm scale"),
        *norms()[1:],
        rule(weights("convolution"), convolution, "convolution"),
        rule(Match(role="convolution", kind="bias"), framework_default, "bias of a convolution"),
        rule(Match(role=MATRICES), framework_default, "classifier"),
    ]
    return Recipe(rules, name="resnet", source="torchvision resnet.py; He et al. 2015")


@built_in(variants=("timm", "torchvision"))
def efficientnet(*, variant: str = "timm") -> Recipe:
    """Make the recipe of EfficientNet.

    "timm": convolutions N(0, sqrt(2 / (k^2 out / groups))), so that a depthwise one has the fan it
    really has. "torchvision": N(0, sqrt(2 / (k^2 out))), groups not counted. In both, norms 1 and
    0; Linear U(+-1 / sqrt(fan_out)); biases 0.

    Args:
        variant: "timm" or "torchvision".

    Returns:
        The recipe.

    Raises:
        ValueError: If the variant is neither.

    Source: timm `_efficientnet_builder.py`, _init_weight_goog; Tan and Le 2019; torchvision
        `efficientnet.py` (torch's `kaiming_normal_`, pytorch#23854).
    """
    by_groups = variant == "timm"

    @described(f"N(0, sqrt(2 {'groups ' if by_groups else ''}/ (k^2 out)))")
    def convolution(slot: Slot) -> Distribution:
        fans = slot.fans if by_groups else calculate_fan_in_and_fan_out(slot.parameter)
        return Normal(math.sqrt(2 / fans.fan_out))

    @described("U(+-1 / sqrt(fan_out))")
    def linear(slot: Slot) -> Distribution:
        bound = slot.fans.fan_out**-0.5
        return Uniform(-bound, bound)

    rules = [
        *norms(),
        biases(),
        rule(weights("convolution"), convolution, "convolution"),
        rule(weights(*MATRICES), linear, "classifier"),
    ]
    source = "timm _efficientnet_builder.py; torchvision efficientnet.py"
    return Recipe(rules, name="efficientnet", source=source)


@built_in
def convnext(*, std: float = 0.02, layer_scale: float = 1e-6, head_scale: float = 1.0) -> Recipe:
    """Make the recipe of ConvNeXt.

    Convolutions and Linear TN(0, std) at the absolute bounds +-2, which cuts nothing; biases 0;
    norms 1 and 0; layer scale 1e-6; the head times `head_scale`.

    Args:
        std: Standard deviation, > 0.
        layer_scale: Value of the layer scale, > 0.
        head_scale: Factor of the weight of the head (`head_init_scale`), > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If a number is not finite and > 0.

    Source: ConvNeXt `models/convnext.py`; transformers `modeling_convnext.py`.
    """
    require_positive("convnext", std=std, layer_scale=layer_scale, head_scale=head_scale)
    rules = [
        *norms(),
        biases(),
        rule(weights("gate"), layer_scale, "layer scale"),
        rule(weights("convolution"), TruncNormal(std), "convolution"),
        rule(weights("head"), TruncNormal(std).scaled(head_scale), "head"),
        rule(weights(*MATRICES), TruncNormal(std), "matrix"),
    ]
    return Recipe(rules, name="convnext", source="ConvNeXt models/convnext.py")


@built_in
def fixup(*, layers: int | None = None) -> Recipe:
    """Make the recipe of Fixup, for residual networks without norms.

    With L residual branches of m convolutions: all but the last of a branch
    N(0, sqrt(2 / (out k^2)) L^(-1 / (2m - 2))), the last 0, and so is the classifier; scalar
    biases 0, scalar multipliers 1; other convolutions N(0, sqrt(2 / (out k^2))).

    Args:
        layers: Number of residual branches L, >= 1; counted in the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If `layers` is not > 0.

    Source: Zhang et al. 2019, "Fixup initialization", section 3.2, and its `fixup_resnet_cifar.py`.
    """
    require_positive("fixup", layers=layers)

    @described("N(0, sqrt(2 / fan_out) L^(-1/(2m-2))), the last of a branch 0")
    def convolution(slot: Slot) -> Distribution:
        std = math.sqrt(2 / calculate_fan_in_and_fan_out(slot.parameter).fan_out)
        place = place_in_branch(slot)
        if place is None:
            return Normal(std)
        if place.index == place.count - 1:
            return Constant(0.0)
        branches = layers or place.branches
        return Normal(std * branches ** (-1 / (2 * place.count - 2)))

    rules = [
        *norms(),
        rule(weights("convolution"), convolution, "convolution"),
        rule(Match(role=("head", "linear")), 0.0, "classifier"),
        rule(Match("*bias*", role=("convolution", "other")), 0.0, "bias"),
        rule(Match(("*scale*", "*multiplier*"), role=("gate", "other")), 1.0, "multiplier"),
    ]
    return Recipe(rules, name="fixup", source="Zhang et al. 2019; fixup_resnet_cifar.py")
