"""Recipes of RWKV: version 7, and version 4 as transformers has it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from initstats.recipes.distributions.basic import Constant, Uniform
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.distributions.computed import Computed, formula
from initstats.recipes.distributions.orthogonal_matrices import Orthogonal
from initstats.recipes.library.building import (
    biases,
    block_number,
    built_in,
    depth,
    described,
    norms,
    require_layers,
    rule,
    weights,
)
from initstats.recipes.match import Match
from initstats.recipes.multipliers import Multipliers
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Fill, Recipe, Rule

__all__ = ["rwkv4", "rwkv7"]

# Orthogonal matrices by fla's names.
_FLA = ("*.attn.r_proj.weight", "*.attn.v_proj.weight")
# Exponents of the mixing coefficients of RWKV-7's attention, times 1 - l / L.
_MIXING = {"x_r": 0.2, "x_w": 0.9, "x_k": 0.7, "x_v": 0.7, "x_a": 0.9, "x_g": 0.2}


@formula()
def rwkv_mixing(shape: tuple[int, ...], *, exponent: float) -> torch.Tensor:
    """Return 1 - (i / C)^exponent over the C channels."""
    channels = shape[-1]
    return 1 - (torch.arange(channels).double() / channels) ** exponent


@formula()
def rwkv_channels(
    shape: tuple[int, ...], *, start: float, slope: float, zigzag: float, head_width: int
) -> torch.Tensor:
    """Return a ramp over the channels, start -+ slope / 2, plus zigzag times s |s| in each head.

    Args:
        shape: Shape of the parameter; channels are its last dimension.
        start: Mean of the ramp.
        slope: Last value less the first.
        zigzag: Factor of s |s|, where s goes from -1 to 1 over the channels of a head.
        head_width: Channels of a head.
    """
    at = torch.arange(shape[-1]).double()
    half = (head_width - 1) / 2
    s = (at % head_width - half) / half
    return start + slope * (at / (shape[-1] - 1) - 0.5) + zigzag * s * s.abs()


@formula()
def rwkv_decay(shape: tuple[int, ...], *, power: float, head_width: int) -> torch.Tensor:
    """Return -5.5 + 6 (i / (C - 1))^power over the channels, plus 2.5 s |s| in each head."""
    ramp = torch.arange(shape[-1]).double() / (shape[-1] - 1)
    start = rwkv_channels(shape, start=-5.5, slope=0.0, zigzag=2.5, head_width=head_width)
    return start + 6 * ramp**power


@built_in
def rwkv7(*, layers: int | None = None, head_width: int | None = None) -> Recipe:
    """Make the recipe of RWKV-7.

    Attention: receptance and value orthogonal, key 0.1 times that, output 0; low-rank w1, a1, v1,
    g1 0, and w2, a2, v2, g2 0.1 max(1, sqrt(rows / columns)) times orthogonal; mixing coefficients
    x_r ... x_g 1 - (i / C)^(c (1 - l / L)) for channel i of C and layer l of L, with c = 0.2 (r,
    g), 0.9 (w, a), 0.7 (k, v); w0 = -5.5 + 6 (i / (C - 1))^(1 + (l / (L - 1))^0.3) + 2.5 z, where
    z = s |s| and s goes from -1 to 1 over the channels of a head; a0 = -0.19 + 0.3 z + 0.4 r,
    v0 = 0.73 - 0.4 r, k_k = 0.71 - 0.1 r, r from -1/2 to 1/2 over the channels; k_a 1.02, r_k
    -0.04; weight of ln_x ((l + 1) / L)^0.7. Channel mixing: x_k 1 - (i / C)^((1 - l / L)^4), key
    orthogonal, value 0. Embedding U(+-0.0001); head orthogonal times sqrt(V / d) / 2 (1/2 where the
    vocabulary V is not larger than the width d). Other norms 1 and 0. The learning rate of w0 is
    doubled. The names of fla are known too (r_proj, w_lora, g_norm, ...): there low-rank matrices
    are transposed, w0, a0 and v0 their biases, and no learning rate is doubled.

    Args:
        layers: Number of layers L, >= 1; found in the model when None.
        head_width: Channels of a head, >= 2; that of r_k in the same module when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If a number is out of range, or the model does not tell it.

    Source: RWKV-LM `RWKV-v7/train_temp/src/model.py`, generate_init_weight, 524481d; fla 0.6.0
        `layers/rwkv7.py`, `layers/rwkv6.py`, `models/rwkv7/modeling_rwkv7.py`.
    """
    require_layers("rwkv7", layers)
    if head_width is not None and head_width < 2:  # noqa: PLR2004  # a zigzag needs two channels
        raise ValueError(f"initstats.rwkv7: expected head_width >= 2, got head_width={head_width}")

    def over_layers(c: float) -> Callable[[Slot], Distribution]:
        @described(f"1 - (i / C)^({c:g} (1 - l / L))")
        def fill(slot: Slot) -> Distribution:
            share = 1 - (block_number("rwkv7", slot) - 1) / depth("rwkv7", slot, layers)
            return Computed("rwkv_mixing", slot.parameter.shape, {"exponent": c * share})

        return fill

    def over_channels(
        words: str, start: float, slope: float, zigzag: float = 0.0
    ) -> Callable[[Slot], Distribution]:
        @described(words)
        def fill(slot: Slot) -> Distribution:
            width = _head_width(slot, head_width) if zigzag else 2
            arguments = {"start": start, "slope": slope, "zigzag": zigzag, "head_width": width}
            return Computed("rwkv_channels", slot.parameter.shape, arguments)

        return fill

    @described("1 - (i / C)^((1 - l / L)^4)")
    def channel_mixing(slot: Slot) -> Distribution:
        share = 1 - (block_number("rwkv7", slot) - 1) / depth("rwkv7", slot, layers)
        return Computed("rwkv_mixing", slot.parameter.shape, {"exponent": share**4})

    @described("-5.5 + 6 (i / (C - 1))^(1 + (l / (L - 1))^0.3) + 2.5 z")
    def decay(slot: Slot) -> Distribution:
        last = depth("rwkv7", slot, layers) - 1
        ratio = (block_number("rwkv7", slot) - 1) / last if last else 0.0
        arguments = {"power": 1 + ratio**0.3, "head_width": _head_width(slot, head_width)}
        return Computed("rwkv_decay", slot.parameter.shape, arguments)

    @described("((l + 1) / L)^0.7")
    def norm_of_heads(slot: Slot) -> Distribution:
        share = block_number("rwkv7", slot) / depth("rwkv7", slot, layers)
        return Constant(share**0.7)

    doubled = Multipliers(lr=2.0)
    orthogonal = ("*.att.receptance.weight", "*.att.value.weight", "*.ffn.key.weight", *_FLA)
    outputs = ("*.att.output.weight", "*.ffn.value.weight", "*.attn.o_proj.weight")
    a0 = over_channels("-0.19 + 0.3 z + 0.4 r", -0.19, 0.4, 0.3)
    rules = [
        rule(Match(("*.ln_x.weight", "*.g_norm.weight")), norm_of_heads, "norm of the heads"),
        *norms(),
        rule(Match("*.ffn.x_k"), channel_mixing, "mixing of channels"),
        *(rule(Match(f"*.{name}"), over_layers(c), "mixing") for name, c in _MIXING.items()),
        Rule(Match("*.w0"), decay, "decay", optional=True, multipliers=doubled),
        rule(Match("*.w_lora.lora.2.bias"), decay, "decay"),
        rule(Match(("*.a0", "*.a_lora.lora.2.bias")), a0, "learning rate in context"),
        rule(
            Match(("*.v0", "*.v_lora.lora.2.bias")),
            over_channels("0.73 - 0.4 r", 0.73, -0.4),
            "value residual",
        ),
        rule(Match("*.k_k"), over_channels("0.71 - 0.1 r", 0.71, -0.1), "key"),
        rule(Match("*.k_a"), 1.02, "key"),
        rule(Match("*.r_k"), -0.04, "bonus"),
        rule(Match((*(f"*.{n}1" for n in "wavg"), "*_lora.lora.0.weight")), 0.0, "low rank, in"),
        rule(Match(("*.w2", "*.a2", "*.v2", "*.g2")), _tall(0.1), "low rank, out"),
        rule(Match("*_lora.lora.2.weight"), _wide, "low rank, out"),
        rule(Match(orthogonal), _orthogonal(1.0), "matrix"),
        rule(Match(("*.att.key.weight", "*.attn.k_proj.weight")), _orthogonal(0.1), "key matrix"),
        rule(Match(outputs), 0.0, "output"),
        rule(weights("embedding"), Uniform(-1e-4, 1e-4), "embedding"),
        rule(weights("head"), _tall(0.5), "head"),
    ]
    return Recipe(rules, name="rwkv7", source="RWKV-LM v7 model.py, 524481d")


def _head_width(slot: Slot, given: int | None) -> int:
    """Return the channels of a head.

    Raises:
        ValueError: If it was not given and the module has no r_k, [heads, channels].
    """
    if given is not None:
        return given
    held = (getattr(module, "r_k", None) for module in reversed(slot.parents))
    bonus: torch.Tensor | None = next((found for found in held if found is not None), None)
    if bonus is None or bonus.dim() != 2:  # noqa: PLR2004  # a matrix
        raise ValueError(
            f"initstats.rwkv7: expected r_k [heads, channels] beside {slot.name}, got none; give "
            "head_width="
        )
    return bonus.shape[-1]


def _orthogonal(gain: float) -> Callable[[Slot], Distribution]:
    @described(f"{gain:g} x orthogonal" if gain != 1 else "orthogonal")
    def fill(slot: Slot) -> Distribution:
        rows, columns = slot.parameter.shape
        return Orthogonal(rows, columns, gain)

    return fill


@formula()
def rwkv4_mixing(shape: tuple[int, ...], *, power: float, shift: float = 0.0) -> torch.Tensor:
    """Return (i / C)^power over the C channels, plus a shift."""
    channels = shape[-1]
    return (torch.arange(channels).double() / channels) ** power + shift


@formula()
def rwkv4_decay(shape: tuple[int, ...], *, power: float) -> torch.Tensor:
    """Return -5 + 8 (i / (C - 1))^power over the C channels."""
    channels = shape[-1]
    return 8 * (torch.arange(channels).double() / (channels - 1)) ** power - 5


@formula()
def rwkv4_bonus(shape: tuple[int, ...]) -> torch.Tensor:
    """Return ln 0.3 plus 1/2 times 0, 1, -1, 0, 1, -1, ... over the channels."""
    return math.log(0.3) + 0.5 * ((torch.arange(shape[-1]) + 1) % 3 - 1).double()


@built_in(variants=("zigzag", "transformers"))
def rwkv4(*, variant: str = "zigzag", layers: int | None = None) -> Recipe:
    """Make the recipe of RWKV-4 in transformers.

    Matrices orthogonal, times sqrt(rows / columns) where that is larger than 1; the head half of
    that; embedding orthogonal times 0.0001 sqrt(max(V, d)), V the vocabulary and d the width;
    time_decay -5 + 8 (i / (C - 1))^(0.7 + 1.3 l / (L - 1)) for channel i of C and layer l of L;
    mixing coefficients (i / C)^(1 - l / L), of the attention's value plus 0.3 l / (L - 1), of its
    receptance (i / C)^((1 - l / L) / 2); time_first ln 0.3 plus 1/2 times 0, 1, -1, 0, 1, -1, ...:
    "transformers" computes that and writes 1. Norms 1 and 0. A single layer counts as the first.

    Args:
        variant: "zigzag", or "transformers" with time_first 1.
        layers: Number of layers L, >= 1; found in the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If an option is out of range.

    Source: transformers `models/rwkv/modeling_rwkv.py`, 5.24.0, `_init_weights`. RWKV-LM itself
        starts more of the matrices at 0.
    """
    require_layers("rwkv4", layers)

    def place(slot: Slot) -> tuple[float, float]:
        """Return l / (L - 1) and 1 - l / L."""
        count, index = depth("rwkv4", slot, layers), block_number("rwkv4", slot) - 1
        return index / max(1, count - 1), 1 - index / count

    def mixing(words: str, factor: float = 1.0, shift: float = 0.0) -> Fill:
        @described(words)
        def fill(slot: Slot) -> Distribution:
            up, down = place(slot)
            arguments = {"power": factor * down, "shift": shift * up}
            return Computed("rwkv4_mixing", slot.parameter.shape, arguments)

        return fill

    @described("-5 + 8 (i / (C - 1))^(0.7 + 1.3 l / (L - 1))")
    def decay(slot: Slot) -> Distribution:
        power = 0.7 + 1.3 * place(slot)[0]
        return Computed("rwkv4_decay", slot.parameter.shape, {"power": power})

    @described("1" if variant == "transformers" else "ln 0.3 + (0, 1, -1, ...) / 2")
    def bonus(slot: Slot) -> Distribution:
        if variant == "transformers":
            return Constant(1.0)
        return Computed("rwkv4_bonus", slot.parameter.shape)

    value = mixing("(i / C)^(1 - l / L) + 0.3 l / (L - 1)", shift=0.3)
    receptance = mixing("(i / C)^((1 - l / L) / 2)", 0.5)
    rest = ("*.time_mix_key", "*.time_mix_receptance")
    matrices = ("attention input", "attention output", "linear")
    rules = [
        *norms(),
        rule(Match("*.time_decay"), decay, "decay"),
        rule(Match("*.time_first"), bonus, "bonus"),
        rule(Match("*.time_mix_value"), value, "mixing of values"),
        rule(Match("*.attention.time_mix_receptance"), receptance, "mixing of receptances"),
        rule(Match(rest), mixing("(i / C)^(1 - l / L)"), "mixing"),
        rule(weights(*matrices), _tall(1.0), "matrix"),
        rule(weights("head"), _tall(0.5), "head"),
        rule(weights("embedding"), _small_rows, "embedding"),
        biases(),
    ]
    return Recipe(rules, name="rwkv4", source="transformers modeling_rwkv.py, 5.24.0")


def _tall(factor: float) -> Callable[[Slot], Distribution]:
    @described(f"{factor:g} max(1, sqrt(rows / columns)) x orthogonal")
    def fill(slot: Slot) -> Distribution:
        rows, columns = slot.parameter.shape
        return Orthogonal(rows, columns, factor * max(1.0, math.sqrt(rows / columns)))

    return fill


@described("0.1 max(1, sqrt(columns / rows)) x orthogonal")
def _wide(slot: Slot) -> Distribution:
    rows, columns = slot.parameter.shape
    return Orthogonal(rows, columns, 0.1 * max(1.0, math.sqrt(columns / rows)))


@described("0.0001 sqrt(max(V, d)) x orthogonal")
def _small_rows(slot: Slot) -> Distribution:
    rows, columns = slot.parameter.shape
    return Orthogonal(rows, columns, 1e-4 * math.sqrt(max(rows, columns)))
