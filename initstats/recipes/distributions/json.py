"""Convert distributions to JSON-able values and back, for receipts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from initstats.recipes.distributions.composite import (
    DISTRIBUTIONS,
    Distribution,
    Part,
    Slices,
    Stacked,
)
from initstats.recipes.distributions.computed import Computed

_KINDS: dict[str, Callable[..., Distribution]] = {kind.__name__: kind for kind in DISTRIBUTIONS}


def distribution_to_dict(distribution: Distribution) -> dict[str, Any]:
    """Return a distribution as JSON-able values.

    Args:
        distribution: The distribution.

    Returns:
        Its kind and its numbers; infinite numbers as text, which JSON has no number for.
    """
    if isinstance(distribution, Stacked):
        parts = [
            {
                "fill": distribution_to_dict(part.distribution),
                "size": part.size,
                "label": part.label,
                "key": part.key,
            }
            for part in distribution.parts
        ]
        return {"kind": "Stacked", "dim": distribution.dim, "parts": parts}
    if isinstance(distribution, Slices):
        each = distribution_to_dict(distribution.each)
        return {"kind": "Slices", "each": each, "dims": list(distribution.dims)}
    numbers = {name: getattr(distribution, name) for name in distribution.__dataclass_fields__}
    if isinstance(distribution, Computed):
        numbers |= {"shape": list(distribution.shape), "arguments": dict(distribution.arguments)}
    values = {
        name: str(v) if isinstance(v, float) and not math.isfinite(v) else v
        for name, v in numbers.items()
    }
    return {"kind": type(distribution).__name__, **values}


def distribution_from_dict(values: Mapping[str, Any]) -> Distribution:
    """Return the distribution that `distribution_to_dict` wrote.

    Args:
        values: Its kind and its numbers.

    Returns:
        The distribution.

    Raises:
        ValueError: If the kind is not known.
    """
    kind = values.get("kind")
    if kind not in _KINDS:
        raise ValueError(
            f"initstats.Receipt: expected a distribution among {sorted(_KINDS)}, got kind={kind!r}"
        )
    if kind == "Stacked":
        parts = []
        for part in values["parts"]:
            fill = distribution_from_dict(part["fill"])
            assert not isinstance(fill, Stacked)
            parts.append(Part(fill, part["size"], part["label"], part["key"]))  # type: ignore[arg-type]
        return Stacked(parts, values["dim"])
    if kind == "Slices":
        return Slices(distribution_from_dict(values["each"]), values["dims"])  # type: ignore[arg-type]
    numbers = {
        name: float(v) if v in ("inf", "-inf") else v
        for name, v in values.items()
        if name != "kind"
    }
    made: Distribution = _KINDS[kind](**numbers)
    return made
