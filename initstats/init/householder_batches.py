"""Products of random reflections in few calls: matrices of one size together, in wide panels.

For GPUs, where up to sides of some thousands the host's time per call decides, not the number of
operations. The CPU takes the narrow panels of householder.py, which need fewer operations. Both
make the same matrices within rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from initstats import _ops
from initstats.init._transforms import transformed
from initstats.init.householder import WIDEST, full_precision, padded

# Up to this many reflections are drawn at once; of more a quarter.
_DRAWN_AT_ONCE, _SHARE = 1024, 4
_MOST_ELEMENTS = 1 << 22  # of matrices that are made together, where that is more than one

_Kind = tuple[torch.Size, torch.dtype, torch.device, float]  # size, ..., gain


def write_together(todo: Sequence[tuple[torch.Tensor, int, float]]) -> None:
    """Fill tensors, [batch, rows, columns], each with its key and gain, equal sizes together."""
    groups: dict[_Kind, list[tuple[torch.Tensor, int]]] = {}
    for tensor, key, gain in todo:
        tall = tensor if tensor.shape[1] >= tensor.shape[2] else tensor.mT
        kind = tall.shape[1:], tall.dtype, tall.device, gain
        groups.setdefault(kind, []).append((tall, key))
    for (size, _, _, gain), group in groups.items():
        most = max(1, _MOST_ELEMENTS // size.numel())
        matrices: torch.Tensor | list[torch.Tensor] = group[0][0]
        if len(group) > 1:
            matrices = [matrix for tall, _ in group for matrix in tall]
        keys = [key for tall, key in group for _ in tall]
        numbers = [number for tall, _ in group for number in range(len(tall))]
        for begin in range(0, len(keys), most):
            part = slice(begin, begin + most)
            _fill(matrices[part], keys[part], numbers[part], gain)


def _fill(
    matrices: torch.Tensor | Sequence[torch.Tensor],
    keys: Sequence[int],
    numbers: Sequence[int],
    gain: float,
) -> None:
    """Fill matrices of one size, in memory of their own where products cannot write into theirs."""
    like = matrices[0]
    dtype = torch.float64 if like.dtype is torch.float64 else torch.float32
    fit = like.is_contiguous() or like.t().is_contiguous()
    with full_precision(like.device):
        if isinstance(matrices, torch.Tensor) and like.dtype is dtype and fit and not transformed():
            write_products(matrices, keys, numbers, gain)
            return
        out = torch.empty(len(matrices), *like.shape, dtype=dtype, device=like.device)
        write_products(out, keys, numbers, gain)
    if isinstance(matrices, torch.Tensor):
        matrices.copy_(out)
    elif transformed():
        for matrix, made in zip(matrices, out, strict=True):
            matrix.copy_(made)
    else:
        torch._foreach_copy_(list(matrices), list(out.unbind()))


@dataclass(frozen=True)
class _Draw:
    """Panels of reflections begin, begin + 1, ... of every matrix, from coordinate begin on.

    Args:
        begin: The first reflection.
        vectors: [matrices, panels, width, columns]; each zero before its own coordinate.
        factors: [matrices, panels, width, width], upper triangular.
        diagonal: [matrices, panels * width], of D times gain.
    """

    begin: int
    vectors: torch.Tensor
    factors: torch.Tensor
    diagonal: torch.Tensor


def write_products(
    out: torch.Tensor, keys: Sequence[int], numbers: Sequence[int], gain: float
) -> None:
    """Write the matrices of keys and numbers, times gain, to out, [matrices, m, n], m >= n.

    From the last panel to the first, as `householder.write_columns`.
    """
    count, m, n = out.shape
    panels = -(-n // WIDEST)
    width = padded(-(-n // panels))
    at_once = width * (panels if n <= _DRAWN_AT_ONCE else max(1, panels // _SHARE))
    begins = range(0, n, at_once)
    memory = torch.empty(
        count * min(at_once, panels * width) * padded(m), dtype=out.dtype, device=out.device
    )
    products = torch.empty(2, count * width * n, dtype=out.dtype, device=out.device)
    out.zero_()
    for begin in reversed(begins):
        rows = padded(min(at_once, -(-(n - begin) // width) * width))
        draw = _draw(out, begin, rows, width, memory, keys, numbers)
        if gain != 1:
            draw.diagonal.mul_(gain)
        end = min(begin + rows, n)
        out.diagonal(dim1=1, dim2=2)[:, begin:end].copy_(draw.diagonal[:, : end - begin])
        for panel in reversed(range(rows // width)):
            _apply(out, draw, panel, products)


def _draw(
    out: torch.Tensor,
    begin: int,
    rows: int,
    width: int,
    memory: torch.Tensor,
    keys: Sequence[int],
    numbers: Sequence[int],
) -> _Draw:
    """Draw so many rows of reflections of every matrix; those beyond n reflect nothing."""
    count, m, n = out.shape
    columns = padded(m - begin)
    vectors = memory[: count * rows * columns].view(count, rows, columns)
    squares = torch.empty(count, rows, dtype=torch.float64, device=out.device)
    diagonal = torch.empty(count, rows, dtype=out.dtype, device=out.device)
    stream_rows = [number * n for number in numbers]
    _ops.reflectors_(vectors, squares, diagonal, keys, stream_rows, begin, m, n)
    panels = vectors.view(-1, width, columns)
    factors = _ops.panel_factors(torch.bmm(panels, panels.mT), squares.view(-1))
    return _Draw(
        begin,
        vectors.view(count, -1, width, columns),
        factors.view(count, -1, width, width),
        diagonal,
    )


def _apply(out: torch.Tensor, draw: _Draw, panel: int, products: torch.Tensor) -> None:
    """Apply one panel to all columns from its own first one on."""
    count, m, n = out.shape
    width = draw.vectors.shape[2]
    first = panel * width
    begin = draw.begin + first
    end = min(begin + width, n)
    vectors = draw.vectors[:, panel, :, first : m - draw.begin]
    projected, step = products[:, : count * width * (n - begin)].view(2, count, width, n - begin)
    # The columns that the panel brings in hold only their element of D, times gain.
    brought = end - begin
    diagonal = draw.diagonal[:, None, first : first + brought]
    torch.mul(vectors[:, :, :brought], diagonal, out=projected[:, :, :brought])
    if end < n:
        torch.bmm(vectors[:, :, width:], out[:, end:, end:], out=projected[:, :, brought:])
    torch.bmm(draw.factors[:, panel], projected, out=step)
    out[:, begin:, begin:].baddbmm_(vectors.mT, step, alpha=-1)
