"""Roles of parameters, recognised from classes and names, each with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple, get_args

import torch
from torch import nn

from initstats.recipes.role_patterns import (
    ADAPTER,
    ATTENTION_INPUT,
    ATTENTION_OUTPUT,
    ATTENTION_PART,
    GATE,
    HEAD,
    HEAD_OUTSIDE,
    MLP_INPUT,
    MLP_OUTPUT,
    POSITION,
    ROUTER,
    ROUTER_LAYER,
    TOKEN,
    RoleName,
)

_MATRIX_DIMS = 2
_CONVOLUTIONS = nn.modules.conv._ConvNd  # noqa: SLF001  # the base of all convolutions
_NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._NormBase,  # noqa: SLF001  # the base of batch and instance norms
)
# Leaves that mean one thing inside attention and another outside.
_EITHER_OUTPUT = frozenset(
    {"c_proj", "wo", "Wo", "dense", "out_proj", "proj", "to_out", "output", "out", "w_out"}
)
_BERT_DENSE = {"output": "mlp output", "intermediate": "mlp input"}
_BY_LEAF: tuple[tuple[re.Pattern[str], str], ...] = (
    (ROUTER, "router"),
    (GATE, "gate"),
    (ATTENTION_INPUT, "attention input"),
    (ATTENTION_OUTPUT, "attention output"),
    (MLP_INPUT, "mlp input"),
    (HEAD, "head"),
)


class Role(NamedTuple):
    """A role and the reason for it.

    Attributes:
        name: One of `ROLES`.
        why: The reason in words.
    """

    name: str
    why: str


ROLES: tuple[str, ...] = get_args(RoleName)


def recognise(
    name: str,
    parameter: torch.Tensor,
    parents: Sequence[nn.Module],
    given: Mapping[str, str] | None = None,
) -> Role:
    """Tell the role of a parameter.

    Roles given by the user come first, then the class of the owner, then names: those of torch's
    own modules, transformers, timm, nanoGPT, torchtitan, OLMo, Megatron, DiT and peft.

    Args:
        name: Full name, as in `named_parameters()`.
        parameter: The parameter; its number of dimensions counts.
        parents: The modules from the model down to the owner of the parameter.
        given: Roles by glob pattern on the full name; the first pattern that matches decides.

    Returns:
        The role with the reason; "other" when nothing tells it.
    """
    for pattern, role in (given or {}).items():
        if fnmatchcase(name, pattern):
            return Role(role, f"given for {pattern}")
    parts = name.split(".")
    own, path = parts[-1], [part for part in parts[:-1] if not part.isdigit()]
    owner = parents[-1]
    kind = type(owner).__name__
    if adapter := next((part for part in (*path, own) if ADAPTER.fullmatch(part)), None):
        return Role("adapter", f"{adapter} in the name")
    if path[-2:-1] == ["router"] and ROUTER_LAYER.fullmatch(path[-1]):
        return Role("router", f"{path[-1]} inside router")
    by_class = _by_class(owner, kind, own, path)
    if by_class is not None:
        return by_class
    # An expert's or a bare parameter carries the name that a layer has elsewhere.
    is_layer = own in {"weight", "bias"} and bool(path)
    leaf = path[-1] if is_layer else own
    context = path[:-1] if is_layer else path
    if not is_layer or parameter.dim() < _MATRIX_DIMS:
        bare = _by_bare_name(leaf, own, kind, path, parameter)
        if bare is not None:
            return bare
    return _by_leaf(leaf, context, kind, parents, in_stack=len(path) != len(parts) - 1)


def check_roles(function: str, given: Mapping[str, str] | None) -> None:
    """Refuse a role that does not exist.

    Args:
        function: Public function on whose behalf this is checked, for the message.
        given: Roles by glob pattern, or None.

    Raises:
        ValueError: Naming the pattern and the roles that there are.
    """
    for pattern, role in (given or {}).items():
        if role not in ROLES:
            raise ValueError(
                f"initstats.{function}: expected roles among {', '.join(ROLES)}, "
                f"got roles={{{pattern!r}: {role!r}}}"
            )


def _by_class(owner: nn.Module, kind: str, own: str, path: list[str]) -> Role | None:
    """Tell the role where the class of the owner leaves no doubt."""
    last = path[-1] if path else ""
    if isinstance(owner, _NORMS) or re.search(r"Norm(\dd)?$|GRN$", kind):
        return Role("norm", f"{kind} is a norm")
    if isinstance(owner, (nn.RNNBase, nn.RNNCellBase)):
        return Role("recurrent", f"{kind} is recurrent")
    if isinstance(owner, nn.MultiheadAttention):
        return Role("attention input", f"{own} of {kind}")
    if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)) or (
        "Embedding" in kind and own == "weight"
    ):
        if POSITION.search(".".join(path[-2:])):
            return Role("position", f"{kind} named {last}")
        return Role("embedding", f"{kind} is an embedding")
    if isinstance(owner, _CONVOLUTIONS):
        if re.search(r"(?i)lm_head|^head$|classifier", last):
            return Role("head", f"{kind} named {last}")
        return Role("convolution", f"{kind} is a convolution")
    return None


def _by_bare_name(
    leaf: str, own: str, kind: str, path: list[str], parameter: torch.Tensor
) -> Role | None:
    """Tell the role of a parameter that a module holds itself, without a layer around it."""
    if TOKEN.search(own):
        return Role("token", f"{own} of {kind}")
    if POSITION.search(own):
        return Role("position", f"{own} of {kind}")
    if GATE.fullmatch(own) or (GATE.fullmatch(leaf) and parameter.dim() < _MATRIX_DIMS):
        return Role("gate", f"{leaf} of {kind}")
    if parameter.dim() < _MATRIX_DIMS and own == "weight" and re.search("norm|ln_", leaf.lower()):
        return Role("norm", f"vector named {leaf}")
    if own == "bias" and path and path[-1] == "predictions":
        return Role("head", f"{own} of {kind}")
    return None


def _by_leaf(
    leaf: str, context: list[str], kind: str, parents: Sequence[nn.Module], *, in_stack: bool
) -> Role:
    """Tell the role of a layer by its own name and those of the modules around it."""
    around = next((part for part in reversed(context) if ATTENTION_PART.search(part)), None)
    if around is None and any(isinstance(m, nn.MultiheadAttention) for m in parents[-2:-1]):
        around = "MultiheadAttention"
    inside = f"{leaf} inside {around}" if around else leaf
    if around and leaf in _EITHER_OUTPUT:
        return Role("attention output", f"{kind} {inside}")
    if leaf == "dense" and context and context[-1] in _BERT_DENSE:
        return Role(_BERT_DENSE[context[-1]], f"{kind} {leaf} inside {context[-1]}")
    for pattern, role in _BY_LEAF:
        if pattern.fullmatch(leaf):
            return Role(role, f"{kind} {inside}")
    if HEAD_OUTSIDE.fullmatch(leaf) and not in_stack and not around:
        return Role("head", f"{kind} named {leaf} outside the blocks")
    if MLP_OUTPUT.fullmatch(leaf):
        return Role("mlp output", f"{kind} {inside}")
    if any(HEAD.fullmatch(part) for part in context):
        return Role("head", f"{kind} {leaf} inside a head")
    if isinstance(parents[-1], (nn.Linear, nn.Bilinear)) or kind == "Conv1D":
        return Role("linear", f"{kind} with no telling name")
    return Role("other", f"{leaf} of {kind}")
