"""The report of an audit: what was measured and found, as values, text and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group

from initstats.auditing.report.page import audit_page, write_page
from initstats.auditing.report.schema import FILE_NAME, json_text, report_values
from initstats.auditing.report.text import report_group
from initstats.diagnostics.evidence import Evidence, LayerReport, LossReport
from initstats.diagnostics.findings import Finding
from initstats.diagnostics.seed_spread import Lottery
from initstats.drawing.png import plot_depth, require_matplotlib
from initstats.text import render


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

        NaN and infinities become "nan", "inf" and "-inf". docs/guides/audit.md has the fields.
        """
        return report_values(self)

    def save(self, folder: str | Path, *, plot: bool = True) -> list[Path]:
        """Write `index.html`, `audit.json`, and `audit.png` with scales by depth and losses.

        Args:
            folder: Made when it does not exist.
            plot: Write the PNG, which needs the extra `plot`; the page needs none.

        Returns:
            The files.

        Raises:
            ImportError: If `plot` and matplotlib is missing. Nothing has been written then.
        """
        return save_reports({str(self.settings["model"]): self}, None, folder, plot=plot)

    def __rich__(self) -> Group:
        return report_group(self)

    def __str__(self) -> str:
        return render(self)


def save_reports(
    reports: Mapping[str, AuditReport],
    wrapper: Mapping[str, Any] | None,
    folder: str | Path,
    *,
    plot: bool,
) -> list[Path]:
    """Write the files of one or several reports.

    Args:
        reports: The reports by label.
        wrapper: What the JSON file holds beside `reports`, their values by label; None for a file
            with the values of a single report.
        folder: Made when it does not exist.
        plot: Write the PNG.

    Returns:
        The files.

    Raises:
        ImportError: If `plot` and matplotlib is missing.
    """
    if plot:
        require_matplotlib("AuditReport.save")
    values = {label: report.to_dict() for label, report in reports.items()}
    whole = next(iter(values.values())) if wrapper is None else {**wrapper, "reports": values}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    page, data, picture = (folder / name for name in ("index.html", FILE_NAME, "audit.png"))
    write_page(page, audit_page(values))
    data.write_text(json_text(whole), encoding="utf-8")
    if plot:
        plot_depth(reports, picture)
    return [page, data, picture] if plot else [page, data]
