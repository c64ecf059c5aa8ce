"""The report of a coordinate check: slopes by layer, findings, a table, JSON and a page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table
from rich.text import Text

from initstats.auditing.report.schema import strict
from initstats.coordinates.measure import CHANGE, OUTPUT, OWN
from initstats.coordinates.page import coord_page
from initstats.coordinates.slopes import Slope
from initstats.diagnostics.findings import Finding
from initstats.drawing.template import write_page
from initstats.recipes import Forward
from initstats.text import frame_html, plain_table, render

COORDINATES_SCHEMA = "initstats.coordinates/1"
_SHOWN = (OUTPUT, CHANGE, OWN)
# By the severity of a layer's first finding.
_VERDICTS = {
    "": ("ok", "green"),
    "error": ("to blame", "red"),
    "warning": ("follows", "yellow"),
}


@dataclass(frozen=True, eq=False)
class LayerCoordinates:
    """What was measured of one layer.

    Attributes:
        name: Its name in the model; "(model)" for the model's own output.
        kind: Its class.
        sizes: By quantity ("output", "change", "own update", "input") root mean squares, float64
            `[steps, widths, seeds]`; NaN where nothing was recorded.
        slopes: By quantity the slope of log size against log width at each step.
    """

    name: str
    kind: str
    sizes: Mapping[str, NDArray[np.float64]] = field(repr=False)
    slopes: Mapping[str, tuple[Slope, ...]] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as values for strict JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "sizes": {quantity: values.tolist() for quantity, values in self.sizes.items()},
            "slopes": {
                quantity: [slope._asdict() for slope in slopes]
                for quantity, slopes in self.slopes.items()
            },
        }


@dataclass(frozen=True, eq=False)
class CoordReport:
    """How sizes depend on the width, layer by layer.

    Attributes:
        widths: The widths.
        layers: The layers, in the order in which they first finished.
        findings: Layers whose sizes depend on the width, those to blame first.
        losses: Losses by width, float64 `[seeds, steps]`.
        forward: What the recipe asks of the forward pass of the widest model.
        settings: What was checked and how.
    """

    widths: tuple[int, ...]
    layers: tuple[LayerCoordinates, ...]
    findings: tuple[Finding, ...]
    losses: Mapping[int, NDArray[np.float64]] = field(repr=False)
    forward: tuple[Forward, ...]
    settings: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """True when no size depends on the width."""
        return not self.findings

    @property
    def blamed(self) -> tuple[str, ...]:
        """The layers that are to blame, in the order of the forward pass."""
        return tuple(dict.fromkeys(f.where for f in self.findings if f.severity == "error"))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values for strict JSON; NaN is "nan"."""
        values: dict[str, Any] = strict(
            {
                "schema": COORDINATES_SCHEMA,
                "ok": self.ok,
                "blamed": list(self.blamed),
                "widths": list(self.widths),
                "findings": [finding.to_dict() for finding in self.findings],
                "layers": [layer.to_dict() for layer in self.layers],
                "losses": {str(width): v.tolist() for width, v in self.losses.items()},
                "forward": [multiplier.to_dict() for multiplier in self.forward],
                "settings": dict(self.settings),
            }
        )
        return values

    @property
    def verdict(self) -> str:
        """The result in one line."""
        if self.ok:
            return f"no size depends on the width from {self.widths[0]} to {self.widths[-1]}"
        names = self.blamed
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""  # noqa: PLR2004
        return f"sizes depend on the width; to blame: {', '.join(names[:3])}{more}"

    def table(self) -> Table:
        """Return a rich table of the slopes of the last step."""
        steps = self.settings["steps"]
        title = f"coordinate check, recipe {self.settings['recipe'] or 'none'}: {self.verdict}"
        table = plain_table(title, caption="slopes of log rms against log width, +- standard error")
        table.add_column("layer", overflow="fold", min_width=16)
        for column in ("output\nstep 1", *(f"{quantity}\nstep {steps}" for quantity in _SHOWN)):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        severities = {finding.where: finding.severity for finding in reversed(self.findings)}
        for layer in self.layers:
            slopes = [layer.slopes[OUTPUT][0], *(layer.slopes[q][-1] for q in _SHOWN)]
            words, style = _VERDICTS[severities.get(layer.name, "")]
            table.add_row(Text(layer.name), *map(slope_text, slopes), Text(words, style=style))
        return table

    def __rich__(self) -> Group:
        causes = [
            Text(f"{f.where}: {f.cause}; {f.fix}", style="red")
            for f in self.findings
            if f.severity == "error"
        ]
        lines = [Text(f"the model multiplies {multiplier}") for multiplier in self.forward]
        return Group(self.table(), *causes, *lines)

    def __str__(self) -> str:
        return render(self)

    def page(self, title: str = "") -> str:
        """Return the report as an HTML page that needs no other file and no network.

        Args:
            title: Heading; the name of the model when empty.

        Returns:
            The page.
        """
        return coord_page(self.to_dict(), title or str(self.settings["model"]))

    def _repr_html_(self) -> str:
        return frame_html(self.page())

    def save(self, folder: str | Path) -> list[Path]:
        """Write `coordinates.json` and `coordinates.html` into a folder, which is made.

        Args:
            folder: The folder.

        Returns:
            The files.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        values, page = folder / "coordinates.json", folder / "coordinates.html"
        values.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
        write_page(page, self.page())
        return [values, page]


def slope_text(slope: Slope) -> str:
    """Write a slope with its standard error; a dash where there is none.

    Args:
        slope: The slope.
    """
    return "–" if math.isnan(slope.value) else f"{slope.value:+.2f} +- {slope.error:.2f}"
