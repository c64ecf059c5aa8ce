"""The values of audit.json: written from a report, and read back from a file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from initstats.auditing.report.kinds import COUNTS, SCALES, check_report
from initstats.diagnostics.evidence import Evidence, LayerReport, LossReport, ParameterReport
from initstats.diagnostics.findings import Finding
from initstats.diagnostics.seed_spread import Lottery
from initstats.diagnostics.unit_records import UnitRecords
from initstats.statistics.histogram import Histogram
from initstats.statistics.record import Stats
from initstats.statistics.record_array import Groups
from initstats.untrusted import read_json

AUDIT_SCHEMA = "initstats.audit/2"
DEMO_SCHEMA = "initstats.demo/1"
FILE_NAME = "audit.json"
MOST_BARS = 64
_FEW_ZEROS = 0.999  # A unit that is 0 more often than this counts as dead in the summary.


def report_values(
    evidence: Evidence,
    findings: Sequence[Finding],
    settings: Mapping[str, Any],
    lottery: Lottery | None,
) -> dict[str, Any]:
    """Return a report as values for strict JSON; docs/guides/audit.md describes each field.

    Args:
        evidence: What was measured.
        findings: What is wrong or odd.
        settings: What was audited and how.
        lottery: The spread over several seeds, or None.

    Returns:
        The values; NaN and infinities are the strings "nan", "inf" and "-inf".
    """
    verification = evidence.verification
    values = {
        "schema": AUDIT_SCHEMA,
        "settings": dict(settings),
        "ok": all(finding.severity != "error" for finding in findings),
        "findings": [finding.to_dict() for finding in findings],
        "loss": _loss(evidence.loss),
        "layers": [_layer(layer) for layer in evidence.layers.values()],
        "parameters": [_parameter(p) for p in evidence.parameters.values()],
        "series": [{"name": s.name, "layers": list(s.layers)} for s in evidence.series],
        "lottery": None if lottery is None else lottery.to_dict(),
        "weights": None if verification is None else verification.to_dict(),
    }
    return {key: strict(value) for key, value in values.items()}


def read_reports(path: Path) -> dict[str, dict[str, Any]]:
    """Read the values of a saved audit, or of a saved demo, by label.

    Args:
        path: The file.

    Raises:
        ValueError: If it holds something else, or an audit of another version of the schema.
    """
    values = read_json(path, "load_report")
    values = values if isinstance(values, dict) else {}
    is_demo = values.get("schema") == DEMO_SCHEMA
    reports = values.get("reports") if is_demo else {"": values}
    if not isinstance(reports, dict) or not reports:
        raise ValueError(f"initstats.load_report: expected reports by label, got none in {path}")
    for report in reports.values():
        found = report.get("schema") if isinstance(report, dict) else None
        if found != AUDIT_SCHEMA:
            raise ValueError(
                f"initstats.load_report: expected schema {AUDIT_SCHEMA!r}, got schema={found!r} "
                f"in {path}; save it again with this version of initstats"
            )
        try:
            check_report(report)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"initstats.load_report: expected the values of {AUDIT_SCHEMA!r}, got others in "
                f"{path}: {error}"
            ) from None
    return {label or str(r["settings"].get("model")): r for label, r in reports.items()}


def json_text(values: Mapping[str, Any]) -> str:
    """Write values as JSON with one line per layer, parameter and finding.

    Args:
        values: What `AuditReport.to_dict` returned, or a mapping that holds such under "reports".

    Returns:
        The text of the file.
    """
    parts = []
    for key, value in values.items():
        if key == "reports":
            inner = ",\n".join(f"{json.dumps(k)}: {json_text(v).strip()}" for k, v in value.items())
            text = f"{{\n{inner}\n}}"
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines = ",\n".join(json.dumps(item, allow_nan=False) for item in value)
            text = f"[\n{lines}\n]"
        else:
            text = json.dumps(value, allow_nan=False)
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def as_number(value: Any) -> float | None:
    """Return a number of audit.json as a float.

    Args:
        value: A number, None, or one of "nan", "inf" and "-inf".
    """
    return None if value is None else float(value)


def finite_count(record: Mapping[str, Any]) -> int:
    """Return how many values of a record of audit.json are finite."""
    return int(record["count"] - record["nan"] - record["pos_inf"] - record["neg_inf"])


def _fields(measured: object, *names: str) -> dict[str, Any]:
    """Return attributes by name."""
    return {name: getattr(measured, name) for name in names}


def _layer(layer: LayerReport) -> dict[str, Any]:
    """Return a layer as JSON-able values."""
    about = ("name", "kind", "is_block", "is_function", "calls", "dtype", "producers", "from_batch")
    return {
        **_fields(layer, *about),
        "input": _record(layer.input),
        "activation": _record(layer.activation),
        "zero_share": layer.zero_share,
        "units": [_units(records) for records in layer.units],
        "output_gradient": _record(layer.output_gradient),
        "weight_gradient": _record(layer.weight_gradient),
        "parameters": [parameter.name for parameter in layer.parameters],
        "carried": None if layer.carried is None else vars(layer.carried),
        "logits": None if layer.logits is None else vars(layer.logits),
    }


def _units(records: UnitRecords) -> dict[str, Any]:
    """Return a summary of the units of a layer as JSON-able values."""
    constant = records.std == 0
    return {
        "units": len(records),
        "values_per_unit": records.count,
        "zero": int((records.zero > _FEW_ZEROS).sum()),
        "constant": int(constant.sum()),
        "std_min": float(records.std.min()),
        "std_max": float(records.std.max()),
    }


def _parameter(parameter: ParameterReport) -> dict[str, Any]:
    """Return a parameter as JSON-able values."""
    about = ("name", "shape", "dtype", "role", "trained", "is_matrix", "copy_of")
    return {
        **_fields(parameter, *about),
        "weight": _record(parameter.weight),
        "expected_std": parameter.expected_std,
        "gradient": _record(parameter.gradient),
        "update": _record(parameter.update),
        "update_ratio": parameter.update_ratio,
    }


def _loss(loss: LossReport) -> dict[str, Any]:
    """Return the losses as JSON-able values."""
    calls = [_fields(call, "classes", "value", "uniform") for call in loss.cross_entropies]
    return {**_fields(loss, "values", "expected"), "cross_entropies": calls}


def _record(record: Stats | None) -> dict[str, Any] | None:
    """Return the fields of a record that the schema names."""
    if record is None:
        return None
    has_histogram = bool(record.groups & Groups.HISTOGRAM)
    bars = histogram_bars(record.histogram) if has_histogram else None
    return {**_fields(record, *COUNTS, *SCALES), "histogram": bars}


def histogram_bars(histogram: Histogram, most: int = MOST_BARS) -> list[list[float | int]]:
    """Return the non-empty buckets of a histogram, coarsened: neighbours with few values join.

    Args:
        histogram: The histogram.
        most: Number of bars that remain at most, >= 3: one per sign, and one for zeros.

    Returns:
        [low edge, high edge, count] per bar, ascending; zeros are [0, 0, count]; infinities are
        left out, they are counted in the record. Bars never span both signs.
    """
    finite = [b for b in histogram.buckets if math.isfinite(b.low) and math.isfinite(b.high)]
    sides = [
        [b for b in finite if b.high <= 0 and b.low < 0],
        [b for b in finite if b.low == b.high == 0],
        [b for b in finite if b.low >= 0 and b.high > 0],
    ]
    low = np.array([b.low for side in sides for b in side])
    high = np.array([b.high for side in sides for b in side])
    count = np.array([b.count for side in sides for b in side], dtype=np.int64)
    sign = np.repeat([-1, 0, 1], [len(side) for side in sides])
    while len(count) > most:
        joint = np.where(sign[1:] == sign[:-1], count[1:] + count[:-1], np.iinfo(np.int64).max)
        i = int(joint.argmin())
        high[i], count[i] = high[i + 1], joint[i]
        low, high, count, sign = (np.delete(a, i + 1) for a in (low, high, count, sign))
    return [[float(a), float(b), int(n)] for a, b, n in zip(low, high, count, strict=True)]


def strict(value: Any) -> Any:
    """Replace the numbers that JSON does not have, at any depth, by "nan", "inf" and "-inf"."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return value
