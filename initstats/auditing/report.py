"""The report of an audit: what was measured and found, as values, text and files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group

from initstats.auditing.evidence import Evidence, LayerReport, LossReport, ParameterReport
from initstats.auditing.findings import Finding
from initstats.auditing.lottery import Lottery
from initstats.auditing.plotting import plot_depth, require_matplotlib
from initstats.auditing.printing import report_group
from initstats.record import Stats
from initstats.tables import render

AUDIT_SCHEMA = "initstats.audit/1"
_RECORD_FIELDS = (
    "count",
    "nan",
    "pos_inf",
    "neg_inf",
    "zero",
    "min",
    "max",
    "abs_max",
    "mean",
    "std",
    "rms",
)


@dataclass(frozen=True, eq=False)
class AuditReport:
    """How a model starts: measurements by layer, the first losses, and findings.

    Attributes:
        evidence: Everything that was measured.
        findings: What is wrong or odd, worst first.
        settings: What was audited and how: model, steps, optimizer, recipe, versions.
        lottery: The spread over several seeds, None when one was audited.
    """

    evidence: Evidence
    findings: tuple[Finding, ...]
    settings: Mapping[str, Any]
    lottery: Lottery | None = None

    @property
    def layers(self) -> tuple[LayerReport, ...]:
        """Layers in the order in which they first finished."""
        return tuple(self.evidence.layers.values())

    @property
    def loss(self) -> LossReport:
        """Losses of the first steps, and the cross-entropies of the first one."""
        return self.evidence.loss

    @property
    def ok(self) -> bool:
        """True when no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values for strict JSON, with the schema's name and version.

        NaN and infinities become the strings "nan", "inf" and "-inf".
        """
        evidence = self.evidence
        report = {
            "schema": AUDIT_SCHEMA,
            "settings": dict(self.settings),
            "ok": self.ok,
            "findings": [finding.to_dict() for finding in self.findings],
            "loss": {
                "values": list(self.loss.values),
                "expected": self.loss.expected,
                "cross_entropies": [
                    {"classes": c.classes, "value": c.value, "uniform": c.uniform}
                    for c in self.loss.cross_entropies
                ],
            },
            "layers": [_layer(layer) for layer in self.layers],
            "parameters": [_parameter(p) for p in evidence.parameters.values()],
            "series": [{"name": s.name, "layers": list(s.layers)} for s in evidence.series],
            "lottery": None if self.lottery is None else self.lottery.to_dict(),
            "weights": None if evidence.verification is None else evidence.verification.to_dict(),
        }
        strict: dict[str, Any] = _strict(report)
        return strict

    def save(self, folder: str | Path, *, plot: bool = True) -> list[Path]:
        """Write `audit.json`, and `audit.png` with scales by depth and losses.

        Args:
            folder: Made when it does not exist.
            plot: Write the PNG, which needs the extra `plot`.

        Returns:
            The files.

        Raises:
            ImportError: If `plot` and matplotlib is missing. Nothing has been written then.
        """
        return save_reports({str(self.settings["model"]): self}, self.to_dict(), folder, plot=plot)

    def __rich__(self) -> Group:
        return report_group(self)

    def __str__(self) -> str:
        return render(self)


def save_reports(
    reports: Mapping[str, AuditReport], values: dict[str, Any], folder: str | Path, *, plot: bool
) -> list[Path]:
    """Write the files of one or several reports.

    Args:
        reports: The reports by label, for the picture.
        values: What goes into the JSON file.
        folder: Made when it does not exist.
        plot: Write the PNG.

    Returns:
        The files.

    Raises:
        ImportError: If `plot` and matplotlib is missing.
    """
    if plot:
        require_matplotlib("AuditReport.save")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "audit.json"]
    files[0].write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if plot:
        files.append(folder / "audit.png")
        plot_depth(reports, files[1])
    return files


def _layer(layer: LayerReport) -> dict[str, Any]:
    """Return a layer as JSON-able values."""
    return {
        "name": layer.name,
        "kind": layer.kind,
        "is_block": layer.is_block,
        "calls": layer.calls,
        "activation": _record(layer.activation),
        "zero_share": layer.zero_share,
        "output_gradient": _record(layer.output_gradient),
        "weight_gradient": _record(layer.weight_gradient),
        "parameters": [parameter.name for parameter in layer.parameters],
    }


def _parameter(parameter: ParameterReport) -> dict[str, Any]:
    """Return a parameter as JSON-able values."""
    return {
        "name": parameter.name,
        "shape": list(parameter.shape),
        "trained": parameter.trained,
        "weight": _record(parameter.weight),
        "expected_std": parameter.expected_std,
        "gradient": _record(parameter.gradient),
        "update": _record(parameter.update),
        "update_ratio": parameter.update_ratio,
    }


def _record(record: Stats | None) -> dict[str, Any] | None:
    """Return the fields of a record that the schema names."""
    return None if record is None else {name: getattr(record, name) for name in _RECORD_FIELDS}


def _strict(value: Any) -> Any:
    """Replace numbers that JSON does not have by strings."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return value
