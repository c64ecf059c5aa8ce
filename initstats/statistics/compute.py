"""Statistics of tensors in one launch per device: `stats`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from initstats import _ops
from initstats.sharding import PLAIN_TYPES, is_dtensor, refuse_subclass, sharded_parameters
from initstats.statistics.differences import subtrahend, subtrahends
from initstats.statistics.histogram import MAX_SCALE
from initstats.statistics.record import Stats
from initstats.statistics.record_array import Batch, Groups
from initstats.statistics.sharded import sharded_batch
from initstats.statistics.slices import SliceStats
from initstats.statistics.table import StatsTable

DTYPES = frozenset(
    {
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
    }
)


# A subclass that waits for what is being sent, then is a plain tensor.
_OF_A_COLLECTIVE = "AsyncCollectiveTensor"
_Many = nn.Module | Mapping[str, Tensor] | Iterable[Tensor] | Iterable[tuple[str, Tensor]]


@overload
def stats(
    x: Tensor,
    *,
    moments: bool = ...,
    histogram: bool = ...,
    fingerprint: bool = ...,
    scale: int = ...,
    minus: Tensor | None = ...,
) -> Stats: ...


@overload
def stats(x: Tensor, *, dim: int | Sequence[int]) -> SliceStats: ...


@overload
def stats(
    x: _Many,
    *,
    moments: bool = ...,
    histogram: bool = ...,
    fingerprint: bool = ...,
    scale: int = ...,
    minus: _Many | None = ...,
) -> StatsTable: ...


def stats(
    x: Tensor | _Many,
    *,
    dim: int | Sequence[int] | None = None,
    moments: bool = True,
    histogram: bool | None = None,
    fingerprint: bool = False,
    scale: int = 0,
    minus: Tensor | _Many | None = None,
) -> Stats | StatsTable | SliceStats:
    """Take the statistics of one tensor or many in one pass, one launch per device, without a sync.

    Args:
        x: A tensor of any shape and strides; or a module (its named parameters, not its buffers), a
            mapping from names to tensors, or an iterable of tensors (named "0", "1", ...) or of
            (name, tensor) pairs. Dtypes: float16, bfloat16, float32, float64, float8_e4m3fn,
            float8_e5m2, bool, uint8, int8, int16, int32, int64. Of a DTensor the elements of this
            rank are read, and nothing is sent; see `StatsTable.all_merge`. Of a module of FSDP2 it
            is the sharded parameters that are read, in any state of the module.
        dim: For a tensor: reduce these dimensions, as torch.mean does, and take one record for each
            index of the others: `dim=0` of activations [tokens, units] gives one per unit, `dim=(0,
            2, 3)` of [batch, channels, height, width] one per channel. Moments, counts and extrema
            only.
        moments: Take counts, extrema and moments. They come with the histogram in any case.
        histogram: Take the exponential histogram: quantiles, shares below a power of two. Default:
            True, without dim.
        fingerprint: Take a 64-bit sum that tells equal tensors from different ones.
        scale: 2**scale histogram buckets per power of two, 0 to 2.
        minus: Take the statistics of the differences `x - minus`, without making them: how weights
            moved since a copy, what two checkpoints have not in common. Of the kind of x, with the
            same names, shapes, devices and floating dtypes; not with dim or fingerprint. Values are
            subtracted in float32, of float64 in float64.

    Returns:
        A `Stats` for a tensor, a `SliceStats` with dim, else a `StatsTable`. Moments are taken
        about the mean of each 4096 elements (with dim: each 64) and merged in float64. Inside
        those, float64, int32 and int64 are computed in float64, all other dtypes in float32.

    Raises:
        TypeError: If x, or one of its tensors, is of a kind or dtype that has no statistics, dim
            comes with more than one tensor, or minus is of another kind or dtype.
        ValueError: If no group is asked for, scale is out of range, a name comes twice, a tensor is
            on the meta device, dim names a dimension twice or none, or it comes with another group
            than the moments or with minus, or minus has other names, shapes or devices or comes
            with fingerprint.
        IndexError: If dim is out of range.

    Determinism: bitwise, on any device, with any number of threads and any CPU capability. Elements
        are taken in the order of memory: moments of a permuted view equal those of its contiguous
        copy up to rounding, all else exactly.
    Source: Pebay 2008, SAND2008-6212 (moments); OpenTelemetry's exponential histogram.
    """
    if dim is not None:
        if not moments or histogram or fingerprint or scale or minus is not None:
            msg = "initstats.stats: expected moments alone with dim, got another group or minus"
            raise ValueError(msg)
        return _stats_of_slices(x, dim)
    groups = Groups.MOMENTS * bool(moments) | Groups.HISTOGRAM * (histogram is not False)
    groups |= Groups.FINGERPRINT * bool(fingerprint)
    if not groups:
        msg = "initstats.stats: expected at least one of moments, histogram, fingerprint, got none"
        raise ValueError(msg)
    if scale not in range(MAX_SCALE + 1):
        msg = f"initstats.stats: expected scale to be 0, 1 or 2, got scale={scale}"
        raise ValueError(msg)
    if isinstance(x, Tensor):
        if minus is None and (rows := _directly(x, groups, scale)) is not None:
            return Stats(Batch(rows, groups, scale))
        _check(x)
        others = [] if minus is None else [subtrahend(x, minus, groups)]
        launch = _launch if type(x) in PLAIN_TYPES else _launch_any
        return Stats(launch([x], groups, scale, others))
    tensors = _named(x)
    every = list(tensors.values())
    if minus is None and (rows := _directly(every, groups, scale)) is not None:
        places = dict(zip(tensors, range(len(tensors)), strict=True))
        return StatsTable.of_batches(tensors, [(Batch(rows, groups, scale), places)])
    launch = _launch if _check_many(every) else _launch_any
    named = None if minus is None else subtrahends(tensors, minus, groups, _named)
    return _stats_of_many(tensors, groups, scale, named, launch)


def _stats_of_slices(x: object, dim: int | Sequence[int]) -> SliceStats:
    if not isinstance(x, Tensor):
        msg = f"initstats.stats: expected one tensor with dim, got {type(x).__name__}"
        raise TypeError(msg)
    _check(x)
    if is_dtensor(x):
        msg = "initstats.stats: expected a plain tensor with dim, got a DTensor; pass x.to_local()"
        raise TypeError(msg)
    reduced = _reduced_dims(x, [dim] if isinstance(dim, int) else list(dim))
    kept = [d for d in range(x.dim()) if d not in reduced]
    with torch.no_grad():
        _ops.check_storage("stats", x)
        moments, counts = _ops.slice_stats(x.permute(*kept, *reduced), len(kept))
    return SliceStats(moments, counts, tuple(x.shape[d] for d in kept))


def _reduced_dims(x: Tensor, dims: list[int]) -> list[int]:
    for d in dims:
        if not -x.dim() <= d < x.dim():
            msg = (
                f"initstats.stats: expected dim to be from {-x.dim()} to {x.dim() - 1} for shape="
                f"{tuple(x.shape)}, got dim={d}"
            )
            raise IndexError(msg)
    reduced = sorted(d % x.dim() for d in dims)
    if not reduced or len(set(reduced)) < len(reduced):
        msg = f"initstats.stats: expected different dimensions in dim, got dim={tuple(dims)}"
        raise ValueError(msg)
    return reduced


_Launch = Callable[[list[Tensor], int, int, list[Tensor]], Batch]


def _stats_of_many(
    tensors: dict[str, Tensor],
    groups: int,
    scale: int,
    minus: dict[str, Tensor] | None,
    launch: _Launch,
) -> StatsTable:
    batches = []
    devices = {tensor.device for tensor in tensors.values()}
    for device in devices:
        here = list(tensors)
        if len(devices) > 1:
            here = [name for name in here if tensors[name].device == device]
        others = [] if minus is None else [minus[name] for name in here]
        batch = launch([tensors[name] for name in here], groups, scale, others)
        batches.append((batch, dict(zip(here, range(len(here)), strict=True))))
    return StatsTable.of_batches(tensors, batches)


def _launch(tensors: list[Tensor], groups: int, scale: int, minus: list[Tensor]) -> Batch:
    with torch.no_grad():
        return Batch(_ops.stats(tensors, groups, scale, minus=minus), groups, scale)


def _directly(
    tensors: Tensor | list[Tensor], groups: int, scale: int
) -> tuple[bytes, bytes, bytes] | tuple[Tensor, Tensor, Tensor] | None:
    """Take the records of what is plain in one call of the native module; else return None."""
    return None if torch.compiler.is_compiling() else _ops.stats_directly(tensors, groups, scale)


def _launch_any(tensors: list[Tensor], groups: int, scale: int, minus: list[Tensor]) -> Batch:
    """Take records of tensors of which some may be DTensors."""
    launch = sharded_batch if any(map(is_dtensor, (*tensors, *minus))) else _launch
    with torch.no_grad():
        return launch(tensors, groups, scale, minus)


def _named(x: _Many) -> dict[str, Tensor]:
    if isinstance(x, nn.Module):
        return sharded_parameters(x)
    if isinstance(x, Mapping):
        return dict(x)
    _check_iterable(x)
    items: list[Any] = list(x)
    if not any(issubclass(kind, tuple) for kind in set(map(type, items))):
        return dict(zip(_numbers(len(items)), items, strict=True))
    named: dict[str, Tensor] = {}
    for i, item in enumerate(items):
        name, tensor = item if isinstance(item, tuple) else (str(i), item)
        if name in named:
            msg = f"initstats.stats: expected every name once, got {name!r} twice"
            raise ValueError(msg)
        named[name] = tensor
    return named


_NUMBERS: list[str] = []


def _numbers(n: int) -> list[str]:
    """Return "0", "1", ...: names that are made once."""
    found = _NUMBERS[:n]
    if len(found) < n:
        found = list(map(str, range(n)))
        _NUMBERS[:] = found  # at once: other threads never see half of it
    return found


def _check_iterable(x: object) -> None:
    if isinstance(x, str) or not isinstance(x, Iterable):
        msg = (
            "initstats.stats: expected a tensor, a module, a mapping or an iterable of tensors, got"
            f" {type(x).__name__}"
        )
        raise TypeError(msg)


def _check_many(tensors: list[Tensor]) -> bool:
    """Check tensors: what they have in common at once, one by one where something is odd.

    Returns:
        Whether all are plain tensors.
    """
    plain = set(map(type, tensors)) <= PLAIN_TYPES
    if (
        not plain
        or not {tensor.dtype for tensor in tensors} <= DTYPES
        or not {tensor.layout for tensor in tensors} <= {torch.strided}
        or True in {tensor.is_meta or tensor.is_nested for tensor in tensors}
    ):
        for tensor in tensors:
            _check(tensor)
    return plain


def _check(tensor: object) -> None:
    """Raise the one error that says why a tensor has no statistics."""
    if type(tensor) not in PLAIN_TYPES:
        _check_kind(tensor)
    assert isinstance(tensor, Tensor)
    if tensor.layout is not torch.strided or tensor.is_nested:
        what = "a nested tensor" if tensor.is_nested else f"layout={tensor.layout}"
        msg = f"initstats.stats: expected a dense tensor, got {what}; pass x.values()"
        raise TypeError(msg)
    if tensor.dtype not in DTYPES:
        hint = ""
        if tensor.dtype.is_complex:
            hint = "; pass torch.view_as_real(x)"
        elif tensor.is_quantized:
            hint = "; pass x.dequantize() or x.int_repr()"
        msg = (
            "initstats.stats: expected a float, integer or bool tensor, got"
            f" dtype={tensor.dtype}{hint}"
        )
        raise TypeError(msg)
    if tensor.is_meta:
        msg = "initstats.stats: expected a tensor with data, got one on the meta device"
        raise ValueError(msg)
    if type(tensor) not in PLAIN_TYPES and type(tensor).__name__ != _OF_A_COLLECTIVE:
        refuse_subclass("stats", tensor, "pass x.dequantize(), or the tensors that it is made of")


def why_no_statistics(tensor: Tensor) -> str:
    """Return what keeps a tensor from having statistics, in a few words; nothing where it has."""
    try:
        _check(tensor)
    except (TypeError, ValueError) as error:
        return str(error).partition(", got ")[2]
    return ""


def _check_kind(tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        msg = f"initstats.stats: expected tensors, got {type(tensor).__name__}"
        raise TypeError(msg)
