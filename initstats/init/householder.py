"""Products of random reflections as matrix products: a whole matrix, or a block of one.

The reflections: Note [Reflectors] in csrc/math/orthogonal/reflectors.h. Everything here sees the
matrix in its tall orientation, [m, n] with m >= n.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from initstats import _ops
from initstats.init._transforms import transformed

# Reflections that are applied together. More are fewer and larger matrix products, at the price of
# their own Gram matrix and factor: 2 n^2 _WIDE more operations in all.
_WIDE, _NARROW = 128, 64
_SMALLEST_FOR_WIDE = 256
# At most, where the number of calls decides: kMostReflectorsInPanel of
# csrc/math/orthogonal/reflectors.h.
WIDEST = 512
# Panels whose vectors are drawn in one call, and at most which share of the vectors.
_MOST_PANELS, _SHARE = 8, 4
# Columns or rows of a part of a block, at least: drawing must not take longer than applying.
_THINNEST = 64
_PRECISION = threading.RLock()  # whoever holds it may change torch's precision of products


def prefers_few_calls(device: torch.device) -> bool:
    """Whether the number of calls decides on that device, rather than that of operations."""
    return device.type == "cuda"


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Take matrix products of float32 in full, whatever autocast or TF32 is set for other code."""
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    setting = backend.matmul
    with torch.autocast(device.type, enabled=False), _PRECISION:
        given = setting.fp32_precision
        if given in {"ieee", "none"}:
            yield
            return
        setting.fp32_precision = "ieee"
        try:
            yield
        finally:
            setting.fp32_precision = "none"
            if setting.fp32_precision != given:  # it was set for products, not for everything
                setting.fp32_precision = given


@dataclass(frozen=True)
class Matrix:
    """An orthogonal matrix before it is computed: the first n columns of H_0 ... H_(n-1) D.

    Args:
        m: Rows.
        n: Columns, at most m.
        key: Of the stream.
        dtype: Float32 or float64, of the computation.
        device: Where it happens.
        number: Of the matrix in its batch.
        most_panels: Drawn in one call, at most.
        wide: Reflections of a panel, at most; a multiple of 4. None: `_WIDE`, of few `_NARROW`.
    """

    m: int
    n: int
    key: int
    dtype: torch.dtype
    device: torch.device
    number: int = 0
    most_panels: int = _MOST_PANELS
    wide: int | None = None

    @property
    def width(self) -> int:
        """Reflections of a panel; the last one may have fewer."""
        return self.wide or (_WIDE if self.n >= _SMALLEST_FOR_WIDE else _NARROW)

    def panels(self, end: int, *, backwards: bool) -> Iterator[Panel]:
        """Yield the panels that hold the reflections before `end`, in order or from the last."""
        width = self.width
        per_draw = width * max(1, min(self.most_panels, self.n // (_SHARE * width)))
        whole = self.n // width * width
        draws = [(begin, min(begin + per_draw, whole)) for begin in range(0, whole, per_draw)]
        draws += [(whole, self.n)] if whole < self.n else []
        draws = [(begin, stop) for begin, stop in draws if begin < end]
        memory = torch.empty(
            max((stop - begin) * padded(self.m - begin) for begin, stop in draws),
            dtype=self.dtype,
            device=self.device,
        )
        for begin, stop in reversed(draws) if backwards else draws:
            drawn = self._draw(begin, stop, min(width, stop - begin), memory)
            drawn = [panel for panel in drawn if panel.begin < end]
            yield from reversed(drawn) if backwards else drawn

    def _draw(self, begin: int, end: int, width: int, memory: torch.Tensor) -> list[Panel]:
        """Return the panels of reflections begin, ..., end - 1, with their vectors in `memory`."""
        rows, columns = end - begin, self.m - begin
        vectors = memory[: rows * padded(columns)].view(rows, padded(columns))
        squares = torch.empty(rows, dtype=torch.float64, device=self.device)
        diagonal = torch.empty(rows, dtype=self.dtype, device=self.device)
        of_one = vectors[None], squares[None], diagonal[None], [self.key], [self.number * self.n]
        _ops.reflectors_(*of_one, begin, self.m, self.n)
        count = rows // width
        parts = [vectors[i * width : (i + 1) * width, i * width : columns] for i in range(count)]
        gram = torch.empty(count, width, width, dtype=self.dtype, device=self.device)
        for part, products in zip(parts, gram, strict=True):
            torch.mm(part, part.t(), out=products)
        factors = _ops.panel_factors(gram, squares)
        return [
            Panel(begin + i * width, parts[i], factors[i], diagonal[i * width : (i + 1) * width])
            for i in range(count)
        ]


@dataclass(frozen=True)
class Panel:
    """Reflections begin, ..., end - 1, together I - vectors^t factor vectors.

    Args:
        begin: The first reflection, and the coordinate that its vector starts with.
        vectors: [end - begin, m - begin], zero before the diagonal.
        factor: [end - begin, end - begin], upper triangular.
        diagonal: [end - begin], of D.
    """

    begin: int
    vectors: torch.Tensor
    factor: torch.Tensor
    diagonal: torch.Tensor

    @property
    def end(self) -> int:
        """The first reflection that is not in the panel."""
        return self.begin + len(self.vectors)


def write_batch(tensor: torch.Tensor, key: int, gain: float) -> None:
    """Fill a tensor, [batch, rows, columns], with orthogonal matrices times gain, one by one."""
    wide = tensor.shape[1] < tensor.shape[2]
    dtype = torch.float64 if tensor.dtype is torch.float64 else torch.float32
    with full_precision(tensor.device):
        for number, matrix in enumerate(tensor):
            tall = matrix.t() if wide else matrix
            fit = matrix.is_contiguous() or matrix.t().is_contiguous()
            in_place = matrix.dtype is dtype and fit and not transformed()
            out = tall if in_place else torch.empty(tall.shape, dtype=dtype, device=tall.device)
            m, n = tall.shape
            write_columns(Matrix(m, n, key, dtype, tall.device, number), 0, out, gain)
            if not in_place:
                tall.copy_(out)


def padded(n: int) -> int:
    """Return the next multiple of 4: reflectors begin with a whole counter of the stream."""
    return (n + 3) // 4 * 4


def write_columns(matrix: Matrix, first: int, out: torch.Tensor, gain: float) -> None:
    """Write columns first, first + 1, ... of a matrix, times gain, to out, [m, columns].

    From the last panel to the first. Before a panel is applied, the columns that it brings in hold
    their element of D, all later ones are zero in its rows, and earlier ones it does not touch.
    """
    out.zero_()
    last = first + out.shape[1]
    widest = min(matrix.width, matrix.n)
    product, factored = (
        torch.empty(widest * (last - first), dtype=out.dtype, device=out.device) for _ in range(2)
    )
    for panel in matrix.panels(last, backwards=True):
        begin, end, size = panel.begin, panel.end, len(panel.vectors)
        low, high = max(begin, first), max(min(end, last), first)  # columns brought in
        brought = slice(low - begin, max(high, low) - begin)
        columns = last - low
        projected = product[: size * columns].view(size, columns)
        step = factored[: size * columns].view(size, columns)
        if low < high:
            diagonal = panel.diagonal[brought] * gain
            out[low:high, low - first : high - first].diagonal().copy_(diagonal)
            torch.mul(panel.vectors[:, brought], diagonal, out=projected[:, : high - low])
        start = max(high, low)
        if start < last:
            rest = out[end:, start - first :]
            torch.mm(panel.vectors[:, size:], rest, out=projected[:, start - low :])
        torch.mm(panel.factor, projected, out=step)
        out[begin:, low - first :].addmm_(panel.vectors.t(), step, alpha=-1)


def write_rows(matrix: Matrix, first: int, out: torch.Tensor, gain: float) -> None:
    """Write rows first, first + 1, ... of a matrix, times gain, to out, [rows, m].

    All m columns of the product are computed, of which the first n are the matrix. From the first
    panel to the last.
    """
    out.zero_()
    out[:, first : first + len(out)].fill_diagonal_(1)
    for panel in matrix.panels(matrix.n, backwards=False):
        begin, end = panel.begin, panel.end
        projected = torch.mm(out[:, begin:], panel.vectors.t())
        out[:, begin:].addmm_(torch.mm(projected, panel.factor), panel.vectors, alpha=-1)
        out[:, begin:end].mul_(panel.diagonal * gain)


def write_block(
    block: torch.Tensor,
    first: tuple[int, int],
    whole: tuple[int, int],
    key: int,
    gain: float,
    number: int = 0,
) -> None:
    """Write a block, [rows, columns], of the matrix with that number in its batch."""
    if whole[0] < whole[1]:
        block, first, whole = block.t(), first[::-1], whole[::-1]
    dtype = torch.float64 if block.dtype is torch.float64 else torch.float32
    (m, n), (rows, columns) = whole, block.shape
    # Parts are columns or rows of the matrix, m long, that hold as much as the block.
    fitting = max(_THINNEST, rows * columns // m)
    few = prefers_few_calls(block.device)
    wide = max(_WIDE, min(fitting, WIDEST) // 4 * 4) if few else None
    most_panels = max(1, fitting // (wide or _WIDE))
    matrix = Matrix(m, n, key, dtype, block.device, number, most_panels, wide)
    if columns <= rows:
        for j in range(0, columns, fitting):
            part = block[:, j : j + fitting]
            out = torch.empty(m, part.shape[1], dtype=dtype, device=block.device)
            write_columns(matrix, first[1] + j, out, gain)
            part.copy_(out[first[0] : first[0] + rows])
    else:
        for i in range(0, rows, fitting):
            part = block[i : i + fitting]
            out = torch.empty(part.shape[0], m, dtype=dtype, device=block.device)
            write_rows(matrix, first[0] + i, out, gain)
            part.copy_(out[:, first[1] : first[1] + columns])
