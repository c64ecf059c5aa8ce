"""Buffers that a model needs to start: statistics of norms, rotary frequencies, masks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from initstats.planning.materialize import rotary_buffer, written_with_norm
from initstats.planning.planner import Plan
from initstats.sharding import is_dtensor
from initstats.statistics.record import Stats
from initstats.verification.confidence import Band
from initstats.verification.entry import VerifyEntry

# Frequencies may have been rounded to bfloat16, and multiplied in another order.
_ROUNDING = 2.0**-7
# The first rotary frequency is 1 in most models; scaled for long texts or images within these.
_SLOWEST, _FASTEST = 1e-5, 1e5
# Their frequencies change with the length of what the model saw.
_CHANGING = ("dynamic", "longrope")
_FRESH = "call initstats.init_, or the norm's reset_running_stats"
_ROTARY = "make the module again: its constructor computes them from the configuration"


def buffer_problems(model: nn.Module, planned: Plan) -> Iterator[VerifyEntry]:
    """Find buffers with which a model cannot start.

    Running variances below 0, or all 0; running statistics of a norm that has seen no batch and is
    initialised by the recipe, but are not 0 and 1; rotary frequencies that are negative, all 0, or
    not those of the model's configuration. Values that are not finite are found elsewhere.

    Args:
        model: The model.
        planned: The plan for it.

    Yields:
        An entry for each.
    """
    for path, module in model.named_modules():
        for own, buffer in module.named_buffers(recurse=False):
            if not _is_readable(buffer):
                continue
            words, cause, fix = "", "", ""
            if own in {"running_mean", "running_var"}:
                words, cause = _statistics_problem(own, buffer, module, planned)
                fix = _FRESH
            elif own.endswith("inv_freq"):
                words, cause, fix = _frequencies_problem(own, buffer, module), "", _ROTARY
                cause = "memory that was never written, as to_empty leaves it, or overwritten"
            if words:
                yield _entry(f"{path}.{own}" if path else own, buffer, words, cause, fix)


def is_mask(name: str, buffer: Tensor, record: Stats) -> bool:
    """Tell whether a buffer hides what it is added to: minus infinity in a table of zeros.

    Args:
        name: Its name.
        buffer: The buffer.
        record: Its record.
    """
    if not record.neg_inf or record.nan or record.pos_inf:
        return False
    own = name.rpartition(".")[2].lower()
    only_zeros = buffer.dim() > 1 and record.zero + record.neg_inf == record.count
    return only_zeros or "mask" in own or "bias" in own


def _is_readable(buffer: Tensor) -> bool:
    """Tell whether a buffer has finite values of floating point."""
    plain = not (buffer.is_meta or is_dtensor(buffer)) and buffer.layout is torch.strided
    return bool(
        plain
        and buffer.is_floating_point()
        and buffer.element_size() > 1
        and buffer.numel()
        and torch.isfinite(buffer).all()
    )


def _statistics_problem(
    own: str, buffer: Tensor, module: nn.Module, planned: Plan
) -> tuple[str, str]:
    """Return what is wrong with running statistics, and the likely cause; or empty words."""
    never = "memory that was never written, as to_empty leaves it"
    if own == "running_var":
        negative = int((buffer < 0).sum())
        if negative:
            return f"{negative} of {buffer.numel()} variances are below 0", never
        if not bool(buffer.any()):
            return "all variances are 0", never
    batches = getattr(module, "num_batches_tracked", None)
    if not isinstance(batches, Tensor) or batches.is_meta or int(batches):
        return "", ""
    want = 1.0 if own == "running_var" else 0.0
    if not written_with_norm(module, planned) or bool((buffer == want).all()):
        return "", ""
    return f"expected {want:g} everywhere in a norm that has seen no batch", never


def _frequencies_problem(own: str, buffer: Tensor, module: nn.Module) -> str:
    """Return what is wrong with rotary frequencies, in words; empty when nothing is."""
    if bool((buffer < 0).any()) or not bool(buffer.any()):
        return "rotary frequencies that are negative, or all 0"
    largest = float(buffer.max())
    if not _SLOWEST < largest < _FASTEST:
        return f"the largest rotary frequency is {largest:.4g}, expected about 1"
    kind: object = getattr(module, "rope_type", "")
    kinds = kind.values() if isinstance(kind, Mapping) else (kind,)
    if any(one in _CHANGING for one in kinds):
        return ""
    right = rotary_buffer(module, own)
    if right is None or right.shape != buffer.shape:
        return ""
    right, got = right.double(), buffer.detach().double().cpu()
    off = (got - right).abs() > _ROUNDING * right.abs()
    if not bool(off.any()):
        return ""
    at = int(off.flatten().nonzero()[0])
    return (
        f"{int(off.sum())} of {buffer.numel()} frequencies are not those of the configuration: "
        f"{float(got.flatten()[at]):.4g} at {at}, expected {float(right.flatten()[at]):.4g}"
    )


def _entry(name: str, buffer: Tensor, words: str, cause: str, fix: str) -> VerifyEntry:
    """Return the entry of a buffer."""
    values = buffer.detach().double()
    any_value = Band(-math.inf, math.inf)
    return VerifyEntry(
        name=name,
        rule="none",
        distribution="a buffer",
        count=buffer.numel(),
        mean=float(values.mean()),
        std=float(values.std()) if buffer.numel() > 1 else 0.0,
        expected_mean=math.nan,
        expected_std=math.nan,
        mean_band=any_value,
        std_band=any_value,
        problem=words,
        kind="buffers",
        cause=cause,
        fix=fix,
    )
