"""Which entry of a checkpoint belongs to which tensor of a model, and whether it can be copied."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from initstats.checkpoints import CHECKPOINT_KEYS
from initstats.sharding import Domain, is_dtensor, local_tensor
from initstats.statistics.compute import stats, why_no_statistics
from initstats.statistics.record import Stats

# Modules that wrappers put into the path of a name.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Where the values of a parametrized weight are, beside those of torch before parametrizations.
_PARAMETRIZED = re.compile(r"(?:parametrizations\.(\w+)\.original\d*|(\w+?)_(?:g|v|orig))$")
_LISTED = 3
_LEVELS = 4  # dictionaries within each other that are looked through for parameters


def parameters_of(
    function: str, checkpoint: Mapping[Any, Any], targets: Collection[str]
) -> Mapping[Any, Any]:
    """Return the parameters of a checkpoint, which may hold them in an inner dictionary.

    Args:
        function: Public function on whose behalf this is done, for messages.
        checkpoint: Tensors by name, or a dictionary that holds such.
        targets: Names in the model.

    Returns:
        What stands under "model", "state_dict" or "model_state_dict"; else the checkpoint itself if
        one of its names fits, or the one inner dictionary of which names fit.

    Raises:
        ValueError: If names of several inner dictionaries fit equally well.
    """
    for _ in range(_LEVELS):
        inner = next((k for k in CHECKPOINT_KEYS if isinstance(checkpoint.get(k), Mapping)), None)
        if inner is None:
            break
        checkpoint = checkpoint[inner]
    if fitting_names(function, checkpoint, targets):
        return checkpoint
    inside = {key: value for key, value in checkpoint.items() if isinstance(value, Mapping)}
    fits = {key: len(fitting_names(function, value, targets)) for key, value in inside.items()}
    best = [key for key, count in fits.items() if count and count == max(fits.values())]
    if len(best) > 1:
        raise ValueError(
            f"initstats.{function}: expected the parameters of one model, got those of "
            f"{some(best)}; pass the right one"
        )
    return inside[best[0]] if best else checkpoint


def fitting_names(
    function: str, names: Collection[Any], targets: Collection[str]
) -> dict[str, str]:
    """Find which name of a checkpoint belongs to which name of a model: `spelt_names` of those.

    Args:
        function: Public function on whose behalf this is done, for messages.
        names: Names in the checkpoint; those that are no text belong to nothing.
        targets: Names in the model.

    Returns:
        Names in the checkpoint by name in the model, in the order of the checkpoint.

    Raises:
        ValueError: If several prefixes fit equally well.
    """
    known = set(targets)
    found = spelt_names(function, names, targets)
    return {name: source for name, source in found.items() if name in known}


def spelt_names(function: str, names: Collection[Any], targets: Collection[str]) -> dict[str, str]:
    """Spell the names of a checkpoint as the model would, also those that it does not have.

    Args:
        function: Public function on whose behalf this is done, for messages.
        names: Names in the checkpoint; those that are no text belong to nothing.
        targets: Names in the model.

    Returns:
        Names in the checkpoint by spelling of the model, in the order of the checkpoint, those
        without the prefix that all fitting ones have left out. Wrappers are only in names that the
        model has.

    Raises:
        ValueError: If several prefixes fit equally well.
    """
    bare = {without_wrappers(name): name for name in names if isinstance(name, str)}
    bare_targets = {without_wrappers(name): name for name in targets}
    of_names, of_targets = _prefixes(function, bare, bare_targets)
    found = {}
    for name, source in bare.items():
        if name.startswith(of_names):
            spelling = of_targets + name[len(of_names) :]
            found[bare_targets.get(spelling, spelling)] = source
    return found


def _prefixes(function: str, names: Collection[str], targets: Collection[str]) -> tuple[str, str]:
    """Return the prefixes to take off the names of either side: of one, or of none.

    A prefix must make more names fit than there are without, and half of those of one side.
    """
    without = sum(name in targets for name in names)
    counts: Counter[tuple[str, str]] = Counter()
    for name in names:
        counts.update((prefix, "") for prefix, rest in _splits(name) if rest in targets)
    for name in targets:
        counts.update(("", prefix) for prefix, rest in _splits(name) if rest in names)
    most = max(counts.values(), default=0)
    if most <= without or 2 * most < min(len(names), len(targets)):
        return "", ""
    best = [prefixes for prefixes, count in counts.items() if count == most]
    if len(best) > 1:
        raise ValueError(
            f"initstats.{function}: expected names that fit in one way, got the prefixes "
            f"{some([first or second for first, second in best])}, which fit equally well; rename"
            " the entries"
        )
    return best[0]


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Yield every prefix of a dotted name, with its dot, and the rest."""
    at = name.find(".")
    while at >= 0:
        yield name[: at + 1], name[at + 1 :]
        at = name.find(".", at + 1)


def without_wrappers(name: str) -> str:
    """Return a name without what wrappers put into it."""
    parts = name.split(".")
    if len(parts) > 1 and parts[0] == "module":  # of DDP and DataParallel, at the front alone
        del parts[0]
    return ".".join(part for part in parts if part not in _WRAPPERS)


def refuse_parametrized(
    function: str, names: Collection[Any], sources: Mapping[str, str], targets: Collection[str]
) -> None:
    """Refuse a checkpoint that holds the parts from which a weight of the model was computed.

    Args:
        function: Public function on whose behalf this is checked, for the message.
        names: Names in the checkpoint.
        sources: Those that belong to a tensor of the model, by its name.
        targets: Names in the model.

    Raises:
        ValueError: If there is one.
    """
    left = {without_wrappers(n) for n in names if isinstance(n, str)}
    left -= {without_wrappers(n) for n in sources.values()}
    open_ = [without_wrappers(name) for name in targets if name not in sources]
    for name in sorted(left):
        part = _PARAMETRIZED.search(name)
        weight = f"{name[: part.start()]}{part[1] or part[2]}" if part else ""
        if weight and any(_ends_alike(target, weight) for target in open_):
            raise ValueError(
                f"initstats.{function}: expected values of {weight} in state_dict, got {name}, a"
                " part of a parametrized weight; remove the parametrization before saving"
            )


def _ends_alike(name: str, other: str) -> bool:
    """Tell whether two names are equal, prefixes of one of them aside."""
    return f".{name}".endswith(f".{other}") or f".{other}".endswith(f".{name}")


def tensor_of(function: str, name: str, value: object) -> torch.Tensor:
    """Return the tensor of a checkpoint's value.

    Raises:
        TypeError: If it is none, or is sparse, nested or quantised.
    """
    if isinstance(value, np.ndarray):
        try:
            # A copy: of another byte order, of negative strides, or not to be written.
            return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
        except TypeError:
            raise TypeError(
                f"initstats.{function}: expected tensors in state_dict, got {name} of NumPy's "
                f"{value.dtype}"
            ) from None
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            f"initstats.{function}: expected tensors in state_dict, got "
            f"{name}={type(value).__name__}"
        )
    if value.layout is not torch.strided or value.is_nested or value.is_quantized:
        kind = "a quantised tensor" if value.is_quantized else f"layout={value.layout}"
        raise TypeError(
            f"initstats.{function}: expected dense tensors in state_dict, got {name} as {kind}"
        )
    return value.detach()


def check_copies(
    function: str,
    values: Mapping[str, torch.Tensor],
    targets: Mapping[str, torch.Tensor],
    buffers: Collection[str],
) -> None:
    """Refuse values that their targets cannot hold.

    Args:
        function: Public function on whose behalf this is checked, for messages.
        values: By name.
        targets: By name, those of `values` among them.
        buffers: Names of buffers, in which masks may hold minus infinity.

    Raises:
        TypeError: If one is of integers and the other of floating-point numbers, or one complex.
        ValueError: If one is on the meta device, a value is not finite or does not fit into the
            target's dtype, or two names of one parameter have different values.
    """
    for name, value in values.items():
        target = targets[name]
        if value.is_meta or target.is_meta:
            where = "the model" if target.is_meta else "state_dict"
            raise ValueError(
                f"initstats.{function}: expected values, got {name} of {where} on the meta device"
                "; call to_empty, or load_state_dict(assign=True)"
            )
        if (value.is_floating_point(), value.is_complex()) != (
            target.is_floating_point(),
            target.is_complex(),
        ):
            raise TypeError(
                f"initstats.{function}: expected {name} to be {target.dtype}, got "
                f"{value.dtype}; dequantise it first"
            )
        if not (value.is_floating_point() or is_dtensor(value) or _is_held(value, target.dtype)):
            raise ValueError(
                f"initstats.{function}: expected values of {name} that fit into {target.dtype}, "
                f"got larger ones in {value.dtype}"
            )
    _refuse_differing_ties(function, values, targets)
    _refuse_not_finite(function, values, targets, buffers)


def refuse_lazy(function: str, targets: Mapping[str, torch.Tensor]) -> None:
    """Refuse parameters and buffers that have no shape yet.

    Raises:
        ValueError: If there is one.
    """
    for name, target in targets.items():
        if is_lazy(target):
            raise ValueError(
                f"initstats.{function}: expected parameters with a shape, got the lazy {name}; run "
                "the model once"
            )


def _is_held(value: torch.Tensor, dtype: torch.dtype) -> bool:
    """Tell whether a dtype holds all of the values, which are no floating-point numbers."""
    return value.dtype is dtype or bool((value.to(dtype).to(value.dtype) == value).all())


def _refuse_differing_ties(
    function: str, values: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
) -> None:
    """Refuse two names of one parameter whose values differ: one of them would be lost."""
    first: dict[int, str] = {}
    for name, value in values.items():
        other = first.setdefault(id(targets[name]), name)
        if other == name or is_dtensor(value) or is_dtensor(values[other]):
            continue
        if not torch.equal(value.to(values[other]), values[other]):
            raise ValueError(
                f"initstats.{function}: expected one value for {other} and {name}, which are tied "
                "in the model, got different ones; untie the model, or leave one of them out"
            )


def _refuse_not_finite(
    function: str,
    values: Mapping[str, torch.Tensor],
    targets: Mapping[str, torch.Tensor],
    buffers: Collection[str],
) -> None:
    """Refuse values that are not finite; of DTensors on every rank alike, which is collective."""
    floats = {
        name: x
        for name, x in values.items()
        if x.is_floating_point() and not (is_dtensor(x) or why_no_statistics(x))
    }
    for name, record in stats(floats, histogram=False).items() if floats else ():
        _refuse_record(function, name, record, targets[name].dtype, is_mask=name in buffers)
    sharded = {name: x for name, x in values.items() if is_dtensor(x) and x.is_floating_point()}
    domain = Domain.of(function, sharded.values())
    if domain is None:
        return
    domain.settle(list(sharded.values()))
    lost = [
        int((~torch.isfinite(local_tensor(x).to(targets[name].dtype))).sum())
        for name, x in sharded.items()
    ]
    owned = [n * domain.owns(x) for n, x in zip(lost, sharded.values(), strict=True)]
    totals = domain.sum(torch.tensor(owned, dtype=torch.int64)).tolist()
    for name, total in zip(sharded, totals, strict=True):
        if total:
            raise ValueError(
                f"initstats.{function}: expected finite values, got {total} that are NaN or "
                f"infinite in {name} as {targets[name].dtype}"
            )


def _refuse_record(
    function: str, name: str, record: Stats, dtype: torch.dtype, *, is_mask: bool
) -> None:
    """Refuse values that are not finite, or would not be in another dtype."""
    infinite = record.pos_inf + (0 if is_mask else record.neg_inf)
    if record.nan or infinite:
        raise ValueError(
            f"initstats.{function}: expected finite values, got {record.nan} NaN and "
            f"{infinite} infinite ones in {name}"
        )
    if record.count > record.neg_inf and record.abs_max > torch.finfo(dtype).max:
        raise ValueError(
            f"initstats.{function}: expected values of {name} that fit into {dtype}, got "
            f"{record.abs_max:.4g}"
        )


def some(names: Collection[Any]) -> str:
    """Return a few names in words."""
    listed = [repr(name) for name in names]
    return ", ".join(listed[:_LISTED]) + (", ..." if len(listed) > _LISTED else "") or "none"
