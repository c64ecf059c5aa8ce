"""Alerts: apply rules to every row and raise each alert once."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from initstats.diagnostics.depth import Series, depth_series, has_normalisation
from initstats.diagnostics.evidence import Evidence, LayerReport, LossReport, ParameterReport
from initstats.diagnostics.findings import AuditRule, Finding, Rule
from initstats.monitoring.rank_alerts import RankAlerts
from initstats.monitoring.reader import Measured
from initstats.monitoring.row import Row
from initstats.statistics.record import Stats

LOG = logging.getLogger("initstats.monitor")
_Key = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Subject:
    """What rules know of the model.

    Attributes:
        shapes: Shapes of parameters by name.
        kinds: Class names of modules by name.
        series: Layers by depth.
        normalised: True when the model holds normalisation layers.
    """

    shapes: Mapping[str, tuple[int, ...]]
    kinds: Mapping[str, str] = field(default_factory=dict)
    series: tuple[Series, ...] = ()
    normalised: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> Subject:
        """Describe a model."""
        kinds = {name: type(module).__name__ for name, module in model.named_modules() if name}
        parameters = dict(model.named_parameters())
        ready = {
            name: p
            for name, p in parameters.items()
            if not isinstance(p, nn.UninitializedParameter)
        }
        return cls(
            {name: tuple(p.shape) for name, p in ready.items()},
            kinds,
            depth_series(model, list(kinds)) if len(ready) == len(parameters) else (),
            has_normalisation(model),
        )

    def is_matrix(self, name: str) -> bool:
        """Tell whether more than one dimension of a parameter is longer than 1."""
        shape = self.shapes.get(name, ())
        return math.prod(shape) > max(shape, default=1)


class MonitorRule(Rule, ABC):
    """A check of every row. It may keep what it needs of earlier rows."""

    @abstractmethod
    def check(
        self, row: Row, measured: Mapping[str, Measured], subject: Subject
    ) -> Iterator[Finding]:
        """Judge a row.

        Args:
            row: The row.
            measured: The same by step.
            subject: The model.

        Yields:
            Findings.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what the rule keeps of earlier rows: tensors, numbers, texts, lists of these."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""


class FromAudit(MonitorRule):
    """A rule of the audit, applied to every n-th row.

    Args:
        rule: A rule that looks at weights, activations, gradients and updates; gradients of
            activations, the loss and recipes are not there.
        rows: Number of rows n; such a rule needs a few milliseconds of Python.
    """

    def __init__(self, rule: AuditRule, rows: int = 10) -> None:
        self.rule = rule
        self.rows = rows
        self._seen = 0
        self._last: tuple[Finding, ...] = ()

    def check(
        self,
        row: Row,
        measured: Mapping[str, Measured],  # noqa: ARG002  # the interface
        subject: Subject,
    ) -> Iterator[Finding]:
        """Build the evidence and ask the rule; between the rows the last answer stands."""
        if self._seen % self.rows == 0:
            self._last = tuple(self.judge(row, subject))
        self._seen += 1
        yield from self._last

    def judge(self, row: Row, subject: Subject) -> Iterator[Finding]:
        """Judge one row."""
        yield from self.rule.check(evidence_of(row, subject))


def evidence_of(row: Row, subject: Subject) -> Evidence:
    """Return a row as the audit sees a model.

    Args:
        row: The row.
        subject: The model.

    Returns:
        Evidence without losses, gradients of activations and verification.
    """
    tables = row.tables
    none: Mapping[str, Stats] = {}
    gradients, updates = tables.get("gradients", none), tables.get("updates", none)
    parameters = {
        name: ParameterReport(
            name,
            subject.shapes.get(name, ()),
            weight,
            None,
            gradients.get(name),
            updates.get(name),
            trained=name in gradients,
        )
        for name, weight in tables.get("weights", none).items()
    }
    layers = {}
    for name, activation in tables.get("activations", none).items():
        own = tuple(p for n, p in parameters.items() if n.rpartition(".")[0] == name)
        kind = subject.kinds.get(name, "")
        layers[name] = LayerReport(name, kind, False, activation, None, row.measured, own)
    series = tuple(s for s in subject.series if all(name in layers for name in s.layers))
    return Evidence(layers, parameters, LossReport((), ()), series, subject.normalised)


class Alerts:
    """Asks the rules, and tells of each finding when it begins.

    Args:
        rules: The rules.
        subject: The model.
        callback: Called with each new finding and its row, in the reader's thread.

    Attributes:
        recent: The last findings.
        across: Judges what only several ranks together tell.
    """

    def __init__(
        self,
        rules: tuple[MonitorRule, ...],
        subject: Subject,
        callback: Callable[[Finding, Row], None] | None,
    ) -> None:
        self._rules = rules
        self._subject = subject
        self._callback = callback
        self._open: set[_Key] = set()
        self._broken: set[int] = set()
        self.recent: deque[Finding] = deque(maxlen=100)
        self.across = RankAlerts()

    def state_dict(self) -> dict[str, Any]:
        """Return what the rules keep of earlier rows, and which findings are open."""
        return {
            "open": sorted([rule, where] for rule, where in self._open),
            "rules": [[type(rule).__name__, rule.state_dict()] for rule in self._rules],
            "ranks": self.across.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; a rule takes the next state of its class."""
        self._open = {(rule, where) for rule, where in state["open"]}
        if "ranks" in state:  # not in those of earlier versions
            self.across.load_state_dict(state["ranks"])
        left = list(state["rules"])
        for rule in self._rules:
            name = type(rule).__name__
            found = next((i for i, (saved, _) in enumerate(left) if saved == name), None)
            if found is not None:
                rule.load_state_dict(left.pop(found)[1])

    def judge(self, row: Row, measured: Mapping[str, Measured]) -> Row:
        """Return the row with the findings that are new in it."""
        found: dict[_Key, Finding] = {}
        for i, rule in enumerate(self._rules):
            if i in self._broken:
                continue
            try:
                for finding in rule.check(row, measured, self._subject):
                    found.setdefault((finding.rule, finding.where), finding)
            except Exception:  # a rule must never end training
                LOG.exception("rule %s is given up", type(rule).__name__)
                self._broken.add(i)
        new = tuple(finding for key, finding in found.items() if key not in self._open)
        self._open = set(found)
        return self.announce(new, row)

    def announce(self, new: tuple[Finding, ...], row: Row) -> Row:
        """Tell of findings that are new, and return the row with them."""
        self.recent.extend(new)
        row = replace(row, alerts=(*row.alerts, *new))
        if self._callback is not None:
            for finding in new:
                try:
                    self._callback(finding, row)
                except Exception:  # noqa: PERF203  # one that raises must not silence the next
                    LOG.exception("the alert callback raised")
        return row
