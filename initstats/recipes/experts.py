"""Banks of experts, [experts, out, in] or [experts, in, out]: the matrix of one expert."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch
from torch import nn

_BANK_DIMS = 3
_ROLES = frozenset({"mlp input", "mlp output"})
_TELLS_WIDTH = re.compile(r"Norm(\dd)?$|Embedding$|Router$|Gate$")


def is_bank(parameter: torch.Tensor, role: str, module: nn.Module) -> bool:
    """Tell whether a parameter holds the matrices of several experts.

    Args:
        parameter: The parameter.
        role: Its role.
        module: Its owner.

    Returns:
        True for a parameter of three dimensions with the role of an MLP's matrix.
    """
    return parameter.dim() == _BANK_DIMS and role in _ROLES and not isinstance(module, nn.Bilinear)


def expert_shape(
    parameter: torch.Tensor, role: str, parents: Sequence[nn.Module], width: int | None
) -> tuple[int, int]:
    """Return outputs and inputs of one expert of a bank.

    The layout is the one that the owner states (`is_transposed`, of transformers), or that which
    puts the width of the model at the inputs of "mlp input" and the outputs of "mlp output". The
    width is the one that is stated, that of norms, embeddings and routers around the bank, or
    the one size that all banks of the owner share. Without any of these [experts, out, in].

    Args:
        parameter: The bank.
        role: Its role, "mlp input" or "mlp output".
        parents: The modules from the model down to the owner.
        width: The width of the model that a module around the bank states, if one does.

    Returns:
        Outputs and inputs.
    """
    first, second = parameter.shape[1:]
    transposed = getattr(parents[-1], "is_transposed", None)
    if not isinstance(transposed, bool):
        at_first = _at_first(first, second, parents, width)
        # Outputs of an output matrix, and inputs of an input matrix, have the model's width.
        transposed = at_first is not None and at_first == (role == "mlp input")
    return (second, first) if transposed else (first, second)


def _at_first(
    first: int, second: int, parents: Sequence[nn.Module], stated: int | None
) -> bool | None:
    """Tell whether the width of the model is the first of two sizes; None if nothing tells."""
    for widths in _widths(parents, stated):
        if (first in widths) != (second in widths):
            return first in widths
    return None


def _widths(parents: Sequence[nn.Module], stated: int | None) -> Iterator[set[int]]:
    """Yield the possible widths of the model, the surest first."""
    if stated is not None:
        yield {stated}
    for parent in reversed(parents[:-1]):
        weights = (
            getattr(m, "weight", None)
            for m in parent.modules()
            if isinstance(m, nn.Embedding) or _TELLS_WIDTH.search(type(m).__name__)
        )
        yield {int(w.shape[-1]) for w in weights if isinstance(w, torch.Tensor) and w.dim()}
    banks = [p for p in parents[-1].parameters(recurse=False) if p.dim() == _BANK_DIMS]
    yield set.intersection(*(set(p.shape[1:]) for p in banks)) if banks else set()
