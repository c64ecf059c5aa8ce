"""Recipes whose hyperparameters hold at every width: μP, CompleteP, u-μP, spectral condition."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from initstats.recipes.distributions.basic import Constant, Normal
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.library.building import (
    EMBEDDINGS,
    MATRICES,
    RESIDUAL,
    biases,
    built_in,
    by_projection,
    depth,
    described,
    norms,
    require_choice,
    require_layers,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.library.for_mlp import torch_default
from initstats.recipes.multipliers import (
    Forward,
    ForwardRule,
    Multipliers,
    attention_forward,
    stated_forward,
)
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe, Rule
from initstats.recipes.width import Base, BaseLike, stated_head_width

__all__ = ["completep", "mup", "spectral", "u_mup"]

_FORMS = ("mup", "torch", "nanogpt", "megatron")
_MATRICES = (*MATRICES, "convolution", "gate")


@built_in
def mup(
    *,
    base: BaseLike | None = None,
    width_mult: float | None = None,
    form: str = "mup",
    std: float = 0.02,
    zero_readout: bool | None = None,
    zero_query: bool | None = None,
    absorb: bool = False,
    input_mult: float = 1.0,
    output_mult: float = 1.0,
    layers: int | None = None,
) -> Recipe:
    """Make the recipe of μP, under which learning rates tuned at the base hold at every width.

    With m the multiplier of a matrix's inputs against the base: matrices between layers
    N(0, std / sqrt(m)), embeddings and first layers N(0, std) at every width, biases 0, norms 1 and
    0; queries and the readout 0 unless they are told not to be. Adam's learning rate of matrices
    is divided by m, their weight decay multiplied by it. The model multiplies logits by 1 / m and
    attention scores by 1 / head width, unless the width of a head stays. A router is a readout
    without a multiplier: N(0, std / m), learning rate / m.

    Args:
        base: The narrower model: its width, a model (also on the meta device) or shapes by name.
            A model or shapes are needed where roles do not tell which sides of a matrix grow.
            None: the model is its own base.
        width_mult: The multiplier m itself, instead of `base`.
        form: "mup" as above; "torch" for torch's default, rescaled as `mup.set_base_shapes` does;
            "nanogpt" for nanoGPT-mup (residual projections N(0, std / sqrt(2 L m)), no decay of
            vectors, decay of matrices not multiplied, a readout like the embedding); "megatron" for
            Megatron-LM (residual projections and readout as there, Adam's epsilon / m).
        std: Standard deviation at the base, > 0; not with "torch".
        zero_readout: Begin with a readout of 0; True for "mup", False for the others when None.
        zero_query: Begin with queries of 0; True for "mup", False for the others when None.
        absorb: Put 1 / m into the readout itself, N(0, std / m) with learning rate / m, for a
            model whose forward pass is to stay; not for a head that is tied to the embedding.
        input_mult: What the model multiplies the embedding's output with, > 0.
        output_mult: What the model multiplies logits with beside 1 / m, > 0.
        layers: Number of blocks L of the forms that need it; read from the model when None.

    Returns:
        The recipe. SGD multiplies the learning rate of vectors and embeddings by the width, that
        of matrices by outputs / inputs; Muon takes matrices as they are.

    Raises:
        ValueError: If a number is out of range, the form is unknown, or an option does not go with
            the form.
        TypeError: If `base` is of another kind.

    Source: Yang et al. 2022, "Tensor Programs V", tables 3 and 8; microsoft/mup `init.py`,
        `layer.py`, `optim.py`; EleutherAI/nanoGPT-mup `model.py`; Megatron-LM
        `transformer_config.py` and `optimizer/__init__.py`.
    """
    require_positive("mup", std=std, input_mult=input_mult, output_mult=output_mult)
    require_layers("mup", layers)
    require_choice("mup", "form", form, _FORMS)
    found = Base.of("mup", base, width_mult)
    for option, value in (("zero_query", zero_query), ("zero_readout", zero_readout)):
        if value and form not in {"mup", "torch"}:
            raise ValueError(f"initstats.mup: expected {option} with form='mup', got form={form!r}")
    if zero_query and form == "torch":
        raise ValueError("initstats.mup: expected zero_query with form='mup', got form='torch'")
    if absorb and form != "mup":
        raise ValueError(f"initstats.mup: expected absorb with form='mup', got form={form!r}")
    no_readout = form == "mup" if zero_readout is None else zero_readout
    no_query = form == "mup" if zero_query is None else zero_query
    if form == "torch":
        rules = _rescaled_default(zero_readout=no_readout)
    else:
        rules = [
            *norms(),
            biases(),
            rule(weights("attention input"), _inputs(std, zero_query=no_query), "attention input"),
            rule(
                weights(*RESIDUAL),
                _residual("mup", std, layers, by_depth=form in {"nanogpt", "megatron"}),
                "residual projection",
            ),
            rule(weights(*EMBEDDINGS), Normal(std), "embedding"),
            rule(
                weights(*_MATRICES),
                _by_kind(std, zero_readout=no_readout, absorb=absorb),
                "matrix",
            ),
        ]

    def multipliers(slot: Slot, optimizer: str) -> Multipliers:
        return _mup_multipliers(slot, optimizer, form, absorb=absorb)

    def forward(groups: Sequence[tuple[Slot, ...]]) -> list[Forward]:
        return _forward("mup", groups, input_mult, None if absorb else output_mult, form=form)

    return _recipe("mup", rules, multipliers, forward, found)


@built_in
def completep(
    *,
    base: BaseLike | None = None,
    width_mult: float | None = None,
    base_layers: int | None = None,
    layers: int | None = None,
    alpha: float = 1.0,
    std: float = 0.02,
    input_mult: float = 1.0,
    output_mult: float = 1.0,
) -> Recipe:
    """Make the recipe of CompleteP: μP over width and depth.

    With m the width and D the depth against the base: matrices in blocks N(0, std / sqrt(m)),
    embeddings and readout N(0, std), biases 0, norms 1 and 0. AdamW: learning rate of matrices
    D^(alpha - 1) / m, of norms and biases in blocks D^(alpha - 1), decay of matrices m and of
    vectors 0, epsilon D^-alpha / m. The model multiplies both residual branches of a block by
    D^-alpha, logits by 1 / m and attention scores by 1 / head width.

    Args:
        base: As in `mup`. The base may have fewer blocks.
        width_mult: As in `mup`.
        base_layers: Number of blocks of the base, >= 1; that of `base` when None, or that of the
            model if it is not known.
        layers: Number of blocks of the model, >= 1; read from it when None.
        alpha: Exponent of the depth, > 0; 1 in the paper.
        std: Standard deviation at the base, > 0.
        input_mult: As in `mup`.
        output_mult: As in `mup`.

    Returns:
        The recipe, for AdamW.

    Raises:
        ValueError: If a number is out of range; of `param_groups` for another optimizer.
        TypeError: If `base` is of another kind.

    Source: Dey et al. 2025, "Don't be lazy: CompleteP enables compute-efficient deep
        transformers", table 1; EleutherAI/nanoGPT-mup, branch completep, `model.py`.
    """
    require_positive("completep", std=std, alpha=alpha)
    require_positive("completep", input_mult=input_mult, output_mult=output_mult)
    require_layers("completep", layers)
    require_layers("completep", base_layers)
    found = Base.of("completep", base, width_mult)

    def deeper(slot: Slot) -> float:
        own = slot.largest_stack if layers is None else layers
        known = None if slot.base is None else slot.base.blocks
        return own / (base_layers or known or own)

    def multipliers(slot: Slot, optimizer: str) -> Multipliers:
        if optimizer not in {"adam", "adamw"}:
            raise ValueError(
                f"initstats.completep: expected optimizer='adamw', got optimizer={optimizer!r}; "
                "the paper has no other numbers"
            )
        growth, ratio = slot.growth, deeper(slot)
        is_matrix = growth.kind == "hidden"
        by_depth = ratio ** (alpha - 1) if is_matrix or slot.block is not None else 1.0
        return Multipliers(
            lr=by_depth / growth.fan_in if is_matrix else by_depth,
            weight_decay=_decay(slot, growth.fan_in if is_matrix else 1.0),
            eps=ratio**-alpha / growth.width_mult,
        )

    def forward(groups: Sequence[tuple[Slot, ...]]) -> list[Forward]:
        listed = _forward("completep", groups, input_mult, output_mult, form="nanogpt")
        ratio = deeper(groups[0][0])
        if ratio != 1:
            model, value = groups[0][0].parents[0], ratio**-alpha
            listed.append(stated_forward(model, "residual branches", value, f"D^-{alpha:g}"))
        return listed

    rules = [
        *norms(),
        biases(),
        rule(weights(*EMBEDDINGS), Normal(std), "embedding"),
        rule(weights(*_MATRICES), _by_kind(std, zero_readout=False, absorb=False), "matrix"),
    ]
    return _recipe("completep", rules, multipliers, forward, found)


@built_in
def u_mup() -> Recipe:
    """Make the recipe of u-μP: every weight of unit variance, scales in the forward pass.

    Matrices and embeddings N(0, 1), biases 0, norms 1 and 0. Adam's learning rate of matrices and
    embeddings is divided by the root of their last dimension, in blocks also by the root of the
    number of blocks; that of readout and vectors stays. Weight decay does not depend on the
    learning rate. The model multiplies the output of each matrix by 1 / sqrt(fan_in) and of
    the readout by 1 / fan_in, as the layers of the package unit-scaling do.

    Returns:
        The recipe, for Adam and for SGD in a model without a constraint on its readout.

    Raises:
        ValueError: Of `param_groups` for Muon.

    Source: Blake et al. 2024, "u-μP"; graphcore-research/unit-scaling `_modules.py`, `optim.py`.
    """

    def multipliers(slot: Slot, optimizer: str) -> Multipliers:
        if optimizer == "muon":
            raise ValueError(
                "initstats.u_mup: expected optimizer 'adamw', 'adam' or 'sgd', got 'muon'"
            )
        is_table = slot.role.name in EMBEDDINGS
        is_readout = slot.role.name == "head" and not is_table
        is_matrix = slot.parameter.dim() > 1 and slot.role.name != "norm"
        lr = slot.parameter.shape[-1] ** -0.5 if is_matrix and not is_readout else 1.0
        if is_matrix and not is_table and not is_readout:
            lr = slot.fans.fan_in**-0.5
        if slot.blocks is not None:
            lr *= depth("u_mup", slot, None) ** -0.5
        forward = 1.0
        if is_matrix and not is_table:
            forward = slot.fans.fan_in ** (-1.0 if is_readout else -0.5)
        return Multipliers(lr=lr, weight_decay=1 / lr, forward=forward)

    def forward(groups: Sequence[tuple[Slot, ...]]) -> list[Forward]:
        del groups
        return [Forward("residual branches", None, "tau / sqrt(1 + tau^2), of unit-scaling")]

    rules = [
        *norms(),
        biases(),
        rule(weights(*EMBEDDINGS, *_MATRICES), Normal(1.0), "matrix or embedding"),
    ]
    return _recipe("u_mup", rules, multipliers, forward, None)


@built_in
def spectral(
    *,
    base: BaseLike | None = None,
    width_mult: float | None = None,
    embedding_std: float = 1.0,
) -> Recipe:
    """Make the recipe of the spectral condition: updates as large as weights, in spectral norm.

    Matrices N(0, fan_in^-1/2 min(1, sqrt(fan_out / fan_in))), embeddings N(0, 1), biases 0, norms 1
    and 0; nothing in the forward pass but attention scores. Learning rates: of SGD
    fan_out / fan_in, of vectors and embeddings fan_out; of Adam, whose updates have entries of one
    size, 1 / fan_in, of vectors and embeddings 1; of Muon sqrt(fan_out / fan_in), where torch's own
    adjustment is counted in.

    Args:
        base: As in `mup`. With a base learning rates are relative to it; without they are absolute.
        width_mult: As in `mup`.
        embedding_std: Standard deviation of embeddings, > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If a number is out of range.
        TypeError: If `base` is of another kind.

    Source: Yang, Simon and Bernstein 2023, "A Spectral Condition for Feature Learning",
        parametrisation 1 and its section on Adam; nanotron `parametrization.py`, which has the
        same standard deviations and multiplies by fan_out / fan_in whatever the optimizer.
    """
    require_positive("spectral", embedding_std=embedding_std)
    found = Base.of("spectral", base, width_mult)

    @described("N(0, fan_in^-1/2 min(1, sqrt(fan_out / fan_in)))")
    def matrix(slot: Slot) -> Normal:
        fan_in, fan_out = slot.fans
        return Normal(fan_in**-0.5 * min(1.0, math.sqrt(fan_out / fan_in)))

    def multipliers(slot: Slot, optimizer: str) -> Multipliers:
        growth = slot.growth
        if growth.kind in {"vector", "fixed"} or _is_table(slot):
            fan_in, fan_out = 1.0, growth.fan_out
            if slot.base is None:
                fan_out = float(slot.parameter.shape[-1])
            return Multipliers(lr=fan_out if optimizer == "sgd" else 1.0)
        fan_in, fan_out = map(float, slot.fans) if slot.base is None else growth[1:]
        if optimizer == "muon" and growth.kind == "hidden":
            own_in, own_out = slot.fans
            return Multipliers(lr=min(1.0, math.sqrt(own_out / own_in)))
        return Multipliers(lr=fan_out / fan_in if optimizer == "sgd" else 1 / fan_in)

    def forward(groups: Sequence[tuple[Slot, ...]]) -> list[Forward]:
        return _forward("spectral", groups, 1.0, None, form="mup")

    rules = [
        *norms(),
        biases(),
        rule(weights(*EMBEDDINGS), Normal(embedding_std), "embedding"),
        rule(weights(*_MATRICES), matrix, "matrix"),
    ]
    return _recipe("spectral", rules, multipliers, forward, found)


def _recipe(
    name: str,
    rules: Sequence[Rule],
    multipliers: Callable[[Slot, str], Multipliers],
    forward: ForwardRule,
    base: Base | None,
) -> Recipe:
    """Put a recipe together whose rules all have the same multipliers."""
    sources = {
        "mup": "Yang et al. 2022; microsoft/mup; nanoGPT-mup; Megatron-LM",
        "completep": "Dey et al. 2025; nanoGPT-mup, branch completep",
        "u_mup": "Blake et al. 2024; unit-scaling",
        "spectral": "Yang, Simon and Bernstein 2023; nanotron parametrization.py",
    }
    return Recipe(
        [replace(one, multipliers=multipliers) for one in rules],
        name=name,
        source=sources[name],
        base=base,
        forward=forward,
    )


def _inputs(std: float, *, zero_query: bool) -> Callable[[Slot], Distribution]:
    """Return the fill of attention's inputs."""

    @described(f"N(0, {std:g} / sqrt(m))" + (", queries 0" if zero_query else ""))
    def inputs(slot: Slot) -> Distribution:
        plain = Normal(std * slot.growth.fan_in**-0.5)
        if not zero_query:
            return plain
        return by_projection(slot, {"q": Constant(0.0), "k": plain, "v": plain})

    return inputs


def _residual(
    recipe: str, std: float, layers: int | None, *, by_depth: bool
) -> Callable[[Slot], Distribution]:
    """Return the fill of the matrices that write to the residual stream."""

    @described(f"N(0, {std:g} / sqrt({'2 L ' if by_depth else ''}m))")
    def residual(slot: Slot) -> Distribution:
        share = 2 * depth(recipe, slot, layers) if by_depth else 1
        return Normal(std * (share * slot.growth.fan_in) ** -0.5)

    return residual


def _by_kind(std: float, *, zero_readout: bool, absorb: bool) -> Callable[[Slot], Distribution]:
    """Return the fill of a matrix by which of its sides grow."""
    readout = "0" if zero_readout else f"N(0, {std:g}{' / m' if absorb else ''})"

    @described(f"N(0, {std:g} / sqrt(m)); readout {readout}; first layer N(0, {std:g})")
    def matrix(slot: Slot) -> Distribution:
        growth = slot.growth
        if slot.role.name == "router":
            return Normal(std / growth.fan_in)
        if growth.kind == "output":
            if zero_readout:
                return Constant(0.0)
            return Normal(std / growth.fan_in if absorb else std)
        return Normal(std * growth.fan_in**-0.5 if growth.kind == "hidden" else std)

    return matrix


def _rescaled_default(*, zero_readout: bool) -> list[Rule]:
    """Return the rules of torch's default as `mup.set_base_shapes` rescales it."""

    def factor(slot: Slot) -> float:
        """Return the root of m for the weight of a readout and for the biases of layers."""
        weight = getattr(slot.module, "weight", None)
        if not isinstance(slot.module, nn.Linear | nn.modules.conv._ConvNd):  # noqa: SLF001
            return 1.0
        growth = slot.growth if slot.kind == "weight" else _of_weight(slot).growth
        scaled = growth.kind == "output" or (slot.kind == "bias" and weight is not None)
        return math.sqrt(growth.fan_in) if scaled else 1.0

    def rescaled(one: Rule) -> Callable[[Slot], Distribution]:
        @described(f"{one.promise}; biases and readout times sqrt(m)")
        def fill(slot: Slot) -> Distribution:
            is_readout = (
                isinstance(slot.module, nn.Linear) and _of_weight(slot).growth.kind == "output"
            )
            if zero_readout and is_readout:
                return Constant(0.0)
            promised = one.distribution(slot)
            return promised.scaled(factor(slot))

        return fill

    return [
        one if one.label.startswith("norm") else replace(one, fill=rescaled(one))
        for one in torch_default().rules
    ]


def _of_weight(slot: Slot) -> Slot:
    """Return the slot of the weight that a bias goes with."""
    if slot.kind == "weight":
        return slot
    name = slot.name.removesuffix(slot.own_name) + "weight"
    return replace(slot, name=name, parameter=slot.module.get_parameter("weight"))


def _mup_multipliers(slot: Slot, optimizer: str, form: str, *, absorb: bool) -> Multipliers:
    """Return the multipliers of μP for a parameter."""
    growth = slot.growth
    kind, m = growth.kind, growth.width_mult
    absorbed = kind == "output" and (absorb or slot.role.name == "router")
    if optimizer == "sgd":
        if kind == "hidden":
            ratio = growth.fan_in / growth.fan_out
        elif absorbed:
            ratio = m
        else:
            ratio = 1 / m
        decay = _decay(slot, ratio) if form == "nanogpt" else ratio
        return Multipliers(lr=1 / ratio, weight_decay=decay)
    if kind != "hidden" and not absorbed:
        return Multipliers(weight_decay=_decay(slot, 1.0) if form == "nanogpt" else 1.0)
    if optimizer == "muon" and kind == "hidden":
        return Multipliers()
    return {
        "nanogpt": Multipliers(lr=1 / m),
        "megatron": Multipliers(lr=1 / m, eps=1 / m),
    }.get(form, Multipliers(lr=1 / m, weight_decay=m))


def _decay(slot: Slot, multiplier: float) -> float:
    """Return a multiplier of the weight decay, 0 for vectors."""
    is_vector = slot.parameter.dim() < 2 or slot.kind == "bias" or slot.role.name == "norm"  # noqa: PLR2004
    return 0.0 if is_vector else multiplier


def _is_table(slot: Slot) -> bool:
    """Tell whether a parameter is an embedding, also one that the head is tied to."""
    return slot.role.name in EMBEDDINGS or "embedding" in slot.tied_roles


def _forward(
    recipe: str,
    groups: Sequence[tuple[Slot, ...]],
    input_mult: float,
    output_mult: float | None,
    *,
    form: str,
) -> list[Forward]:
    """List the multipliers of μP that a model must apply; no output_mult for an absorbed one."""
    model = groups[0][0].parents[0]
    heads = [group for group in groups if any(slot.role.name == "head" for slot in group)]
    readouts = [g for g in heads if g[0].parameter.dim() > 1] or [
        group for group in groups if group[0].growth.kind == "output"
    ]
    listed = []
    if readouts and output_mult is not None:
        m = readouts[0][0].growth.width_mult
        listed.append(stated_forward(model, "logits", output_mult / m, _times(output_mult, "1/m")))
    tied = next((group for group in readouts if len(group) > 1), None)
    if output_mult is None and recipe == "mup" and tied is not None:
        raise ValueError(
            "initstats.mup: expected a head of its own with absorb=True, got "
            f"{' = '.join(slot.name for slot in tied)}; untie it, or let the model multiply logits"
        )
    if input_mult != 1:
        listed.append(stated_forward(model, "embedding output", input_mult, "input_mult"))
    attention = attention_forward(groups, *_score_scale(groups, form))
    return [*listed, attention] if attention is not None else listed


def _times(number: float, formula: str) -> str:
    return formula if number == 1 else f"{number:g} {formula}"


def _score_scale(groups: Sequence[tuple[Slot, ...]], form: str) -> tuple[float | None, str]:
    """Return the scale of attention scores, and the same in letters."""
    slot = groups[0][0]
    own = stated_head_width(slot.parents[0])
    if form == "nanogpt":
        return None if own is None else 1 / own, "1/head width"
    known = own if slot.base is None else slot.base.head_width
    formula = "sqrt(base head width)/head width, 1/sqrt of it where it stays"
    return None if known is None or own is None else math.sqrt(known) / own, formula
