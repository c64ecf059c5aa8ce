"""The report of an audit, measured now or read back from a file: values, text and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group

from initstats.auditing.report.depth_charts import shared_charts
from initstats.auditing.report.page import audit_page
from initstats.auditing.report.schema import FILE_NAME, json_text, read_reports, report_values
from initstats.auditing.report.text import report_group
from initstats.diagnostics.evidence import Evidence, LayerReport, LossReport
from initstats.diagnostics.findings import Finding
from initstats.diagnostics.seed_spread import Lottery
from initstats.drawing.png import draw_charts, require_matplotlib
from initstats.drawing.template import write_page
from initstats.text import frame_html, render


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
        return report_values(self.evidence, self.findings, self.settings, self.lottery)

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
        values = self.to_dict()
        return save_reports({str(self.settings["model"]): values}, values, folder, plot=plot)

    def __rich__(self) -> Group:
        return report_group(self.to_dict())

    def _repr_html_(self) -> str:
        return frame_html(audit_page({str(self.settings["model"]): self.to_dict()}))

    def __str__(self) -> str:
        return render(self)


@dataclass(frozen=True)
class SavedReport:
    """Reports that were read from a file; they print and draw as those just measured.

    Attributes:
        path: The file.
        reports: Values of `AuditReport.to_dict` by label: one, or those of the demo.
    """

    path: Path
    reports: Mapping[str, dict[str, Any]]

    def save_page(self, path: str | Path) -> Path:
        """Write the page of the reports.

        Args:
            path: The HTML file; its folder is made when it does not exist.

        Returns:
            The file.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_page(path, audit_page(self.reports))
        return path

    def __rich__(self) -> Group:
        several = len(self.reports) > 1
        titles = {label: label if several else None for label in self.reports}
        return Group(*(report_group(self.reports[label], title) for label, title in titles.items()))

    def _repr_html_(self) -> str:
        return frame_html(audit_page(self.reports))

    def __str__(self) -> str:
        return render(self)


def load_report(path: str | Path) -> SavedReport:
    """Read a saved audit, or a saved demo.

    Args:
        path: An `audit.json`, or the folder that holds it.

    Returns:
        The reports in it. Those of the demo keep their labels; else the label is the model's name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else, or an audit of another version of the schema.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"initstats.load_report: expected an {FILE_NAME} or its folder, got path={path}"
        )
    return SavedReport(path, read_reports(path))


def save_reports(
    reports: Mapping[str, Mapping[str, Any]],
    whole: Mapping[str, Any],
    folder: str | Path,
    *,
    plot: bool,
) -> list[Path]:
    """Write the page, the JSON file and the picture of one or several reports.

    Args:
        reports: Values of `AuditReport.to_dict` by label.
        whole: What the JSON file holds.
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
    page, data, picture = (folder / name for name in ("index.html", FILE_NAME, "audit.png"))
    write_page(page, audit_page(reports))
    data.write_text(json_text(whole), encoding="utf-8")
    if not plot:
        return [page, data]
    draw_charts(shared_charts(reports), _heading(next(iter(reports.values()))), picture)
    return [page, data, picture]


def _heading(values: Mapping[str, Any]) -> str:
    """Return the title of the picture."""
    settings = values["settings"]
    return (
        f"{settings['model']}, {settings['parameters'] / 1e6:.1f} M parameters: how it starts "
        f"({settings['optimizer']}, learning rate {float(settings['learning_rate']):g})"
    )
