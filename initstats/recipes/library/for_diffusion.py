"""Recipes of generators of images: the UNets of ADM, EDM and EDM 2, Flux, StyleGAN 2."""

from __future__ import annotations

import math
from collections.abc import Callable

from initstats.init.fans import calculate_fan_in_and_fan_out
from initstats.recipes.distributions.basic import Normal, Uniform
from initstats.recipes.distributions.composite import Distribution
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
from initstats.recipes.rule import Recipe

__all__ = ["adm_unet", "edm", "edm2", "flux", "stylegan2"]

_ADM_LAST = ("*out_layers.3.*", "*proj_out.*", "out.2.*", "*.out.2.*")
_EDM_LAST = ("*.conv1.*", "*.proj.*", "*aux_conv.*", "*out_conv.*")
_FLUX_ZERO = ("*_mod.lin.*", "*modulation.lin.*", "*final_layer.*")
_FLUX_MLP = ("*time_in.*", "*vector_in.*")


@built_in
def adm_unet() -> Recipe:
    """Make the recipe of the UNet of ADM (guided diffusion).

    As torch leaves it: U(+-1 / sqrt(in)), weight and bias, label table N(0, 1), norms 1 and 0. The
    second convolution of each residual block, the output of attention and the last convolution are
    0, so that every block starts as its shortcut and the model as 0.

    Returns:
        The recipe.

    Source: guided-diffusion `unet.py`, zero_module. The UNet of diffusers has no such zeros
        (diffusers#3917).
    """
    rules = [
        *norms(),
        rule(Match(_ADM_LAST), 0.0, "last layer of a branch"),
        rule(weights("embedding"), Normal(1.0), "label table"),
        rule(Match(role=(*MATRICES, "convolution")), framework_default, "layer"),
    ]
    return Recipe(rules, name="adm_unet", source="guided-diffusion unet.py")


@built_in(variants=("ddpmpp", "adm"))
def edm(*, variant: str = "ddpmpp") -> Recipe:
    """Make the recipe of the UNets of EDM.

    "ddpmpp" (NCSN++ the same): Xavier uniform; q, k and v, as one matrix, times sqrt(0.2); the
    second convolution of a block, the output of attention and the output of the model times 1e-5;
    biases 0. "adm": U(+-1 / sqrt(in)), weight and bias; those layers, and the embedding of
    augmentations, 0; embedding of labels N(0, 1). In both norms 1 and 0.

    Args:
        variant: "ddpmpp" or "adm".

    Returns:
        The recipe.

    Raises:
        ValueError: If the variant is neither.

    Source: edm `training/networks.py`, weight_init, SongUNet and DhariwalUNet.
    """
    source = "edm training/networks.py"
    if variant == "adm":
        rules = [
            *norms(),
            rule(Match((*_EDM_LAST, "*map_augment.*")), 0.0, "last layer of a branch"),
            rule(Match("*map_label.weight"), Normal(1.0), "label"),
            rule(Match(("*.weight", "*.bias")), framework_default, "layer"),
        ]
        return Recipe(rules, name="edm", source=source)
    rules = [
        *norms(),
        rule(Match(kind="bias"), 0.0, "bias"),
        rule(Match(_EDM_LAST, kind="weight"), _whole_xavier(1e-5), "last layer of a branch"),
        rule(Match("*.qkv.weight"), _whole_xavier(math.sqrt(0.2)), "q, k, v"),
        rule(Match("*.weight"), _whole_xavier(1.0), "layer"),
    ]
    return Recipe(rules, name="edm", source=source)


@built_in
def edm2() -> Recipe:
    """Make the recipe of the magnitude-preserving UNet of EDM 2.

    Every weight N(0, 1), also of linear layers: the model divides each output's weights by their
    norm when it uses them. Gains of embeddings and of the output 0. Fourier features (buffers):
    frequencies N(0, 2 pi), phases U(0, 2 pi).

    Returns:
        The recipe.

    Source: edm2 `training/networks_edm2.py`, 4bf8162, MPConv and MPFourier.
    """
    rules = [
        rule(Match(("*emb_gain", "*out_gain")), 0.0, "gain"),
        rule(Match("*.freqs"), Normal(2 * math.pi), "frequencies"),
        rule(Match("*.phases"), Uniform(0.0, 2 * math.pi), "phases"),
        rule(Match("*.weight", kind="weight"), Normal(1.0), "layer"),
    ]
    return Recipe(rules, name="edm2", source="edm2 networks_edm2.py, 4bf8162")


@built_in
def flux(*, std: float = 0.02) -> Recipe:
    """Make the recipe of Flux in torchtitan.

    Linear Xavier uniform, packed layers as one matrix; MLPs of time and of the text vector N(0,
    std); modulations and the final layer 0, weight and bias; other biases 0; norms of queries and
    keys 1.

    Args:
        std: Standard deviation of the two MLPs, > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If `std` is not finite and > 0.

    Source: torchtitan `models/flux`, b5bcd76.
    """
    require_positive("flux", std=std)
    rules = [
        *norms(),
        rule(Match(_FLUX_ZERO), 0.0, "modulation and final layer"),
        biases(),
        rule(Match(_FLUX_MLP, kind="weight"), Normal(std), "time and vector"),
        rule(weights(*MATRICES), _whole_xavier(1.0), "matrix"),
    ]
    return Recipe(rules, name="flux", source="torchtitan models/flux, b5bcd76")


@built_in
def stylegan2(*, mapping_lr: float = 0.01) -> Recipe:
    """Make the recipe of StyleGAN 2 and 3.

    Every weight and the constant input N(0, 1), since layers multiply by 1 / sqrt(in) when they
    run; those of the mapping network N(0, 1 / mapping_lr); biases of affine layers 1, others 0;
    strength of noise 0. Buffers: fixed noise N(0, 1), mean of the latents 0.

    Args:
        mapping_lr: Factor of the learning rate by which layers of the mapping network multiply,
            > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If `mapping_lr` is not finite and > 0.

    Source: stylegan2-ada-pytorch `training/networks.py`; stylegan3
        `training/networks_stylegan2.py`.
    """
    require_positive("stylegan2", mapping_lr=mapping_lr)
    rules = [
        rule(Match("*noise_strength"), 0.0, "strength of noise"),
        rule(Match("*noise_const"), Normal(1.0), "fixed noise"),
        rule(Match("*w_avg"), 0.0, "mean of the latents"),
        rule(Match("*.affine.bias"), 1.0, "style"),
        rule(Match(kind="bias"), 0.0, "bias"),
        rule(Match("*mapping.fc*.weight"), Normal(1 / mapping_lr), "mapping"),
        rule(Match(("*.weight", "*.const")), Normal(1.0), "weight"),
    ]
    return Recipe(rules, name="stylegan2", source="stylegan3 networks_stylegan2.py")


def _whole_xavier(gain: float) -> Callable[[Slot], Distribution]:
    """Return the Xavier uniform fill of a layer whose packed parts count as one."""

    @described(f"Xavier uniform{f', times {gain:g}' if gain != 1 else ''}")
    def fill(slot: Slot) -> Distribution:
        bound = gain * math.sqrt(6 / sum(calculate_fan_in_and_fan_out(slot.parameter)[:2]))
        return Uniform(-bound, bound)

    return fill
