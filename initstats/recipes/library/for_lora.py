"""Recipes of low-rank adapters: LoRA, rsLoRA, DoRA, AdaLoRA, VeRA. Other parameters stay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import nn

from initstats.recipes.distributions.basic import Constant, Normal, Uniform
from initstats.recipes.distributions.composite import Distribution, Kept
from initstats.recipes.distributions.derived import Derived
from initstats.recipes.distributions.half_basis import HalfBasis
from initstats.recipes.library.building import (
    built_in,
    described,
    require_positive,
    rule,
)
from initstats.recipes.match import Match
from initstats.recipes.multipliers import Forward
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe, Rule

__all__ = ["adalora", "dora", "lora", "rslora", "vera"]

_VARIANTS = {
    "kaiming": ("U(+-1 / sqrt(in))", "0"),
    "gaussian": ("N(0, 1 / r)", "0"),
    "orthogonal": ("one half of a basis", "the other half of the basis of A"),
}


@built_in(variants=tuple(_VARIANTS))
def lora(*, variant: str = "kaiming") -> Recipe:
    """Make the recipe of LoRA: the product B A starts as zero, so the model is unchanged.

    A Kaiming uniform with a = sqrt(5), which is U(+-1 / sqrt(in)), B 0. For an embedding A 0 and
    B N(0, 1). Fans are taken of the full matrix, so A does not depend on sharding
    (Megatron-Bridge#5840). PiSSA and OLoRA start from the trained weight instead of random
    numbers: `initstats.lora_from_weight_`.

    Args:
        variant: "kaiming"; "gaussian" for A N(0, 1 / r) with r the rank; "orthogonal" for normals
            of std 0.1 / sqrt(2) in both, A in one half of a random basis of r dimensions and B in
            the other (`HalfBasis`), so that neither is 0 and B A is, up to rounding: r is even.

    Returns:
        The recipe. It is partial: all other parameters are left as they are.

    Raises:
        ValueError: If `variant` is none of the three; when it is applied, if r is odd with
            "orthogonal".

    Source: peft `tuners/lora/layer.py`, reset_lora_parameters and orthogonal_init, 5d602fd; Hu et
        al. 2021.
    """
    return Recipe(_lora_rules("lora", variant), "lora", _LAYER, partial=True)


@built_in(variants=tuple(_VARIANTS))
def rslora(*, variant: str = "kaiming", alpha: float | None = None) -> Recipe:
    """Make the recipe of rank-stabilised LoRA: matrices as `lora`, their product scaled otherwise.

    The model itself multiplies B A by alpha / sqrt(r), not alpha / r; `plan` compares that with
    what peft's layers state.

    Args:
        variant: As in `lora`.
        alpha: `lora_alpha`, > 0; None for what peft's layers state.

    Returns:
        The recipe. It is partial: all other parameters are left as they are.

    Raises:
        ValueError: If `variant` is none of the three or `alpha` not finite and > 0.

    Source: peft `tuners/lora/layer.py`, update_layer (use_rslora), 5d602fd; Kalajdzievski 2023,
        "A rank stabilization scaling factor for fine-tuning with LoRA".
    """
    require_positive("rslora", alpha=alpha)

    def forward(groups: Sequence[tuple[Slot, ...]]) -> list[Forward]:
        return _scalings(groups, alpha)

    rules = _lora_rules("rslora", variant)
    return Recipe(rules, "rslora", _LAYER, partial=True, forward=forward)


@built_in(variants=tuple(_VARIANTS))
def dora(*, variant: str = "kaiming") -> Recipe:
    """Make the recipe of DoRA: matrices as `lora`, magnitudes the norms of the trained weight.

    One magnitude per output: the norm of its row of `base_layer.weight` (of its column where the
    weight is [in, out], as in embeddings and transformers' Conv1D). B A is 0, so the model is
    unchanged.

    Args:
        variant: As in `lora`.

    Returns:
        The recipe. It is partial: all other parameters are left as they are.

    Raises:
        ValueError: If `variant` is none of the three.

    Source: peft `tuners/lora/dora.py`, update_layer, 5d602fd; Liu et al. 2024, "DoRA:
        Weight-Decomposed Low-Rank Adaptation".
    """
    magnitude = rule(Match("*lora_magnitude_vector*", role="adapter"), _magnitude, "magnitude")
    rules = [magnitude, *_lora_rules("dora", variant)]
    return Recipe(rules, "dora", "peft tuners/lora/dora.py, 5d602fd", partial=True)


@built_in
def adalora() -> Recipe:
    """Make the recipe of AdaLoRA: A and B N(0, 0.02), the singular values E 0.

    B diag(E) A is 0, so the model is unchanged. `ranknum` is the rank, which is how many singular
    values there are.

    Returns:
        The recipe. It is partial: all other parameters are left as they are.

    Source: peft `tuners/adalora/layer.py`, reset_lora_parameters, 5d602fd; Zhang et al. 2023.
        E was normal once, which peft#1798 reports.
    """

    @described("r")
    def rank(slot: Slot) -> Distribution:
        values = getattr(slot.parents[-2], "lora_E", {})
        name = slot.own_name
        return Constant(float(len(values[name]))) if name in values else Kept("the rank")

    rules = [
        rule(Match("*lora_E*", role="adapter"), 0.0, "singular values"),
        rule(Match(("*lora_A*", "*lora_B*"), role="adapter"), Normal(0.02), "A and B"),
        rule(Match("*ranknum.*"), rank, "ranknum"),
    ]
    return Recipe(rules, "adalora", "peft tuners/adalora/layer.py, 5d602fd", partial=True)


@built_in
def vera(*, d_initial: float = 0.1) -> Recipe:
    """Make the recipe of VeRA: shared random A and B, d 0.1 and b 0, so the model is unchanged.

    A and B are buffers, Kaiming uniform with gain sqrt(2): U(+-sqrt(6 / fan_in)). Where peft does
    not save them (`save_projection=False`) it makes them from `projection_prng_key` whenever the
    adapter is loaded, and they are kept.

    Args:
        d_initial: Value of d, the factors along the rank, finite and > 0.

    Returns:
        The recipe. It is partial: all other parameters are left as they are.

    Raises:
        ValueError: If `d_initial` is not finite and > 0.

    Source: peft `tuners/vera/layer.py`, reset_vera_parameters, and `tuners/vera/model.py`,
        _kaiming_init, 5d602fd; Kopiczko et al. 2024.
    """
    require_positive("vera", d_initial=d_initial)

    @described("U(+-sqrt(6 / fan_in))")
    def projection(slot: Slot) -> Distribution:
        unsaved = slot.module._non_persistent_buffers_set  # noqa: SLF001  # no public way to ask
        if slot.own_name in unsaved:
            return Kept("made from projection_prng_key")
        bound = math.sqrt(6 / slot.parameter.shape[1])
        return Uniform(-bound, bound)

    rules = [
        rule(Match("*vera_lambda_d*", role="adapter"), d_initial, "d"),
        rule(Match("*vera_lambda_b*", role="adapter"), 0.0, "b"),
        rule(Match(("*vera_A.*", "*vera_B.*"), role="adapter"), projection, "A and B"),
    ]
    return Recipe(rules, "vera", "peft tuners/vera/layer.py, 5d602fd", partial=True)


_LAYER = "peft tuners/lora/layer.py, 5d602fd"


def _lora_rules(recipe: str, variant: str) -> list[Rule]:
    """Return the rules for A and B."""

    @described(_VARIANTS[variant][0])
    def down(slot: Slot) -> Distribution:
        rank, inputs = slot.matrix_shape
        if variant == "gaussian":
            return Normal(1 / rank)
        if variant == "orthogonal":
            return _half(recipe, slot, rank, "odd")
        return Uniform(-(inputs**-0.5), inputs**-0.5)

    @described(_VARIANTS[variant][1])
    def up(slot: Slot) -> Distribution:
        if variant != "orthogonal" or slot.kind == "bias":
            return Constant(0.0)
        return _half(recipe, slot, slot.matrix_shape[1], "even")

    return [
        rule(Match("*lora_embedding_A*", role="adapter"), 0.0, "A of an embedding"),
        rule(Match("*lora_embedding_B*", role="adapter"), Normal(1.0), "B of an embedding"),
        rule(Match("*lora_A*", role="adapter", kind="weight"), down, "A"),
        rule(Match(("*lora_B*", "*lora_A*bias"), role="adapter"), up, "B"),
    ]


def _half(recipe: str, slot: Slot, rank: int, half: str) -> HalfBasis:
    """Return one half of the basis that A and B of a layer share.

    Raises:
        ValueError: If the rank is odd.
    """
    if rank % 2:
        raise ValueError(
            f"initstats.{recipe}: expected an even rank for variant='orthogonal', got {slot.name} "
            f"of rank {rank}"
        )
    # Named by A; `rpartition`, since the model around may have an adapter in its name, too.
    before, name, after = slot.key_name.rpartition("lora_B")
    basis = f"{before}lora_A{after}" if name else slot.key_name
    return HalfBasis(rank, half, basis, dim=0 if half == "odd" else 1)


def _magnitude(slot: Slot) -> Distribution:
    """Norms of the outputs of base_layer.weight"""  # noqa: D415  # shown in lists of rules
    layer = slot.parents[-3]
    base = getattr(layer, "base_layer", None)
    is_transposed = isinstance(base, nn.Embedding) or type(base).__name__ == "Conv1D"
    path = slot.name.rpartition("lora_magnitude_vector")[0]
    return Derived("column norms" if is_transposed else "row norms", f"{path}base_layer.weight")


def _scalings(groups: Sequence[tuple[Slot, ...]], alpha: float | None) -> list[Forward]:
    """Compare alpha / sqrt(r) with the scaling that peft's layers state, one line per number."""
    found: dict[str, Forward] = {}
    for slot in (slot for group in groups for slot in group if ".lora_A." in f".{slot.name}"):
        layer = slot.parents[-3] if slot.own_name == "weight" else slot.parents[-2]
        key = slot.name.rpartition("lora_A.")[2].partition(".")[0]
        stated = {name: _entry(layer, name, key) for name in ("lora_alpha", "scaling")}
        factor = stated["lora_alpha"] if alpha is None else alpha
        value = None if factor is None else factor / math.sqrt(slot.matrix_shape[0])
        have = stated["scaling"]
        ok = None if have is None or value is None else math.isclose(have, value, rel_tol=1e-6)
        words = "" if have is None else f"scaling of {key} is {have:.4g}"
        line = Forward("LoRA's product B A", value, "alpha/sqrt(r)", words, ok)
        found.setdefault(str(line), line)
    return list(found.values())


def _entry(layer: nn.Module, name: str, key: str) -> float | None:
    """Return the number that peft's layers keep for an adapter under a name; None without."""
    kept = vars(layer).get(name)
    value = kept.get(key) if isinstance(kept, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None
