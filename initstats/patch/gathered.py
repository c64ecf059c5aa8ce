"""Constants in rows of sharded parameters: what torch writes there reaches no shard.

`weight[padding_idx]` of a DTensor that is cut along its rows is a copy that torch gathers, and
`fill_` and `zero_` of it are lost. Third-party code zeroes padding rows so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from initstats.patch.accelerate import THREAD
from initstats.sharding import is_dtensor, is_gathered, local_boxes, local_runs, local_tensor

_ROWS = "_initstats_rows"  # of a gathered view: the DTensor, and the first row and the one after


def note_rows(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """Take an item of a tensor, and note which rows of a DTensor a gathered view is."""
    found = func(*args, **kwargs)
    if is_dtensor(found) and is_gathered(found):
        rows = _rows(args[0].shape[0], args[1])
        if rows is not None:
            setattr(found, _ROWS, (args[0], *rows))
    return found


def constant(name: str) -> Callable[..., Any]:
    """Return what handles a method, or a function of torch.nn.init, that writes one value."""

    def handle(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        view = args[0] if args else kwargs.get("tensor")
        if not (is_dtensor(view) and is_gathered(view)) or THREAD.in_torch:
            return func(*args, **kwargs)
        noted = getattr(view, _ROWS, None)
        if noted is None:
            local_runs(name, view)  # refuses it
        else:
            value = args[1] if len(args) > 1 else kwargs.get("val", kwargs.get("value", 0))
            whole, first, end = noted
            _fill_rows(name, whole, first, end, value)
        return func(*args, **kwargs)

    return handle


@torch.no_grad()
def _fill_rows(name: str, whole: Any, first: int, end: int, value: Any) -> None:
    """Write a value into rows of the shard that this rank holds."""
    local = local_tensor(whole)
    for slices, box in local_boxes(name, whole):
        rows = local[slices]
        begin, stop = first - box.offset[0], end - box.offset[0]
        rows[max(begin, 0) : max(stop, 0)].fill_(value)
    torch.autograd.graph.increment_version(whole)


def _rows(count: int, index: object) -> tuple[int, int] | None:
    """Return the rows that an index takes whole, None for another index."""
    if isinstance(index, int):
        row = index % count
        return row, row + 1
    if isinstance(index, slice) and index.step in {None, 1}:
        return index.indices(count)[:2]
    return None
