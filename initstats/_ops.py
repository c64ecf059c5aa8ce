"""The only door to the native half: loads it, and calls its ops."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

_HERE = Path(__file__).resolve().parent
_GIVEN = "initstats._C" in sys.modules  # the tests load a variant of their own


def _not_built(got: str) -> ImportError:
    return ImportError(
        f"initstats: expected the compiled module initstats._C for this Python in {_HERE}, got "
        f"{got}. If initstats is installed, a source folder hides it: start Python in another "
        "folder. To use the source folder, build in place: pip install -e . or python "
        "csrc/build/compile.py",
        name="initstats._C",
        path=__file__,
    )


# Importing torch first loads the libraries whose symbols the module needs.
try:
    from initstats import _C
except ImportError as error:
    if importlib.util.find_spec("initstats._C") is not None:
        raise  # it is there, and does not load
    raise _not_built("a folder without it") from error
if not _GIVEN and Path(str(_C.__file__)).resolve().parent != _HERE:
    raise _not_built(f"that of another installation, {_C.__file__}")

SMALL_SIDE = 128  # kSmallSide of csrc/math/orthogonal/reflectors.h

_UNKNOWN = 2**63 - 1  # bytes of a storage that torch does not show
Box = tuple[Sequence[int], Sequence[int]]  # offsets and full sizes, one number per dimension


# Direct calls, Note [Direct calls] of csrc/ops/direct.cpp: what is plain goes past the dispatcher.

fill_directly = _C.fill_directly
stats_directly = _C.stats_directly
key_of = _C.key_of


def allow_direct_calls(draw: Callable[[int, torch.Generator | None], torch.Tensor]) -> None:
    """Let calls go past torch's dispatcher where nobody would notice.

    Args:
        draw: Takes a count and a CPU generator, or None for torch's default one; returns so many
            draws of 64 bits, int64 on the CPU.
    """
    seen = (  # true where others are to see ops, or torch.func transforms them
        torch._C._len_torch_dispatch_stack,  # noqa: SLF001
        torch._C._len_torch_function_stack,  # noqa: SLF001
        torch._C._functorch.maybe_current_level,  # noqa: SLF001
        torch._C._autograd._profiler_enabled,  # noqa: SLF001
        torch._C._get_tracing_state,  # noqa: SLF001
    )
    classes = torch.Tensor, torch.nn.Parameter
    increment_version = torch.autograd.graph.increment_version
    aoti = getattr(torch._C, "_aoti", None)  # noqa: SLF001
    take_handles = getattr(aoti, "alloc_tensors_by_stealing_from_void_ptrs", None)
    _C.bind_torch(*classes, seen, draw, increment_version, take_handles)


def build_info() -> dict[str, str | list[str]]:
    """Return what was built, what was chosen on this machine, and why (see `initstats doctor`)."""
    info: dict[str, str | list[str]] = {"torch": torch.__version__, "module": str(_C.__file__)}
    info |= _C.build_info()
    info["cuda_archs"] = [arch for arch in str(info["cuda_archs"]).split(";") if arch]
    info["cpu_capabilities"] = str(info["cpu_capabilities"]).split()
    info["direct_calls"] = "yes" if _C.stats_directly(torch.zeros(1), 1, 0) else "no"
    info["threads"] = str(torch.get_num_threads())
    return info


def smallest_at_least(dtype: torch.dtype, x: float) -> float:
    """Return the smallest value of a dtype that fills write which is >= x; it may be infinite."""
    return _C.smallest_at_least(str(dtype).removeprefix("torch."), x)


def check_memory(function: str, tensor: torch.Tensor) -> None:
    """Raise RuntimeError unless a fill can write the tensor: what the ops refuse, before any op."""
    place = tensor.element_size(), int(tensor.storage_offset())
    _C.check_memory(function, tensor.shape, tensor.stride(), _storage_bytes(tensor), *place)


def _storage_bytes(tensor: torch.Tensor) -> int:
    try:
        return tensor.untyped_storage().nbytes()
    except NotImplementedError:  # sparse, or a wrapper of torch.func's transforms
        return _UNKNOWN


def check_storage(function: str, tensor: torch.Tensor) -> None:
    """Raise RuntimeError unless the tensor's storage holds its elements, as the ops check it.

    For code that hands the tensor to torch, which writes past the end of a storage that was freed.
    """
    storage = _storage_bytes(tensor)
    if storage == _UNKNOWN:
        return
    size, offset = tensor.element_size(), int(tensor.storage_offset())
    if tensor.is_contiguous() and storage >= offset * size + tensor.nbytes:
        return
    _C.check_storage(function, tensor.shape, tensor.stride(), storage, size, offset)


def flat_box(boxes: Sequence[Box] | None) -> list[int]:
    """Return the `box` argument of the ops: per tensor its offsets, then the full sizes."""
    if boxes is None:
        return []
    return [int(number) for offsets, sizes in boxes for number in (*offsets, *sizes)]


def fill_op(name: str) -> Callable[..., None]:
    """Return the op of a distribution.

    It takes tensors, keys, one list per parameter (one number for all tensors or one each) and
    perhaps the `flat_box`.
    """
    try:
        op: Callable[..., None] = getattr(torch.ops.initstats, name).default
    except AttributeError:
        raise ImportError(
            f"initstats: expected an op {name} in {_C.__file__}, found none (add it to"
            " INITSTATS_DISTRIBUTIONS in csrc/math/random/distributions.h, or build again)"
        ) from None
    return op


def dirac_(tensors: Sequence[torch.Tensor], groups: Sequence[int], value: Sequence[float]) -> None:
    """Fill contiguous weights with one value per output channel, zeros elsewhere; one each."""
    torch.ops.initstats.dirac_(tensors, groups, value)


def sparse_(
    tensors: Sequence[torch.Tensor],
    keys: Sequence[int],
    std: Sequence[float],
    zeros: Sequence[float],
    box: Sequence[int] = (),
) -> None:
    """Fill matrices with normals of mean 0 and exactly so many zeros in every column."""
    n = len(tensors)
    stds = list(std) * n if len(std) == 1 else std
    counts = [int(count) for count in (list(zeros) * n if len(zeros) == 1 else zeros)]
    torch.ops.initstats.sparse_(tensors, keys, stds, counts, box)


def stats(
    tensors: Sequence[torch.Tensor],
    groups: int,
    scale: int,
    box: Sequence[int] = (),
    minus: Sequence[torch.Tensor] = (),
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return moments float64 [n, 8], counts int64 [n, 8], histogram int64 [n, 512 << scale].

    With minus, of the differences tensors[i] - minus[i]: Note [Pairs] in csrc/math/stats/pairs.h.
    """
    result: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.initstats.stats(
        tensors, groups, scale, box, minus
    )
    return result


def square_ratio_stats(
    tensors: Sequence[torch.Tensor],
    over: Sequence[torch.Tensor],
    factors: Sequence[float],
    groups: int,
    scale: int,
    *,
    with_over: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return as `stats` the records of tensors[i]^2 / max(over[i], 1e-16) * factors[i].

    With with_over as many rows more, the records of over, which is then read from memory once.
    """
    result: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = (
        torch.ops.initstats.square_ratio_stats(tensors, over, factors, groups, scale, with_over)
    )
    return result


def copy_stats_(
    tensors: Sequence[torch.Tensor],
    copies: Sequence[torch.Tensor],
    groups: int,
    scale: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return as `stats` the records of tensors, and copy these to `copies` of the same strides."""
    result: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.initstats.copy_stats_(
        tensors, copies, groups, scale
    )
    return result


def slice_stats(tensor: torch.Tensor, kept: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return moments float64 [n, 8], counts int64 [n, 8]: n indices of the first `kept` dims."""
    result: tuple[torch.Tensor, torch.Tensor] = torch.ops.initstats.slice_stats(tensor, kept)
    return result


def reflectors_(
    vectors: torch.Tensor,
    squares: torch.Tensor,
    diagonal: torch.Tensor,
    keys: Sequence[int],
    stream_rows: Sequence[int],
    first: int,
    size: int,
    count: int,
) -> None:
    """Write reflectors first, first + 1, ... of R^size, one per row, from coordinate first on.

    vectors [matrices, rows, columns], squares and diagonal [matrices, rows]. Rows after reflector
    count - 1 become those of no reflection: zeros, square 1.
    """
    torch.ops.initstats.reflectors_(
        vectors, squares, diagonal, keys, stream_rows, first, size, count
    )


def panel_factors(gram: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """Return the upper triangular T [panels, k, k] of each panel of reflections I - V^t T V."""
    factors: torch.Tensor = torch.ops.initstats.panel_factors(gram, squares)
    return factors


def small_orthogonal_(
    matrices: Sequence[torch.Tensor],
    keys: Sequence[int],
    gain: Sequence[float],
    first: Sequence[int] = (),
) -> None:
    """Fill [rows, columns] or [batch, rows, columns]; sides of at most SMALL_SIDE.

    With first, each tensor's first matrix has that number in a larger batch.
    """
    torch.ops.initstats.small_orthogonal_(matrices, keys, first, gain)


# Fake kernels. Ops that only write their arguments need none.


def _fake_stats(
    tensors: Sequence[torch.Tensor],
    groups: int,
    scale: int,
    box: Sequence[int],
    minus: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    del box, minus
    return _fake_records(tensors, groups, scale)


def _fake_square_ratio_stats(
    tensors: Sequence[torch.Tensor],
    over: Sequence[torch.Tensor],
    factors: Sequence[float],
    groups: int,
    scale: int,
    with_over: bool = False,  # as the schema has it
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    del factors
    return _fake_records([*tensors, *over] if with_over else tensors, groups, scale)


def _fake_copy_stats(
    tensors: Sequence[torch.Tensor], copies: Sequence[torch.Tensor], groups: int, scale: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    del copies
    return _fake_records(tensors, groups, scale)


def _fake_records(
    tensors: Sequence[torch.Tensor], groups: int, scale: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    n = len(tensors)
    device = tensors[0].device if tensors else torch.device("cpu")
    bins = 512 << scale if groups & 2 else 0
    return (
        torch.empty(n, 8, dtype=torch.float64, device=device),
        torch.empty(n, 8, dtype=torch.int64, device=device),
        torch.empty(n if bins else 0, bins, dtype=torch.int64, device=device),
    )


def _fake_slice_stats(tensor: torch.Tensor, kept: int) -> tuple[torch.Tensor, torch.Tensor]:
    n = math.prod(tensor.shape[:kept])
    return (
        torch.empty(n, 8, dtype=torch.float64, device=tensor.device),
        torch.empty(n, 8, dtype=torch.int64, device=tensor.device),
    )


def _fake_panel_factors(gram: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    del squares
    return torch.empty_like(gram)


torch.library.register_fake("initstats::stats", _fake_stats)
torch.library.register_fake("initstats::square_ratio_stats", _fake_square_ratio_stats)
torch.library.register_fake("initstats::copy_stats_", _fake_copy_stats)
torch.library.register_fake("initstats::panel_factors", _fake_panel_factors)
torch.library.register_fake("initstats::slice_stats", _fake_slice_stats)


# Negated views, such as z.conj().imag: torch only notes that the memory holds the negative.


def _fill_negated(
    op: Callable[..., None], tensors: Sequence[torch.Tensor], *arguments: object
) -> None:
    """Fill the memory as if it were not negated, and negate it."""
    negated = [tensor.is_neg() for tensor in tensors]
    memory = [
        torch._neg_view(t) if neg else t  # noqa: SLF001
        for t, neg in zip(tensors, negated, strict=True)
    ]
    op(memory, *arguments)
    for tensor, neg in zip(memory, negated, strict=True):
        if neg:
            tensor.neg_()


_WRITES_LISTS = ("uniform_", "normal_", "trunc_normal_", "dirac_", "sparse_", "small_orthogonal_")
_NEGATED = torch.library.Library("initstats", "IMPL", "Negative")  # type: ignore[no-untyped-call]
for _name in _WRITES_LISTS:
    _op = getattr(torch.ops.initstats, _name).default
    _NEGATED.impl(_name, partial(_fill_negated, _op))  # type: ignore[no-untyped-call]
