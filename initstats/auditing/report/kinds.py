"""The kinds of the values of audit.json, which files of others must have too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from initstats.diagnostics.checked_values import (
    boolean,
    fields,
    integer,
    listed,
    mapping,
    maybe,
    number,
    text,
)
from initstats.diagnostics.findings import finding_of
from initstats.diagnostics.seed_spread import FIRST_LOSS, LAST_LOSS

_Kinds = dict[str, Callable[[Any], Any]]


def check_report(values: Mapping[str, Any]) -> None:
    """Check every value of a report that tables and pages read.

    Args:
        values: A report of audit.json, of the schema of this version.

    Raises:
        ValueError: If a field is missing or of another kind; it says which.
    """
    fields(values, _REPORT)
    known = {parameter["name"] for parameter in values["parameters"]}
    for layer in values["layers"]:
        if unknown := [name for name in layer["parameters"] if name not in known]:
            raise ValueError(f"expected {unknown[0]!r} of {layer['name']!r} among the parameters")


def _loss(value: Any) -> None:
    fields(value, _LOSS)
    if value["expected"] is not None and not value["cross_entropies"]:
        raise ValueError("expected the cross-entropy of the loss of a uniform guess, got none")


def _an(kinds: _Kinds) -> Callable[[Any], dict[str, Any]]:
    return lambda value: fields(value, kinds)


def _count(value: Any) -> int:
    if integer(value) < 0:
        raise ValueError(f"expected a count from 0 on, got {value}")
    return int(value)


def _bar(value: Any) -> tuple[float, float, int]:
    if len(value) != 3 or not all(isinstance(edge, float | int) for edge in value):  # noqa: PLR2004
        raise ValueError(f"expected a low edge, a high edge and a count, got {value}")
    low, high = number(value[0]), number(value[1])
    if not -math.inf < low <= high < math.inf:
        raise ValueError(f"expected finite edges, the lower first, got {value}")
    return low, high, _count(value[2])


def _share(value: Any) -> float:
    if not isinstance(value, float | int) or not 0 <= value <= 1:
        raise ValueError(f"expected a share from 0 to 1, got {value!r}")
    return float(value)


def _lottery(value: Any) -> None:
    """Check the seeds, and that the spreads are of what each seed has."""
    fields(value, _LOTTERY)
    seeds, spread = value["seeds"], value["spread"]
    if not seeds:
        raise ValueError("expected at least one seed, got none")
    for row in (FIRST_LOSS, LAST_LOSS):
        if row not in spread:
            raise ValueError(f"spread: expected {row!r}, got none")
    for name in seeds[0]["activations"]:
        has = f"output rms of {name}" in spread
        rows = has, f"gradient rms of {name}" in spread
        everywhere = all(name in s[f] for s in seeds for f in ("activations", "gradients"))
        if has and not (all(rows) and everywhere):
            raise ValueError(f"expected {name!r} in every seed and both spreads, got it in some")


# Fields of a record: how many values, and their scales.
COUNTS = ("count", "nan", "pos_inf", "neg_inf", "zero")
SCALES = ("min", "max", "abs_max", "mean", "std", "rms")
_KINDS_OF_RECORD: _Kinds = {
    **dict.fromkeys(COUNTS, _count),
    **dict.fromkeys(SCALES, maybe(number)),
    "histogram": maybe(listed(_bar)),
}


def _record(value: Any) -> None:
    fields(value, _KINDS_OF_RECORD)
    held = sum(count for _, _, count in value["histogram"] or ())
    if held > value["count"]:
        raise ValueError(f"expected at most {value['count']} values in the histogram, got {held}")


_LAYER: _Kinds = {
    **dict.fromkeys(("name", "kind", "dtype"), text),
    **dict.fromkeys(("is_block", "is_function", "from_batch"), boolean),
    "calls": _count,
    **dict.fromkeys(("producers", "parameters"), listed(text)),
    "activation": _record,
    **dict.fromkeys(("input", "output_gradient", "weight_gradient"), maybe(_record)),
    "zero_share": _share,
    "units": listed(
        _an(
            {
                **dict.fromkeys(("units", "values_per_unit", "zero", "constant"), _count),
                **dict.fromkeys(("std_min", "std_max"), number),
            }
        )
    ),
}
_PARAMETER: _Kinds = {
    **dict.fromkeys(("name", "dtype", "role", "copy_of"), text),
    **dict.fromkeys(("trained", "is_matrix"), boolean),
    "shape": listed(_count),
    "weight": _record,
    **dict.fromkeys(("gradient", "update"), maybe(_record)),
    **dict.fromkeys(("expected_std", "update_ratio"), maybe(number)),
}
_SETTINGS: _Kinds = {
    **dict.fromkeys(("model", "optimizer", "torch"), text),
    **dict.fromkeys(("parameters", "trained_parameters", "steps"), _count),
    "learning_rate": maybe(number),
    "recipe": maybe(text),
}
_LOTTERY: _Kinds = {
    "seeds": listed(
        _an(
            {
                "seed": integer,
                **dict.fromkeys(("first_loss", "last_loss"), number),
                **dict.fromkeys(("activations", "gradients"), lambda v: mapping(v, number)),
                **dict.fromkeys(("errors", "warnings"), _count),
            }
        )
    ),
    "spread": lambda value: mapping(
        value, _an(dict.fromkeys(("min", "median", "max", "log_std"), maybe(number)))
    ),
}
_LOSS: _Kinds = {
    "values": listed(number),
    "expected": maybe(number),
    "cross_entropies": listed(
        _an({"classes": _count, **dict.fromkeys(("value", "uniform"), number)})
    ),
}
_REPORT: _Kinds = {
    "settings": _an(_SETTINGS),
    "ok": boolean,
    "findings": listed(finding_of),
    "loss": _loss,
    "layers": listed(_an(_LAYER)),
    "parameters": listed(_an(_PARAMETER)),
    "series": listed(_an({"name": text, "layers": listed(text)})),
    "lottery": maybe(_lottery),
}
