"""Two audits side by side: scales by layer, losses, and findings that went, came or stayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from initstats.auditing.report.page import audit_page
from initstats.auditing.report.report import AuditReport, SavedReport, load_report
from initstats.auditing.report.schema import as_number, json_text, strict
from initstats.drawing.template import write_page
from initstats.text import frame_html, number, plain_table, render

COMPARISON_SCHEMA = "initstats.comparison/1"
_LISTED_NAMES = 8
_CHANGED = 1.25  # A scale that changed by less is not coloured.
_NAME_COLUMNS = 26


@dataclass(frozen=True)
class LayerComparison:
    """The scales of one layer in two audits.

    Attributes:
        name: Name of the layer.
        is_block: True for a block of a stack.
        activations: Rms of its output in the first and in the second audit.
        gradients: Rms of the gradient of its output in both, None when none arrived.
    """

    name: str
    is_block: bool
    activations: tuple[float | None, float | None]
    gradients: tuple[float | None, float | None]

    @property
    def activation_ratio(self) -> float | None:
        """Second / first rms of the output, None where it is not defined."""
        return _ratio(self.activations)

    @property
    def gradient_ratio(self) -> float | None:
        """Second / first rms of the gradient, None where it is not defined."""
        return _ratio(self.gradients)


@dataclass(frozen=True)
class FindingChange:
    """A finding in two audits, told apart by rule and place.

    Attributes:
        rule: Id of the rule.
        where: The place that shows it most.
        change: "gone", "new" or "stayed".
        severities: Its severity in the first and in the second audit, None where it is not.
        values: What was measured in both, None where it is not.
    """

    rule: str
    where: str
    change: str
    severities: tuple[str | None, str | None]
    values: tuple[float | None, float | None]


@dataclass(frozen=True, eq=False)
class ReportComparison:
    """What differs between two audits.

    Attributes:
        labels: Names of the two.
        layers: Layers that both have, in the order of the first.
        only_first: Layers that only the first has.
        only_second: Layers that only the second has.
        losses: Losses of both, by step.
        findings: Findings of both: new ones first, then those that stayed, then gone ones.
        reports: Values of both, as in audit.json.
    """

    labels: tuple[str, str]
    layers: tuple[LayerComparison, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    losses: tuple[tuple[float | None, ...], tuple[float | None, ...]]
    findings: tuple[FindingChange, ...]
    reports: tuple[Mapping[str, Any], Mapping[str, Any]]

    @property
    def ok(self) -> bool:
        """True when the second audit has no error."""
        return bool(self.reports[1]["ok"])

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as values for strict JSON, without the two reports.

        NaN and infinities are the strings "nan", "inf" and "-inf".
        """
        return {
            "schema": COMPARISON_SCHEMA,
            "labels": list(self.labels),
            "ok": self.ok,
            "findings": [strict(vars(finding)) for finding in self.findings],
            "losses": strict(self.losses),
            "layers": [
                strict(
                    {
                        "name": layer.name,
                        "is_block": layer.is_block,
                        "activations": layer.activations,
                        "activation_ratio": layer.activation_ratio,
                        "gradients": layer.gradients,
                        "gradient_ratio": layer.gradient_ratio,
                    }
                )
                for layer in self.layers
            ],
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
        }

    def save(self, folder: str | Path) -> list[Path]:
        """Write `index.html` with both audits and their differences, and `comparison.json`.

        Args:
            folder: Made when it does not exist.

        Returns:
            The files.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        page, data = folder / "index.html", folder / "comparison.json"
        write_page(page, self._page())
        data.write_text(json_text(self.to_dict()), encoding="utf-8")
        return [page, data]

    def _page(self) -> str:
        """Return the page with both audits and their differences."""
        reports = dict(zip(self.labels, self.reports, strict=True))
        title = f"{self.labels[0]} → {self.labels[1]}"
        return audit_page(reports, title=title, template="comparison.html.j2", comparison=self)

    def __rich__(self) -> Group:
        return _printed(self)

    def _repr_html_(self) -> str:
        return frame_html(self._page())

    def __str__(self) -> str:
        return render(self)


def compare_reports(
    first: AuditReport | SavedReport | str | Path, second: AuditReport | SavedReport | str | Path
) -> ReportComparison:
    """Compare two audits, layer by layer and finding by finding.

    Args:
        first: A report, or a saved one, or the path of one. Of a file with several (that of the
            demo) the first.
        second: The other. The demo compared with itself is its first report against its second.

    Returns:
        The comparison; ratios are second / first.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If an argument is something else.
        ValueError: If a file is no audit, or one of another version of the schema.

    Determinism: bitwise.
    """
    sides = [_labelled("first", first), _labelled("second", second)]
    (one, a), (two, b) = sides[0][0], sides[1][0]
    if len(sides[1]) > 1 and sides[0] == sides[1]:
        two, b = sides[1][1]
    if one == two:
        one, two = f"{one} (first)", f"{two} (second)"
    layers = [{layer["name"]: layer for layer in values["layers"]} for values in (a, b)]
    shared = [
        LayerComparison(
            name,
            layer["is_block"],
            (_rms(layer["activation"]), _rms(layers[1][name]["activation"])),
            (_rms(layer["output_gradient"]), _rms(layers[1][name]["output_gradient"])),
        )
        for name, layer in layers[0].items()
        if name in layers[1]
    ]
    return ReportComparison(
        labels=(one, two),
        layers=tuple(shared),
        only_first=tuple(name for name in layers[0] if name not in layers[1]),
        only_second=tuple(name for name in layers[1] if name not in layers[0]),
        losses=(_losses(a), _losses(b)),
        findings=_finding_changes(a, b),
        reports=(a, b),
    )


def _labelled(
    which: str, given: AuditReport | SavedReport | str | Path
) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the reports of an argument with their labels.

    Raises:
        TypeError: If it is none.
    """
    if isinstance(given, AuditReport):
        values = given.to_dict()
        return [(str(values["settings"]["model"]), values)]
    if isinstance(given, (str, Path)):
        given = load_report(given)
    if not isinstance(given, SavedReport):
        raise TypeError(
            f"initstats.compare_reports: expected {which} to be a report or the path of one, "
            f"got {which}={type(given).__name__}"
        )
    return list(given.reports.items())


def _finding_changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[FindingChange, ...]:
    """Return what became of each finding."""
    sides = [{(f["rule"], f["where"]): f for f in values["findings"]} for values in (a, b)]
    changes = []
    for key in {**sides[1], **sides[0]}:
        pair = (sides[0].get(key), sides[1].get(key))
        change = "new" if pair[0] is None else "gone" if pair[1] is None else "stayed"
        severity = tuple(None if f is None else f["severity"] for f in pair)
        value = tuple(None if f is None else as_number(f["value"]) for f in pair)
        changes.append(
            FindingChange(*key, change, (severity[0], severity[1]), (value[0], value[1]))
        )
    order = ("new", "stayed", "gone")
    return tuple(sorted(changes, key=lambda change: order.index(change.change)))


def _losses(values: Mapping[str, Any]) -> tuple[float | None, ...]:
    """Return the losses of a report."""
    return tuple(as_number(value) for value in values["loss"]["values"])


def _rms(record: Mapping[str, Any] | None) -> float | None:
    """Return the rms of a record."""
    return None if record is None else as_number(record["rms"])


def _ratio(pair: tuple[float | None, float | None]) -> float | None:
    """Return second / first."""
    first, second = pair
    return None if first is None or second is None or first == 0 else second / first


def _printed(comparison: ReportComparison) -> Group:
    """Lay out a comparison for a terminal of 80 columns."""
    one, two = comparison.labels
    layers = _named_table(f"{one} → {two}: rms of outputs and their gradients")
    for column in ("output\nfirst", "output\nsecond", "\nratio"):
        layers.add_column(column, justify="right", no_wrap=True, min_width=6)
    for column in ("grad.\nfirst", "grad.\nsecond", "\nratio"):
        layers.add_column(column, justify="right", no_wrap=True, min_width=6)
    for layer in comparison.layers:
        layers.add_row(
            Text(layer.name),
            *(number(value) for value in layer.activations),
            _coloured(layer.activation_ratio),
            *(number(value) for value in layer.gradients),
            _coloured(layer.gradient_ratio),
            style="bold" if layer.is_block else None,
        )
    parts: list[RenderableType] = [layers]
    for label, names in ((one, comparison.only_first), (two, comparison.only_second)):
        if names:
            listed = ", ".join(names[:_LISTED_NAMES])
            rest = len(names) - _LISTED_NAMES
            listed += f" and {rest} more" if rest > 0 else ""
            parts.append(Text(f"only in {label}: {listed}"))
    losses = _named_table("losses")
    for column in ("first step", "last step", "steps"):
        losses.add_column(column, justify="right")
    for label, values in zip(comparison.labels, comparison.losses, strict=True):
        ends = (number(values[0]), number(values[-1])) if values else ("-", "-")
        losses.add_row(Text(label), *ends, str(len(values)))
    parts += [Text(), losses, Text()]
    if not comparison.findings:
        parts.append(Text("no findings in either", style="green"))
    styles = {"new": "red", "stayed": "yellow", "gone": "green"}
    for f in comparison.findings:
        severity = f.severities[1] or f.severities[0]
        line = Text(f"{f.change:<6} ", style=f"bold {styles[f.change]}")
        known = [number(value) for value in f.values if value is not None]
        line.append(f"{severity} {f.rule} at {f.where}: {' → '.join(known)}", style="default")
        parts.append(line)
    return Group(*parts)


def _named_table(title: str) -> Table:
    """Return an empty table with a column for names."""
    made = plain_table(title, edge=False, padding=(0, 1, 0, 0))
    made.add_column("", no_wrap=True, overflow="ellipsis", max_width=_NAME_COLUMNS)
    return made


def _coloured(ratio: float | None) -> Text:
    """Return a ratio, bold where the scale changed."""
    changed = ratio is not None and not 1 / _CHANGED < ratio < _CHANGED
    return Text(number(ratio), style="bold magenta" if changed else "")
